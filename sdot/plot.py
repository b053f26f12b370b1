"""Pictures: cells and complexes in the plane, convergence, sheets of points and of images. Needs the extra `plot` (matplotlib).

Each function draws on the axes it is given, or on new ones, and returns them: titles, sizes and saving stay with matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import _checks
from .cells import Cells
from .extension import PiecewiseLinearMap
from .maps import BrenierMap
from .simplicial import SimplicialComplex
from .solution import Solution

INK, LINE, ACCENT, SOFT = "#22272b", "#1f4e79", "#c8553d", "#9aa5ad"
CELLS = ("#dbe7f0", "#f3e6d3", "#c9dcc8", "#efd4cf", "#b9cfe0", "#e4dcc0", "#a9c4b5", "#d8c3d8")  # of different greys


def cells(
    T: BrenierMap,
    low: tuple[float, float] = (0.0, 0.0),
    high: tuple[float, float] = (1.0, 1.0),
    *,
    resolution: int = 800,
    targets: bool = True,
    ax: Any = None,
) -> Any:
    """Draw the power cells of a map in the plane.

    Args:
        T: A map with targets in R^2.
        low: Lower left corner of the window.
        high: Upper right corner.
        resolution: Pixels along the longer side.
        targets: Also draw the targets, joined to the centres of their cells.
        ax: Axes.
    """
    if T.dim != 2:
        raise ValueError(f"cells can be drawn in the plane, but the map lives in R^{T.dim}.")
    ax = ax if ax is not None else _axes(5.0, 5.0)
    index, u, v = _cells(T, low, high, resolution, ax)
    if targets:
        y = T.points.cpu().numpy()
        hit, where = np.unique(index, return_inverse=True)
        centre = np.stack([np.bincount(where.ravel(), g.ravel()) / np.bincount(where.ravel()) for g in np.meshgrid(u, v)], 1)
        for c, p in zip(centre, y[hit], strict=True):
            ax.plot(*np.stack([c, p], 1), color=INK, lw=0.4, alpha=0.6)
        ax.scatter(*y[hit].T, s=5, color=ACCENT, zorder=3, linewidths=0)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)
    return ax


def extension(S: PiecewiseLinearMap, cells: Cells, K: SimplicialComplex, x: Any, *, resolution: int = 800) -> Any:
    """Draw an extension in the plane, in four panels (after Fig. 3 of An et al., AE-OT-GAN, ECCV 2020).

    The power cells with their centres of mass and the triangles of K between centres that are neighbours; the same triangles
    between the targets; where samples lie in the source; and their images, those that did not move in another colour.

    Args:
        S: The extension of a map with targets in R^2.
        cells: The cells of that map.
        K: The complex that S was made with.
        x: Samples of the source, shape (n, 2).
        resolution: Pixels along the longer side of the cells.

    Returns:
        The figure.
    """
    import matplotlib.pyplot as plt
    from scipy.spatial import Delaunay

    if S.dim != 2:
        raise ValueError(f"an extension can be drawn in the plane, but the map lives in R^{S.dim}.")
    x = _checks.points("x", x, 2).detach()
    known = (cells.count > 0).nonzero()[:, 0].cpu()
    c, y = cells.centroid.cpu().double().numpy(), S.points.cpu().double().numpy()
    triangles = known[torch.from_numpy(Delaunay(c[known]).simplices).long()]
    mesh = triangles[K.to("cpu").contains(triangles)].numpy()
    moved, images, samples = S.parts(x).moved.cpu().numpy(), S(x).cpu().numpy(), x.cpu().numpy()
    figure, axes = plt.subplots(2, 2, figsize=(9.0, 9.0), dpi=150, layout="constrained")
    low, high = samples.min(0), samples.max(0)
    _cells(S.map, low, high, resolution, axes[0, 0])
    for ax, p, colour in ((axes[0, 0], c, INK), (axes[0, 1], y, LINE)):
        if len(mesh):
            ax.triplot(p[:, 0], p[:, 1], mesh, color=colour, lw=0.5, alpha=0.7)
        ax.scatter(*p.T, s=6, color=ACCENT, zorder=3, linewidths=0)
    for ax, p in ((axes[1, 0], samples), (axes[1, 1], images)):
        ax.scatter(*p[~moved].T, s=3, color=ACCENT, alpha=0.5, linewidths=0)
        ax.scatter(*p[moved].T, s=3, color=LINE, alpha=0.5, linewidths=0)
    share = f"{100 * moved.mean():.0f} % move"
    titles = ("cells, centres, triangles of K", "targets, the same triangles", f"samples: {share}", "their images")
    for ax, title in zip(axes.ravel(), titles, strict=True):
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set_color(SOFT)
        ax.set_title(title, fontsize=10, color=INK, loc="left")
    for above, below in axes.T:  # the sources share a scale, and so do the targets
        below.sharex(above)
        below.sharey(above)
    return figure


def complex(K: SimplicialComplex, points: Any, ax: Any = None, *, size: float = 5.0) -> Any:
    """Draw a complex in the plane: its triangles, edges and vertices.

    Args:
        K: The complex.
        points: Where its vertices lie, shape (m, 2).
        ax: Axes.
        size: Area of the dots for the vertices, in square points.
    """
    from matplotlib.collections import LineCollection, PolyCollection

    y = _checks.points("points", points).detach().cpu().numpy()
    if y.shape != (K.num_vertices, 2):
        raise ValueError(f"points must place the {K.num_vertices} vertices in the plane, but their shape is {y.shape}.")
    ax = ax if ax is not None else _axes(5.0, 5.0)
    edges, *higher = (rows.cpu().numpy() for rows in K.simplices[1:3])
    for triangles in higher:
        ax.add_collection(PolyCollection(y[triangles], facecolors=CELLS[0], linewidths=0, zorder=1))
    ax.add_collection(LineCollection(y[edges], colors=LINE, linewidths=0.4, alpha=0.5, zorder=2))
    ax.scatter(*y.T, s=size, color=ACCENT, zorder=3, linewidths=0)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)
    return ax


def convergence(*solutions: Solution, labels: Sequence[str] = (), tol: float | None = None, ax: Any = None) -> Any:
    """Draw the solver's own estimate of chi^2 against the samples drawn, and the certified value as a dot with its error.

    The dotted line is (m - 1) / n, what minimising the energy of n independent samples can reach at best.
    """
    ax = ax if ax is not None else _axes(6.0, 3.8)
    for k, solution in enumerate(solutions):
        c = solution.certificate
        rows = [(r.samples, r.chi2) for r in solution.history if 0 < r.chi2 < np.inf]
        colour = (LINE, ACCENT, SOFT, INK)[k % 4]
        if rows:
            n, chi2 = np.array(rows).T
            ax.loglog(n, chi2, color=colour, lw=1.5, label=labels[k] if labels else "chi² of the solver")
            if k == 0:
                ax.loglog(n, (c.cells - 1) / n, color=SOFT, lw=1.2, ls=":", label="statistical limit (m - 1)/n")
            error = min(c.chi2_error, 0.9 * max(c.chi2, 1e-12))
            ax.errorbar(n[-1], max(c.chi2, 1e-12), error, fmt="o", ms=4.5, color=colour, mfc="white", label="certified")
    if tol is not None:
        ax.axhline(tol, color=ACCENT, lw=0.9, ls="--", label="tolerance")
    ax.set(xlabel="source samples", ylabel="chi²")
    return _bare(ax)


def points(*clouds: Any, titles: Sequence[str] = (), size: float = 3.0) -> Any:
    """Draw point clouds of R^2 side by side, on the same scale. Returns the figure."""
    import matplotlib.pyplot as plt

    arrays = [_checks.points("cloud", c).detach().cpu().numpy() for c in clouds]
    figure, axes = plt.subplots(1, len(arrays), figsize=(3.6 * len(arrays), 3.6), squeeze=False, layout="constrained")
    everything = np.concatenate(arrays)[:, :2]
    low, high = everything.min(0), everything.max(0)
    margin = 0.04 * (high - low).max() + 1e-12
    for k, (ax, a) in enumerate(zip(axes[0], arrays, strict=True)):
        ax.scatter(a[:, 0], a[:, 1], s=size, color=LINE, alpha=0.6, linewidths=0)
        ax.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin), aspect="equal")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color(SOFT)
        if titles:
            ax.set_title(titles[k], fontsize=10, color=INK, loc="left")
    return figure


def sheet(images: Tensor, *, columns: int = 16, gap: int = 1, ax: Any = None) -> Any:
    """Draw images (n, c, h, w) or (n, h, w) with values in [0, 1] as a sheet."""
    images = _checks.tensor("images", images).detach().cpu().float().clamp(0, 1)
    images = images[:, None] if images.dim() == 3 else images
    n, c, h, w = images.shape
    rows = -(-n // columns)
    page = torch.ones(rows, columns, c, h + gap, w + gap)
    page.view(rows * columns, c, h + gap, w + gap)[:n, :, :h, :w] = images
    picture = page.permute(0, 3, 1, 4, 2).reshape(rows * (h + gap), columns * (w + gap), c)[: -gap or None, : -gap or None]
    ax = ax if ax is not None else _axes(0.45 * columns, 0.45 * rows)
    ax.imshow(picture.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def _axes(width: float, height: float) -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), dpi=150, layout="constrained")[1]


def _cells(T: BrenierMap, low: Any, high: Any, resolution: int, ax: Any) -> tuple[Any, Any, Any]:
    """Colour the cells in a window. Returns their indices on a grid, and the grid."""
    sides = np.array(high) - np.array(low)
    nx, ny = (max(2, int(n)) for n in np.ceil(resolution * sides / sides.max()))
    u, v = (lo + (np.arange(n) + 0.5) * s / n for lo, n, s in zip(low, (nx, ny), sides, strict=True))
    grid = torch.from_numpy(np.stack(np.meshgrid(u, v), -1).reshape(-1, 2)).to(T.points)
    index = T.cell(grid).reshape(ny, nx).cpu().numpy()
    colour = np.array([[int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in CELLS], np.uint8)[_colours(index)]
    edge = np.zeros_like(index, bool)
    edge[:, 1:] |= index[:, 1:] != index[:, :-1]
    edge[1:] |= index[1:] != index[:-1]
    colour[edge] = (110, 118, 125)
    ax.imshow(colour, origin="lower", extent=(low[0], high[0], low[1], high[1]), interpolation="antialiased")
    return index, u, v


def _bare(ax: Any) -> Any:
    """Axes with as little ink as they need."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(SOFT)
    ax.tick_params(which="both", colors=INK, labelsize=9)
    ax.xaxis.label.set_color(INK)
    ax.yaxis.label.set_color(INK)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=9, labelcolor=INK)
    return ax


def _colours(index: NDArray[Any]) -> NDArray[Any]:
    """A colour number for every pixel, the same all over a cell and different across most facets."""
    names, where = np.unique(index, return_inverse=True)
    where = where.reshape(index.shape)
    pairs = np.concatenate(
        [np.stack([where[:, 1:].ravel(), where[:, :-1].ravel()], 1), np.stack([where[1:].ravel(), where[:-1].ravel()], 1)]
    )
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    neighbours: list[set[int]] = [set() for _ in names]
    for a, b in pairs.tolist():
        neighbours[a].add(b)
        neighbours[b].add(a)
    chosen = np.zeros(len(names), int)
    for k in range(len(names)):  # greedy, the turn varied so that the palette is used evenly
        taken = {int(chosen[j]) for j in neighbours[k] if j < k}
        chosen[k] = next((c for c in ((k * 3 + s) % len(CELLS) for s in range(len(CELLS))) if c not in taken), k % len(CELLS))
    return chosen[where]
