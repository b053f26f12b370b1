"""Power cells as samples see them, where their centres of mass are known on paper."""

import itertools
import math

import closed_forms as cf
import numpy as np
import pytest
import torch
from scipy.special import ndtri

import sdot


def standard_distance(p: cf.Problem, exact: torch.Tensor, *, repeats: int, max_samples: int) -> torch.Tensor:
    """|c - exact|^2 / error^2 of every cell, in the mean over independent estimates: 1 if the error tells the truth."""
    ratio = []
    for seed in range(repeats):
        cells = sdot.estimate_cells(p.map, p.source, precision=1e-6, max_samples=max_samples, generator=cf.seeded(seed))
        ratio.append((cells.centroid - exact).square().sum(1) / cells.error.square())
    return torch.stack(ratio).mean(0)


@pytest.mark.filterwarnings("ignore::sdot.UnresolvedCellsWarning")
def test_cells_of_the_line_are_quantile_intervals():
    nu = torch.tensor([0.05, 0.2, 0.4, 0.25, 0.1], dtype=torch.float64)
    p = cf.line(sdot.Gaussian(1), cf.NORMAL, torch.arange(5).double(), nu, cf.ONE)
    exact = torch.from_numpy(cf.NORMAL.centroids(nu.numpy()))[:, None]
    ratio = standard_distance(p, exact, repeats=60, max_samples=2000)
    assert (ratio - 1).abs().max() < 4 * math.sqrt(2 / 60)
    cells = sdot.estimate_cells(p.map, p.source, precision=0.01, generator=cf.seeded(0))
    edges = ndtri(np.concatenate([[0], np.cumsum(nu.numpy())]).clip(0, 1))
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        tails = [t * math.exp(-t * t / 2) / math.sqrt(2 * math.pi) if math.isfinite(t) else 0.0 for t in (a, b)]
        variance = 1 + (tails[0] - tails[1]) / float(nu[i]) - float(exact[i]) ** 2
        assert float(cells.spread[i]) == pytest.approx(math.sqrt(variance), rel=0.03)
    torch.testing.assert_close(cells.mass, nu, atol=0.005, rtol=0)
    assert (cells.count >= 10**4).all()


@pytest.mark.filterwarnings("ignore::sdot.UnresolvedCellsWarning")
def test_cells_of_the_plane_are_polygons():
    p = cf.PROBLEMS["plane"]()
    y, h = p.target.points.double().numpy(), p.heights.numpy()
    exact = []
    for i in range(len(y)):
        polygon = np.array([[0.0, 0.0], [1, 0], [1, 1], [0, 1]])
        for j in range(len(y)):
            polygon = cf.clip(polygon, y[i] - y[j], h[i] - h[j]) if j != i else polygon
        area, moment = cf.area_and_first_moment(polygon)
        exact.append(moment / area)
    ratio = standard_distance(p, torch.from_numpy(np.array(exact)), repeats=40, max_samples=100 * len(y))
    assert (ratio.mean() - 1).abs() < 4 * math.sqrt(2 / (40 * len(y)))


@pytest.mark.parametrize("d", [2, 5])
def test_a_grid_of_cubes(d):
    p = cf.cube_grid(2, d)
    cells = sdot.estimate_cells(p.map, p.source, precision=0.02, generator=cf.seeded(0))
    torch.testing.assert_close(cells.centroid, p.target.points, atol=5 * 0.02 * math.sqrt(d / 48), rtol=0)
    torch.testing.assert_close(cells.spread, torch.full_like(cells.spread, math.sqrt(d / 48)), atol=0, rtol=0.05)
    assert len(cells.empty) == len(cells.unresolved) == 0


def test_far_from_the_origin_nothing_is_lost():
    """The same samples moved by 10^6: squares of coordinates would drown the spread in their rounding."""
    near = cf.cube_grid(3, 2)
    far = cf.translate_source(near, torch.full((2,), 1e6, dtype=torch.float64))
    a, b = (sdot.estimate_cells(p.map, p.source, generator=cf.seeded(0)) for p in (near, far))
    torch.testing.assert_close(b.centroid - 1e6, a.centroid, atol=1e-8, rtol=0)
    torch.testing.assert_close(b.spread, a.spread, atol=0, rtol=1e-7)


@pytest.mark.filterwarnings("ignore::sdot.UnresolvedCellsWarning")
def test_one_sample_of_every_cell_is_kept(generator):
    T = sdot.BrenierMap(torch.randn(40, 6, generator=generator), torch.zeros(40))
    cells = sdot.estimate_cells(T, sdot.Gaussian(dim=6), max_samples=3000, precision=0.5, generator=generator)
    known = cells.count > 0
    assert torch.equal(T.cell(cells.sample)[known], torch.arange(40)[known])
    assert cells.sample.dtype == cells.centroid.dtype == T.points.dtype


def test_the_state_of_the_generator_decides():
    p = cf.cube_grid(3, 2)
    a, b, c = (sdot.estimate_cells(p.map, p.source, generator=cf.seeded(s)) for s in (1, 1, 2))
    assert torch.equal(a.centroid, b.centroid)
    assert not torch.equal(a.centroid, c.centroid)


def test_a_budget_that_ends_first_is_said():
    p = cf.cube_grid(3, 2)
    with pytest.warns(sdot.UnresolvedCellsWarning, match=r"9 of 9 cells had fewer than 10000 samples when the budget of 500"):
        cells = sdot.estimate_cells(p.map, p.source, precision=0.01, max_samples=500, generator=cf.seeded(0))
    assert cells.samples == 500 == int(cells.count.sum())
    assert torch.equal(cells.unresolved, torch.arange(9))


def test_what_is_never_hit_lies_with_its_neighbour():
    y = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.1, 0.0], [8.0, 0.0]])
    h = torch.tensor([0.0, -4.0, -9.0, -torch.inf])  # the third lies below the others, the last is hidden
    T = sdot.BrenierMap(y, h)
    with pytest.warns(sdot.UnresolvedCellsWarning, match=r"1 of 4 cells .*\(2\); 1 had none"):
        cells = sdot.estimate_cells(T, sdot.UniformCube(2, low=0.0, high=2.0), max_samples=2000, generator=cf.seeded(0))
    assert cells.empty.tolist() == cells.unresolved.tolist() == [2]
    assert cells.mass[2] == cells.mass[3] == 0
    assert torch.isinf(cells.error[2])
    assert torch.isfinite(cells.centroid).all()
    assert torch.isfinite(cells.spread).all()
    assert torch.equal(cells.centroid[2], cells.centroid[1])


@pytest.mark.usefixtures("unchecked")
def test_bad_input():
    T = sdot.BrenierMap(torch.eye(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"source.dim = 2, but the map lives in R\^3"):
        sdot.estimate_cells(T, sdot.Gaussian(dim=2))
    with pytest.raises(ValueError, match="precision must be a positive number"):
        sdot.estimate_cells(T, sdot.Gaussian(dim=3), precision=0)
    with pytest.raises(ValueError, match="max_samples must be a whole number"):
        sdot.estimate_cells(T, sdot.Gaussian(dim=3), max_samples=0)
