"""The arithmetic around points packed into float16: exact scales, widths of columns."""

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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaling_is_exact_and_inside_float16(kind, dtype):
    v = cloud(50, 7, kind).to(dtype)
    e = _halves.exponent(v)
    s = _halves.scaled(v, e)
    assert torch.equal(s, v.double() * 2.0 ** int(e))
    assert 2**13 <= float(s.abs().max()) < 2**14 or int(e) == 90


def test_a_scale_ignores_what_is_not_finite_and_spares_the_heights():
    v = torch.tensor([[1.0, torch.nan], [torch.inf, 2.0]])
    assert int(_halves.exponent(v)) == 12
    assert int(_halves.exponent(torch.zeros(3, 2))) <= 90
    for largest in (1e30, 1e-300, 1e300):
        h = torch.tensor([largest, -torch.inf], dtype=torch.float64)
        assert _halves.scaled(h, _halves.height_limit(h)).float().abs()[0].isfinite()
    assert int(_halves.height_limit(torch.zeros(3))) == 100


@pytest.mark.parametrize(
    ("d", "parts", "columns"), [(1, 1, 16), (17, 1, 32), (64, 1, 64), (5, 3, 16), (64, 3, 192), (130, 1, 192)]
)
def test_packed_points_have_widths_that_kernels_can_hold(d, parts, columns):
    assert _halves.width(d, parts) == columns
    assert columns % _halves.slab(columns) == 0
