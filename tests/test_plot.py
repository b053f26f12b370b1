"""Pictures are drawn from the right numbers; whether they are beautiful is for eyes."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import sdot
from sdot import plot


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_cells_are_coloured_apart(generator):
    T = sdot.BrenierMap(torch.rand(40, 2, generator=generator), torch.zeros(40))
    picture = plot.cells(T, resolution=120).images[0].get_array()
    assert picture.shape == (120, 120, 3)
    u = (np.arange(120) + 0.5) / 120
    index = T.cell(np.stack(np.meshgrid(u, u), -1).reshape(-1, 2)).reshape(120, 120)
    colours = plot._colours(index)
    assert all(len(np.unique(colours[index == i])) == 1 for i in np.unique(index))
    different = index[:, 1:] != index[:, :-1]
    assert (colours[:, 1:] != colours[:, :-1])[different].mean() > 0.97


def test_cells_need_the_plane():
    with pytest.raises(ValueError, match=r"the map lives in R\^3"):
        plot.cells(sdot.BrenierMap(torch.eye(3), torch.zeros(3)))


def test_a_complex_shows_what_it_holds(generator):
    y = torch.rand(30, 2, generator=generator)
    K = sdot.rips_complex(y, 0.3)
    ax = plot.complex(K, y)
    triangles, edges, vertices = ax.collections
    for drawn, rows in ((triangles, K.simplices[2]), (edges, K.simplices[1])):
        expected = [y[row].numpy() for row in rows]
        np.testing.assert_allclose([path.vertices[: rows.shape[1]] for path in drawn.get_paths()], expected)
    np.testing.assert_allclose(vertices.get_offsets(), y)
    low, high = ax.viewLim.min, ax.viewLim.max
    assert (low <= y.numpy().min(0)).all()
    assert (high >= y.numpy().max(0)).all()
    assert len(plot.complex(sdot.rips_complex(y, 0.3, max_dim=1), y.numpy()).collections) == 2
    with pytest.raises(ValueError, match="place the 30 vertices in the plane"):
        plot.complex(K, y[:20])


def test_convergence_shows_the_history(generator):
    source, target = sdot.Gaussian(dim=3), sdot.DiscreteMeasure.uniform(torch.randn(100, 3, generator=generator))
    solution = sdot.solve(source, target, tol=0.05, generator=generator)
    ax = plot.convergence(solution, tol=0.05)
    measured = [(r.samples, r.chi2) for r in solution.history if 0 < r.chi2 < np.inf]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), measured)
    limit = ax.lines[1].get_xydata()
    np.testing.assert_allclose(limit[:, 1], 99 / limit[:, 0])
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_sheet_places_every_image():
    images = torch.arange(5 * 4).reshape(5, 1, 2, 2) / 20
    picture = np.asarray(plot.sheet(images, columns=3).images[0].get_array())
    assert picture.shape == (2 * 3 - 1, 3 * 3 - 1)
    np.testing.assert_allclose(picture[3:5, 3:5], images[4, 0])
    np.testing.assert_allclose(picture[:2, 6:8], images[2, 0])
    colour = plot.sheet(torch.rand(4, 3, 2, 2), columns=2, gap=0).images[0].get_array()
    assert colour.shape == (4, 4, 3)


def test_points_share_a_scale(generator):
    clouds = [torch.randn(50, 2, generator=generator), np.random.default_rng(0).normal(size=(20, 2)) * 3]
    figure = plot.points(*clouds, titles=["source", "target"])
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim()
    assert right.get_title(loc="left") == "target"


@pytest.mark.parametrize("weights", ["barycentric", "softmax"])
def test_extension_shows_what_moves(weights, generator):
    y = torch.randn(60, 2, generator=generator)
    T, source = sdot.BrenierMap(y, -y.double().square().sum(1) / 2), sdot.Gaussian(dim=2)
    cells, K = sdot.estimate_cells(T, source, precision=0.3, generator=generator), sdot.rips_complex(y, 0.5)
    S, x = sdot.PiecewiseLinearMap(T, cells, K, weights), source.sample(500, like=y, generator=generator)
    figure = plot.extension(S, cells, K, x, resolution=100)
    above, targets, samples, images = figure.axes
    moved = int(S.parts(x).moved.sum())
    assert 0 < moved < 500
    for ax, p in ((samples, x), (images, S(x))):
        still, blended = (c.get_offsets() for c in ax.collections)
        assert (len(still), len(blended)) == (500 - moved, moved)
        np.testing.assert_allclose(np.sort(np.concatenate([still, blended])[:, 0]), p[:, 0].sort().values, rtol=1e-6)
    assert samples.get_title(loc="left") == f"samples: {100 * moved / 500:.0f} % move"
    assert above.get_xlim() == samples.get_xlim()
    assert targets.get_xlim() == images.get_xlim()
    z = torch.eye(3)
    space = sdot.PiecewiseLinearMap(sdot.BrenierMap(z, torch.zeros(3)), z, sdot.rips_complex(z, 2.0))
    with pytest.raises(ValueError, match=r"the map lives in R\^3"):
        plot.extension(space, cells, K, x)
