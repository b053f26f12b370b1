"""The default solver: an annealed start, then Monte-Carlo Newton steps with a Kalman gain.

1. *Start.* The Brenier potential between the Gaussians that have the moments of source and target.
2. *Anneal.* With temperature eps the soft masses p are never zero, and h_i += eps log(nu_i / p_i) is the ascent step of the
   entropic semi-dual (Sinkhorn's), which needs no step size. eps falls from pass to pass until most weights are nearly hard.
3. *Newton.* The Hessian of E is the Laplacian of the graph of cells, each edge weighted by the mass density of its facet.
   The gap between a sample's best and second score tells how near it is to such a facet, so the reduction that assigns the
   samples also estimates the Hessian, in any dimension. The batch says how large the error is (signal) and how noisy it is,
   and signal / (signal + noise) is the best length for the step: a scalar Kalman filter.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import kernels
from ..measures import DiscreteMeasure, Draw
from .base import State, batch_chi2, centre, score_spread


@dataclass(frozen=True, kw_only=True)
class NewtonState(State):
    """Adds the temperature (0 once annealed), the running Hessian as edges i < j with weights and the number of samples it is
    worth, and the filter's memory."""

    eps: float = 0.0
    edges: Int[Tensor, " e"]  # i * m + j, increasing
    facets: Float[Tensor, " e"]
    known: float = 0.0
    gaps: Float[Tensor, "2 m"]  # running count of the samples in each cell, and sum of their gaps
    newton_steps: int = 0
    batch: int = 0
    low_gains: int = 0


