"""Pictures: sheets of images in crisp pixels, and how a solve converged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from results import replacing
from torch import Tensor

import sdot

INK, LINE, ACCENT, SOFT = "#22272b", "#1f4e79", "#c8553d", "#9aa5ad"
DPI = 150


def sheet(path: Path, images: Float[Tensor, "n 1 h w"], columns: int = 16, rows: Sequence[str] = ()) -> None:
    """Grey images as ink on paper, each pixel a square of whole screen pixels; `rows` are names for the rows."""
    n, _, h, w = images.shape
    zoom = round(1150 / (columns * w))
    tiles = np.pad(np.kron(1 - images[:, 0], np.ones((1, zoom, zoom))), ((0, 0), (1, 1), (1, 1)), constant_values=0.85)
    page = tiles.reshape(n // columns, columns, *tiles.shape[1:]).swapaxes(1, 2).reshape(-1, columns * tiles.shape[2])
    left, edge = (170, 10) if rows else (10, 10)
    width, height = left + page.shape[1] + edge, page.shape[0] + 2 * edge
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.figimage(page, xo=left, yo=edge, cmap="gray", vmin=0, vmax=1, origin="upper")
    for k, name in enumerate(rows):
        y = edge + (len(rows) - k - 0.5) * tiles.shape[1]
        figure.text((left - 12) / width, y / height, name, ha="right", va="center", fontsize=8, color=INK)
    with replacing(path) as part:
        figure.savefig(part)


def convergence(path: Path, solution: sdot.Solution, tol: float) -> None:
    """The solver's own chi^2 against the samples it has drawn, and the certificate that judged the result."""
    records = [r for r in solution.history if 0 < r.chi2 < np.inf]
    n, chi2 = np.array([r.samples for r in records]), np.array([r.chi2 for r in records])
    judged = solution.certificate
    figure = Figure(figsize=(6.0, 3.8), dpi=DPI, layout="constrained")
    ax = figure.subplots()
    ax.loglog(n, (judged.cells - 1) / n, ":", color=SOFT, lw=1.4, label="statistical limit (m - 1) / n")
    ax.loglog(n, chi2, ".-", color=LINE, lw=1.4, ms=4, label="estimate of the solver")
    ax.axhline(tol, ls="--", color=ACCENT, lw=1, label=f"tolerance {tol:g}")
    ax.errorbar(n[-1], judged.chi2, judged.chi2_error, fmt="o", ms=6, color=ACCENT, mfc="white", label="certificate")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="samples of noise drawn, n", ylabel="error of the cell masses, chi²")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(SOFT)
    ax.tick_params(which="both", color=SOFT, labelcolor=INK, labelsize=9)
    ax.legend(frameon=False, fontsize=9, labelcolor=INK)
    with replacing(path) as part:
        figure.savefig(part)
