"""SimplicialComplex: points, the edges that join them, and the cliques of these edges."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from .. import _checks


@dataclass(frozen=True, eq=False, repr=False)
class SimplicialComplex:
    """A flag complex K: its simplices are the sets of vertices that are joined pairwise.

    Edges say everything; the simplices of higher dimension are kept up to some dimension, in which K is the skeleton of the
    full complex. `rips_complex` makes one from points.

    Args:
        simplices: For each dimension k the k-simplices, int64 of shape (s_k, k + 1): each row increasing, rows in
            lexicographic order without repetition. Vertices are 0, ..., m - 1.
        max_edge_length: eps, a bound on the distance of points that are joined.
        reason: How eps was chosen.
    """

    simplices: tuple[Tensor, ...]
    max_edge_length: float
    reason: str = "given"

    def __post_init__(self) -> None:
        if len(self.simplices) < 2:
            raise ValueError("simplices must hold at least vertices and edges; edges may be an empty tensor of shape (0, 2).")
        if math.isnan(self.max_edge_length) or self.max_edge_length < 0:
            raise ValueError(f"max_edge_length must not be negative, but {self.max_edge_length!r} came.")
        for k, rows in enumerate(self.simplices):
            if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.dim() != 2 or rows.shape[1] != k + 1:
                came = f"{rows.dtype} of shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
                raise ValueError(f"simplices[{k}] must be an int64 tensor of shape (s, {k + 1}), but {came} came.")
        vertices = self.simplices[0][:, 0]
        if not len(vertices) or not torch.equal(vertices, torch.arange(len(vertices), device=vertices.device)):
            raise ValueError("simplices[0] must list the vertices 0, ..., m - 1, at least one, one a row.")
        for k, rows in enumerate(self.simplices[1:], 1):
            if rows.numel() and (rows[:, 0].min() < 0 or rows[:, -1].max() >= len(vertices)):
                raise ValueError(f"simplices[{k}] must refer to the {len(vertices)} vertices.")
            if not (rows.diff(dim=1) > 0).all() or not _ascending(rows):
                raise ValueError(f"simplices[{k}] must have increasing rows in lexicographic order, without repetition.")

    @property
    def num_vertices(self) -> int:
        return len(self.simplices[0])

    @property
    def dim(self) -> int:
        """The largest dimension in which there is a simplex."""
        return max((k for k, rows in enumerate(self.simplices) if len(rows)), default=0)

    @property
    def device(self) -> torch.device:
        return self.simplices[0].device

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(rows)} {names(k)}" for k, rows in enumerate(self.simplices))
        return f"SimplicialComplex({counts}, max_edge_length={self.max_edge_length:.6g})"

    @cached_property
    def edge_keys(self) -> Int[Tensor, " e"]:
        """i m + j for every edge i < j, increasing."""
        return self.simplices[1][:, 0] * self.num_vertices + self.simplices[1][:, 1]

    @cached_property
    def adjacency(self) -> tuple[Int[Tensor, " m1"], Int[Tensor, " e2"]]:
        """Neighbours in compressed rows: those of i are indices[offsets[i] : offsets[i + 1]], increasing.

        Returns:
            offsets, of shape (m + 1,), and indices, of shape (2 edges,).
        """
        m, (i, j) = self.num_vertices, self.simplices[1].T
        keys = torch.cat([i * m + j, j * m + i]).sort().values
        offsets = torch.zeros(m + 1, dtype=torch.int64, device=self.device)
        offsets[1:] = torch.bincount(keys // m, minlength=m).cumsum(0)
        return offsets, keys % m

    def neighbors(self, i: int) -> Int[Tensor, " n"]:
        """The vertices that are joined with i, increasing."""
        if not 0 <= i < self.num_vertices:
            raise ValueError(f"i must be one of the vertices 0, ..., {self.num_vertices - 1}, but {i} came.")
        offsets, indices = self.adjacency
        return indices[offsets[i] : offsets[i + 1]]

    def edge_index(self, i: Int[Tensor, "*n"], j: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """The row of the edge between i and j in simplices[1], or -1 where they are not joined."""
        key = torch.minimum(i, j) * self.num_vertices + torch.maximum(i, j)
        if not len(self.edge_keys):
            return torch.full_like(key, -1)
        row = torch.searchsorted(self.edge_keys, key).clamp_(max=len(self.edge_keys) - 1)
        return torch.where(self.edge_keys[row] == key, row, -1)

    def joined(self, i: Any, j: Any) -> Any:
        """Whether i = j or {i, j} is an edge, for many pairs at once.

        Args:
            i, j: Vertices, int64. Where i has fewer dimensions than j, it gets new ones at its end: (n,) against (n, k) asks
                for the k pairs of every row.

        Returns:
            Booleans of the shape that both broadcast to.
        """
        u, v = self._vertices("i", i), self._vertices("j", j)
        u = u.view(*u.shape, *[1] * (v.dim() - u.dim()))
        u, v = torch.broadcast_tensors(u, v)  # type: ignore[no-untyped-call]
        return _edge(i, (u == v) | (self.edge_index(u, v) >= 0))

    def contains(self, vertices: Any) -> Any:
        """Whether each row of vertices is a simplex of K, of any dimension: all pairs are equal or joined.

        Args:
            vertices: (n, k + 1), int64, in any order, with or without repetitions.

        Returns:
            Booleans (n,).
        """
        rows = self._vertices("vertices", vertices)
        if rows.dim() != 2:
            raise ValueError(f"vertices must have shape (n, k + 1), one simplex a row, but their shape is {tuple(rows.shape)}.")
        inside = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        for a, b in combinations(range(rows.shape[1]), 2):
            left = inside.nonzero()[:, 0]
            inside[left] = self.joined(rows[left, a], rows[left, b])
        return _edge(vertices, inside)

    def components(self) -> Int[Tensor, " m"]:
        """The connected component of every vertex, numbered from 0 in the order of their first vertices."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import connected_components

        m, (i, j) = self.num_vertices, self.simplices[1].cpu().numpy().T
        graph = csr_array((np.ones(len(i), np.int8), (i, j)), shape=(m, m))
        _, label = connected_components(graph, directed=False)
        _, first, label = np.unique(label, return_index=True, return_inverse=True)
        return torch.from_numpy(first.argsort().argsort()[label.ravel()]).to(self.device)

    def euler_characteristic(self) -> int:
        """The alternating sum of the numbers of simplices, over the dimensions that are kept."""
        return sum((-1) ** k * len(rows) for k, rows in enumerate(self.simplices))

    def restrict(self, vertices: Any) -> SimplicialComplex:
        """The complex on some of the vertices, which are numbered anew in the order they are given.

        Args:
            vertices: Distinct vertices, int64, shape (n,), n >= 1.
        """
        chosen = self._vertices("vertices", vertices)
        if chosen.dim() != 1 or not len(chosen) or len(torch.unique(chosen)) < len(chosen):
            raise ValueError("vertices must be distinct, at least one, in one dimension; drop repetitions with .unique().")
        name = torch.full((self.num_vertices,), -1, dtype=torch.int64, device=self.device)
        name[chosen] = torch.arange(len(chosen), device=self.device)
        rows = [name[r] for r in self.simplices]
        return self.with_simplices(_sorted(r[(r >= 0).all(1)].sort(dim=1).values) for r in rows)

    def keep_edges(self, keep: Any) -> SimplicialComplex:
        """The flag complex of some of the edges, for instance of those whose `dihedral_angles` are small.

        Args:
            keep: Booleans, one for each row of simplices[1].
        """
        kept = _checks.tensor("keep", keep).to(self.device)
        if kept.dtype != torch.bool or kept.shape != (len(self.simplices[1]),):
            raise ValueError(
                f"keep must hold one boolean an edge, shape ({len(self.simplices[1])},), but {kept.dtype} of shape "
                f"{tuple(kept.shape)} came."
            )
        simplices = [self.simplices[0]]
        for rows in self.simplices[1:]:
            for a, b in combinations(range(rows.shape[1]), 2):
                rows = rows[kept[self.edge_index(rows[:, a], rows[:, b])]]
            simplices.append(rows)
        return self.with_simplices(simplices)

    def to(self, device: str | torch.device) -> SimplicialComplex:
        """The same complex on another device."""
        return self.with_simplices(rows.to(device) for rows in self.simplices)

    def with_simplices(self, simplices: Iterable[Tensor]) -> SimplicialComplex:
        """Other simplices, in order, of the same origin."""
        K = object.__new__(SimplicialComplex)
        vars(K).update(simplices=tuple(simplices), max_edge_length=self.max_edge_length, reason=self.reason)
        return K

    def _vertices(self, name: str, value: Any) -> Tensor:
        """Indices of vertices, as a tensor on the device of the complex."""
        i = _checks.tensor(name, value)
        if i.dtype != torch.int64:
            raise ValueError(f"{name} must hold vertices as int64, but its dtype is {i.dtype}; convert it with .long().")
        i = i.to(self.device)
        if not torch.compiler.is_compiling() and i.numel() and (i.min() < 0 or i.max() >= self.num_vertices):
            raise ValueError(
                f"{name} must hold vertices 0, ..., {self.num_vertices - 1}, but entries from {int(i.min())} to "
                f"{int(i.max())} came."
            )
        return i


