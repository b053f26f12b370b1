"""The default solver: an annealed start, then Newton steps on Monte-Carlo estimates, each as long as its evidence allows.

1. *Start.* The Brenier potential between the Gaussians that have the moments of source and target.
2. *Anneal* (`annealing`). Sinkhorn steps at a temperature that falls until most samples belong to one cell.
3. *Newton.* The samples that are assigned to cells also show the Hessian (`laplacian`): L s = nu - w_hat. The batch says how
   large the error is (signal) and how noisy it is, and signal / (signal + noise) is the best length for the step, a scalar
   Kalman filter. In the end that is an average over all samples, which attains the statistical limit chi^2 = (m - 1) / n.
4. In two and three dimensions, and where the source can be drawn from evenly spread points, the samples are a growing set of
   them that is used again and again (`_quasi`): far fewer are needed there than independent ones.

The derivation, and what was tried and left out, are in docs/solver.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import kernels
from ..measures import DiscreteMeasure, Draw
from .annealing import anneal, gaussian_heights
from .base import State, batch_chi2, centre, score_spread
from .laplacian import facet_edges, newton_direction, strongest, sum_edges


SURE = 15.0  # deviance of a cell's count beyond which its error is no accident, among any number of cells


@dataclass(frozen=True, kw_only=True)
class NewtonState(State):
    """What the next step depends on.

    Attributes:
        eps: Temperature; 0 once annealed.
        hardness: What the last annealing pass reported, see `anneal`.
        batch: Samples of the next step.
        edges: Pairs of neighbouring cells, i * m + j with i < j, increasing.
        facets: Sum of their facet weights over the samples seen, see `facet_edges`.
        exposure: How many samples that is worth, cell by cell: less and less as the cell moves on.
        hits: How often the cell was best or second among those.
        gaps: Running count of the samples in each cell, and sum of the gaps between their best and second score.
        points: Evenly spread points drawn so far.
        residual: chi^2 of the masses that they gave before the last step.
    """

    eps: float = 0.0
    hardness: float = 0.0
    batch: int = 0
    edges: Int[Tensor, " e"]
    facets: Float[Tensor, " e"]
    exposure: Float[Tensor, " m"]
    hits: Float[Tensor, " m"]
    gaps: Float[Tensor, "2 m"]
    points: int = 0
    residual: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Newton:
    """Annealed start, then Newton steps on the semi-dual with an estimated Hessian and a Kalman gain. Needs no settings.

    Attributes:
        cooling: Factor on the temperature, pass by pass.
        anneal_until: The start ends when the mean largest soft weight passes this.
        first_batch: Samples of the first Newton step, per target.
        growth: Later steps draw this share of all samples so far.
        max_batch: Most samples of one step, per target.
        detail: Samples of a step, per target of median weight, whose `neighbours` best cells are looked at; of the others only
            the best.
        neighbours: See `detail`.
        layer: Temperature at which facets are seen, in units of the mean gap between best and second score.
        smoothing: Cells that should have few hits in a step, compared with this, are weighed by soft hits.
        ridge: Regularisation of the Hessian where a cell has no hits, in units of nu_i / (mean gap).
        reach: Longest step, as the change of the height difference between neighbours, in units of the mean gap there.
        edges_per_target: Most edges of the Hessian that are kept, per target.
        quasi_dim: Up to this dimension a source that has `from_uniform` is drawn from evenly spread points.
    """

    cooling: float = 0.5
    anneal_until: float = 0.6
    first_batch: float = 2.0
    growth: float = 0.2
    max_batch: float = 64.0
    detail: float = 6.0
    neighbours: int = 4
    layer: float = 0.5
    smoothing: float = 4.0
    ridge: float = 0.3
    reach: float = 3.0
    edges_per_target: int = 128
    quasi_dim: int = 3

    def init(self, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        m = len(target)
        h = gaussian_heights(target, torch.cat(list(draw(4 * target.dim + 1000))))
        return NewtonState(
            heights=centre(h, target),
            eps=0.5 * score_spread(target, draw),
            hardness=1 / m,
            batch=max(1024, math.ceil((4 if self._even(draw) else 1) * m)),
            edges=torch.zeros(0, dtype=torch.int64, device=h.device),
            facets=h.new_zeros(0),
            exposure=h.new_zeros(m),
            hits=h.new_zeros(m),
            gaps=h.new_zeros(2, m),
        )

    def step(self, state: NewtonState, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        if len(target) == 1:
            return replace(state, chi2=0.0)
        if state.eps > 0:
            return self._anneal(state, target, draw)
        return self._quasi(state, target, draw) if self._even(draw) else self._newton(state, target, draw)

    def _even(self, draw: Draw) -> bool:
        return 0 < draw.even_dim <= self.quasi_dim

    def _detail(self, target: DiscreteMeasure) -> int:
        return math.ceil(self.detail / float(target.weights.median()))

    def _anneal(self, state: NewtonState, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        # a sample tells of 1 / hardness cells, so the first passes need few
        n = max(1024, math.ceil(min(1.0, 4 * state.hardness) * state.batch))
        even = self._even(draw)
        blocks = (x for _, x in draw.even(n, state.points)) if even else draw(n)
        h, hardness = anneal(state.heights, target, blocks, state.eps)
        done = hardness > self.anneal_until
        batch = math.ceil(self.first_batch * state.batch) if done and not even else state.batch
        return replace(
            state,
            heights=h,
            hardness=hardness,
            batch=batch,
            points=max(n, state.points) if even else 0,
            eps=0.0 if done else self.cooling * state.eps,
        )

    def _newton(self, state: NewtonState, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        m, n = len(target), state.batch
        seen = look(state.heights, target, ((0, x) for x in draw(n)), self._detail(target), self.neighbours)
        measured = max(0.0, batch_chi2(seen.count[0], target))
        # the filter: what was predicted and what is measured weigh equally, since a prediction can be wrong
        signal = measured if math.isinf(state.chi2) else (state.chi2 + measured) / 2
        state, gap = self._learn(state, seen, target)
        mass, noise = smoothed_mass(seen, target, self.layer * gap, self.smoothing)
        gain = max(0.01, signal / (signal + noise))
        mass = correct_overfull(mass, seen, target, gain)
        direction = self._direction(state, target, mass)
        length = min(gain, self.reach / max(typical_jump(direction, seen, gap), 1e-300))
        step = raise_stranded(length * direction, state, target, seen, gap.median())
        total = state.samples + draw.count
        wanted = max(n, math.ceil(min(self.growth * total, self.max_batch * m))) if gain < 0.25 else n
        return replace(
            self._forget(state, step, gap),
            heights=centre(state.heights + step, target),
            chi2=(1 - length) ** 2 * signal + length**2 * noise,
            batch=wanted,
        )

    def _quasi(self, state: NewtonState, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        """The same step on evenly spread points, half of them from each of two independent scramblings.

        The points are kept from step to step until their cells have the right masses, and then their number grows. The two
        halves disagree by as much as both are wrong: with w = (w_a + w_b) / 2 = nu the error of the heights is
        sum_i Var(w_i) / nu_i = E sum_i (w_ai - w_bi)^2 / (4 nu_i), whatever law the points follow.
        """
        m, nu, n = len(target), target.weights, state.batch
        seen = look(state.heights, target, draw.even(n, state.points), 4 * self._detail(target), self.neighbours)
        halves = seen.count.to(nu) / n
        floor = float(((halves[0] - halves[1]).square() / nu).sum())
        state, gap = self._learn(state, seen, target)
        mass, _ = smoothed_mass(seen, target, self.layer * gap, self.smoothing)
        residual = float(((mass - nu).square() / nu).sum())
        direction = self._direction(state, target, mass)
        length = min(1.0, self.reach / max(typical_jump(direction, seen, gap), 1e-300))
        step = raise_stranded(length * direction, state, target, seen, gap.median())
        settled = residual <= 0.1 * floor or (n == state.points and residual > 0.5 * state.residual)
        return replace(
            self._forget(state, step, gap),
            heights=centre(state.heights + step, target),
            chi2=floor + (0.0 if settled else ((1 - length) ** 2 + 0.1) * residual),
            batch=math.ceil(1.5 * n) if settled else n,
            points=n,
            residual=residual,
        )

    def _learn(self, state: NewtonState, seen: Look, target: DiscreteMeasure) -> tuple[NewtonState, Float[Tensor, " l"]]:
        """Take the samples looked at into the running Hessian. Also returns, for each, the mean gap in the cells beside it."""
        m, first, second = len(target), seen.index[:, 0], seen.index[:, 1]
        gap = (seen.value[:, 0] - seen.value[:, 1]).to(state.gaps)
        count = torch.bincount(first, minlength=m).to(gap)
        gaps = 0.7 * state.gaps + torch.stack([count, torch.zeros_like(count).index_add_(0, first, gap)])
        scale = mean_gap(gaps)
        beside = torch.minimum(scale[first], scale[second])
        new, weight = facet_edges(seen.value, seen.index, self.layer * beside, m, gap.dtype)
        edges = sum_edges(torch.cat([state.edges, new]), torch.cat([state.facets, weight]), m)
        edges, facets = strongest(edges, self.edges_per_target * m)
        return replace(
            state,
            edges=edges,
            facets=facets,
            exposure=state.exposure + len(gap),
            hits=state.hits + count + torch.bincount(second, minlength=m),
            gaps=gaps,
        ), beside

    def _direction(self, state: NewtonState, target: DiscreteMeasure, mass: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        nu, m = target.weights, len(target)
        i, j = state.edges // m, state.edges % m
        weight = state.facets / (state.exposure[i] * state.exposure[j]).sqrt()
        # one sample in a cell is worth 1 / n: less than that is no evidence, however small the weight
        ridge = self.ridge * (nu + 1 / state.exposure) / mean_gap(state.gaps) / (1 + state.hits)
        residual = nu - mass
        return newton_direction((state.edges, weight), ridge, residual - nu * residual.sum())

    def _forget(self, state: NewtonState, step: Float[Tensor, " m"], gap: Float[Tensor, " l"]) -> NewtonState:
        """What was learnt about a cell's facets fades as the cell moves, by a factor e for three mean gaps."""
        m = len(step)
        kept = torch.exp(-0.3 * step.abs() / mean_gap(state.gaps))
        i, j = state.edges // m, state.edges % m
        return replace(
            state,
            facets=state.facets * (kept[i] * kept[j]).sqrt(),
            exposure=state.exposure * kept,
            hits=state.hits * kept,
        )


