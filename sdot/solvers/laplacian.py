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

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..kernels._build import call
from ._loops import loops

Edges = tuple[Tensor, Tensor]  # pairs of cells i < j in increasing order, (2, e), and their weights, (e,)
MOST_STEPS = 500  # of conjugate gradients
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


def gather(
    edges: Edges, sigma: Float[Tensor, "n k"], index: Int[Tensor, "n k"], delta: Float[Tensor, " n"], m: int, most: int
) -> Edges:
    """The edges, with those of `facet_edges` added: the `strongest` of them, at most so many."""
    c = loops(sigma)
    if c is None:
        return strongest(add_edges(edges, facet_edges(sigma, index, delta, m), m), most, m)
    (n, k), e = sigma.shape, len(edges[1])
    room = e + n * k * (k - 1) // 2
    ends, weight = torch.empty(2, room, dtype=torch.int64), torch.empty(room, dtype=torch.float64)
    i, j, w, *samples = (t.contiguous() for t in (*edges[0], edges[1], sigma, index, delta))
    count = call(c.gather, m, e, i, j, w, n, k, *samples, FAINT, most, *ends, weight)
    return ends[:, :count].clone(), weight[:count].clone()


def sum_edges(pairs: Int[Tensor, "2 p"], weight: Float[Tensor, " p"], m: int) -> Edges:
    """Edges from pairs in any order with repetitions; weights of equal pairs are added."""
    key, place = torch.unique(pairs[0] * m + pairs[1], return_inverse=True)
    total = torch.zeros(len(key), dtype=weight.dtype, device=weight.device).index_add_(0, place, weight)
    return torch.stack([key // m, key % m]), total


def add_edges(a: Edges, b: Edges, m: int) -> Edges:
    """The union of two lists of edges; weights of common edges are added."""
    return sum_edges(torch.cat([a[0], b[0]], 1), torch.cat([a[1], b[1]]), m)


def strongest(edges: Edges, most: int, m: int) -> Edges:
    """At most `most` edges: those that matter most to the lighter of their cells.

    An edge is kept for w_ij (1 / w_i + 1 / w_j), w_i the weights of all edges of cell i, which stands for its leverage
    (Spielman and Srivastava, 2008). By weight alone, light cells would lose all that they have.
    """
    pairs, weight = edges
    if len(weight) <= most:
        return edges
    share = 1 / sum_by_cell(pairs, weight, m)
    matter = weight * (share[pairs[0]] + share[pairs[1]])
    kept = (matter > matter.kthvalue(len(weight) - most).values).nonzero()[:, 0]
    return pairs.index_select(1, kept), weight.index_select(0, kept)


def newton_direction(
    edges: Edges, ridge: Float[Tensor, " m"], residual: Float[Tensor, " m"], *, rtol: float = 1e-2
) -> Float[Tensor, " m"]:
    """Solve (L + diag(ridge)) s = residual for the weighted graph Laplacian L, by conjugate gradients."""
    (i, j), weight, m = edges[0].contiguous(), edges[1].contiguous(), len(ridge)
    if c := loops(residual):
        s, ridge, residual = torch.zeros_like(residual), ridge.contiguous(), residual.contiguous()
        call(c.solve, m, len(weight), i, j, weight, ridge, residual, rtol, MOST_STEPS, s)
        return s
    diagonal = ridge + sum_by_cell(edges[0], weight, m)

    def product(s: Tensor) -> Tensor:
        return (diagonal * s).index_add_(0, i, weight * s[j], alpha=-1).index_add_(0, j, weight * s[i], alpha=-1)

    return conjugate_gradients(product, residual, diagonal, rtol=rtol, max_iterations=MOST_STEPS)


def drift(edges: Edges, step: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """How far a step moves every cell against its neighbours: the mean over its facets, by weight; |step| where it has none."""
    (i, j), weight, m = edges[0].contiguous(), edges[1].contiguous(), len(step)
    if c := loops(step):
        moved, step = torch.empty_like(step), step.contiguous()
        call(c.drift, m, len(weight), i, j, weight, step, moved)
        return moved
    total = sum_by_cell(edges[0], weight, m)
    pull = sum_by_cell(edges[0], weight * (step[i] - step[j]).abs(), m)
    return torch.where(total > 0, pull / total.clamp_min(1e-300), step.abs())


def sum_by_cell(pairs: Int[Tensor, "2 e"], weight: Float[Tensor, " e"], m: int) -> Float[Tensor, " m"]:
    """The sum of the weights of every cell's edges."""
    return weight.new_zeros(m).scatter_add_(0, pairs[0], weight).scatter_add_(0, pairs[1], weight)


def scaled(edges: Edges, value: Float[Tensor, " m"]) -> Edges:
    """The edges with weights w_ij v_i v_j, v a value of every cell."""
    (i, j), weight = edges
    if c := loops(weight):
        product = torch.empty_like(weight)
        call(c.scale, len(weight), i.contiguous(), j.contiguous(), weight.contiguous(), value.contiguous(), product)
        return edges[0], product
    return edges[0], weight * value[i] * value[j]


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