def graph(vertices: int, edges: Int[Tensor, "e 2"], max_edge_length: float, reason: str) -> SimplicialComplex:
    """The complex of dimension one with these edges, which are in order."""
    return SimplicialComplex((torch.arange(vertices, device=edges.device)[:, None], edges), max_edge_length, reason)


def names(k: int) -> str:
    """What simplices of dimension k are called."""
    return ("vertices", "edges", "triangles", "tetrahedra")[k] if k < 4 else f"{k}-simplices"


def _ascending(rows: Int[Tensor, "s k"]) -> bool:
    """Whether the rows are in lexicographic order, without repetition."""
    less, equal = (torch.full((max(0, len(rows) - 1),), b, device=rows.device) for b in (False, True))
    for column in rows.T:
        less |= equal & (column[1:] > column[:-1])
        equal &= column[1:] == column[:-1]
    return bool(less.all())


def _sorted(rows: Int[Tensor, "s k"]) -> Int[Tensor, "s k"]:
    """The rows in lexicographic order."""
    for column in reversed(range(rows.shape[1])):
        rows = rows[rows[:, column].argsort(stable=True)]
    return rows


def _edge(given: Any, result: Tensor) -> Any:
    """Arrays in, arrays out."""
    return result.cpu().numpy() if isinstance(given, np.ndarray) else result
