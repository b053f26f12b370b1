"""The Triton kernels against the definition: on a GPU, or on the CPU with TRITON_INTERPRET=1 in the environment."""

import os
import subprocess
import sys

import pytest
import torch

from sdot import kernels
from sdot.kernels import triton as backend

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
# Triton's interpreter computes with numpy, which warns where a GPU does not
pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
]
SIZES = [(1, 1), (1, 63), (17, 257), (63, 17), (257, 63)]


@pytest.fixture
def compiled():
    """Skip where the kernels can be neither compiled nor interpreted."""
    pytest.importorskip("triton")
    if DEVICE.type == "cpu" and not INTERPRETED:
        pytest.skip("neither a CUDA device nor TRITON_INTERPRET=1")


def problem(n, m, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=g).to(DEVICE) for shape in ((n, d), (m, d), (m,)))


def exact_scores(x, y, h):
    return x.double() @ y.double().T + h.double()


def check(x, y, h, k, backend="triton"):
    """Values are those of the definition to float32 rounding of the terms, and the indices attain them."""
    value, index = kernels.topk(x, y, h, k, backend=backend)
    s = exact_scores(x, y, h)
    expected = s.topk(k, dim=1).values
    assert bool(((index >= 0) & (index < len(y))).all())
    size = x.double().norm(dim=1) * y.double().norm(dim=1).max() + h.abs().nan_to_num(posinf=0).max()
    tolerance = ((x.shape[1] + 4) * 2.0**-23 * size)[:, None].clamp_min(1e-30).expand_as(expected)
    live = expected.isfinite()
    assert torch.equal(value.isfinite(), live)
    assert bool(((value - expected).abs() <= tolerance)[live].all()), ((value - expected).abs() / tolerance)[live].max()
    assert bool(((s.gather(1, index) - expected).abs() <= tolerance)[live].all())
    assert all(len(set(row)) == k for row in index.tolist())
    return value, index