@dataclass(frozen=True)
class Look:
    """What a sweep over samples saw.

    Attributes:
        count: Samples in each cell, one row for each set of samples.
        value: The best scores of some of the samples, decreasing.
        index: The cells that they belong to.
        x: Those samples.
    """

    count: Int[Tensor, "2 m"]
    value: Float[Tensor, "l k"]
    index: Int[Tensor, "l k"]
    x: Float[Tensor, "l d"]


def look(
    h: Float[Tensor, " m"], target: DiscreteMeasure, blocks: Iterable[tuple[int, Tensor]], detail: int, neighbours: int
) -> Look:
    """Assign blocks of samples, each of set 0 or 1, and keep the best scores of about the first `detail` of them."""
    m, kept = len(target), 0
    count = torch.zeros(2, m, dtype=torch.int64, device=h.device)
    values, indices, samples = list[Tensor](), list[Tensor](), list[Tensor]()
    for half, block in blocks:
        detailed = kept < detail
        value, index = kernels.topk(block, target.points, h, k=min(neighbours, m) if detailed else 1)
        count[half] += torch.bincount(index[:, 0], minlength=m)
        if detailed:
            values.append(value)
            indices.append(index)
            samples.append(block)
            kept += len(block)
    return Look(count, torch.cat(values), torch.cat(indices), torch.cat(samples))


