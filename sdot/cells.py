"""The power cells of a map as samples see them: mass, centre of mass, spread."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from . import _checks, kernels
from .maps import BrenierMap
from .measures import Draw, Source, draw_seed


class UnresolvedCellsWarning(UserWarning):
    """A budget ended before every cell was known as well as was wanted; the message says how many and what to change."""


@dataclass(frozen=True, eq=False)
class Cells:
    """What samples say of the power cells of a map. Rows follow the map's targets.

    Attributes:
        mass: w, shape (m,): the share of the samples in each cell.
        centroid: c, shape (m, d): the mean of the samples in each cell. A cell without samples lies, as far as anybody can
            tell, near the cells of neighbouring targets: it is given the centroid of the nearest target whose cell has some.
        spread: (m,): (E |x - c|^2)^(1/2) in each cell; that of all cells together where one has fewer than two samples.
        sample: (m, d): one point of each cell, the first that was drawn; the centroid where there is none. T sends it to the
            target of its row.
        error: (m,): the standard error of the centroid, the root mean square of its distance from the true one; infinite
            without samples.
        count: (m,): samples in each cell.
        samples: Samples drawn.
        empty: Indices of cells that should have mass and have no samples. Targets that the map hides (height -inf) are not
            among them.
        unresolved: Indices of cells whose error is above the wanted share of their spread, empty ones included.
    """

    mass: Float[Tensor, " m"]
    centroid: Float[Tensor, "m d"]
    spread: Float[Tensor, " m"]
    sample: Float[Tensor, "m d"]
    error: Float[Tensor, " m"]
    count: Int[Tensor, " m"]
    samples: int
    empty: Int[Tensor, " e"]
    unresolved: Int[Tensor, " u"]


@torch.no_grad()
def estimate_cells(
    T: BrenierMap,
    source: Source,
    *,
    precision: float = 0.1,
    max_samples: int | None = None,
    generator: Generator | None = None,
) -> Cells:
    """Measure the power cells of a map.

    Samples are drawn until the standard error of every centroid is below `precision` times the spread of its cell, or until
    the budget ends. As the error is spread / count^(1/2), this asks for 1 / precision^2 samples in every cell.

    Args:
        T: The map.
        source: The measure mu that T carries.
        precision: Wanted standard error of a centroid, as a share of the spread of its cell.
        max_samples: Budget; when left out ten times what cells of equal mass need, and at least 100,000.
        generator: Randomness. The same state gives the same samples.

    Returns:
        Cells. Where the budget ended first, an `UnresolvedCellsWarning` says so, and `unresolved` tells the cells.

    Raises:
        ValueError: A source of another dimension, a sampler that misbehaves, bad settings.
    """
    _checks.positive("precision", precision)
    if source.dim != T.dim:
        raise ValueError(
            f"source and map must live in the same space: source.dim = {source.dim}, but the map lives in R^{T.dim}."
        )
    shown = torch.isfinite(T.heights)
    enough = max(1, math.ceil(1 / precision**2))
    usual = max(10 * enough * int(shown.sum()), 10**5)
    budget = usual if max_samples is None else _checks.count("max_samples", max_samples)
    moments = _Moments(T.points)
    draw = Draw(source, T.points, draw_seed(generator), 0)
    wanted = min(budget, enough * int(shown.sum()))
    while True:
        for x in draw(wanted - draw.count):
            moments.add(x, T.cell(x))
        least = int(moments.count[shown].min())
        if least >= enough or draw.count >= budget:
            break
        wanted = min(budget, math.ceil(draw.count * min(2.0, 1.05 * enough / max(least, 1))))
    cells = moments.cells(T, draw.count, shown & (moments.count < enough))
    if len(cells.unresolved):
        warnings.warn(_advice(cells, enough, budget), UnresolvedCellsWarning, stacklevel=2)
    return cells


class _Moments:
    """Running count, mean and sum of squared deviations of each cell (Chan, Golub, LeVeque, 1979).

    No square of a coordinate is ever summed, so a source far from the origin costs no digits. A block costs O(block d).
    """

    def __init__(self, points: Float[Tensor, "m d"]) -> None:
        m, kind = points.shape[0], _checks.precise(points.device)
        self.count = torch.zeros(m, dtype=torch.int64, device=points.device)
        self.mean = torch.zeros(points.shape, dtype=kind, device=points.device)
        self.square = torch.zeros(m, dtype=kind, device=points.device)
        self.sample = torch.zeros_like(points)

    def add(self, x: Float[Tensor, "b d"], index: Int[Tensor, " b"]) -> None:
        hit, where = torch.unique(index, return_inverse=True)
        place = torch.arange(len(x), device=x.device)
        first = torch.full_like(hit, len(x)).scatter_reduce_(0, where, place, "amin")
        new = self.count[hit] == 0
        self.sample[hit[new]] = x[first[new]]
        x = x.to(self.mean)
        number = torch.bincount(where)
        n = number.to(x.dtype)
        mean = x.new_zeros(len(hit), x.shape[1]).index_add_(0, where, x - x[0]) / n[:, None] + x[0]
        square = x.new_zeros(len(hit)).index_add_(0, where, (x - mean[where]).square().sum(1))
        before = self.count[hit].to(x.dtype)
        move, share = mean - self.mean[hit], n / (before + n)
        self.mean[hit] += move * share[:, None]
        self.square[hit] += square + move.square().sum(1) * (before * share)
        self.count[hit] += number

    def cells(self, T: BrenierMap, samples: int, unresolved: Tensor) -> Cells:
        freedom = (self.count - 1).clamp_min(0).to(self.square.dtype)
        pooled = (self.square.sum() / freedom.sum().clamp_min(1)).sqrt()
        spread = torch.where(freedom > 0, (self.square / freedom.clamp_min(1)).sqrt(), pooled)
        centroid = self.mean.to(T.points)
        blank, full = (self.count == 0).nonzero()[:, 0], self.count.nonzero()[:, 0]
        if len(blank):
            y = kernels.precise(T.points)
            _, nearest = kernels.topk(y[blank], y[full], -y[full].square().sum(1) / 2)
            centroid[blank] = self.sample[blank] = centroid[full[nearest[:, 0]]]
        return Cells(
            mass=self.count.to(self.mean.dtype) / samples,
            centroid=centroid,
            spread=spread,
            sample=self.sample,
            error=spread / self.count.to(self.mean.dtype).sqrt(),
            count=self.count,
            samples=samples,
            empty=(torch.isfinite(T.heights) & (self.count == 0)).nonzero()[:, 0],
            unresolved=unresolved.nonzero()[:, 0],
        )


def _advice(cells: Cells, enough: int, budget: int) -> str:
    names = ", ".join(str(int(i)) for i in cells.unresolved[:10]) + (", ..." if len(cells.unresolved) > 10 else "")
    return (
        f"{len(cells.unresolved)} of {len(cells.count)} cells had fewer than {enough} samples when the budget of "
        f"{budget:,} ended ({names}); {len(cells.empty)} had none. Raise max_samples or precision, or solve for a smaller tol."
    )
