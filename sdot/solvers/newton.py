"""The default solver: an annealed start, then Newton steps on Monte-Carlo estimates, each as long as its evidence allows.

1. *Start.* The Brenier potential between the Gaussians that have the moments of source and target. Targets on a line have
   a better one, the quantiles of a sample, and go on at 3.
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

from ..measures import DiscreteMeasure, Draw, samples_of_light
from .annealing import anneal, gaussian_heights, line_heights
from .base import State, batch_chi2, centre, score_spread
from .clusters import clusters, lift_clusters
from .evidence import (
    Look,
    correct_overfull,
    hold_hidden,
    kalman_gain,
    look,
    lower_overfull,
    mean_gap,
    pair_gap,
    raise_stranded,
    smoothed_mass,
    typical_jump,
)
from .laplacian import drift, gather, newton_direction, scaled, soft_hits

LINGER = 0.9  # see `Newton.cooling`
ON_A_LINE = 100.0  # samples a target that its quantiles are taken from at most
FROZEN = 0.95  # hardness beyond which a lower temperature changes nothing
EVEN = 0.1  # part of the smoothing that evenly spread points want, which have less noise
MOST_PASSES = 16  # over one set of evenly spread points
UNSETTLED = 4  # of these, before heights are published that new points still find wrong
WIDE = 120.0  # samples a target, see `Newton.layer`
MANY = 300.0  # samples a target, see `Newton.smoothing`
LEAST_DUE = 0.5  # with e < 1 points due, a cell is wrong by (1 - e)^2 / e if it has one, and by e without: it is left without
MEETING = 3  # cells that meet in a point of the plane: more are not looked at there, and hardly needed in space
LOOKED_BYTES = 2**26  # what samples that are looked at may take, times `detail`, where that is not m of them


@dataclass(frozen=True, kw_only=True)
class NewtonState(State):
    """What the next step depends on.

    Attributes:
        eps: Temperature; 0 once annealed.
        hardness: What the last annealing pass reported, see `anneal`.
        batch: Samples of the next step.
        cluster: Of every target, see `lift_clusters`; one for all with evenly spread points, which have no use for it.
        edges: Pairs of neighbouring cells i < j, in increasing order.
        facets: Sum of their facet weights over the samples seen, see `facet_edges`.
        exposure: How many samples that is worth, cell by cell: less and less as the cell moves on.
        hits: How often the cell was best or second among those.
        gaps: Running count of the samples in each cell, and sum of the gaps between their best and second score.
        optimism: By what factor predictions of chi^2 have been too low of late.
        points: Evenly spread points drawn so far.
        passes: Steps taken with the present number of them.
        judged: How many of them the residual is of: as many, but for heights that they have not judged yet.
        residual: chi^2 of the masses that they gave at the heights, cells left empty on purpose aside (`LEAST_DUE`).
        trial: Heights after the last step over them, of which nothing is known yet.
    """

    eps: float = 0.0
    hardness: float = 0.0
    batch: int = 0
    cluster: Int[Tensor, " m"]
    edges: Int[Tensor, "2 e"]
    facets: Float[Tensor, " e"]
    exposure: Float[Tensor, " m"]
    hits: Float[Tensor, " m"]
    gaps: Float[Tensor, "2 m"]
    optimism: float = 1.0
    points: int = 0
    judged: int = 0
    passes: int = 0
    residual: float = math.inf
    trial: Float[Tensor, " m"] | None = None


@dataclass(frozen=True, kw_only=True)
class Newton:
    """Annealed start, then Newton steps on the semi-dual with an estimated Hessian and a Kalman gain. Needs no settings.

    Attributes:
        cooling: Factor on the temperature, pass by pass; `LINGER` while more cells than `stragglers` are far too light.
        stragglers: A share of all cells.
        anneal_until: The start ends when the mean largest soft weight passes this,
        hidden: and less than this share of the cells that are due some samples have none.
        first_batch: Samples of the first Newton step, per target.
        growth: Later steps draw this share of all samples so far.
        max_batch: Most samples of one step, per target.
        detail: Samples of a step whose `neighbours` best cells are looked at (of the others only the best), as many as make so
            many for a target that is lighter than three quarters of them, as far as memory goes.
        neighbours: See `detail`.
        layer: Temperature at which facets are seen, in units of the mean gap between best and second score; higher while
            there are fewer than `WIDE` samples a target, as n^(-1/4), since then noise is more than bias.
        smoothing: Cells that should have few hits in a step, compared with this, are weighed by soft hits; it falls as n^(-1/2)
            beyond `MANY` samples a target, since then their bias is more than the noise of hits.
        ridge: Regularisation of the Hessian where a cell has no hits, in units of nu_i / (mean gap).
        reach: Longest step, see `typical_jump`.
        edges_per_target: Most edges of the Hessian that are kept, per target.
        quasi_dim: Up to this dimension a source that has `from_uniform` is drawn from evenly spread points.
    """

    cooling: float = 0.5
    stragglers: float = 0.05
    anneal_until: float = 0.6
    hidden: float = 0.3
    first_batch: float = 2.0
    growth: float = 0.2
    max_batch: float = 1000.0
    detail: float = 6.0
    neighbours: int = 4
    layer: float = 0.5
    smoothing: float = 4.0
    ridge: float = 0.3
    reach: float = 2.0
    edges_per_target: int = 48
    quasi_dim: int = 3

    def init(self, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        m, even = len(target), self._even(draw)
        batch = max(1024, math.ceil((4 if even else 1) * m))
        n = math.ceil(max(4 * m, batch, min(ON_A_LINE * m, samples_of_light(target.weights))))
        h = line_heights(target, self._blocks(draw, n)) if m > 1 else None
        on_a_line = h is not None
        if h is None:
            h = gaussian_heights(target, torch.cat(list(draw(4 * target.dim + few(target)))))
        return NewtonState(
            heights=centre(h, target),
            eps=0.0 if on_a_line else 0.5 * score_spread(target, draw),
            hardness=1 / m,
            batch=n if on_a_line else batch,
            points=n if on_a_line and even else 0,
            cluster=torch.zeros_like(h, dtype=torch.int64) if even else clusters(target),
            edges=torch.zeros(2, 0, dtype=torch.int64, device=h.device),
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
        if not self._even(draw):
            return self._newton(state, target, draw)
        grows = state.batch > state.points
        state = self._quasi(state, target, draw)
        while grows and 0 < state.passes < UNSETTLED:  # heights of fewer points are not worth publishing
            state = self._quasi(state, target, draw)
        return state

    def _even(self, draw: Draw) -> bool:
        return 0 < draw.even_dim <= self.quasi_dim

    def _blocks(self, draw: Draw, n: int, seen: int = 0) -> Iterable[Float[Tensor, "b d"]]:
        """Evenly spread points, of which so many have been seen, or independent ones."""
        return (x for _, x in draw.even(n, seen)) if self._even(draw) else draw(n)

    def _detail(self, target: DiscreteMeasure) -> int:
        room = LOOKED_BYTES / (4 * target.dim + 12 * self.neighbours)
        return math.ceil(self.detail * max(len(target), min(samples_of_light(target.weights), room)))

    def _anneal(self, state: NewtonState, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        # a sample tells of about 1 / hardness cells, so the first passes need few
        n = max(few(target), math.ceil(min(1.0, 4 * state.hardness) * state.batch))
        even = self._even(draw)
        after = anneal(state.heights, target, self._blocks(draw, n, state.points), state.eps)
        done = after.hardness > self.anneal_until and (after.missed < self.hidden or after.hardness > FROZEN)
        batch = math.ceil(self.first_batch * state.batch) if done and not even else state.batch
        return replace(
            state,
            heights=after.heights,
            hardness=after.hardness,
            batch=batch,
            points=max(n, state.points) if even else 0,
            eps=0.0 if done else (self.cooling if after.behind < self.stragglers else LINGER) * state.eps,
        )

    def _newton(self, state: NewtonState, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        m, n = len(target), state.batch
        seen = look(state.heights, target, ((0, x) for x in draw(n)), n, self._detail(target), self.neighbours)
        measured = batch_chi2(seen.count[0], target)
        surprise = measured - state.chi2 > 4 * (math.sqrt(2 * (m - 1)) / n + math.sqrt(max(0.0, measured) / n))
        # the filter: what was predicted and what is measured weigh equally, since a prediction can be wrong
        signal = max(0.0, measured if surprise or math.isinf(state.chi2) else (state.chi2 + measured) / 2)
        optimism = state.optimism * min(2.0, max(0.5, measured / state.chi2)) ** 0.1 if state.chi2 > 0 else state.optimism
        total = state.samples + draw.count
        wide, smoothing = max(1.0, (WIDE * m / total) ** 0.25), self.smoothing * min(1.0, (MANY * m / total) ** 0.5)
        state, scale, gap, soft = self._learn(state, seen, target, wide * self.layer)
        mass, noise = smoothed_mass(seen, target, soft, smoothing)
        gain = kalman_gain(signal, n * target.weights, smoothing)
        residual = correct_overfull(gain * (target.weights - mass), seen, target, gain)
        direction = self._direction(state, target, residual, scale)
        length = min(1.0, self.reach / max(typical_jump(direction, target, seen, gap), 1e-300))
        step = self._raise(state, length * direction, target, seen, gap)
        step = lift_clusters(step, state.cluster, seen, target)
        wanted = max(n, math.ceil(min(self.growth * total, self.max_batch * m))) if gain.mean() < 0.25 else n
        left = (1 - length * gain).square().mean() * signal + (length * gain).square() @ noise
        predicted = optimism * float(left)
        return replace(
            self._forget(state, step, scale),
            heights=centre(state.heights + step, target),
            before=state.heights,
            chi2=max(predicted, measured) if surprise else predicted,  # what failed once may fail again
            optimism=optimism,
            batch=wanted,
        )

    def _quasi(self, state: NewtonState, target: DiscreteMeasure, draw: Draw) -> NewtonState:
        """The same step on evenly spread points, half of them from each of two independent scramblings.

        A step is on trial until the same points have shown that it did no harm: only then are its heights the state's.

        The points are kept from step to step until their cells have the right masses, and then their number grows. The two
        halves disagree by as much as both are wrong: with w = (w_a + w_b) / 2 = nu the error of the heights is
        sum_i Var(w_i) / nu_i = E sum_i (w_ai - w_bi)^2 / (4 nu_i), whatever law the points follow.
        """
        nu, n = target.weights, state.batch
        h = state.heights if state.trial is None else state.trial
        seen = look(h, target, draw.even(n, state.points), n, 2 * self._detail(target), min(self.neighbours, MEETING))
        halves = seen.count.to(nu) / n
        floor = float(((halves[0] - halves[1]).square() / nu).sum())
        state, scale, gap, soft = self._learn(state, seen, target, self.layer)
        mass, _ = smoothed_mass(seen, target, soft, EVEN * self.smoothing)
        empty = seen.count.sum(0) == 0
        part = ((mass - nu).square() / nu).masked_fill(empty & (n * nu < LEAST_DUE), 0.0)
        residual = float(part.sum())
        limit = max(state.residual, floor) if n == state.judged else 10 * max(state.residual, state.chi2)
        if residual > limit and not torch.equal(h, state.heights):  # the last step went too far
            state = replace(state, points=n)
            if state.passes < MOST_PASSES:
                lower = lower_overfull(part > 0.1 * limit, target, seen)
                trial = torch.lerp(state.heights, h, 0.3) if lower is None else lower
                return replace(state, trial=trial, passes=state.passes + 3)
            return replace(state, trial=state.heights, batch=math.ceil(1.5 * n), passes=0)
        # not the sum of both: what is left of the residual is mostly the points' own error; but of a cell without points the
        # halves say nothing, and all that it is due is missing
        wrong = max(floor, float(part[~empty].sum())) + float(nu[empty].sum())
        direction = self._direction(state, target, nu - mass, scale)
        length = min(1.0, self.reach / max(typical_jump(direction, target, seen, gap), 1e-300))
        least = LEAST_DUE if residual <= 3 * floor else 2.0  # where much is wrong, such cells crowd
        step = self._raise(state, length * direction, target, seen, None, least)
        stalled = residual > 0.5 * state.residual and residual <= 2 * floor
        settled = (n == state.judged and (residual <= floor or stalled)) or state.passes >= MOST_PASSES
        return replace(
            self._forget(state, step, scale),
            heights=h,
            trial=centre(h + step, target),
            chi2=wrong,
            batch=math.ceil(1.5 * n) if settled else n,
            before=state.heights,
            points=n,
            judged=n,
            passes=0 if settled else state.passes + 1,
            residual=residual,
        )

    def _learn(
        self, state: NewtonState, seen: Look, target: DiscreteMeasure, layer: float
    ) -> tuple[NewtonState, Float[Tensor, " m"], Float[Tensor, " l"], Float[Tensor, "l k"]]:
        """Take the samples looked at into the running Hessian.

        Also returns the mean gap of every cell and, for each of these samples, that beside it and its soft hits.
        """
        m, first, second = len(target), seen.index[:, 0], seen.index[:, 1]
        resolution = torch.finfo(seen.value.dtype).eps * seen.value[:, 0].abs()
        gap = torch.maximum(seen.value[:, 0] - seen.value[:, 1], resolution).to(state.gaps)
        count = torch.bincount(first, minlength=m).to(gap)
        gaps = 0.7 * state.gaps + torch.stack([count, torch.zeros_like(count).scatter_add_(0, first, gap)])
        scale = mean_gap(gaps)
        beside = pair_gap(seen.index, gap, scale)
        delta = layer * beside
        soft = soft_hits(seen.value, delta)
        edges, facets = gather((state.edges, state.facets), soft, seen.index, delta, m, self.edges_per_target * m)
        state = replace(
            state,
            edges=edges,
            facets=facets,
            exposure=state.exposure + len(gap),
            hits=state.hits + count + torch.bincount(second, minlength=m),
            gaps=gaps,
        )
        return state, scale, beside, soft

    def _direction(
        self, state: NewtonState, target: DiscreteMeasure, residual: Float[Tensor, " m"], scale: Float[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        nu, hessian = target.weights, scaled((state.edges, state.facets), state.exposure.rsqrt())
        # one sample in a cell is worth 1 / n: less than that is no evidence, however small the weight
        ridge = self.ridge * (nu + 1 / state.exposure) / scale / (1 + state.hits)
        return newton_direction(hessian, ridge, residual - nu * residual.sum())

    def _raise(
        self,
        state: NewtonState,
        step: Float[Tensor, " m"],
        target: DiscreteMeasure,
        seen: Look,
        gap: Float[Tensor, " l"] | None,
        least: float = 0.0,
    ) -> Float[Tensor, " m"]:
        """Raise cells that miss the hits they are due, if more than `least` of the samples looked at; hold others without any.

        Without gaps: the next step looks at the same samples, and tells what was wrong.
        """
        count = state.gaps[0]
        expected, recent = state.exposure * target.weights, count.sum() * target.weights
        missed = ((expected > 1) & (state.hits < 0.2 * expected)) | ((recent > 3) & (count < 0.2 * recent))
        missed &= len(seen.x) * target.weights > least
        hidden = ~missed & (count < 0.1)
        if missed.any():
            step = raise_stranded(step, missed, target, seen, None if gap is None else float(gap.median()))
        return hold_hidden(step, hidden, target, seen) if gap is not None and hidden.any() else step

    def _forget(self, state: NewtonState, step: Float[Tensor, " m"], scale: Float[Tensor, " m"]) -> NewtonState:
        """What was learnt about a cell's facets fades as the cell moves against its neighbours: by e for three mean gaps."""
        kept = torch.exp(-0.3 * drift((state.edges, state.facets), step) / scale)
        _, facets = scaled((state.edges, state.facets), kept.sqrt())
        return replace(state, facets=facets, exposure=state.exposure * kept, hits=state.hits * kept)


def few(target: DiscreteMeasure) -> int:
    """Samples that do for a rough answer: with more, it would be much of what a small problem needs."""
    return min(1024, max(256, math.ceil(samples_of_light(target.weights) / 4)))