@pytest.mark.usefixtures("compiled")
class TestTopk:
    @pytest.mark.parametrize("d", [1, 3, 4, 5, 9, 17, 65])
    @pytest.mark.parametrize(("n", "m"), SIZES)
    @pytest.mark.parametrize("k", [1, 2, 8])
    def test_is_the_definition(self, n, m, d, k):
        x, y, h = problem(n, m, d)
        check(x, y, h, min(k, m))

    @pytest.mark.parametrize(("m", "d"), [(2100, 3), (17_000, 2), (700, 7), (700, 15), (513, 100), (300, 200), (300, 300)])
    @pytest.mark.parametrize("k", [1, 2, 8])
    def test_several_tiles_and_all_widths(self, m, d, k):
        x, y, h = problem(63, m, d)
        check(x, y, h, k)

    @pytest.mark.parametrize("d", [3, 7, 40])
    @pytest.mark.parametrize("k", [1, 2, 8])
    def test_ties_go_to_the_lowest_index(self, d, k):
        x, y, h = (v.round() for v in problem(50, 700, d))
        y[500:600], h[500:600] = y[:100], h[:100]
        value, index = check(x, y, h, k)
        order = exact_scores(x, y, h).sort(dim=1, descending=True, stable=True)
        assert torch.equal(index, order.indices[:, :k])
        assert torch.equal(value.double(), order.values[:, :k])

    @pytest.mark.parametrize("d", [2, 20])
    def test_when_everything_ties(self, d):
        x, y, h = problem(20, 1100, d)
        for k in (1, 2, 8):
            value, index = kernels.topk(x, torch.zeros_like(y), torch.zeros_like(h), k, backend="triton")
            assert not value.any()
            assert index.tolist() == [list(range(k))] * 20

    @pytest.mark.parametrize("d", [3, 8, 33])
    @pytest.mark.parametrize("k", [1, 2, 8])
    def test_near_ties(self, d, k):
        x, y, h = problem(63, 600, d)
        y[300:] = y[:300] * (1 + 1e-6 * torch.randn(300, 1, device=DEVICE))
        h[300:] = h[:300]
        check(x, y, h, k)

    @pytest.mark.parametrize("d", [3, 8, 33])
    @pytest.mark.parametrize("spread", [1e-6, 1e-4, 1e-3, 1e-2])
    def test_heights_that_make_all_targets_nearly_equal(self, d, spread):
        """The rounding of a first pass in float16 is larger than what tells these targets apart."""
        x, y, h = problem(63, 600, d)
        x = x[:1] * (1 + 1e-3 * x)
        for k in (1, 2):
            check(x, y, spread * h - (x[:1].double() @ y.double().T)[0].float(), k)

    @pytest.mark.parametrize("d", [3, 8, 33])
    @pytest.mark.parametrize("offset", [1e3, 1e6, -1e6])
    def test_large_offsets(self, d, offset):
        x, y, h = problem(63, 600, d)
        check(x, y, h + offset, 2)
        check(x, y, h * abs(offset), 2)
        check(x, y + offset / 100, h - offset / 100 * d, 2)

    @pytest.mark.parametrize("d", [3, 8, 33])
    @pytest.mark.parametrize("kind", ["huge coordinate", "rows of all sizes", "targets of all sizes", "one huge target"])
    def test_unequal_magnitudes(self, d, kind):
        x, y, h = problem(63, 600, d)
        if kind == "huge coordinate":
            x[:, 0], y[:, 0] = x[:, 0] * 1e4, y[:, 0] * 1e4
        if kind == "rows of all sizes":
            x *= 10.0 ** torch.linspace(-9, 9, 63, device=DEVICE)[:, None]
        if kind == "targets of all sizes":
            y *= 10.0 ** torch.linspace(-9, 9, 600, device=DEVICE)[:, None]
        if kind == "one huge target":
            y[300] *= 1e6
            h[300] = -1e12
        for k in (1, 2):
            check(x, y, h, k)

    @pytest.mark.parametrize("d", [3, 8, 33])
    @pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e6, 1e15])
    def test_scales(self, d, scale):
        x, y, h = problem(63, 600, d)
        check(x, y * scale, h * scale, 2)
        check(x * scale, y, h * scale, 2)
        check(x * scale, y / scale, h, 2)
        check(x * scale, y, h, 2)  # heights decide alone, or not at all

    @pytest.mark.parametrize("d", [3, 8, 33])
    @pytest.mark.parametrize("k", [1, 2, 8])
    def test_hidden_targets(self, d, k):
        x, y, h = problem(63, 600, d)
        h[torch.arange(600, device=DEVICE) % 3 > 0] = -torch.inf
        _, index = check(x, y, h, k)
        assert not (index % 3).any()
        h[:] = -torch.inf
        h[217] = 1.0
        value, index = check(x, y, h, k)
        assert index[:, 0].tolist() == [217] * 63
        h[217] = -torch.inf
        value, index = check(x, y, h, k)
        assert bool(value.isneginf().all())

    @pytest.mark.parametrize("d", [3, 8, 33])
    def test_rows_that_are_not_finite_harm_no_other(self, d):
        x, y, h = problem(63, 600, d)
        expected, places = kernels.topk(x, y, h, 2, backend="triton")
        x[5, 0], x[7, 1], x[9, 2] = torch.nan, torch.inf, -torch.inf
        value, index = kernels.topk(x, y, h, 2, backend="triton")
        bad = torch.zeros(63, dtype=torch.bool, device=DEVICE)
        bad[[5, 7, 9]] = True
        assert bool(value[bad].isnan().all())
        assert torch.equal(value[~bad], expected[~bad])
        assert torch.equal(index[~bad], places[~bad])
        assert bool(((index >= 0) & (index < 600)).all())

    def test_overflow_gives_a_valid_index(self):
        for d in (3, 8, 33):
            x, y, h = problem(20, 300, d)
            _, index = kernels.topk(x * 1e30, y * 1e30, h, 2, backend="triton")
            assert bool(((index >= 0) & (index < 300)).all())

    def test_candidates_a_part_at_a_time(self, monkeypatch):
        from sdot.kernels import _triton_search

        monkeypatch.setattr(_triton_search, "PAIRS", 50)
        x, y, h = problem(300, 700, 7)
        check(x, y, h, 2)

    def test_samples_a_chunk_at_a_time_and_targets_shared_out(self, monkeypatch):
        from sdot.kernels import _triton_grid

        monkeypatch.setattr(_triton_grid, "CHUNK", 100)
        monkeypatch.setattr(_triton_grid, "multiprocessors", lambda x: 2)
        for d in (3, 7, 33):
            x, y, h = problem(257, 1700, d)
            check(x, y, h, 2)
            check(x[:1], y, h, 1)

    def test_the_same_answer_twice(self):
        x, y, h = problem(200, 900, 20)
        first, second = (kernels.topk(x, y, h, 2, backend="triton") for _ in range(2))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])

    @pytest.mark.parametrize("d", [1, 2, 3, 8, 33])
    @pytest.mark.parametrize("k", [1, 2, 8])
    def test_float64_is_decided_in_float64(self, d, k):
        x, y, h = (v.double() for v in problem(63, 600, d))
        y[300:] = y[:300] * (1 + 1e-12 * torch.randn(300, 1, device=DEVICE, dtype=torch.float64))
        h[300:] = h[:300]
        for scale in (1.0, 1e-100, 1e100):
            value, index = kernels.topk(x, y * scale, h * scale, k, backend="triton")
            exact = kernels.topk(x, y * scale, h * scale, k, backend="reference")
            size = scale * float(x.norm(dim=1).max() * y.norm(dim=1).max() + h.abs().max())
            assert float((value - exact[0]).abs().max()) <= (d + 4) * 2.0**-52 * size
            attained = torch.einsum("nd,nkd->nk", x, (y * scale)[index]) + (h * scale)[index]
            assert float((attained - exact[0]).abs().max()) <= (d + 4) * 2.0**-52 * size

    def test_no_samples_and_other_k(self):
        x, y, h = problem(40, 300, 6)
        assert kernels.topk(x[:0], y, h, 2, backend="triton")[1].shape == (0, 2)
        for k in (3, 5, 9):
            check(x, y, h, k)
        check(x.T.contiguous().T, y.repeat(1, 2)[:, ::2].roll(1, 1), h, 2)  # strides


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", ["soft_potential", "soft_mass", "soft_average"])
class TestSoft:
    def check(self, name, x, y, h, eps):
        got = getattr(kernels, name)(x, y, h, eps, backend="triton")
        expected = getattr(kernels, name)(x.double(), y.double(), h.double(), eps, backend="reference")
        error = float((got - expected).abs().max())
        size = float(x.norm(dim=1).max() * y.norm(dim=1).max() + h[h.isfinite()].abs().max())
        rounding = 2.0**-18 * size  # of a score
        bound = rounding if name == "soft_potential" else rounding / eps * float(expected.abs().max())
        assert error <= bound, (error, bound)
        return got

    @pytest.mark.parametrize("d", [1, 3, 6, 17, 65, 150])
    @pytest.mark.parametrize(("n", "m"), [(1, 1), (17, 257), (63, 17), (257, 63)])
    def test_is_the_definition(self, name, d, n, m):
        for eps in (0.3, 10.0):
            self.check(name, *problem(n, m, d), eps)

    def test_hidden_targets_and_far_scores(self, name):
        x, y, h = problem(63, 300, 5)
        h[::3] = -torch.inf
        h[7] = 2000.0
        got = self.check(name, x, y, h, 1.0)
        if name == "soft_mass":
            assert not got[::3].any()
            assert float(got.sum()) == pytest.approx(1, rel=1e-5)
        h[:200] = -torch.inf  # whole tiles
        self.check(name, x, y, h, 1.0)

    @pytest.mark.parametrize("scale", [1e-12, 1e12])
    def test_scales(self, name, scale):
        x, y, h = problem(40, 100, 6)
        self.check(name, x * scale, y, h * scale, scale)

    def test_small_chunks_and_shared_targets(self, name, monkeypatch):
        from sdot.kernels import _triton_grid

        monkeypatch.setattr(_triton_grid, "CHUNK", 100)
        monkeypatch.setattr(_triton_grid, "multiprocessors", lambda x: 2)
        self.check(name, *problem(257, 700, 9), 1.0)
        self.check(name, *problem(3, 700, 9), 1.0)

    def test_float64(self, name):
        x, y, h = (v.double() for v in problem(20, 30, 4))
        got = getattr(kernels, name)(x, y, h, 0.5, backend="triton")
        torch.testing.assert_close(got, getattr(kernels, name)(x, y, h, 0.5, backend="reference"))


