"""Coordinates in simplices, against their definition, the conditions of optimality and every face tried in turn."""

import itertools

import pytest
import torch

import sdot

EXACT = 64 * torch.finfo(torch.float64).eps


def clouds(n, k, d, far, seed):
    g = torch.Generator().manual_seed(seed)
    p = torch.randn(n, k, d, generator=g, dtype=torch.float64)
    x = far * torch.randn(n, d, generator=g, dtype=torch.float64)
    mask = torch.rand(n, k, generator=g) < 0.8
    mask[torch.arange(n), torch.randint(k, (n,), generator=g)] = True
    return x, p, mask


DEGENERATE = {
    "general": lambda p: p,
    "repeated": lambda p: p[:, torch.arange(p.shape[1]) // 2],
    "collinear": lambda p: p[:, :1] * torch.linspace(-1, 1, p.shape[1], dtype=p.dtype)[None, :, None],
    "lattice": lambda p: p.round(),
    "one point": lambda p: torch.zeros_like(p) + 3,
    "tiny": lambda p: 1e-9 * p,
}


@pytest.mark.parametrize("d", [1, 2, 3, 7])
def test_barycentric_coordinates(d, generator):
    simplex = torch.randn(50, d + 1, d, generator=generator, dtype=torch.float64)
    weights = torch.randn(50, d + 1, generator=generator, dtype=torch.float64)
    weights = weights + ((1 - weights.sum(1)) / (d + 1))[:, None]
    x = (weights[:, None] @ simplex)[:, 0]
    torch.testing.assert_close(sdot.barycentric_coordinates(x, simplex), weights, atol=1e-8, rtol=0)
    vertices = sdot.barycentric_coordinates(simplex[0], simplex[:1])
    torch.testing.assert_close(vertices, torch.eye(d + 1, dtype=torch.float64), atol=1e-10, rtol=0)
    assert torch.autograd.gradcheck(sdot.barycentric_coordinates, (x[:3].requires_grad_(), simplex[:3]))


def test_a_flat_simplex_has_no_coordinates():
    flat = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]])
    assert not torch.isfinite(sdot.barycentric_coordinates(torch.ones(1, 2), flat)).all()


@pytest.mark.parametrize("shape", DEGENERATE)
@pytest.mark.parametrize(("k", "d"), [(1, 3), (3, 2), (8, 2), (8, 64), (16, 3), (16, 32)])
@pytest.mark.parametrize("far", [0.3, 100.0])
def test_the_projection_is_optimal(shape, k, d, far):
    """<p_j - z, z - x> >= 0 for every point p_j, z the point found: necessary and sufficient, to rounding."""
    x, p, mask = clouds(300, k, d, far, seed=k + d)
    p = DEGENERATE[shape](p)
    w = sdot.project_to_simplex(x, p, mask)
    assert (w >= 0).all()
    assert (w[~mask] == 0).all()
    torch.testing.assert_close(w.sum(1), torch.ones(300, dtype=torch.float64), atol=1e-11, rtol=0)
    origin = torch.stack([q[m][0] for q, m in zip(p, mask, strict=True)])  # scores relative to a point of the hull
    p, x = p - origin[:, None], x - origin
    slope = (p @ ((w[:, None] @ p)[:, 0] - x)[..., None])[..., 0]
    gap = (w * slope).sum(1) - torch.where(mask, slope, torch.inf).amin(1)
    scale = p.square().sum(2).amax(1) + (p * x[:, None]).sum(2).abs().amax(1)
    assert (gap <= 16 * EXACT * scale + 1e-300).all()


@pytest.mark.parametrize(("k", "d"), [(2, 2), (3, 3), (4, 2), (5, 6)])
def test_against_every_face(k, d):
    x, p, mask = clouds(40, k, d, 1.0, seed=k * d)
    w = sdot.project_to_simplex(x, p, mask)
    found = (x - (w[:, None] @ p)[:, 0]).norm(dim=1)
    for i in range(40):
        best = torch.inf
        free = mask[i].nonzero()[:, 0].tolist()
        for size in range(1, len(free) + 1):
            for face in itertools.combinations(free, size):
                q = p[i, list(face)]
                edges = (q[1:] - q[0]).T
                rest = (
                    torch.linalg.lstsq(edges, (x[i] - q[0])[:, None], driver="gelsd").solution[:, 0]
                    if size > 1
                    else x.new_zeros(0)
                )
                lam = torch.cat([1 - rest.sum()[None], rest])
                if (lam >= -1e-12).all():
                    best = min(best, float((x[i] - lam @ q).norm()))
        assert float(found[i]) == pytest.approx(best, abs=1e-10)


def test_single_precision_and_the_inside(generator):
    p = torch.randn(100, 4, 3, generator=generator)
    weights = torch.softmax(torch.randn(100, 4, generator=generator), 1)
    x = (weights[:, None] @ p)[:, 0]
    w = sdot.project_to_simplex(x, p)
    assert w.dtype == torch.float32
    torch.testing.assert_close((w[:, None] @ p)[:, 0], x, atol=1e-5, rtol=0)


def test_its_gradient():
    x, p, mask = clouds(20, 5, 3, 1.0, seed=0)
    assert torch.autograd.gradcheck(lambda x, p: sdot.project_to_simplex(x, p, mask), (x.requires_grad_(), p.requires_grad_()))


@pytest.mark.usefixtures("unchecked")
def test_bad_input():
    with pytest.raises(
        ValueError, match="the number of points must be a whole number of at least 1 and at most 16, but 17 came"
    ):
        sdot.project_to_simplex(torch.zeros(1, 2), torch.zeros(1, 17, 2))
    with pytest.raises(ValueError, match="at least one point in every row"):
        sdot.project_to_simplex(torch.zeros(1, 2), torch.zeros(1, 2, 2), torch.zeros(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"a simplex of R\^2 has 3 vertices"):
        sdot.barycentric_coordinates(torch.zeros(1, 2), torch.zeros(1, 2, 2))
