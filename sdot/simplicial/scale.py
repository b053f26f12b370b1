"""How long an edge may be, read off the data: the density of the points, and the gaps between their clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..kernels._build import call
from ._loops import loops

NEAR, FACTOR = 10, 1.25  # this many times the distance to that neighbour,
FAR = 25  # and not beyond that neighbour: in many dimensions a little more length is many more neighbours
CLUSTER = 5  # points that make a cluster
HELD = 0.95  # share of the points that clusters must hold; the others are outliers


@dataclass(frozen=True)
class Gap:
    """Between `low` and `high` no edge of the minimum spanning tree joins two clusters, of which there are so many."""

    low: float
    high: float
    clusters: int


def density(length: Float[Tensor, "m k"]) -> tuple[float, str, float]:
    """A length, why it was chosen, and by what factor lengths must jump for a gap that is no chance.

    The length is the smaller of 1.25 times the median distance to the 10th neighbour and that to the 25th.

    The first holds about 10 x 1.25^d neighbours in d (intrinsic) dimensions: 16 in the plane, but 93 for d = 10, and more than
    anyone wants beyond. A gap is clear if it is at least as wide as the step from the 2nd to the 5th neighbour, for which a
    ball has to hold 2.5 times as many points, or twofold.

    Args:
        length: Of m distinct points the distances to the others, to the `FAR` nearest of them where there are so many.
    """
    most = length.shape[1]
    if most == 0:
        return 0.0, "all points coincide", 2.0

    def typical(k: int) -> float:
        return float(length[:, min(k, most) - 1].median())

    near, far = FACTOR * typical(NEAR), typical(FAR)
    jump = min(2.0, typical(5) / (typical(2) or typical(5) or 1.0))
    if near <= far:
        return near, f"{FACTOR} times the median distance to the {NEAR}th neighbour", jump
    if most < FAR:
        return far, "the median distance to the farthest point, of the few there are", jump
    return far, f"the median distance to the {FAR}th neighbour, less than {FACTOR} times that to the {NEAR}th", jump


def widest_gap(edges: Int[Tensor, "e 2"], length: Float[Tensor, " e"], distinct: Bool[Tensor, " m"]) -> Gap | None:
    """The widest gap, as a ratio, in the lengths at which clusters merge, or None where no two clusters do.

    The edges of a Euclidean minimum spanning tree up to some length are the minimum spanning forest of all edges up to that
    length. Added by length, they merge components (single linkage). A component of at least `CLUSTER` points is a cluster; a
    merger of two clusters is an event, and one of a cluster and a few points is not, so outliers do not count. A gap opens
    at the last event before it, at the earliest when clusters hold the share `HELD` of all points, and ends at the next.

    Args:
        edges, length: All pairs of points up to some distance, and their distances.
        distinct: The first of the points at every place; its repetitions do not count as points.
    """
    i, j, merged = (t.tolist() for t in _forest(edges, length, len(distinct)))
    size, parent = distinct.long().tolist(), list(range(len(distinct)))

    def root(a: int) -> int:
        while parent[a] != a:
            parent[a] = a = parent[parent[a]]
        return a

    widest: Gap | None = None
    low, clusters, inside, needed = 0.0, 0, 0, HELD * sum(size)
    for a, b, at in zip(i, j, merged, strict=True):
        a, b = root(a), root(b)
        small, large = sorted((size[a], size[b]))
        if small >= CLUSTER:
            if low and (widest is None or at / low > widest.high / widest.low):
                widest = Gap(low, at, clusters)
            low = at if low else low
            clusters -= 1
        elif small + large >= CLUSTER:
            clusters += large < CLUSTER
            inside += small if large >= CLUSTER else small + large
            low = low or (at if inside >= needed else 0.0)
        parent[a], size[b] = b, small + large
    return widest


def _forest(edges: Tensor, length: Tensor, vertices: int) -> tuple[Tensor, Tensor, Tensor]:
    """The minimum spanning forest: ends and lengths of its edges, by length."""
    order, (i, j) = length.cpu().argsort(stable=True), edges.cpu().T.contiguous()
    c = loops()
    if c is None:
        kept = _spanning(order, i, j, vertices)
    else:
        kept = torch.empty(vertices, dtype=torch.int64)
        kept = kept[: call(c.forest, vertices, len(order), order, i, j, kept)]
    kept = kept.to(edges.device)
    return edges[kept, 0], edges[kept, 1], length[kept]


def _spanning(order: Tensor, i: Tensor, j: Tensor, vertices: int) -> Tensor:
    """The edges of the forest by scipy, where no compiler is."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    rank = torch.empty(len(order)).double()
    rank[order] = torch.arange(1, len(order) + 1).double()  # in place of lengths, of which zero would mean no edge
    tree = minimum_spanning_tree(csr_array((rank.numpy(), (i.numpy(), j.numpy())), shape=(vertices, vertices)))
    return order[torch.from_numpy(np.sort(tree.data).astype(np.int64) - 1)]
