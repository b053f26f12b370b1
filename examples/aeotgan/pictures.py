"""Pictures: sheets of images in crisp pixels, how a solve converged, how a training went, where codes lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from results import replacing
from torch import Tensor

import sdot

INK, LINE, ACCENT, SOFT = sdot.plot.INK, sdot.plot.LINE, sdot.plot.ACCENT, sdot.plot.SOFT
DPI = 150
WIDTH = 1200  # pixels of a sheet, about
PAPER = {1: 0.0, 3: 1.0}  # a pixel of empty paper, by channels: grey images are drawn as ink


def sheet(path: Path, images: Float[Tensor, "n c h w"], columns: int = 16, rows: Sequence[str] = ()) -> None:
    """Images, each pixel a square of whole screen pixels, grey ones as ink on paper; `rows` are names for the rows."""
    left, edge = (170, 10) if rows else (10, 10)  # screen pixels
    c, h, w = images.shape[1:]
    gap = max(1, h // 32)
    shown = whole_rows(images, columns).clamp(0, 1)
    paper = np.pad((1 - shown if c == 1 else shown).numpy(), 3 * ((0, 0),) + 2 * ((gap, gap),), constant_values=1)
    h, w = h + 2 * gap, w + 2 * gap
    page = paper.transpose(0, 3, 1, 4, 2).reshape(-1, columns * w, c)
    zoom = math.ceil(WIDTH / (columns * w))
    page = np.kron(page, np.ones((zoom, zoom, 1))).repeat(3 // c, 2)
    width, height = left + page.shape[1] + edge, page.shape[0] + 2 * edge
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.figimage(page, xo=left, yo=edge, origin="upper")
    for k, name in enumerate(rows):
        y = edge + (len(rows) - k - 0.5) * zoom * h
        figure.text((left - 12) / width, y / height, name, ha="right", va="center", fontsize=8, color=INK)
    _save(figure, path)


def whole_rows(images: Float[Tensor, "n c h w"], columns: int = 16) -> Float[Tensor, "r k c h w"]:
    """The images in rows; empty paper where the last one lacks some."""
    empty = images.new_full((-len(images) % columns, *images.shape[1:]), PAPER[images.shape[1]])
    return torch.cat([images, empty]).float().unflatten(0, (-1, columns))


def pairs(path: Path, above: Float[Tensor, "n c h w"], below: Float[Tensor, "n c h w"], names: tuple[str, str]) -> None:
    """Two sets of images, a row of the one above a row of the other."""
    rows = torch.stack([whole_rows(above), whole_rows(below)], 1)  # (r, 2, 16, c, h, w)
    sheet(path, rows.flatten(0, 2), rows=names * len(rows))


def generated(out: Path, prefix: str, new: Float[Tensor, "n c h w"], training: Tensor) -> None:
    """A sheet of generated images, and the training image that is nearest to each of some."""
    sheet(out / f"{prefix}generated.png", new)
    pairs(out / f"{prefix}nearest.png", new[:48], nearest(new[:48], training), ("generated", "nearest image"))


def nearest(images: Float[Tensor, "n c h w"], training: Tensor) -> Float[Tensor, "n c h w"]:
    """The nearest training image of each image."""
    queries = images.flatten(1).float()
    found = [torch.cdist(queries, part.flatten(1).float()).min(1) for part in training.split(8192)]
    block = torch.stack([distance for distance, _ in found]).argmin(0)  # (n,)
    row = torch.stack([index for _, index in found]).gather(0, block[None])[0]
    return training[8192 * block + row].float()


def epochs(path: Path, views: dict[str, Tensor], per_epoch: int, truth: Tensor | None) -> None:
    """The same codes over a training: below the images they come from, reconstructions; then generated images.

    Args:
        views: Images at some steps, bytes: a row of reconstructions, if there are any, and a row of generated ones.
        per_epoch: Steps of an epoch.
        truth: The images that belong to the reconstructions.
    """
    steps = sorted(views, key=int)
    names = [f"epoch {round(int(step) / per_epoch, 1):g}" for step in steps]
    upper, lower = torch.stack([views[step].float().div(255) for step in steps]).unflatten(1, (2, -1)).unbind(1)  # (v, k, ...)
    if truth is None:
        return sheet(path, lower.flatten(0, 1), lower.shape[1], names)
    paper = torch.full_like(upper[:1], PAPER[upper.shape[2]])
    rows = torch.cat([truth.float()[None], upper, paper, lower])
    return sheet(path, rows.flatten(0, 1), upper.shape[1], ["ground truth", *names, "", *(f"new, {name}" for name in names)])


def curves(path: Path, records: list[dict[str, Any]]) -> None:
    """Losses over a training (after Fig. 5 of the paper): content, latent codes, the discriminator, the Frechet distance."""
    panels = (
        ("content loss", "mean square, pixels", {"image": ("", LINE)}),
        ("latent loss", "mean square, codes", {"latent": ("", LINE)}),
        ("discriminator", "mean D", {"real": ("real images", LINE), "fake": ("fake images", ACCENT)}),
        ("Fréchet distance", "", {"frechet": ("last layer", LINE), "frechet_layers": ("all layers", ACCENT)}),
    )
    known = [panel for panel in panels if any(name in record for record in records for name in panel[2])]
    if not known:
        return
    figure = Figure(figsize=(3.4 * len(known), 2.9), dpi=DPI, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(known)))
    for ax, (title, unit, lines) in zip(axes, known, strict=True):
        drawn = {name: line for name, line in lines.items() if any(name in record for record in records)}
        for name, (label, colour) in drawn.items():
            points = [(record["epoch"], record[name]) for record in records if name in record]
            ax.plot(*zip(*points, strict=True), color=colour, lw=1.3, label=label or None)
        ax.set_title(title, fontsize=10, color=INK, loc="left")
        ax.set_xlabel("epoch", color=INK)
        ax.set_ylabel(unit, color=INK)
        ax.tick_params(colors=INK, labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(SOFT)
        if "real" in lines:
            ax.axhline(0.5, color=SOFT, lw=0.8, ls=":")
        if len(drawn) > 1:
            ax.legend(frameon=False, fontsize=8, labelcolor=INK)
    _save(figure, path)


def embedding(path: Path, real: Float[Tensor, "m d"], new: Float[Tensor, "n d"]) -> None:
    """Real and new codes in the planes of the real ones' leading principal directions (after Fig. 4 of the paper)."""
    real, new = (torch.nn.functional.pad(z.double(), (0, max(0, 2 - z.shape[1]))) for z in (real[: len(new)], new))
    directions = torch.linalg.eigh(torch.cov(real.T)).eigenvectors.flip(1)[:, :4]
    planes = ((0, 1), (2, 3))[: directions.shape[1] // 2]
    a, b = ((z - real.mean(0)) @ directions for z in (real, new))
    figure = Figure(figsize=(4.5 * len(planes), 4.4), dpi=DPI, layout="constrained")
    for ax, (i, j) in zip(figure.subplots(1, len(planes), squeeze=False)[0], planes, strict=True):
        ax.scatter(a[:, i], a[:, j], s=5, color=SOFT, linewidths=0, label="codes of images")
        ax.scatter(b[:, i], b[:, j], s=5, color=ACCENT, alpha=0.55, linewidths=0, label="new codes")
        ax.set(xticks=[], yticks=[], aspect="equal", xlabel=f"direction {i + 1}", ylabel=f"direction {j + 1}")
        ax.spines[:].set_color(SOFT)
    figure.axes[0].legend(frameon=False, fontsize=8, labelcolor=INK, markerscale=2, loc="upper left")
    _save(figure, path)


def convergence(path: Path, solution: sdot.Solution, tol: float) -> None:
    """The solver's own chi^2 against the samples it has drawn, and the certificate that judged the result."""
    figure = Figure(figsize=(6.0, 3.8), dpi=DPI, layout="constrained")
    ax = sdot.plot.convergence(solution, tol=tol, ax=figure.subplots())
    ax.set(xlabel="samples of noise drawn, n", ylabel="error of the cell masses, chi²")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        figure.savefig(part)
