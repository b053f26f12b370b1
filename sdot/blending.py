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

from . import _checks
from .cells import Cells
from .maps import BrenierMap
from .stars import foremost, projected, rows_at_once, take

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
        """Points that are held for every sample while images are made."""
        return 2

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

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        vertices, scores = foremost(T, x, cell, self.star, self.size, self.settings["k"])
        return vertices, projected(x, self.centroid, vertices, torch.isfinite(scores)).to(x)


class Softmax(Rule):
    """softmax_j((h_j + <x, y_j>) / temperature) over the k foremost cells: the entropic map restricted to the star."""

    @classmethod
    def of(cls, T: BrenierMap, cells: Cells, star: Tensor, size: Tensor, *, k: int, hardness: float) -> Softmax:
        """The temperature at which the foremost vertex weighs `hardness` in the mean, by bisection on a logarithmic scale."""
        rule = cls({"star": star, "size": size}, {"k": k, "temperature": 1.0})
        i = ((cells.count > 0) & (size > 1)).nonzero()[:, 0]
        if len(i) == 0:
            return rule
        scores = foremost(T, cells.sample[i], i, star, size, k)[1].to(cells.mass)
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
        vertices, scores = foremost(T, x, cell, self.star, self.size, self.settings["k"])
        return vertices, torch.softmax(scores / self.settings["temperature"], 1).to(x)


class Pair(Rule):
    """The own vertex and the foremost one joined to it, with a weight that is uniform on (0, 1) and a hash of x.

    The program of the AE-OT authors draws this weight at random; here equal x have equal images.
    """

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        vertices, scores = foremost(T, x, cell, self.star, self.size, 2)
        u = torch.where(torch.isfinite(scores[:, 1:]), _hash(x)[:, None], 0.0)
        return vertices, torch.cat([1 - u.sum(1, keepdim=True), u], 1)


def _hash(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """A number in (0, 1) for each row, as good as random and the same for equal rows."""
    bits = x.detach().to(_checks.precise(x.device)).view(torch.int64 if x.device.type != "mps" else torch.int32)
    z = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for column in bits.to(torch.int64).unbind(1):
        z = (z ^ column) * 0x2545F4914F6CDD1D
        z = z ^ (z >> 29)
    return ((z & 0xFFFFFF).to(torch.float64) + 0.5).div(2**24).to(x)
