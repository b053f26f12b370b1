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

import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor

Edges = tuple[Tensor, Tensor]  # keys i * m + j with i < j, increasing, (e,), and their weights, (e,)
FAINT = 0.01  # a pair of cells below this share of sigma_i sigma_j is not worth an edge


def facet_edges(
    value: Float[Tensor, "n k"], index: Int[Tensor, "n k"], delta: Float[Tensor, " n"], m: int, dtype: torch.dtype
) -> Edges:
    """Sum over the samples of sigma_i sigma_j / delta for all pairs of cells among each sample's k best.

    Args:
        value: The k best scores of every sample, decreasing.
        index: The cells that they belong to.
        delta: Temperature for every sample, in the units of the scores.
        m: Number of cells.
        dtype: Of the weights.
    """
    sigma = torch.softmax((value - value[:, :1]) / delta[:, None], dim=1)
    keys, weights = [], []
    for a in range(index.shape[1]):
        for b in range(a + 1, index.shape[1]):
            product = sigma[:, a] * sigma[:, b]
            near = product > FAINT
            i, j = index[near, a], index[near, b]
            keys.append(torch.minimum(i, j) * m + torch.maximum(i, j))
            weights.append(product[near].to(dtype) / delta[near].to(dtype))
    return sum_edges(torch.cat(keys), torch.cat(weights), m)


def sum_edges(key: Int[Tensor, " p"], weight: Float[Tensor, " p"], m: int) -> Edges:
    """Edges from keys in any order with repetitions; weights of equal keys are added."""
    if key.is_cuda or key.device.type == "mps":
        edge, place = torch.unique(key, return_inverse=True)
        return edge, torch.zeros(len(edge), dtype=weight.dtype, device=weight.device).index_add_(0, place, weight)
    ends = ((key // m).numpy(), (key % m).numpy())
    matrix = scipy.sparse.coo_matrix((weight.numpy(), ends), shape=(m, m)).tocsr()  # linear time: only rows are sorted
    matrix.sort_indices()
    row = torch.repeat_interleave(torch.arange(m), torch.from_numpy(matrix.indptr).long().diff())
    return row * m + torch.from_numpy(matrix.indices).long(), torch.from_numpy(matrix.data)


def strongest(edges: Edges, most: int) -> Edges:
    """At most `most` edges, those of largest weight."""
    edge, weight = edges
    if len(edge) <= most:
        return edges
    kept = weight.topk(most).indices.sort().values
    return edge[kept], weight[kept]


def newton_direction(
    edges: Edges, ridge: Float[Tensor, " m"], residual: Float[Tensor, " m"], *, rtol: float = 1e-2
) -> Float[Tensor, " m"]:
    """Solve (L + diag(ridge)) s = residual for the weighted graph Laplacian L, by conjugate gradients."""
    (edge, weight), m = edges, len(ridge)
    i, j = edge // m, edge % m
    diagonal = ridge.clone().index_add_(0, i, weight).index_add_(0, j, weight)
    neighbours = symmetric_product(i, j, weight, m)
    return conjugate_gradients(lambda s: diagonal * s - neighbours(s), residual, diagonal, rtol=rtol, max_iterations=500)


def symmetric_product(
    i: Int[Tensor, " e"], j: Int[Tensor, " e"], weight: Float[Tensor, " e"], m: int
) -> Callable[[Tensor], Tensor]:
    """s -> A s for the m x m matrix with entries (i, j) and (j, i)."""
    if weight.is_cuda or weight.device.type == "mps":
        return lambda s: torch.zeros_like(s).index_add_(0, i, weight * s[j]).index_add_(0, j, weight * s[i])
    upper = scipy.sparse.coo_matrix((weight.numpy(), (i.numpy(), j.numpy())), shape=(m, m)).tocsr()
    both = (upper + upper.T).tocsr()
    return lambda s: torch.from_numpy(both @ s.numpy())


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