@dataclass(frozen=True, kw_only=True)
class Newton:
    """Annealed start, then Newton steps on the semi-dual with an estimated Hessian and a Kalman gain. Needs no settings.

    Attributes:
        cooling: Factor on the temperature, pass by pass.
        anneal_until: The start ends when the mean largest soft weight passes this.
        batch_per_target: First number of samples a Newton step, per target; doubles when the gain stays low.
        max_batch_per_target: Where the doubling stops.
        layer: How near to a facet a sample counts for its density, in units of the mean gap in the cells beside it.
        ridge: Regularisation of the Hessian, in units of nu_i / (mean gap in cell i); fades with the samples behind it.
        reach: Longest step, as the change of the height difference between neighbours, in units of the mean gap there.
        edges_per_target: Most edges of the Hessian that are kept, per target.
    """

    cooling: float = 0.5
    anneal_until: float = 0.6
    batch_per_target: float = 2.0
    max_batch_per_target: float = 256.0
    layer: float = 0.35
    ridge: float = 0.3
    reach: float = 3.0
    edges_per_target: int = 128

    def init(self, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        h = gaussian_heights(target, torch.cat(list(draw(4 * target.dim + 4000))))
        batch = max(1024, math.ceil(self.batch_per_target * len(target)))
        eps = 0.5 * score_spread(target, draw)
        return NewtonState(
            heights=centre(h, target), eps=eps, batch=batch, edges=h[:0].long(), facets=h[:0], gaps=h.new_zeros(2, len(h))
        )

    def step(self, state: NewtonState, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        if len(target) == 1:
            return replace(state, chi2=0.0)
        return self._anneal(state, target, draw) if state.eps > 0 else self._newton(state, target, draw)

    def _anneal(self, state: NewtonState, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        n, p, hardness = max(1024, len(target)), torch.zeros_like(state.heights), 0.0
        for x in draw(n):
            p += kernels.soft_mass(x, target.points, state.heights, state.eps).to(p) * (x.shape[0] / n)
            hardness = hardness or mean_largest_weight(x[:1024], target, state.heights, state.eps)
        h = state.heights + state.eps * (target.weights / p.clamp_min(1e-30)).log()
        eps = 0.0 if hardness > self.anneal_until else self.cooling * state.eps
        return replace(state, heights=centre(h, target), eps=eps)

    def _newton(self, state: NewtonState, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        nu, m, n, t = target.weights, len(target), state.batch, state.newton_steps
        first, second, gap = top_two(state.heights, target, draw, n)
        count = torch.bincount(first, minlength=m)
        measured, noise = batch_chi2(count, target), (m - 1) / n
        # the filter: what was predicted and what is measured weigh equally, since a prediction can be wrong
        signal = max(measured, 0.0) if t == 0 else max(0.0, 0.5 * state.chi2 + 0.5 * max(measured, 0.0))
        gain = max(0.02, signal / (signal + noise))

        gaps = 0.7 * state.gaps + torch.stack([count.to(gap), torch.zeros_like(nu).index_add_(0, first, gap)])
        scale = (gaps[1] + 2 * gap.mean()) / (gaps[0] + 2)  # mean gap in every cell, the mean of all where little is known
        scale = scale.clamp_min(1e-300)
        keep = min(0.7, t / (t + 1)) if gain > 0.5 else max(0.7, 1 - gain)
        near = torch.minimum(scale[first], scale[second])
        edges, facets = facet_edges(first, second, gap, self.layer * near, m)
        edges, facets = merge_edges((state.edges, keep * state.facets), (edges, (1 - keep) * facets))
        edges, facets = strongest(edges, facets, self.edges_per_target * m)

        known = 1 / (keep**2 / max(state.known, 1.0) + (1 - keep) ** 2 / n)
        # one sample in a cell is worth 1 / n: less than that is no evidence, however small the weight
        ridge = self.ridge * (nu + 1 / n) / scale / (1 + 0.5 * known * nu)
        direction = newton_direction(edges, facets, ridge, nu - count / n)
        jump = (direction[first] - direction[second]).abs() / near
        # neighbours may rise together as far as they like: only differences move facets
        typical = float(jump.kthvalue(math.ceil(0.99 * n)).values)
        length = min(gain, self.reach / max(typical, 1e-300))
        low = state.low_gains + 1 if gain < 0.3 else 0
        double = low >= 2 and n < self.max_batch_per_target * m
        return replace(
            state,
            heights=centre(state.heights + length * direction, target),
            chi2=(1 - length) ** 2 * signal + length**2 * noise,
            edges=edges,
            facets=facets,
            known=known,
            gaps=gaps,
            newton_steps=t + 1,
            batch=2 * n if double else n,
            low_gains=0 if double else low,
        )


def gaussian_heights(target: DiscreteMeasure, x: Float[Tensor, "n d"]) -> Float[Tensor, " m"]:
    """Heights of the optimal map between the Gaussians with the moments of the samples and of the target.

    That map is y = b + A (x - a) with A = S^-1/2 (S^1/2 C S^1/2)^1/2 S^-1/2 for the covariances S, C and means a, b, and the
    Brenier potential's conjugate gives h(y) = -1/2 (y - b)' A^-1 (y - b) - <a, y>. Eigenvalues of A have a floor: thin data
    would make A^-1 meaningless.
    """
    nu, y, x = target.weights, target.points.to(target.weights.dtype), x.to(target.weights.dtype)
    a, b = x.mean(0), nu @ y
    z = y - b
    root, inverse_root = _roots((x - a).T @ (x - a) / x.shape[0])
    middle, _ = _roots(root @ ((z * nu[:, None]).T @ z) @ root)
    value, vector = torch.linalg.eigh(inverse_root @ middle @ inverse_root)
    value = value.clamp_min(max(1e-3 * float(value.max()), 1e-300))
    curvature: Tensor = ((z @ vector).square() / value).sum(1)
    return -0.5 * curvature - z @ a


def _roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Square root and inverse square root of a symmetric positive matrix."""
    value, vector = torch.linalg.eigh((covariance + covariance.T) / 2)
    value = value.clamp_min(max(1e-12 * float(value.max()), 1e-300))
    return vector * value.sqrt() @ vector.T, vector * value.rsqrt() @ vector.T


def mean_largest_weight(x: Tensor, target: DiscreteMeasure, h: Tensor, eps: float) -> float:
    """The mean over x of max_j softmax_j((h_j + <x, y_j>) / eps): near one when the temperature is nearly zero."""
    best = kernels.topk(x, target.points, h)[0][:, 0]
    return float(((best - kernels.soft_potential(x, target.points, h, eps)) / eps).exp().mean())


def top_two(
    h: Float[Tensor, " m"], target: DiscreteMeasure, draw: Draw, n: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Best and second cell of n fresh samples, and the gap between their scores."""
    first, second, gap = [], [], []
    for x in draw(n):
        value, index = kernels.topk(x, target.points, h, k=2)
        first.append(index[:, 0])
        second.append(index[:, 1])
        gap.append((value[:, 0] - value[:, 1]).to(h.dtype))
    return torch.cat(first), torch.cat(second), torch.cat(gap)


def facet_edges(
    first: Int[Tensor, " n"], second: Int[Tensor, " n"], gap: Float[Tensor, " n"], delta: Float[Tensor, " n"], m: int
) -> tuple[Int[Tensor, " e"], Float[Tensor, " e"]]:
    """Estimate -d^2 E / dh_i dh_j, the mass density of the facet between cells i and j.

    Raising h_i by s moves the mass within score s of the facets of i into cell i. So the samples whose gap is below delta, each
    with weight 1 / (2 delta n) (they lie on both sides), sum to the density as delta -> 0. delta may differ from facet to
    facet, as long as it is the same on both sides.

    Returns:
        Edges i * m + j with i < j, increasing, and their weights.
    """
    inside = gap <= delta
    i, j = first[inside], second[inside]
    edge, place = torch.unique(torch.minimum(i, j) * m + torch.maximum(i, j), return_inverse=True)
    return edge, torch.zeros_like(gap[: len(edge)]).index_add_(0, place, 0.5 / (len(gap) * delta[inside]))


Edges = tuple[Tensor, Tensor]


def merge_edges(a: Edges, b: Edges) -> Edges:
    """The sum of two sparse symmetric matrices, as edges and weights."""
    edge, place = torch.unique(torch.cat([a[0].to(b[0]), b[0]]), return_inverse=True)
    weight = torch.cat([a[1].to(b[1]), b[1]])
    return edge, torch.zeros(len(edge), dtype=weight.dtype, device=weight.device).index_add_(0, place, weight)


def strongest(edge: Tensor, weight: Tensor, most: int) -> Edges:
    """At most `most` edges, those of largest weight."""
    if len(edge) <= most:
        return edge, weight
    kept = weight.topk(most).indices.sort().values
    return edge[kept], weight[kept]


def newton_direction(
    edge: Int[Tensor, " e"], weight: Float[Tensor, " e"], ridge: Float[Tensor, " m"], residual: Float[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """Solve (L + diag(ridge)) s = residual for the weighted graph Laplacian L, by conjugate gradients."""
    m = len(ridge)
    i, j = edge // m, edge % m
    adjacency = symmetric_csr(i, j, weight, m)
    diagonal = ridge.clone().index_add_(0, i, weight).index_add_(0, j, weight)
    return conjugate_gradients(lambda s: diagonal * s - adjacency @ s, residual, diagonal)


def symmetric_csr(i: Int[Tensor, " e"], j: Int[Tensor, " e"], weight: Float[Tensor, " e"], m: int) -> Tensor:
    """The m x m matrix with entries (i, j) and (j, i), in compressed rows: the form with the fastest product."""
    rows, columns = torch.cat([i, j]), torch.cat([j, i])
    order = (rows * m + columns).argsort()
    starts = torch.zeros(m + 1, dtype=torch.int64, device=i.device)
    starts[1:] = torch.bincount(rows, minlength=m).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")  # the CSR layout is announced as beta, once
        return torch.sparse_csr_tensor(
            starts, columns[order], torch.cat([weight, weight])[order], (m, m), check_invariants=False
        )


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
