"""Pictures: sheets of images in crisp pixels, and how a solve converged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from results import replacing
from torch import Tensor

import sdot

INK = "#22272b"
DPI = 150


def sheet(path: Path, images: Float[Tensor, "n 1 h w"], columns: int = 16, rows: Sequence[str] = ()) -> None:
    """Grey images as ink on paper, each pixel a square of whole screen pixels; `rows` are names for the rows."""
    left, edge = (170, 10) if rows else (10, 10)  # screen pixels
    paper = np.pad(1 - images[:, 0].numpy(), ((0, 0), (1, 1), (1, 1)), constant_values=1)
    n, h, w = paper.shape
    page = paper.reshape(n // columns, columns, h, w).swapaxes(1, 2).reshape(-1, columns * w)
    zoom = math.ceil(1200 / (columns * w))
    page = np.kron(page, np.ones((zoom, zoom)))
    width, height = left + page.shape[1] + edge, page.shape[0] + 2 * edge
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.figimage(page, xo=left, yo=edge, cmap="gray", vmin=0, vmax=1, origin="upper")
    for k, name in enumerate(rows):
        y = edge + (len(rows) - k - 0.5) * zoom * h
        figure.text((left - 12) / width, y / height, name, ha="right", va="center", fontsize=8, color=INK)
    with replacing(path) as part:
        figure.savefig(part)


def pairs(path: Path, above: Float[Tensor, "n 1 h w"], below: Float[Tensor, "n 1 h w"], names: tuple[str, str]) -> None:
    """Two sets of images, a row of the one above a row of the other."""
    rows = torch.stack([images.unflatten(0, (-1, 16)) for images in (above, below)], 1)  # (r, 2, 16, 1, h, w)
    sheet(path, rows.flatten(0, 2), rows=names * len(rows))


def convergence(path: Path, solution: sdot.Solution, tol: float) -> None:
    """The solver's own chi^2 against the samples it has drawn, and the certificate that judged the result."""
    figure = Figure(figsize=(6.0, 3.8), dpi=DPI, layout="constrained")
    ax = sdot.plot.convergence(solution, tol=tol, ax=figure.subplots())
    ax.set(xlabel="samples of noise drawn, n", ylabel="error of the cell masses, chi²")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    with replacing(path) as part:
        figure.savefig(part)
