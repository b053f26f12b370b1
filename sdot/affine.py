"""The affine rule: on each cell a convex quadratic whose gradient spreads images as the neighbouring targets are spread."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .blending import Blend, Rule
from .cells import Cells
from .maps import BrenierMap
from .stars import rows_at_once, take, within


class Affine(Rule):
    """An affine map on each cell: the targets around y_i, weighed by where x lies to the centre c_i.

    With the star of y_i (itself and its nearest joined targets: r points y_j of mean m and differences e_j = y_j - m):

        T~(x) = y_i + a (m - y_i) + g_i / r sum_j <e_j, x - c_i> e_j.

    The last term is J (x - c_i) where J is g_i times the covariance of the star, symmetric and positive, so that T~ is the
    gradient of a convex quadratic on each cell. It is the entropic map restricted to the star at temperature 1 / g_i, to
    first order around the centre. g_i is such that its variance over the cell is step^2 times that of the star, in the
    trace. The pull a towards the mean of the star takes as much variance away as the last term adds, over all cells together,
    so that images vary as targets do (an idea of West, 1993, for kernel estimates).

    Weights may be negative. An image farther from y_i than the star reaches is drawn back along the segment to y_i, so that
    |T~(x) - y_i| never exceeds the longest edge of the star.
    """

    names = ("star", "size", "centroid", "gain", "reach")
    centroid: Tensor
    gain: Tensor
    reach: Tensor

    @classmethod
    def of(cls, T: BrenierMap, cells: Cells, star: Tensor, size: Tensor, *, step: float) -> Affine:
        gain, reach = (torch.zeros_like(T.points[:, 0]) for _ in range(2))
        buffers = {"star": star, "size": size, "centroid": cells.centroid, "gain": gain, "reach": reach}
        rule = cls(buffers, {"step": step, "pull": 0.0})
        variance = rule._measure_stars(T, cells.mass)
        gain *= torch.where(cells.spread > 0, math.sqrt(T.dim) / cells.spread, 0.0).to(gain)
        gain *= step / rule._dispersion(T, cells, variance)
        return rule

    def _measure_stars(self, T: BrenierMap, mass: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Fill reaches, gains in units of 1 / (spread of the cell) as if cells were round, and the pull. Returns variances."""
        y, middle = T.points, mass @ T.points.to(mass)
        variance, drift = torch.zeros_like(mass), torch.zeros_like(middle)
        along = square = 0.0
        for i in self._all(T):
            e = self._differences(T, i)
            gram = e @ e.mT
            variance[i] = (gram.diagonal(dim1=1, dim2=2).sum(1) / self.size[i]).to(mass)
            strength = gram.square().sum((1, 2)).sqrt() / self.size[i]  # root of the trace of the squared covariance
            self.gain[i] = torch.where(strength > 0, variance[i].sqrt().to(y) / strength, 0.0)
            self.reach[i] = (y[self.star[i]] - y[i][:, None]).norm(dim=2).amax(1)  # padding repeats y_i
            back = e[:, 0].to(mass)  # y_i - m
            drift += mass[i] @ back
            along += float(mass[i] @ (back * (y[i].to(mass) - middle)).sum(1))
            square += float(mass[i] @ back.square().sum(1))
        # Var(y + a (m - y)) + step^2 E variance = Var(y)
        added = self.settings["step"] ** 2 * float(mass @ variance)
        self.settings["pull"] = _least_root(square - float(drift.square().sum()), along, added)
        return variance

    def _dispersion(self, T: BrenierMap, cells: Cells, variance: Float[Tensor, " m"]) -> float:
        """How far J (x - c_i) spreads, against what it would if cells were round: they are narrow along their own edges.

        One sample of each cell tells, all of them together.
        """
        image = torch.cat([self._images(T, cells.sample[i], i).square().sum(1) for i in self._all(T)]).to(variance)
        n = cells.count.to(variance)
        mass = torch.where(n > 1, cells.mass, 0.0)
        found, expected = mass @ (image * n / (n - 1).clamp_min(1)), mass @ variance
        return math.sqrt(float(found / expected)) if found > 0 and expected > 0 else 1.0

    @property
    def width(self) -> int:
        return self.star.shape[1]

    def _all(self, T: BrenierMap) -> tuple[Tensor, ...]:
        """All cells, in blocks."""
        return torch.split(torch.arange(len(self.star), device=self.star.device), rows_at_once(T.points, self.width))

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        weight, _, short = self._piece(T, x, cell)
        weight = torch.where(within(take(self.size, cell)[:, None], weight), short * weight, 0.0)[:, 1:]
        return take(self.star, cell), torch.cat([1 - weight.sum(1, keepdim=True), weight], 1)

    def image(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        _, move, short = self._piece(T, x, cell)
        return take(T.points, cell) + short * move

    def _piece(self, T: BrenierMap, x: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of y_j - y_i, the way they make, and what it has to be shortened by."""
        away = self._away(T, cell)
        weight = self._weights(away, x, cell) + self.settings["pull"] / take(self.size, cell)[:, None]
        move = (weight[:, None] @ away)[:, 0]
        length, reach = move.norm(dim=1, keepdim=True), take(self.reach, cell)[:, None]
        return weight, move, torch.where(length > reach, reach / length, 1.0)

    def _away(self, T: BrenierMap, cell: Tensor) -> Float[Tensor, "n k d"]:
        """y_j - y_i, zero past the end of a star, where rows repeat y_i."""
        return take(T.points, take(self.star, cell)).sub_(take(T.points, cell)[:, None])

    def _weights(self, away: Tensor, x: Tensor, cell: Tensor) -> Float[Tensor, "n k"]:
        """Those of y_j - y_i in J (x - c_i): g_i / r <e_j, x - c_i>, of sum zero over the star."""
        scores, size = (away @ (x - take(self.centroid, cell))[..., None])[..., 0], take(self.size, cell)[:, None]
        return (scores - scores.sum(1, keepdim=True) / size) * (take(self.gain, cell)[:, None] / size)

    def _images(self, T: BrenierMap, x: Tensor, cell: Tensor) -> Float[Tensor, "n d"]:
        """J (x - c_i)."""
        away = self._away(T, cell)
        return (self._weights(away, x, cell)[:, None] @ away)[:, 0]

    def _differences(self, T: BrenierMap, cell: Tensor) -> Float[Tensor, "n k d"]:
        """e_j, zero past the end of a star."""
        away, size = self._away(T, cell), take(self.size, cell)[:, None]
        mean = away.sum(1) / size
        return torch.where(within(size, away[..., 0])[..., None], away - mean[:, None], 0.0)


def _least_root(a: float, b: float, c: float) -> float:
    """The least t in [0, 1] with a t^2 - 2 b t + c = 0, or that which comes nearest to it; a and c are not negative."""
    if a <= 0 or b <= 0:
        return 0.0
    return min(1.0, (b - math.sqrt(max(0.0, b * b - a * c))) / a)
