"""The cliques of a graph, from those of k + 1 vertices to those of k + 2, in bounded memory; and how many there will be.

Two k-simplices that differ in their last vertices only, a < b, make a (k + 1)-simplex if a and b are joined. In lexicographic
order they lie in one run of rows, so every simplex looks at the rest of its run, and what it finds comes out in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from ctypes import CDLL

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..kernels._build import call
from ._loops import loops
from .complex import SimplicialComplex

PAIRS = 2**18  # pairs of simplices that are looked at together
SAMPLE = 2**22  # pairs that a census looks at

Census = list[tuple[float, Tensor]]


def expanded(K: SimplicialComplex, max_dim: int) -> SimplicialComplex:
    """The complex with all its simplices up to a dimension, which must fit into memory."""
    simplices = list(K.simplices)
    while len(simplices) <= max_dim:
        rows = simplices[-1]
        if rows.device.type == "cpu" and (c := loops()):
            simplices.append(_extended(c, K, rows.contiguous()))
            continue
        found = [rows.new_empty(0, rows.shape[1] + 1)]
        found += [torch.cat([rows[i], rows[j, -1:]], 1) for i, j, _ in _cofaces(K, rows, 1)]
        simplices.append(torch.cat(found))
    return K.with_simplices(simplices)


def census(K: SimplicialComplex, length: Float[Tensor, " e"], max_dim: int) -> Census:
    """For each dimension k >= 1: diameters of a sample of the k-simplices, and how many simplices each stands for.

    The first weight is 1: all edges are there. Beyond, every t-th of the simplices is expanded where all would be too much
    work, and the weight is multiplied by t. A simplex of diameter r belongs to the complex of every max_edge_length >= r.
    """
    rows, diameter, weight = K.simplices[1], length, 1.0
    counted = [(weight, diameter)]
    for _ in range(2, max_dim + 1):
        step = math.ceil(int(_later(rows).sum()) / SAMPLE) or 1
        weight *= len(rows) / max(1, len(range(0, len(rows), step)))
        parts = [(rows.new_empty(0, rows.shape[1] + 1), diameter[:0])]
        for i, j, edge in _cofaces(K, rows, step):
            parts.append((torch.cat([rows[i], rows[j, -1:]], 1), torch.stack([diameter[i], diameter[j], length[edge]]).amax(0)))
        rows, diameter = (torch.cat(part) for part in zip(*parts, strict=True))
        counted.append((weight, diameter))
    return counted


def _extended(c: CDLL, K: SimplicialComplex, rows: Int[Tensor, "s k"]) -> Int[Tensor, "t k1"]:
    """The simplices of the next dimension: counted first, then written."""
    later = K.simplices[1][:, 1].contiguous()
    start = torch.nn.functional.pad(torch.bincount(K.simplices[1][:, 0], minlength=K.num_vertices).cumsum(0), (1, 0))
    known = (K.num_vertices, *rows.shape, rows, start, later)
    found = rows.new_empty(call(c.extend, *known, None), rows.shape[1] + 1)
    call(c.extend, *known, found)
    return found


def _cofaces(
    K: SimplicialComplex, rows: Int[Tensor, "s k"], step: int
) -> Iterator[tuple[Int[Tensor, " p"], Int[Tensor, " p"], Int[Tensor, " p"]]]:
    """Pairs i < j of rows that make a simplex, in order, and the edge between their last vertices; i is every step-th row."""
    last, left = rows[:, -1].contiguous(), torch.arange(0, len(rows), step, device=rows.device)
    count = _later(rows)[left]
    end = count.cumsum(0)
    for s in _runs(end):
        start = int(end[s.start] - count[s.start])
        i = left[s].repeat_interleave(count[s])
        # the n-th pair of a row is with the n-th row after it
        j = i + 1 + torch.arange(start, start + len(i), device=rows.device) - (end[s] - count[s]).repeat_interleave(count[s])
        edge = K.edge_index(last[i], last[j])
        hit = (edge >= 0).nonzero()[:, 0]
        yield i[hit], j[hit], edge[hit]


def _later(rows: Int[Tensor, "s k"]) -> Int[Tensor, " s"]:
    """For every row, how many rows after it differ from it in the last vertex only."""
    here = torch.arange(len(rows), device=rows.device)
    if not len(rows):
        return here
    changes = (rows[1:, :-1] != rows[:-1, :-1]).any(1).nonzero()[:, 0] + 1
    ends = torch.cat([changes, here.new_tensor([len(rows)])])
    return ends[torch.searchsorted(ends, here, right=True)] - here - 1


def _runs(end: Int[Tensor, " s"]) -> Iterator[slice]:
    """Slices of rows with about `PAIRS` pairs each, at least one row; `end` counts the pairs up to and with each row."""
    at, done = 0, 0
    while at < len(end):
        to = max(at + 1, int(torch.searchsorted(end, done + PAIRS, right=True)))
        yield slice(at, to)
        at, done = to, int(end[to - 1])
