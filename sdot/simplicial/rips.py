"""The Vietoris-Rips complex of a cloud of points."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import _checks
from ..measures import first_of_equal
from . import scale
from .cliques import expanded
from .complex import SimplicialComplex, graph
from .neighbours import completed, listed, nearest, ordered, within
from .size import MAX_BYTES, refuse_large, refuse_many_edges


def rips_complex(
    points: Any, max_edge_length: float | str = "auto", max_dim: int = 2, max_neighbors: int | None = None
) -> SimplicialComplex:
    """The Vietoris-Rips complex K_eps: points are joined at distance at most eps, and cliques are simplices.

    Distances are compared in float64, whatever the dtype of the points. Points that coincide are joined, also for eps = 0.
    No matrix of all distances is stored. For 50,000 points in 64 dimensions and the median distance to the 10th neighbour, the
    edges were measured to cost 0.5 to 1.4 assignments of 50,000 samples, and with "auto" 2.2 to 2.7 (docs/complex.md).

    "auto" takes 1.25 times the median distance to the 10th neighbour, but no more than the median distance to the 25th. If
    that would join clusters across a clear gap in the minimum spanning tree of the points, it takes the geometric mean of
    the ends of the gap. `reason` says which.

    Args:
        points: y, shape (m, d), float32 or float64, tensor or array.
        max_edge_length: eps, in the units of the points, `inf` included; or "auto".
        max_dim: Dimension up to which simplices are listed; 1 lists edges only.
        max_neighbors: Keep only edges to the so many nearest points of at least one of their ends.

    Returns:
        The complex, on the device of the points.

    Raises:
        ValueError: Bad input, or a complex of more than 1 GiB. The message tells its estimated size and the largest
            max_edge_length that fits.

    Source: Vietoris, 1927; as a model of a manifold of latent codes: An et al., "AE-OT-GAN", ECCV 2020, Sec. 3.
    """
    y = _checks.points("points", points).detach()
    max_dim = _checks.count("max_dim", max_dim)
    if max_neighbors is not None:
        max_neighbors = _checks.count("max_neighbors", max_neighbors)
    if isinstance(max_edge_length, str):
        if max_edge_length != "auto":
            raise ValueError(f'max_edge_length must be a number or "auto", but {max_edge_length!r} came.')
        eps, reason, edges, length = _chosen(y, max_dim)
        if max_neighbors is not None:
            edges, length = _edges(y, eps, max_dim, max_neighbors)
    else:
        eps, reason = float(max_edge_length), "given"
        if math.isnan(eps) or eps < 0:
            raise ValueError(f"max_edge_length must be a number of at least 0, but {max_edge_length!r} came.")
        edges, length = _edges(y, eps, max_dim, max_neighbors)
    K = graph(len(y), edges, eps, reason)
    refuse_large(K, length, max_dim)
    return expanded(K, max_dim)


def _chosen(y: Float[Tensor, "m d"], max_dim: int) -> tuple[float, str, Int[Tensor, "e 2"], Float[Tensor, " e"]]:
    """eps for "auto", the reason, and the edges with their lengths."""
    distinct = first_of_equal(y) == torch.arange(len(y), device=y.device)
    points = y if distinct.all() else y[distinct]
    lists = nearest(points, min(scale.FAR, len(points) - 1))
    eps, reason, jump = scale.density(lists[1])
    refuse_many_edges(y, eps, max_dim)
    edges, length = completed(y, *lists, eps) if len(points) == len(y) else within(y, eps)
    gap = scale.widest_gap(edges, length, distinct)
    if gap is not None and gap.high >= jump * gap.low:
        reason = (
            f"inside the clear gap from {gap.low:.4g} to {gap.high:.4g} in the minimum spanning tree, so that {gap.clusters} "
            f"clusters stay apart; {reason} ({eps:.4g}) would join them"
        )
        eps = math.sqrt(gap.low * gap.high)
    return eps, reason, edges[length <= eps], length[length <= eps]


def _edges(
    y: Float[Tensor, "m d"], eps: float, max_dim: int, max_neighbors: int | None = None
) -> tuple[Int[Tensor, "e 2"], Float[Tensor, " e"]]:
    """The edges, in order, and their lengths."""
    m = len(y)
    if max_neighbors is None:
        refuse_many_edges(y, eps, max_dim)
        return within(y, eps)
    k = min(max_neighbors, m - 1)
    if 8 * m * k > MAX_BYTES:
        raise ValueError(
            f"max_neighbors={max_neighbors} of {m} points are up to {m * k:.3g} edges, but at most {MAX_BYTES // 16:.3g} are "
            f"kept; pass at most {MAX_BYTES // 8 // m}."
        )
    return ordered(*listed(*nearest(y, k), eps), m)