KINDS = ["plain", "huge coordinate", "rows of all sizes", "one sign", "tiny", "large"]


def cloud(n, d, kind, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    v = torch.randn(n, d, generator=g, dtype=dtype)
    if kind == "huge coordinate":
        v[:, 0] *= 1e4
    if kind == "rows of all sizes":
        v *= 10.0 ** torch.linspace(-12, 12, n)[:, None]
    if kind == "one sign":
        v = v.abs() + 1 / 3
    return (v * {"tiny": 1e-20, "large": 1e15}.get(kind, 1.0)).to(DEVICE)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
class TestPack:
    @pytest.mark.parametrize("kind", KINDS)
    def test_scales_fill_float16(self, kind, dtype):
        from sdot.kernels._triton_pack import exponent

        v = cloud(50, 7, kind, dtype)
        e = int(exponent(v, 90))
        assert 2**13 <= float(v.abs().max().double() * 2.0**e) < 2**14 or e == 90

    def test_a_scale_ignores_what_is_not_finite_and_knows_its_limit(self, dtype):
        from sdot.kernels._triton_pack import exponent

        v = torch.tensor([[1.0, torch.nan], [torch.inf, 2.0]], dtype=dtype, device=DEVICE)
        assert int(exponent(v, 90)) == 12
        assert int(exponent(torch.zeros_like(v), 90)) == 90
        assert int(exponent(v, 90, top=100)) == 90
        largest = torch.finfo(dtype).max / 4
        e = int(exponent(torch.full_like(v, largest), 90, top=100))
        assert 2.0**98 <= largest * 2.0**e <= 2.0**100

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("split", [False, True])
    @pytest.mark.parametrize("d", [1, 5, 64])
    def test_the_bound_holds_for_an_exact_sum_of_the_halves(self, kind, split, d, dtype):
        from sdot.kernels import _halves
        from sdot.kernels._triton_pack import pack

        x, y = cloud(60, d, kind, dtype), cloud(90, d, "plain" if kind == "tiny" else kind, dtype, seed=1)
        left, right = pack(x, "hhl" if split else "h"), pack(y, "hlh" if split else "h", rows=96)
        product = left.values.double() @ right.values.double().T
        exact = torch.zeros(60, 96, dtype=torch.float64, device=DEVICE)
        exact[:, :90] = (x.double() * 2.0 ** int(left.exponent)) @ (y.double() * 2.0 ** int(right.exponent)).T
        size, lost, low = left.stats.double()
        bound = torch.stack([lost, size + lost, low]).T @ _halves.tile_bounds(right.stats, 8, 12).double()
        error, bound = (product - exact).abs(), bound.repeat_interleave(8, dim=1)
        assert bool((error <= bound).all())
        if kind == "plain":  # and it is not idle
            assert float((error / bound.clamp_min(1e-30)).max()) > 0.02


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("d", [3, 8, 33, 200])
@pytest.mark.parametrize("kind", ["plain", "one sign", "cancelling heights", "exact samples", "exact targets"])
def test_the_bound_covers_the_first_pass(d, kind):
    """Also its sums, whose truncation on a GPU is an assumption: equal signs let it pile up.

    Maxima are shifted by a number a sample, and those that cannot matter may be -inf.
    """
    from sdot.kernels import _triton_search as search
    from sdot.kernels._triton_pack import pack

    x, y, h = problem(130, 600, d)
    if kind in ("one sign", "cancelling heights"):
        x, y = x.abs() + 1 / 3, y.abs() + 1 / 3
    x = x.sign() if kind == "exact samples" else x  # only the targets are rounded
    y = y.sign() if kind == "exact targets" else y
    if kind == "cancelling heights":
        h = -(x.mean(0) @ y.T)
    targets = search.Targets.prepare(y)
    heights = search.Heights.prepare(h, targets, 1)
    packed = pack(x, search.form(d, "hhl"), heights.limit)
    maxima = search.first_pass(packed, targets, heights)[: targets.tiles].double()
    size, lost, low = packed.stats.double()
    factors = torch.stack([lost + 2 * targets.gamma * size, size + lost, low])
    bound = (targets.bounds.double().T @ factors)[: targets.tiles] + targets.gamma * maxima.abs() + 2.0**-24
    s = torch.full((130, targets.tiles * search.tile_size()), -torch.inf, dtype=torch.float64, device=DEVICE)
    s[:, :600] = exact_scores(x, y, h)
    exact = s.view(130, targets.tiles, -1).amax(2).T * 2.0 ** int(packed.exponent + targets.packed.exponent)
    seen = maxima.isfinite()
    assert float(heights.floor) == 0
    assert bool(seen.any(0).all())
    # the shift is the same for all tiles of a sample: where they agree best, it is known to within the bound
    difference = torch.where(seen, maxima - exact, torch.nan)
    lowest, highest = (difference - bound).nan_to_num(-torch.inf).amax(0), (difference + bound).nan_to_num(torch.inf).amin(0)
    assert bool((lowest <= highest).all())
    assert bool(((exact + highest) > 0).any(0).all())
    assert bool((exact + lowest <= bound.nan_to_num(posinf=0).amax(0))[~seen].all())


@pytest.mark.gpu
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("d", [2, 3, 4, 8, 15, 16, 64, 128, 300])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_large_problems_on_a_gpu(d, k):
    x, y, _ = problem(50_001, 20_011, d)
    h = -0.5 * y.square().sum(1)
    value, index = kernels.topk(x, y, h, k, backend="triton")
    for i in range(0, 50_001, 5000):
        s = exact_scores(x[i : i + 5000], y, h)
        expected = s.topk(k, dim=1).values
        size = x[i : i + 5000].norm(dim=1, keepdim=True) * y.norm(dim=1).max() + h.abs().max()
        tolerance = (d + 4) * 2.0**-23 * size
        assert bool(((value[i : i + 5000] - expected).abs() <= tolerance).all())
        assert bool(((s.gather(1, index[i : i + 5000]) - expected).abs() <= tolerance).all())


@pytest.mark.gpu
@pytest.mark.usefixtures("compiled")
def test_memory_does_not_grow_with_the_product_of_sizes():
    x, y, h = problem(300_000, 100_000, 16)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kernels.topk(x, y, h, 2, backend="triton")
    kernels.soft_mass(x[:100_000], y, h, 1.0, backend="triton")
    assert torch.cuda.max_memory_allocated() - before < 2**30  # all scores would be 120 GB


@pytest.mark.usefixtures("unchecked")
class TestUnavailable:
    def test_without_triton(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "triton", None)
        with pytest.raises(backend.Unavailable, match=r"'triton' cannot run here.*backend='blocked'"):
            kernels.topk(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(4), backend="triton")

    def test_on_the_cpu(self, monkeypatch):
        pytest.importorskip("triton")
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        with pytest.raises(backend.Unavailable, match="runs on CUDA devices, but x is on cpu"):
            kernels.soft_mass(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(4), 1.0, backend="triton")

    def test_on_a_gpu_whose_rounding_is_not_known(self, monkeypatch):
        pytest.importorskip("triton")

        class OnGPU:
            device, is_cuda = torch.device("cuda"), True

        monkeypatch.setattr(torch.version, "hip", "7.0")
        with pytest.raises(backend.Unavailable, match="this GPU is not NVIDIA's; use backend='blocked'"):
            backend._require(OnGPU())

    def test_triton_is_imported_only_when_used(self):
        code = "import sys, torch; before = 'triton' in sys.modules; import sdot; print('triton' in sys.modules, before)"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after, before = run.stdout.split()
        assert after == before
