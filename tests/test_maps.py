"""The Brenier map as a module: what it computes, and that it survives everything a module goes through."""

import copy
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

import sdot
from sdot import kernels


@pytest.fixture
def T(generator):  # noqa: N802
    return sdot.BrenierMap(torch.randn(50, 3, generator=generator), torch.randn(50, generator=generator).double())


@pytest.fixture
def x(generator):
    return torch.randn(200, 3, generator=generator)


def test_the_map_is_the_gradient_of_its_potential(T, x):
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(T.potential(x).sum(), x)
    torch.testing.assert_close(slope, T(x))
    assert torch.equal(T.points[T.cell(x)], T(x))
    scores = x @ T.points.T + T.heights
    torch.testing.assert_close(T.potential(x).double(), scores.amax(1))


def test_the_map_is_monotone(T, x):
    a, b = x[:100], x[100:]
    assert (((a - b) * (T(a) - T(b))).sum(1) >= 0).all()


def test_the_soft_map_tends_to_the_map_and_to_the_mean(T, x):
    settled = T.soft(x, 1e-3)
    gap = sdot.kernels.topk(x, T.points, T.heights, 2)[0].diff(dim=1).abs()[:, 0]
    torch.testing.assert_close(settled[gap > 0.02], T(x)[gap > 0.02])
    torch.testing.assert_close(T.soft(x, 1e6), T.points.mean(0).expand(200, 3), atol=1e-4, rtol=0)


def test_arrays_in_arrays_out(T, x):
    for f in (T, T.cell, T.potential, lambda z: T.soft(z, 0.5)):
        for array in (x.numpy(), x.double().numpy()):
            result = f(array)
            assert isinstance(result, np.ndarray)
            np.testing.assert_array_equal(result, f(x).numpy())


def test_dtype_and_shape_are_the_users(T, x):
    assert T(x).dtype == torch.float32
    assert T.double()(x.double()).dtype == torch.float64
    assert T(x[:0].double()).shape == (0, 3)
    assert T.cell(x[:0].double()).shape == (0,)


def test_hidden_targets_are_never_hit(x):
    T = sdot.BrenierMap(torch.eye(3), torch.tensor([0.0, -torch.inf, 0.0]))
    assert set(T.cell(x).tolist()) == {0, 2}


def test_module_life(T, x, tmp_path):
    expected = T(x)
    assert torch.equal(copy.deepcopy(T)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(T))(x), expected)
    other = sdot.BrenierMap(torch.zeros(50, 3), torch.zeros(50, dtype=torch.float64))
    other.load_state_dict(T.state_dict())
    assert torch.equal(other(x), expected)
    buffer = io.BytesIO()
    torch.save(T.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(x), expected)
    assert torch.equal(T.to(torch.float64)(x.double()).float(), expected)
    assert list(T.parameters()) == []
    assert torch.equal(torch.nn.Sequential(T.float(), torch.nn.Identity())(x), expected)


@pytest.mark.parametrize("compiler", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_torch_compile_without_graph_breaks(compiler):
    """In a process of its own: the tests' type checks are not what a user compiles."""
    code = f"""
import torch, sdot
torch.manual_seed(0)
T = sdot.BrenierMap(torch.randn(700, 3), torch.randn(700).double(), backend="blocked")
x = torch.randn(100, 3)
for f in (T, T.cell):
    assert torch.equal(torch.compile(f, fullgraph=True, backend="{compiler}")(x), f(x))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.usefixtures("unchecked")
class TestBadInput:
    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (torch.zeros(4, 2), r"x must live in R.3.*shape is \(4, 2\)"),
            (torch.zeros(3), r"shape \(n, d\)"),
            (torch.full((2, 3), float("nan")), "x must be finite"),
            (torch.zeros(2, 3, dtype=torch.int32), "float32 or float64"),
            (torch.zeros(2, 3, dtype=torch.float64), "x and the map must share dtype and device"),
            ("x", "a str came"),
        ],
    )
    def test_queries(self, T, x, message):
        for f in (T, T.cell, T.potential, lambda z: T.soft(z, 1.0)):
            with pytest.raises(ValueError, match=message):
                f(x)

    @pytest.mark.parametrize(
        ("heights", "message"),
        [
            (torch.zeros(2), r"shape \(3,\), but their shape is \(2,\)"),
            (torch.full((3,), float("nan")), "heights must be numbers or -inf"),
            (torch.full((3,), -float("inf")), "at least one of them finite"),
            (torch.zeros(3, dtype=torch.int64), "float32 or float64"),
        ],
    )
    def test_heights(self, heights, message):
        with pytest.raises(ValueError, match=message):
            sdot.BrenierMap(torch.eye(3), heights)

    def test_temperature(self, T, x):
        with pytest.raises(ValueError, match="eps must be a positive number, but 0 came"):
            T.soft(x, 0)


def test_float32_would_misplace_mass_in_the_plane():
    """100,000 targets in the plane: scores in float32 send a visible share of the mass to a wrong target, maps do not."""
    m, g = 100_000, torch.Generator().manual_seed(0)
    y = torch.rand(m, 2, generator=g)
    h = -y.double().square().sum(1) / 2  # the power cells are the Voronoi cells
    x = torch.rand(20_000, 2, generator=g)
    nearest = torch.from_numpy(cKDTree(y.double().numpy()).query(x.double().numpy())[1])
    in_float32 = kernels.topk(x, y, h)[1][:, 0]
    assert (in_float32 != nearest).double().mean() > 1e-3
    T = sdot.BrenierMap(y, h)
    assert torch.equal(T.cell(x), nearest)
    assert T(x).dtype == T.potential(x).dtype == T.soft(x[:16], 1e-5).dtype == torch.float32


@pytest.mark.parametrize("d", [5, 16])
def test_far_points_are_told_apart_in_float32(d: int):
    """Scores around 1e6 would be rounded to 1/16; from the mean of the points they keep their digits, as in float64."""
    generator = torch.Generator().manual_seed(0)
    points = 1e6 + torch.randint(-8, 9, (200, d), generator=generator).float()  # exact in float32
    h = torch.randn(200, generator=generator, dtype=torch.float64)
    x = torch.randn(3000, d, generator=generator)
    T, exact = sdot.BrenierMap(points, h), sdot.BrenierMap(points.double(), h)
    assert float((T.cell(x) == exact.cell(x.double())).double().mean()) > 0.9999
    plain = sdot.kernels.topk(x, points, h)[1][:, 0]
    assert float((plain == exact.cell(x.double())).double().mean()) < 0.99
    torch.testing.assert_close(T.potential(x).double(), exact.potential(x.double()), rtol=1e-6, atol=2.0)
    z = x[:5].clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(T.potential(z).sum(), z)[0], T(x[:5]))
    torch.testing.assert_close(T.soft(x, 2.0), exact.soft(x.double(), 2.0).float())
    assert sdot.BrenierMap(points - 1e6, h).origin is None
    assert "origin" not in T.state_dict()
