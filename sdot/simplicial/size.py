"""How large a complex will be, before it is built, and the largest eps for which it is not too large."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from . import neighbours
from .cliques import Census, census
from .complex import SimplicialComplex, graph, names

MAX_BYTES = 2**30  # of simplices: 67 million edges, or 45 million triangles
SAFETY = 0.9  # the part of them that an estimate may fill
ROOM = 1.2  # how far from the first estimate the second may end


class TooLargeError(ValueError):
    """A complex that would not fit.

    Attributes:
        fits: The largest max_edge_length that does fit, or None where not even 0 does.
    """

    def __init__(self, eps: float, counts: list[float], fits: float | None) -> None:
        self.fits = fits
        size = sum(8 * (k + 1) * count for k, count in enumerate(counts, 1))
        ways = ["max_neighbors=25 for the nearest edges only"]
        if len(counts) > 1:
            ways.insert(0, "max_dim=1, for edges alone tell what a complex contains")
        if fits is not None:
            ways.insert(0, f"max_edge_length={_floor(fits)}, about the largest that fits")
        super().__init__(
            f"with max_edge_length={eps:.4g} the complex would have about "
            + ", ".join(f"{count:.3g} {names(k)}" for k, count in enumerate(counts, 1))
            + f", {size / 2**30:.3g} GiB, but at most {MAX_BYTES / 2**30:g} GiB are built; pass {', or '.join(ways)}."
        )


def refuse_large(K: SimplicialComplex, length: Float[Tensor, " e"], max_dim: int) -> None:
    """Raise `TooLargeError` if the cliques of K up to a dimension would not fit; `length` is that of the edges."""
    counted = census(K, length, max_dim)
    if 8 * K.num_vertices + sum(8 * (k + 1) * weight * len(d) for k, (weight, d) in enumerate(counted, 1)) > MAX_BYTES:
        counts = [weight * len(diameter) for weight, diameter in counted]
        raise TooLargeError(K.max_edge_length, counts, _refined(K, length, counted, max_dim))


def refuse_many_edges(y: Float[Tensor, "m d"], radius: float, max_dim: int) -> None:
    """Raise `TooLargeError` if the edges alone would not fit, by the distances of a sample of pairs."""
    if 8 * len(y) ** 2 <= MAX_BYTES:  # all pairs fit
        return
    weight, distance = neighbours.sampled(y, radius)
    if 8 * len(y) + 16 * weight * len(distance) > MAX_BYTES:
        raise TooLargeError(radius, [weight * len(distance)], _largest_radius(y, weight, distance, max_dim))


def _largest_radius(y: Float[Tensor, "m d"], weight: float, distance: Float[Tensor, " s"], max_dim: int) -> float | None:
    """The largest radius that fits. For cliques more and more edges are tried, until their cliques fit no more."""
    radius, most = None, SAFETY * (MAX_BYTES - 8 * len(y)) / 16
    for share in (1,) if max_dim == 1 else (16, 4, 1):
        radius = _last_before(distance, int(most / share / weight))
        if radius is not None and max_dim > 1:
            pairs, length = neighbours.within(y, radius)
            K = graph(len(y), pairs, radius, "")
            fits = _refined(K, length, census(K, length, max_dim), max_dim)
            if fits is None or fits < length.max():
                return fits
    return radius


def _refined(K: SimplicialComplex, length: Float[Tensor, " e"], counted: Census, max_dim: int) -> float | None:
    """The largest diameter up to which all simplices fit, from a second census near it: the first one may have been coarse."""
    radius = _largest(K.num_vertices, counted)
    if radius is None or all(weight == 1 for weight, _ in counted):
        return radius
    near = length <= ROOM * radius
    return _largest(K.num_vertices, census(graph(K.num_vertices, K.simplices[1][near], radius, ""), length[near], max_dim))


def _largest(vertices: int, counted: Census) -> float | None:
    diameter = torch.cat([d for _, d in counted])
    size = torch.cat([torch.full_like(d, 8 * (k + 1) * weight) for k, (weight, d) in enumerate(counted, 1)])
    diameter, order = diameter.sort()
    space = MAX_BYTES * (SAFETY if any(weight > 1 for weight, _ in counted) else 1) - 8 * vertices
    return _last_before(diameter, int(torch.searchsorted(size[order].cumsum(0), space, right=True)))


def _last_before(increasing: Float[Tensor, " s"], n: int) -> float | None:
    """The largest value that, with all equal to it, is among the first n."""
    if n < len(increasing):
        n = int(torch.searchsorted(increasing, increasing[n]))
    return float(increasing[n - 1]) if n else None


def _floor(x: float) -> float:
    """x, rounded down to four digits."""
    unit = 10.0 ** (math.floor(math.log10(x)) - 3) if x else 1.0
    return float(f"{math.floor(x / unit) * unit:.4g}")
