"""The Hessian of the semi-dual, read off the best scores of a few samples, and the linear system it makes.

d^2 E / dh_i dh_j = -(mass density of the facet between cells i and j): raising h_i by s moves the mass within score s of the
facet across it. So the Hessian is the Laplacian of a weighted graph, the cells its vertices and the facets its edges, and
sigma = softmax(scores / delta) sees every facet within about delta of a sample:

    E_x[sigma_i sigma_j] / delta -> facet density   as delta -> 0,

the Hessian of the entropic semi-dual at temperature delta. A sample's few best scores hold nearly all of its sigma, in any
dimension. A sum over some samples of a batch is a spectral sparsifier of the graph (Spielman and Srivastava, 2008): few
samples a cell suffice for a good Newton direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor

Edges = tuple[Tensor, Tensor]  # pairs of cells i < j in increasing order, (2, e), and their weights, (e,)
FAINT = 0.01  # a pair of cells below this share of sigma_i sigma_j is not worth an edge


def soft_hits(value: Float[Tensor, "n k"], delta: Float[Tensor, " n"]) -> Float[Tensor, "n k"]:
    """sigma = softmax(value / delta) for decreasing scores, in float64: the share of each sample that its k best cells hit."""
    weight = ((value - value[:, :1]).to(delta) / delta[:, None]).exp_()
    return weight / (weight @ weight.new_ones(value.shape[1]))[:, None]  # sums over so few are slow


def facet_edges(sigma: Float[Tensor, "n k"], index: Int[Tensor, "n k"], delta: Float[Tensor, " n"], m: int) -> Edges:
    """Sum over the samples of sigma_i sigma_j / delta for all pairs of cells among each sample's k best.

    Args:
        sigma: The soft hits of every sample in its k best cells.
        index: Those cells.
        delta: Temperature for every sample, in the units of the scores.
        m: Number of cells.
    """
    first, second, weights = [], [], []
    for a in range(index.shape[1]):
        for b in range(a + 1, index.shape[1]):
            product = sigma[:, a] * sigma[:, b]
            near = (product > FAINT).nonzero()[:, 0]
            i, j = index[:, a].index_select(0, near), index[:, b].index_select(0, near)
            first.append(torch.minimum(i, j))
            second.append(torch.maximum(i, j))
            weights.append((product / delta).index_select(0, near))
    return sum_edges(torch.stack([torch.cat(first), torch.cat(second)]), torch.cat(weights), m)


def sum_edges(pairs: Int[Tensor, "2 p"], weight: Float[Tensor, " p"], m: int) -> Edges:
    """Edges from pairs in any order with repetitions; weights of equal pairs are added."""
    if not _on_cpu(weight):
        key, place = torch.unique(pairs[0] * m + pairs[1], return_inverse=True)
        total = torch.zeros(len(key), dtype=weight.dtype, device=weight.device).index_add_(0, place, weight)
        return torch.stack([key // m, key % m]), total
    return _edges(scipy.sparse.coo_matrix((weight.numpy(), tuple(pairs.numpy())), shape=(m, m)).tocsr())


def add_edges(a: Edges, b: Edges, m: int) -> Edges:
    """The union of two lists of edges; weights of common edges are added."""
    if not _on_cpu(a[1]):
        return sum_edges(torch.cat([a[0], b[0]], 1), torch.cat([a[1], b[1]]), m)
    return _edges(_upper(a, m) + _upper(b, m))


def strongest(edges: Edges, most: int, m: int) -> Edges:
    """At most `most` edges: those that matter most to the lighter of their cells.

    An edge is kept for w_ij (1 / w_i + 1 / w_j), w_i the weights of all edges of cell i, which stands for its leverage
    (Spielman and Srivastava, 2008). By weight alone, light cells would lose all that they have.
    """
    pairs, weight = edges
    if len(weight) <= most:
        return edges
    a, b = at_ends(pairs, 1 / sum_by_cell(pairs, weight, m))
    matter = weight * (a + b)
    kept = (matter > matter.kthvalue(len(weight) - most).values).nonzero()[:, 0]
    return pairs.index_select(1, kept), weight.index_select(0, kept)


def newton_direction(
    edges: Edges, ridge: Float[Tensor, " m"], residual: Float[Tensor, " m"], *, rtol: float = 1e-2
) -> Float[Tensor, " m"]:
    """Solve (L + diag(ridge)) s = residual for the weighted graph Laplacian L, by conjugate gradients."""
    diagonal = ridge + sum_by_cell(edges[0], edges[1], len(ridge))
    neighbours = symmetric_product(edges, len(ridge))
    return conjugate_gradients(lambda s: diagonal * s - neighbours(s), residual, diagonal, rtol=rtol, max_iterations=500)


def sum_by_cell(pairs: Int[Tensor, "2 e"], weight: Float[Tensor, " e"], m: int) -> Float[Tensor, " m"]:
    """The sum of the weights of every cell's edges."""
    return weight.new_zeros(m).scatter_add_(0, pairs[0], weight).scatter_add_(0, pairs[1], weight)


def at_ends(pairs: Int[Tensor, "2 e"], value: Float[Tensor, " m"]) -> tuple[Float[Tensor, " e"], Float[Tensor, " e"]]:
    """The values of the two cells of every edge."""
    return value.index_select(0, pairs[0]), value.index_select(0, pairs[1])


def symmetric_product(edges: Edges, m: int) -> Callable[[Tensor], Tensor]:
    """s -> A s for the m x m matrix with entries (i, j) and (j, i)."""
    (i, j), weight = edges
    if not _on_cpu(weight):
        return lambda s: torch.zeros_like(s).index_add_(0, i, weight * s[j]).index_add_(0, j, weight * s[i])
    upper = _upper(edges, m)
    lower = upper.T
    return lambda s: torch.from_numpy(upper @ s.numpy() + lower @ s.numpy())


def _on_cpu(t: Tensor) -> bool:
    """Where scipy adds sparse matrices in linear time; elsewhere pairs are sorted."""
    return t.device.type == "cpu"


def _upper(edges: Edges, m: int) -> Any:
    """The upper triangle as a scipy matrix in compressed rows; the pairs are in order already."""
    (i, j), weight = edges
    starts = torch.zeros(m + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(i, minlength=m).cumsum(0)
    return scipy.sparse.csr_matrix((weight.numpy(), j.numpy(), starts.numpy()), shape=(m, m))


def _edges(upper: Any) -> Edges:
    """Back from a scipy matrix."""
    upper.sort_indices()
    rows = torch.repeat_interleave(torch.arange(upper.shape[0]), torch.from_numpy(upper.indptr).long().diff())
    return torch.stack([rows, torch.from_numpy(upper.indices).long()]), torch.from_numpy(upper.data)


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Float[Tensor, " m"],
    diagonal: Float[Tensor, " m"],
    *,
    rtol: float = 1e-2,
    max_iterations: int = 100,
) -> Float[Tensor, " m"]:
    """Solve A s = b for a symmetric positive definite A, preconditioned by its diagonal (Hestenes and Stiefel, 1952)."""
    s, r = torch.zeros_like(b), b.clone()
    z = r / diagonal
    p, rz = z, r @ z
    stop = rtol * float(b.norm())
    for _ in range(max_iterations):
        if float(r.norm()) <= stop:
            break
        q = product(p)
        step = rz / (p @ q)
        s, r = s + step * p, r - step * q
        z = r / diagonal
        rz, old = r @ z, rz
        p = z + (rz / old) * p
    return s
