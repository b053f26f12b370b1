"""The stars of a complex: every vertex with the nearest ones that are joined to it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .maps import BrenierMap
from .simplicial import SimplicialComplex


def joined_stars(
    T: BrenierMap, K: SimplicialComplex, width: int, *, clique: bool = False
) -> tuple[Int[Tensor, "m w"], Int[Tensor, " m"]]:
    """Every vertex and up to `width - 1` of those joined to it.

    Args:
        T: The map. Targets that it hides are in no star but their own.
        K: A complex on its points.
        width: The most vertices of a star, its centre included; fewer columns come where no star has so many.
        clique: Let every two vertices of a star be joined: chosen greedily, the nearest first, among the `width` nearest.

    Returns:
        Rows of vertices, the centre first and then the nearest first, filled up with the centre; and how many are in each.
    """
    m, y = T.points.shape[0], T.points
    edges, length = _edges(T, K)
    both = torch.cat([edges, edges.flip(1)])
    order = torch.cat([length, length]).argsort(stable=True)
    order = order[both[order, 0].argsort(stable=True)]
    i, j = both[order].unbind(1)
    degree = torch.bincount(i, minlength=m)
    width = min(width, int(degree.max()) + 1)
    rank = torch.arange(len(i), device=y.device) - (degree.cumsum(0) - degree)[i]
    kept = rank < width - 1
    star = torch.arange(m, device=y.device)[:, None].repeat(1, width)
    star[i[kept], rank[kept] + 1] = j[kept]
    size = degree.clamp_max(width - 1) + 1
    return _thinned(star, size, K.to(y.device)) if clique else (star, size)


def _edges(T: BrenierMap, K: SimplicialComplex) -> tuple[Int[Tensor, "e 2"], Float[Tensor, " e"]]:
    """The edges of K between targets that T hits, and their lengths."""
    y = T.points
    edges = K.simplices[1].to(y.device)
    edges = edges[torch.isfinite(T.heights)[edges].all(1)]
    blocks = torch.split(edges, max(1, 2**20 // y.shape[1]))
    return edges, torch.cat([(y[b[:, 0]] - y[b[:, 1]]).norm(dim=1) for b in blocks])


def _thinned(star: Tensor, size: Tensor, K: SimplicialComplex) -> tuple[Tensor, Tensor]:
    """One vertex after the other stays in its star if it is joined to all that stayed before it."""
    place = torch.arange(star.shape[1], device=star.device)
    stays = place < size[:, None]
    for c in range(2, star.shape[1]):
        stays[:, c] &= (K.joined(star[:, c : c + 1], star[:, 1:c]) | ~stays[:, 1:c]).all(1)
    order = (~stays).to(torch.int8).argsort(dim=1, stable=True)
    size = stays.sum(1)
    return torch.where(place < size[:, None], star.gather(1, order), star[:, :1]), size