def mean_gap(gaps: Float[Tensor, "2 m"]) -> Float[Tensor, " m"]:
    """Mean gap between best and second score in every cell, drawn to the mean of all where few samples were seen."""
    count, total = gaps
    return ((total + 2 * total.sum() / count.sum()) / (count + 2)).clamp_min(1e-300)


def smoothed_mass(
    seen: Look, target: DiscreteMeasure, delta: Float[Tensor, " l"], smoothing: float
) -> tuple[Float[Tensor, " m"], float]:
    """Masses of the cells, and the variance sum_i Var(w_i) / nu_i of the estimate.

    A hit is 0 or 1; the softmax over a sample's best scores at temperature delta says the same with far less noise, and a
    bias of the order of delta. Where a cell should have few hits, b = n nu / (n nu + smoothing) is small and noise matters:
    w = b (share of hits) + (1 - b) (mean soft hit).
    """
    nu, m, l = target.weights, len(target), len(seen.value)
    n = int(seen.count.sum())
    b = n * nu / (n * nu + smoothing)
    hits = seen.count.sum(0).to(nu) / n
    soft = torch.softmax(((seen.value - seen.value[:, :1]) / delta[:, None].to(seen.value)), dim=1).to(nu)
    mean_soft = torch.zeros_like(nu).index_add_(0, seen.index.flatten(), soft.flatten()) / l
    # per sample of the l looked at: t = b (l / n) [hit] + (1 - b) soft; the n - l others add b [hit] / n
    t = (1 - b)[seen.index] * soft
    t[:, 0] += (b * l / n)[seen.index[:, 0]]
    square = torch.zeros_like(nu).index_add_(0, seen.index.flatten(), t.flatten().square()) / l
    mean = b * (l / n) * hits + (1 - b) * mean_soft
    variance = (square - mean.square()) / l + b.square() * (n - l) / n**2 * (hits - hits.square())
    return b * hits + (1 - b) * mean_soft, float((variance / nu).sum())


