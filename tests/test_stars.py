"""The loops in C of stars.c against torch's operations, which take their place on GPUs and without a compiler."""

import closed_forms as cf
import pytest
import torch

import sdot
from sdot import stars


@pytest.fixture(autouse=True)
def _needs_a_compiler():
    if stars._library(torch.float32) is None:
        pytest.skip("no compiler")


def both(monkeypatch, f):
    compiled = f()
    with monkeypatch.context() as patch:
        patch.setattr(stars, "_library", lambda dtype: None)
        return compiled, f()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [2, 5, 16, 70])
@pytest.mark.parametrize("k", [1, 2, 8, 40])
def test_foremost(d, k, dtype, monkeypatch):
    """More columns than k, and fewer; stars of all sizes; targets far from the origin; hidden ones."""
    g = cf.seeded(0)
    y = torch.randn(300, d, generator=g, dtype=dtype) + 100
    h = torch.randn(300, generator=g, dtype=torch.float64)
    h[:7] = -torch.inf
    T, x = sdot.BrenierMap(y, h), torch.randn(500, d, generator=g, dtype=dtype)
    star, size = stars.joined_stars(T, sdot.rips_complex(y, torch.pdist(y).quantile(0.03).item(), max_dim=1), 16)
    assert len(size.unique()) > 3
    (v, s), (vertices, scores) = both(monkeypatch, lambda: stars.foremost(T, x, T.cell(x), star, size, k))
    assert v.shape == (500, min(k, 16))
    assert torch.equal(v, vertices)
    torch.testing.assert_close(s, scores, atol=1e-3 if dtype == torch.float32 else 1e-11, rtol=0)
    assert (s[:, 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 3, 64, 130])
@pytest.mark.parametrize("k", [1, 2, 8, 16])
def test_projections(d, k, dtype, monkeypatch):
    """Hulls that are flat or a point, points inside and far away, and fewer present than there are places."""
    g = cf.seeded(1)
    points = torch.randn(200, d, generator=g, dtype=dtype)
    points[100:] = points[:100] + 1e-3 * torch.randn(100, d, generator=g, dtype=dtype)
    points[150:] = points[150]
    vertices = torch.randint(200, (2000, k), generator=g)
    present = torch.arange(k) < torch.randint(1, k + 1, (2000, 1), generator=g)
    x = torch.randn(2000, d, generator=g, dtype=dtype) * torch.logspace(-3, 1, 2000, dtype=dtype)[:, None]
    x += points[vertices].mean(1)
    w, weights = both(monkeypatch, lambda: stars.projected(x, points, vertices, present))
    assert (w >= 0).all()
    assert (w[~present] == 0).all()
    torch.testing.assert_close(w.sum(1), torch.ones(2000, dtype=torch.float64), atol=1e-9, rtol=0)
    hull = points.double()[vertices]
    found, expected = (((u[:, None] @ hull)[:, 0] - x).norm(dim=1) for u in (w, weights))  # weights need not be unique
    torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 1e-9, rtol=1e-5)


def test_the_extension_needs_no_compiler(monkeypatch):
    g = cf.seeded(2)
    y = torch.randn(400, 16, generator=g)
    T, x = sdot.BrenierMap(y, -y.double().square().sum(1) / 2), torch.randn(3000, 16, generator=g)
    K, centres = sdot.rips_complex(y, 5.0, max_dim=1), 0.5 * y
    S = sdot.PiecewiseLinearMap(T, centres, K, "project")
    image, expected = both(monkeypatch, lambda: S(x))
    assert S.share_moved(x) > 0.5
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=1e-5)
