"""Rules that blend the targets around a sample: which vertices, and with which weights.

A rule is a module with buffers only. `rule(T, x, cell)` returns vertices and weights, both of shape (n, k), the vertex of x's
own cell first. Weights sum to one; what is not used has weight 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from . import _checks, kernels
from .barycentric import distance_form, nearest_weights
from .cells import Cells
from .maps import BrenierMap

Blend = tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]


class Rule(nn.Module):
    """Buffers by name, and settings that are plain numbers."""

    names: tuple[str, ...] = ("star", "size")  # of the buffers
    star: Tensor
    size: Tensor

    def __init__(self, buffers: dict[str, Tensor], settings: dict[str, Any]) -> None:
        super().__init__()
        for name in self.names:
            self.register_buffer(name, buffers[name])
        self.settings = settings

    @property
    def width(self) -> int:
        """Points that are gathered for a sample."""
        return self.star.shape[1]

    def rows(self, T: BrenierMap) -> int:
        """Samples that are taken at once."""
        return rows_at_once(T.points, self.width)

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        raise NotImplementedError

    def image(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """What the vertices and weights make: y_i, exactly, where nothing else has weight."""
        vertices, weight = self(T, x, cell)
        rows = rows_at_once(T.points, vertices.shape[1])
        blocks = zip(torch.split(vertices, rows), torch.split(weight, rows), strict=True)
        return torch.cat([_blended(T.points, v, w) for v, w in blocks])


def _blended(y: Float[Tensor, "m d"], vertices: Int[Tensor, "n k"], weight: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
    own, others = take(y, vertices[:, 0]), take(y, vertices[:, 1:])
    moved: Tensor = own + (weight[:, None, 1:] @ others.sub_(own[:, None]))[:, 0]
    return moved


class Projected(Rule):
    """Barycentric coordinates of the nearest point to x in the simplex of the centres of its k foremost cells."""

    names = ("star", "size", "centroid")
    centroid: Tensor

    def rows(self, T: BrenierMap) -> int:
        """Far more than one tile of gathered points: the projection, which gathers none, is quicker on many at once."""
        return rows_at_once(T.points, min(2, self.width))

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        rows = super().rows(T)
        blocks = torch.split(x, rows), torch.split(cell, rows)
        found = [self._hulls(T, z, c) for z, c in zip(*blocks, strict=True)]
        vertices, present, A, b = (torch.cat(parts) for parts in zip(*found, strict=True))
        return vertices, nearest_weights(A, b, present).to(x)

    def _hulls(self, T: BrenierMap, x: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        vertices, present, _ = _foremost(T, x, cell, self.star, self.size, self.settings["k"])
        return vertices, present, *distance_form(x, take(self.centroid, vertices), present)


class Softmax(Rule):
    """softmax_j((h_j + <x, y_j>) / temperature) over the k foremost cells: the entropic map restricted to the star."""

    @classmethod
    def of(cls, T: BrenierMap, cells: Cells, star: Tensor, size: Tensor, *, k: int, hardness: float) -> Softmax:
        """The temperature at which the foremost vertex weighs `hardness` in the mean, by bisection on a logarithmic scale."""
        rule = cls({"star": star, "size": size}, {"k": k, "temperature": 1.0})
        i = ((cells.count > 0) & (size > 1)).nonzero()[:, 0]
        if len(i) == 0:
            return rule
        blocks = torch.split(i, rows_at_once(T.points, star.shape[1]))
        scores = torch.cat([_foremost(T, cells.sample[b], b, star, size, k)[2] for b in blocks]).to(cells.mass)
        mass = cells.mass[i] / cells.mass[i].sum()
        high = 10 * float(-torch.where(torch.isfinite(scores), scores, 0.0).min()) or 1.0
        low = 1e-9 * high
        while high > 1.0001 * low:
            middle = math.sqrt(low * high)
            harder = float(mass @ torch.softmax(scores / middle, 1)[:, 0]) > hardness
            low, high = (middle, high) if harder else (low, middle)
        rule.settings["temperature"] = middle
        return rule

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        vertices, _, scores = _foremost(T, x, cell, self.star, self.size, self.settings["k"])
        return vertices, torch.softmax(scores / self.settings["temperature"], 1).to(x)


class Pair(Rule):
    """The own vertex and the foremost one joined to it, with a weight that is uniform on (0, 1) and a hash of x.

    The program of the AE-OT authors draws this weight at random; here equal x have equal images.
    """

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        vertices, present, _ = _foremost(T, x, cell, self.star, self.size, 2)
        u = torch.where(present[:, 1:], _hash(x)[:, None], 0.0) if present.shape[1] > 1 else x.new_zeros(len(x), 0)
        return vertices, torch.cat([1 - u.sum(1, keepdim=True), u], 1)


def rows_at_once(points: Tensor, width: int) -> int:
    """Rows whose gathered points fill one tile: 4 MB in float32 on a CPU, 512 MB on a GPU."""
    size = 2**20 if points.device.type == "cpu" else 2**27
    return max(1, size // (width * points.shape[1]))


def take(table: Tensor, index: Tensor) -> Tensor:
    """table[index], several times as fast on a CPU."""
    return table.index_select(0, index.flatten()).view(*index.shape, *table.shape[1:])


def within(size: Int[Tensor, "n 1"], like: Tensor) -> Tensor:
    """Which entries of a row belong to its star."""
    return torch.arange(like.shape[1], device=like.device) < size


def _foremost(T: BrenierMap, x: Tensor, cell: Tensor, star: Tensor, size: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k targets of a cell's star that score highest at x, its own first; which are there; scores less the own one."""
    y = kernels.precise(T.points)
    near = take(star, cell)
    scores = (take(y, near).sub_(take(y, cell)[:, None]) @ x.to(y)[..., None])[..., 0]
    scores = scores + (take(T.heights, near) - take(T.heights, cell)[:, None]).to(y)
    scores = torch.where(within(take(size, cell)[:, None], near), scores, -torch.inf)
    _, order = scores[:, 1:].topk(min(k, near.shape[1]) - 1, dim=1)
    order = torch.nn.functional.pad(order + 1, (1, 0))
    scores = scores.gather(1, order)
    return near.gather(1, order), torch.isfinite(scores), scores


def _hash(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """A number in (0, 1) for each row, as good as random and the same for equal rows."""
    bits = x.detach().to(_checks.precise(x.device)).view(torch.int64 if x.device.type != "mps" else torch.int32)
    z = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for column in bits.to(torch.int64).unbind(1):
        z = (z ^ column) * 0x2545F4914F6CDD1D
        z = z ^ (z >> 29)
    return ((z & 0xFFFFFF).to(torch.float64) + 0.5).div(2**24).to(x)