def correct_overfull(mass: Float[Tensor, " m"], seen: Look, target: DiscreteMeasure, gain: float) -> Float[Tensor, " m"]:
    """Where a light cell certainly holds far more than its weight, the mass that makes a step of length `gain` mend it.

    The gain is right for the error of most cells. One with c hits where e = n nu_i were due is wrong beyond doubt once the
    deviance D = 2 (c log(c / e) - c + e) is large: its own gain is 1 - SURE / D, and since masses of light cells grow
    exponentially with their heights, its residual is w log(nu / w) in place of nu - w.
    """
    nu = target.weights
    count = seen.count.sum(0).to(nu)
    w = count / count.sum()
    log = (w.clamp_min(1e-300) / nu).log()
    deviance = 2 * (count * log - count + count.sum() * nu)
    own = 1 - SURE / deviance.clamp_min(SURE)
    return torch.where((w > nu) & (own > gain), nu + own / gain * w * log, mass)


def typical_jump(direction: Float[Tensor, " m"], seen: Look, gap: Float[Tensor, " l"]) -> float:
    """How far a step moves facets, in units of the mean gap beside them: the 99 % quantile over the samples looked at.

    Neighbours may rise together as far as they like: only differences move facets.
    """
    jump = (direction[seen.index[:, 0]] - direction[seen.index[:, 1]]).abs() / gap
    return float(jump.kthvalue(math.ceil(0.99 * len(jump))).values)


def raise_stranded(
    step: Float[Tensor, " m"], state: NewtonState, target: DiscreteMeasure, seen: Look, delta: Float[Tensor, ""]
) -> Float[Tensor, " m"]:
    """Where a cell should have been hit by now and never was, raise it until it would be.

    A cell without hits has no facets, so no Newton step sees it. Its deficits u(x) - h_i - <x, y_i> say how far it must rise:
    to where the blurred hits sum_x exp((h_i + <x, y_i> - u(x)) / delta) are a fifth of those it should have, which leaves the
    rest to later steps. That is the other half of a Sinkhorn iteration, on the side of the targets.
    """
    expected = state.exposure * target.weights
    stranded = ((expected > 1) & (state.hits < 0.2 * expected)).nonzero()[:, 0]
    if len(stranded) == 0:
        return step
    captured = kernels.soft_potential(target.points[stranded], seen.x, -seen.value[:, 0], float(delta)).to(step)
    wanted = delta * (0.2 * len(seen.x) * target.weights[stranded]).log() - captured - state.heights[stranded]
    return step.index_copy(0, stranded, torch.maximum(step[stranded], wanted))
