"""Nearest neighbours of lifted points in a k-d tree: for few dimensions and many targets, time that grows with log m.

With C = max_j |y_j|^2 + 2 h_j, the point (y_j, sqrt(C - |y_j|^2 - 2 h_j)) of R^(d+1) lies at the squared distance
|x|^2 + C - 2 (h_j + <x, y_j>) from (x, 0): the largest score is the nearest neighbour (Aurenhammer, 1987).

A tree is fast where queries lie near points, that is, where the lifted coordinate is small. The winner is the same for the
scores a h_j + <b, y_j> + <a x - b, y_j>, and a and b are chosen to make |y_j|^2 / 2 + a h_j + <b, y_j> as constant as they
can: for the heights of a transport map, a x - b is then the best guess at the image of x.

Lifting loses digits where C is far larger than the differences between scores. So one neighbour more than needed is asked
for, and the neighbours are scored again. A sample whose last neighbour is not so far away that, rounding included, nobody
better can lie behind it goes to `blocked`, in float64 like everything here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import blocked
from ._unavailable import Unavailable

ROUNDING = 2.0**-48  # of a squared distance: a few operations on each coordinate, with room
CHUNK = 2**16  # samples a query


@dataclass(frozen=True)
class Lifted:
    """A tree, and what it was made from: building it costs as much as a few ten thousand queries."""

    y: Tensor
    h: Tensor
    live: Int[Tensor, " l"]  # which of them are not hidden; only those are below
    points: Float[Tensor, "l d"]  # centred
    heights: Float[Tensor, " l"]  # a h + <b, y>
    a: float
    b: Float[Tensor, " d"]
    top: Float[Tensor, ""]  # C
    tree: Any


_last: Lifted | None = None  # solvers ask for many blocks of samples between two changes of the heights


def topk(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Decided in float64, whatever the dtype of the points. Ties go to the lowest index."""
    if x.device.type != "cpu":
        raise Unavailable(f"backend 'tree' runs on the CPU, but the points are on {x.device}; use backend='blocked'.")
    hidden = h == -torch.inf
    if len(h) - int(hidden.sum()) <= k or not all(t.isfinite().all() for t in (x, y, h[~hidden])):
        return blocked.topk(x, y, h, k)
    lifted = lift(y, h)
    value, index = x.new_empty(x.shape[0], k), torch.empty(x.shape[0], k, dtype=torch.int64)
    for i in (slice(s, s + CHUNK) for s in range(0, x.shape[0], CHUNK)):
        z = x[i].double()
        index[i] = lifted.live[_nearest(lifted, lifted.a * z - lifted.b, k)]
        value[i] = (torch.einsum("nd,nkd->nk", z, y[index[i]].double()) + h[index[i]]).to(x.dtype)
    return value, index


def lift(y: Float[Tensor, "m d"], h: Float[Tensor, " m"]) -> Lifted:
    """The tree of some targets; the last one is kept, and compared by its numbers."""
    global _last
    last = _last
    if last is None or last.y.dtype != y.dtype or not (torch.equal(last.y, y) and torch.equal(last.h, h)):
        from scipy.spatial import cKDTree

        live = (h != -torch.inf).nonzero()[:, 0]
        points, heights = (t[live].double() for t in (y, h))
        points = points - points.mean(0)
        a, b = flattest(points, heights)
        heights = a * heights + points @ b
        square = points.square().sum(1) + 2 * heights
        tree = cKDTree(torch.cat([points, (square.max() - square).sqrt()[:, None]], 1).numpy())
        _last = last = Lifted(y.clone(), h.clone(), live, points, heights, a, b, square.max(), tree)
    return last


def flattest(y: Float[Tensor, "l d"], h: Float[Tensor, " l"]) -> tuple[float, Float[Tensor, " d"]]:
    """a > 0 and b for which |y|^2 / 2 + a h + <b, y> varies least: least squares."""
    columns = torch.cat([(h - h.mean())[:, None], y], 1)
    square = y.square().sum(1) / 2
    fit = torch.linalg.pinv(columns.T @ columns, hermitian=True) @ (columns.T @ (square.mean() - square))
    a = float(fit[0])
    return (a, fit[1:]) if 1e-9 < a < 1e9 else (1.0, torch.zeros_like(fit[1:]))


def _nearest(lifted: Lifted, z: Float[Tensor, "n d"], k: int) -> Int[Tensor, "n k"]:
    """The k best of the live targets, exactly."""
    queries = torch.cat([z, z.new_zeros(len(z), 1)], 1).numpy()
    distance, place = map(torch.from_numpy, lifted.tree.query(queries, k=k + 1, workers=torch.get_num_threads()))
    place = place.sort(dim=1).values
    score = torch.einsum("nd,nkd->nk", z, lifted.points[place]) + lifted.heights[place]
    score, order = score.sort(dim=1, descending=True, stable=True)
    scale, far = z.square().sum(1) + lifted.top, distance[:, -1].square()
    behind = (scale - far) / 2 + ROUNDING * (scale.abs() + far)  # no target beyond the last neighbour scores more
    doubtful = (score[:, k - 1] <= behind).nonzero()[:, 0]
    index = place.gather(1, order[:, :k])
    if len(doubtful):
        index[doubtful] = blocked.topk(z[doubtful], lifted.points, lifted.heights, k)[1]
    return index
