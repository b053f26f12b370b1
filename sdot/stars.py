"""The stars of a complex: every vertex with the nearest ones that are joined to it, and which of them a sample is near."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import kernels
from .barycentric import distance_form, nearest_weights
from .kernels._build import call, optional
from .kernels._threads import divide
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


def foremost(
    T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"], star: Int[Tensor, "m w"], size: Int[Tensor, " m"], k: int
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The k targets of a cell's star that score highest at x, its own first, and their scores less the own one.

    Where a star has fewer, the last ones are the cell again, at -inf.
    """
    y, (n, width) = kernels.precise(T.points), (len(x), star.shape[1])
    x, k = x.to(y), min(k, width)
    c = _compiled(x)
    if c is None:
        blocks = (torch.split(t, rows_at_once(y, width)) for t in (x, cell))
        vertices, scores = zip(*(_ranked(T, y, z, i, star, size, k) for z, i in zip(*blocks, strict=True)), strict=True)
        return torch.cat(vertices), torch.cat(scores)
    vertex, score = torch.empty(n, k, dtype=torch.int64), x.new_empty(n, k)
    x, cell, star, size, y, h = (t.contiguous() for t in (x, cell, star, size, y, T.heights.double()))

    def run(i: int, end: int) -> None:
        call(c.foremost, end - i, x.shape[1], x[i:], cell[i:], width, star, size, y, h, k, vertex[i:], score[i:])

    divide(run, n, n * width * x.shape[1])
    return vertex, score


def projected(
    x: Float[Tensor, "n d"], points: Float[Tensor, "m d"], vertices: Int[Tensor, "n k"], present: Bool[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """The weights of the point nearest to x in the hull of those of its vertices that are present: the first, and others."""
    (n, k), c = vertices.shape, _compiled(x)
    if c is None:
        blocks = (torch.split(t, rows_at_once(points, k)) for t in (x, vertices, present))
        forms = [distance_form(z, take(points, v), p) for z, v, p in zip(*blocks, strict=True)]
        A, b = (torch.cat(parts) for parts in zip(*forms, strict=True))
        return nearest_weights(A, b, present)
    weight = torch.empty(n, k, dtype=torch.float64)
    x, points, vertices, present = (t.contiguous() for t in (x, points, vertices, present))

    def run(i: int, end: int) -> None:
        call(c.project, end - i, x.shape[1], x[i:], k, vertices[i:], present[i:], points, weight[i:])

    divide(run, n, n * k * k * x.shape[1])
    return weight


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


def _ranked(
    T: BrenierMap, y: Tensor, x: Tensor, cell: Tensor, star: Tensor, size: Tensor, k: int
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    near = take(star, cell)
    scores = (take(y, near).sub_(take(y, cell)[:, None]) @ x[..., None])[..., 0]
    scores = scores + (take(T.heights, near) - take(T.heights, cell)[:, None]).to(y)
    scores = torch.where(within(take(size, cell)[:, None], near), scores, -torch.inf)
    _, order = scores[:, 1:].topk(k - 1, dim=1)
    order = torch.nn.functional.pad(order + 1, (1, 0))
    return near.gather(1, order), scores.gather(1, order)


@cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    c = optional(Path(__file__).with_suffix(".c"), f"-DDOUBLE={int(dtype == torch.float64)}")
    if c is not None:
        pointer, long = ctypes.c_void_p, ctypes.c_long
        c.foremost.argtypes = [long, long, pointer, pointer, long, *[pointer] * 4, long, pointer, pointer]
        c.project.argtypes = [long, long, pointer, long, *[pointer] * 4]
        c.foremost.restype = c.project.restype = None
    return c


def _compiled(x: Tensor) -> ctypes.CDLL | None:
    """stars.c in the dtype of x; None where torch's operations must do: not on a CPU, for gradients, without a compiler."""
    torch_only = x.device.type != "cpu" or (x.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling()
    return None if torch_only else _library(x.dtype)
