"""Pairs of points that are near each other, decided by exact distances, without a matrix of all distances.

Scores <x_i, x_j> - |x_j|^2 / 2 sort out candidates, with a bound on their rounding. The distances of the candidates come from
differences of coordinates in float64, and those decide.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import _checks, kernels
from ..kernels import blocked
from ..kernels._build import call
from ._loops import loops

SPAN = 2**17  # coordinates that are gathered at once
LEAF = 2**10  # points
SPARE = 6  # neighbours that are looked at beyond those asked for
UNIT = 2.0**-24  # rounding in float32
TREE = 2**14  # points in few dimensions from which on a k-d tree is faster
ROWS, SAMPLE = 32, 2**20  # points, at least, and pairs that a sample has
TF32 = 2.0**-10  # of a product on a GPU, where torch may be told to round its factors to ten bits


def lengths(y: Float[Tensor, "m d"], i: Int[Tensor, " e"], j: Int[Tensor, " e"]) -> Float[Tensor, " e"]:
    """|y_i - y_j|, in float64."""
    dtype = _checks.precise(y.device)
    length = torch.empty(len(i), dtype=dtype, device=y.device)
    if y.device.type == "cpu" and (c := loops()):
        measure = c.lengths_of_floats if y.dtype == torch.float32 else c.lengths_of_doubles
        call(measure, len(i), y.shape[1], y.contiguous(), i.contiguous(), j.contiguous(), length)
        return length
    for s in slices(len(i), max(1, SPAN // y.shape[1])):
        length[s] = y.index_select(0, i[s]).to(dtype).sub_(y.index_select(0, j[s])).square_().sum(1)
    return length.sqrt_()


def within(y: Float[Tensor, "m d"], radius: float) -> tuple[Int[Tensor, "e 2"], Float[Tensor, " e"]]:
    """All pairs i < j at distance at most `radius`, in lexicographic order, and their distances.

    The points are sorted into the leaves of a k-d tree. A leaf meets the later leaves whose boxes are not too far away, in
    coordinates around its own centre, so that clouds far from the origin, or far from each other, lose no digits.
    """
    m = len(y)
    columns = blocked.tile_shape(m, m, y.device)[1] // 4 or 1
    z, scale = _normalised(y)
    leaves = _leaves(z, LEAF)
    order, start = torch.cat(leaves), [0, *torch.tensor([len(leaf) for leaf in leaves]).cumsum(0).tolist()]
    low, high = (torch.stack([f(z[leaf], dim=0) for leaf in leaves]) for f in (torch.amin, torch.amax))
    z, here = z[order], torch.arange(m, device=y.device)
    reach = min(radius / scale, 2.0) + 16 * UNIT  # coordinates have been rounded by less than that
    keys, found = [here[:0]], [torch.empty(0, dtype=_checks.precise(y.device), device=y.device)]
    for a, (begin, end) in enumerate(pairwise(start)):
        gap = torch.maximum(low - high[a], low[a] - high).clamp_min_(0)
        near = (torch.linalg.vector_norm(gap, dim=1) <= reach)[a:].nonzero()[:, 0] + a
        others = torch.cat([here[start[b] : start[b + 1]] for b in near.tolist()])
        centre = (low[a] + high[a]) / 2
        for other in (others[s] for s in slices(len(others), columns)):
            i, j = _candidates(z[begin:end] - centre, z.index_select(0, other) - centre, reach)
            later = begin + i < other[j]
            i, j = order[begin + i[later]], order[other[j[later]]]
            length = lengths(y, i, j)
            close = length <= radius
            keys.append((torch.minimum(i, j) * m + torch.maximum(i, j))[close])
            found.append(length[close])
    return ordered(torch.cat(keys), torch.cat(found), m)


def ordered(key: Int[Tensor, " p"], length: Float[Tensor, " p"], m: int) -> tuple[Int[Tensor, "e 2"], Float[Tensor, " e"]]:
    """Pairs i < j, written i m + j, in any order with repetitions -> those pairs in lexicographic order, and their lengths."""
    key, place = key.sort()
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    key = key[first]
    return torch.stack([key // m, key % m], 1), length[place[first]]


def listed(
    index: Int[Tensor, "m k"], length: Float[Tensor, "m k"], radius: float
) -> tuple[Int[Tensor, " p"], Float[Tensor, " p"]]:
    """The pairs in lists of neighbours at distance at most `radius`, as `ordered` takes them, and their lengths."""
    m, near = len(index), length <= radius
    i, j = torch.arange(m, device=index.device)[:, None].expand_as(index)[near], index[near]
    return torch.minimum(i, j) * m + torch.maximum(i, j), length[near]


def completed(
    y: Float[Tensor, "m d"], index: Int[Tensor, "m k"], length: Float[Tensor, "m k"], radius: float
) -> tuple[Int[Tensor, "e 2"], Float[Tensor, " e"]]:
    """`within`, given the k nearest points of every point and their distances, as `nearest` returns them.

    Whoever has his k-th neighbour beyond the radius has all his pairs. The others look for theirs among themselves.
    """
    m, k = index.shape
    key, found = listed(index, length, radius)
    if 0 < k < m - 1 and len(some := (length[:, -1] <= radius).nonzero()[:, 0]) > 1:
        pairs, far = within(y[some], radius)
        key, found = torch.cat([key, some[pairs[:, 0]] * m + some[pairs[:, 1]]]), torch.cat([found, far])
    return ordered(key, found, m)


def nearest(y: Float[Tensor, "m d"], k: int) -> tuple[Int[Tensor, "m k"], Float[Tensor, "m k"]]:
    """The k < m nearest other points of every point, by increasing distance, and these distances.

    Of points at the same distance those of lower index come first, as far as they are among the best that are looked at.
    """
    m, more = len(y), min(k + 1 + SPARE, len(y))  # the point itself, and some to see that nothing nearer was missed
    z, scale = _normalised(y, precise=y.shape[1] <= kernels.PRECISE_DIM)
    here = torch.arange(m, device=y.device)
    index, length = _ranked(y, here, _scored(z, z, more))
    if more < m and z.dtype == torch.float32:
        near, far = length[:, k - 1] / scale, length[:, -2] / scale
        norm = torch.linalg.vector_norm(z, dim=1) + far  # of whoever might have been missed, at most
        doubtful = here[far.square() - near.square() <= 4 * _rounding(z) * norm.square()]
        if len(doubtful):
            z, _ = _normalised(y, precise=True)
            index[doubtful], length[doubtful] = _ranked(y, doubtful, _scored(z[doubtful], z, more))
    return index[:, :k], length[:, :k]


def sampled(y: Float[Tensor, "m d"], radius: float) -> tuple[float, Float[Tensor, " s"]]:
    """Distances up to a radius from every t-th point to all others, increasing, and how many pairs each stands for."""
    m = len(y)
    z, scale = _normalised(y)
    rows = torch.arange(0, m, max(1, m // max(ROWS, SAMPLE // m)), device=y.device)
    found = [z.new_empty(0)]
    for row in (rows[s] for s in slices(len(rows), max(1, SAMPLE // m))):
        distance = torch.cdist(z[row], z, compute_mode="donot_use_mm_for_euclid_dist")
        distance.scatter_(1, row[:, None], torch.inf)  # to itself
        found.append(distance[distance <= min(radius / scale, 2.0)])
    return m / len(rows) / 2, torch.cat(found).sort().values.double() * scale


def _normalised(y: Float[Tensor, "m d"], *, precise: bool = False) -> tuple[Float[Tensor, "m d"], float]:
    """The points moved to mean zero and divided by the largest norm, in float32 or float64, and that norm."""
    z = y.to(_checks.precise(y.device))
    z = z - z.mean(0)
    scale = float(torch.linalg.vector_norm(z, dim=1).max()) or 1.0
    return z.div_(scale) if precise else z.div_(scale).float(), scale


def _rounding(z: Float[Tensor, "m d"]) -> float:
    """A bound on the error of <a, b> - |b|^2 / 2 in float32, that of the coordinates included, over (|a|^2 + |b|^2) / 2."""
    return 2 * (z.shape[1] + 16) * UNIT


def _candidates(a: Float[Tensor, "n d"], b: Float[Tensor, "k d"], reach: float) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """All pairs with |a_i - b_j| <= reach, and a few that are hardly farther."""
    rounding = _rounding(a) + (TF32 if a.device.type == "cuda" else 0.0)
    half_a, half_b = (t.square().sum(1).mul_((1 - rounding) / 2) for t in (a, b))
    return kernels.above(a, b, -half_b, half_a - reach**2 / 2)


def _leaves(z: Float[Tensor, "m d"], size: int) -> list[Int[Tensor, " s"]]:
    """The points divided at the median of the coordinate that varies most, until no part has more than `size`."""

    def divided(part: Tensor) -> list[Tensor]:
        if len(part) <= size:
            return [part]
        points = z[part]
        part = part[points[:, points.var(0).argmax()].argsort()]
        return [leaf for half in part.chunk(2) for leaf in divided(half)]

    return divided(torch.arange(len(z), device=z.device))


def _scored(x: Float[Tensor, "n d"], z: Float[Tensor, "m d"], k: int) -> Int[Tensor, "n k"]:
    """The indices of the k nearest of z, by scores."""
    tree = z.shape[1] <= kernels.PRECISE_DIM and z.device.type == "cpu" and len(z) >= TREE
    return kernels.topk(x, z, -z.square().sum(1) / 2, k, backend="tree" if tree else "auto")[1]


def _ranked(
    y: Float[Tensor, "m d"], i: Int[Tensor, " n"], index: Int[Tensor, "n k"]
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """Neighbours of the points i by exact distance, then by index; a point itself comes last, at infinity."""
    index = index.sort(dim=1).values
    length = lengths(y, i[:, None].expand_as(index).reshape(-1), index.reshape(-1)).view(index.shape)
    length, place = length.masked_fill_(index == i[:, None], torch.inf).sort(dim=1, stable=True)
    return index.gather(1, place), length


def slices(n: int, size: int) -> list[slice]:
    return [slice(s, s + size) for s in range(0, n, size)]
