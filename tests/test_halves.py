"""Packing float32 points into float16: exact scales, and a bound on what is lost that holds on points chosen to break it."""

import pytest
import torch

from sdot.kernels import _halves


def cloud(n, d, kind, seed=0):
    g = torch.Generator().manual_seed(seed)
    v = torch.randn(n, d, generator=g)
    if kind == "huge coordinate":
        v[:, 0] *= 1e4
    if kind == "rows of all sizes":
        v *= 10.0 ** torch.linspace(-12, 12, n)[:, None]
    if kind == "one sign":
        v = v.abs() + 1 / 3
    return v * {"tiny": 1e-20, "large": 1e15}.get(kind, 1.0)


KINDS = ["plain", "huge coordinate", "rows of all sizes", "one sign", "tiny", "large"]


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_is_exact_and_inside_float16(kind):
    v = cloud(50, 7, kind)
    e = _halves.exponent(v)
    s = _halves.scaled(v, e)
    assert torch.equal(s.double(), v.double() * 2.0 ** int(e))
    assert 2**13 <= float(s.abs().max()) < 2**14 or int(e) in (-126, 90)


def test_a_scale_ignores_what_is_not_finite_and_spares_the_heights():
    v = torch.tensor([[1.0, torch.nan], [torch.inf, 2.0]])
    assert int(_halves.exponent(v)) == 12
    assert int(_halves.exponent(torch.zeros(3, 2))) <= 90
    h = torch.tensor([1e30, -torch.inf])
    assert _halves.scaled(h, _halves.height_limit(h)).abs()[0].isfinite()
    assert int(_halves.height_limit(torch.zeros(3))) == 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("d", [1, 5, 64])
def test_the_bound_holds_for_an_exact_sum_of_the_halves(kind, split, d):
    x, y = cloud(60, d, kind), cloud(90, d, "plain" if kind == "tiny" else kind, seed=1)
    a, b = _halves.exponent(x), _halves.exponent(y)
    left, right = _halves.pack(x, a, "hhl" if split else "h"), _halves.pack(y, b, "hlh" if split else "h", rows=96)
    product = left.values.double() @ right.values.double().T
    exact = torch.zeros(60, 96, dtype=torch.float64)
    exact[:, :90] = (x.double() * 2.0 ** int(a)) @ (y.double() * 2.0 ** int(b)).T
    rows, tiles = _halves.row_bounds(left, 0.0), _halves.tile_bounds(right, 8, 12)
    bound = (rows.double().T @ tiles.double()).repeat_interleave(8, dim=1)
    error = (product - exact).abs()
    assert bool((error <= bound).all())
    if kind == "plain":  # and it is not idle
        assert float((error / bound.clamp_min(1e-30)).max()) > 0.02


@pytest.mark.parametrize(
    ("d", "parts", "columns"), [(1, 1, 16), (17, 1, 32), (64, 1, 64), (5, 3, 16), (64, 3, 192), (130, 1, 192)]
)
def test_packed_points_have_widths_that_kernels_can_hold(d, parts, columns):
    assert _halves.width(d, parts) == columns
    assert columns % _halves.slab(columns) == 0
