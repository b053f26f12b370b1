"""Pictures of the evaluation: methods side by side, their measures as dots, and the images most like training images."""

from __future__ import annotations

from pathlib import Path

import machine
import metrics
import pictures
import torch
from data import Images
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from pictures import ACCENT, DPI, INK, LINE, SOFT
from torch import Tensor

SHOWN = 16
PANELS = {  # title, and the row that says what is possible
    "frechet": ("Fréchet distance to training images", "held-out images"),
    "frechet_layers": ("the same, features of all layers", "held-out images"),
    "frechet_held_out": ("to held-out images", "training images"),
    "precision": ("precision", "training images"),
    "recall": ("recall", "training images"),
    "coverage": ("coverage", "training images"),
    "class_tv": ("class shares, TV", "training images"),
    "mixed": ("between classes", "held-out images"),
    "novelty": ("novelty", "held-out images"),
}
COLUMNS = 3
REAL = ("held-out images", "training images", "reconstructions")


def methods(path: Path, shown: dict[str, Tensor]) -> None:
    """A row of images for every method; those that are fed through the transport share their noise."""
    rows = [pictures.whole_rows(images, SHOWN) for images in shown.values()]
    pictures.sheet(path, torch.cat(rows).flatten(0, 1), SHOWN, list(shown))


def dots(path: Path, table: dict[str, dict[str, float]], errors: dict[str, dict[str, float]]) -> None:
    """A panel for a measure, a line for a method; dotted what real images reach, bars of two standard errors."""
    known = [key for key in PANELS if any(key in row for row in table.values())]
    names, rows = list(table)[::-1], -(-len(known) // COLUMNS)
    figure = Figure(figsize=(11.0, rows * (0.7 + 0.25 * len(names))), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(wspace=0.06, hspace=0.06)
    axes = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).ravel()
    for ax in axes[len(known) :]:
        ax.set_visible(False)
    for ax, key in zip(axes, known, strict=False):
        title, possible = PANELS[key]
        if key in table[possible]:
            ax.axvline(table[possible][key], color=SOFT, lw=1, ls=":", zorder=1)
        for y, name in enumerate(names):
            if key in table[name]:
                colour = ACCENT if name == "AE-OT-GAN" else SOFT if name in REAL else LINE
                error = 2 * errors.get(name, {}).get(key, 0.0)
                ax.errorbar(table[name][key], y, xerr=error or None, fmt="o", ms=5, color=colour, lw=1, clip_on=False, zorder=3)
        ax.set_title(title, fontsize=9, color=INK, loc="left")
        ax.set_yticks(range(len(names)), names)
        if key.startswith("frechet"):
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
        else:
            ax.set_xlim(0, max(0.01, 1.05 * max(row.get(key, 0.0) for row in table.values())))
            ax.locator_params(axis="x", nbins=4)
        ax.tick_params(colors=INK, labelsize=8, length=0)
        ax.grid(axis="y", color="#eceff1", lw=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.spines["bottom"].set_color(SOFT)
    pictures._save(figure, path)


def copies(path: Path, new: Float[Tensor, "n c h w"], images: Images) -> None:
    """Those new images that come nearest to training images, beside held-out ones of which the same is true."""
    rows, train = [], machine.current().hold(images.train).flatten(1)
    for queries in (new.float(), images.test[: len(new)].float()):
        distance, index = metrics.nearest(queries.flatten(1), train)
        first = distance.argsort()[:SHOWN]
        rows += [pictures.whole_rows(queries[first], SHOWN), pictures.whole_rows(images.train[index[first]], SHOWN)]
    names = ("generated", "nearest image", "held-out", "nearest image")
    pictures.sheet(path, torch.cat(rows).flatten(0, 1), SHOWN, names)
