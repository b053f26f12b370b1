"""Optimal transport in the plane: the uniform square onto a ring of Gaussians, and onto a picture made of dots.

On the command line:
    python examples/plane.py                  ring.png and picture.png in runs/plane, in half a minute
    python examples/plane.py --picture FILE   a grey picture of yours instead, where dark parts weigh most
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image
from torch import Generator, Tensor

import sdot

TOL = 0.01
SOURCE = sdot.UniformCube(dim=2)
INK = "#22272b"
WHEEL = LinearSegmentedColormap.from_list("wheel", ["#1f4e79", "#6aa39a", "#dcb873", "#c8553d", "#1f4e79"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="a picture to carry the square onto, in any format that Pillow reads")
    parser.add_argument("--out", type=Path, default=Path("runs/plane"), help="folder for the pictures (%(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    generator = Generator().manual_seed(0)
    targets = {"ring": ring(400, generator), "picture": dots(grey(options.picture) if options.picture else ball(48))}
    for name, target in targets.items():
        solution = sdot.solve(SOURCE, target, tol=TOL, generator=generator)
        draw(solution, generator).savefig(options.out / f"{name}.png")
        print(f"{name}: {len(target)} points in {solution.seconds:.1f} s, {solution.certificate}")
    print(f"pictures: {options.out}/ring.png, {options.out}/picture.png")


def ring(m: int, generator: Generator) -> sdot.DiscreteMeasure:
    """Equal weights on m points drawn from eight Gaussians on a ring."""
    angle = torch.arange(m) % 8 * (math.pi / 4)
    centre = 0.5 + 0.36 * torch.stack([angle.cos(), angle.sin()], 1).double()
    return sdot.DiscreteMeasure.uniform(centre + 0.03 * torch.randn(m, 2, dtype=torch.float64, generator=generator))


def dots(ink: Float[Tensor, "h w"]) -> sdot.DiscreteMeasure:
    """The pixels that carry ink as points of the unit square, each weighing what it carries."""
    rows, columns = ink.nonzero(as_tuple=True)
    points = torch.stack([columns + 0.5, ink.shape[0] - rows - 0.5], 1).double() / max(ink.shape)
    weights = ink[rows, columns]
    return sdot.DiscreteMeasure(points, weights / weights.sum())


def grey(path: Path, side: int = 48) -> Float[Tensor, "h w"]:
    """The ink in a picture, made small: 1 where it is black and 0 where it is white."""
    with Image.open(path) as picture:
        small = picture.convert("L")
        small.thumbnail((side, side))
    return 1 - torch.from_numpy(np.array(small)).double() / 255


def ball(side: int) -> Float[Tensor, "side side"]:
    """The ink in a drawing of a ball lit from the upper left, and of its shadow."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side, dtype=torch.float64)] * 2, indexing="ij")
    r2 = (x**2 + (y + 0.12) ** 2) / 0.72**2
    z = (1 - r2).clamp_min(0).sqrt()
    light = (-0.45 * x / 0.72 - 0.55 * (y + 0.12) / 0.72 + 0.7 * z).clamp(0, 1)
    shadow = 0.75 * torch.exp(-(((x - 0.2) / 0.5) ** 2) - ((y - 0.72) / 0.09) ** 2)
    return torch.where(r2 < 1, 1.02 - light, torch.where(shadow > 0.03, shadow, 0))


def draw(solution: sdot.Solution, generator: Generator) -> Figure:
    """Power cells, samples, where the map sends them, and how the solve converged; a colour follows its mass all through."""
    T = solution.map
    figure = Figure(figsize=(14, 3.9), dpi=150, layout="compressed")
    left, middle, right, last = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.25])
    hue = colours(T.points)
    draw_cells(left, T, hue)
    x = SOURCE.sample(60_000, like=T.points, generator=generator)
    cell = T.cell(x)
    middle.scatter(*x[:8000].T, s=3, c=hue[cell[:8000]], linewidths=0)
    hits = torch.bincount(cell, minlength=len(hue))
    right.scatter(*T.points.T, s=0.15 * hits, c=hue, linewidths=0)
    for ax, title in zip((left, middle, right), ("power cells", "samples x", "T(x), larger where hit more often"), strict=True):
        ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], aspect="equal")
        ax.set_title(title, fontsize=10)
        ax.spines[:].set_visible(False)
    sdot.plot.convergence(solution, tol=TOL, ax=last)
    last.set_box_aspect(0.85)
    for axis in (last.xaxis, last.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    return figure


def draw_cells(ax: Axes, T: sdot.BrenierMap, hue: np.ndarray, pixels: int = 800) -> None:
    """Every pixel takes the colour of the target that it is sent to; lines lead from centres of mass to targets."""
    side = (torch.arange(pixels).to(T.points) + 0.5) / pixels
    grid = torch.cartesian_prod(side, side).flip(1)  # rows upward, columns to the right
    cell = T.cell(grid)
    picture = 1 - 0.55 * (1 - hue[cell].reshape(pixels, pixels, 3))
    square = cell.view(pixels, pixels)
    border = (square != square.roll(1, 0)) | (square != square.roll(1, 1))
    picture[border] = 1
    ax.imshow(picture, origin="lower", extent=(0, 1, 0, 1))
    if len(hue) <= 500:
        mass = torch.bincount(cell, minlength=len(hue)).clamp_min(1)[:, None]
        centre = torch.zeros_like(T.points).index_add_(0, cell, grid) / mass
        ax.plot(*torch.stack([centre, T.points]).permute(2, 0, 1), color=INK, lw=0.4, alpha=0.6)
    ax.scatter(*T.points.T, s=2, color=INK, linewidths=0)


def colours(points: Float[Tensor, "m 2"]) -> np.ndarray:
    """A colour for each direction from the middle of the points."""
    u, v = (points - points.mean(0)).T
    return WHEEL(((torch.atan2(v, u) / (2 * math.pi)) % 1).numpy())[:, :3]


if __name__ == "__main__":
    main()
