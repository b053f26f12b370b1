"""What a batch of samples tells: who was hit, by how much, what that is worth, and which cells need more than a Newton step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import kernels
from ..kernels._build import call
from ..measures import DiscreteMeasure
from ._loops import loops

MOST_COUNTED = 8  # hits of a cell that are counted one by one
BELIEVED = 10  # hits of light cells together before those say by how much their soft hits are wrong
SOFT_NOISE = 0.7  # of soft hits, which are less noisy than hits and a little wrong, as one counts them
CAUTIOUS = 0.05  # share of its hits that a cell rises to by the tail of its deficits
SURE = 15.0  # deviance of a cell's count beyond which its error is no accident, among any number of cells


@dataclass(frozen=True)
class Look:
    """What a sweep over samples saw.

    Attributes:
        heights: At which it looked.
        count: Samples in each cell, one row for each set of samples.
        value: The best scores of some of the samples, decreasing.
        index: The cells that they belong to.
        x: Those samples.
    """

    heights: Float[Tensor, " m"]
    count: Int[Tensor, "2 m"]
    value: Float[Tensor, "l k"]
    index: Int[Tensor, "l k"]
    x: Float[Tensor, "l d"]


def look(
    h: Float[Tensor, " m"], target: DiscreteMeasure, blocks: Iterable[tuple[int, Tensor]], n: int, detail: int, neighbours: int
) -> Look:
    """Assign n samples, in blocks of set 0 or 1, and keep the best scores of the last `detail` of them."""
    m, seen = len(target), 0
    count = torch.zeros(2, m, dtype=torch.int64, device=h.device)
    values, indices, samples = list[Tensor](), list[Tensor](), list[Tensor]()
    for half, block in blocks:
        plain = min(len(block), max(0, n - detail - seen))
        seen += len(block)
        if plain > 0:
            count[half] += torch.bincount(kernels.topk(block[:plain], target.points, h)[1][:, 0], minlength=m)
        if plain < len(block):
            samples.append(block[plain:])
            value, index = kernels.topk(samples[-1], target.points, h, k=min(neighbours, m))
            count[half] += torch.bincount(index[:, 0], minlength=m)
            values.append(value)
            indices.append(index)
    return Look(h, count, *(parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (values, indices, samples)))


def mean_gap(gaps: Float[Tensor, "2 m"]) -> Float[Tensor, " m"]:
    """Mean gap between best and second score in every cell, drawn to that of a typical cell where few samples were seen.

    Gaps may differ by many orders of magnitude from cell to cell, so all but the mean within a cell is done with logarithms.
    """
    count, total = gaps
    least = 1e-12 * total.sum() / count.sum()  # samples on a facet have no gap at all
    log = (total / count.clamp_min(1e-300)).clamp_min(least.clamp_min(1e-300)).log()
    trust = (count - 1).clamp_min(0) / (count + 1)  # one sample tells nothing: it may lie on a facet
    typical = trust @ log / trust.sum()
    return torch.lerp(typical.expand_as(log), log, trust).exp()


def pair_gap(index: Int[Tensor, "l k"], gap: Float[Tensor, " l"], usual: Float[Tensor, " m"]) -> Float[Tensor, " l"]:
    """For every sample the mean gap of the samples with the same two best cells, drawn to the usual one of these where few are.

    The facet between two cells whose targets nearly coincide is far stiffer than the others of the same cells.
    """
    if c := loops(gap):
        mean = torch.empty_like(gap)
        call(c.pair_means, *index.shape, index.contiguous(), gap.contiguous(), usual.contiguous(), mean)
        return mean
    pair, _ = index[:, :2].sort(dim=1)
    _, pair = torch.unique(pair[:, 0] * len(usual) + pair[:, 1], return_inverse=True)
    count = torch.bincount(pair)
    total = torch.zeros_like(count, dtype=gap.dtype).scatter_add_(0, pair, gap)
    return (total[pair] + usual[index[:, :2]].amin(1)) / (count[pair] + 1)


def smoothed_mass(
    seen: Look, target: DiscreteMeasure, soft: Float[Tensor, "l k"], smoothing: float
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Masses of the cells, and the noise Var(w_i) / nu_i of each.

    A hit is 0 or 1; a sample's soft hits, at temperature delta, say the same with far less noise and a bias of the order of
    delta. Where a cell should have few hits, b = n nu / (n nu + smoothing) is small and noise matters:
    w = b (share of hits) + (1 - b) (mean soft hit). A light cell between heavy ones has more soft hits than hits, so the soft
    hits are kept to what a cell's own hits do not contradict, and scaled to where light cells together have as many as hits.
    """
    nu, looked = target.weights, len(seen.value)
    n = int(seen.count.sum())
    b = n * nu / (n * nu + smoothing)
    hits = seen.count.sum(0).to(nu) / n
    mean_soft = add_up(seen.index, soft, torch.ones_like(nu), torch.zeros_like(nu))[0] / looked
    count = torch.bincount(seen.index[:, 0], minlength=len(nu)).to(nu)
    doubt = 3 * count.sqrt()
    mean_soft = mean_soft.clamp((count - doubt) / looked, (count + doubt + 3) / looked)
    believed = BELIEVED / n
    rest = (1 - b) * (((1 - b) @ hits + believed) / ((1 - b) @ mean_soft + believed))
    mass = b * hits + rest * mean_soft
    # a sample that is looked at adds t / looked, t = b (looked / n) [hit] + rest soft, one of the others b [hit] / n
    share = looked / n
    square = add_up(seen.index, soft, rest, share * b)[1] / looked
    mean = share * b * hits + rest * mean_soft
    variance = (square - mean.square()) / looked + b.square() * (hits - hits.square()) * (1 - share) / n
    return mass, variance / nu


def add_up(
    index: Int[Tensor, "l k"], soft: Float[Tensor, "l k"], of_soft: Float[Tensor, " m"], of_hit: Float[Tensor, " m"]
) -> Float[Tensor, "2 m"]:
    """Sum and sum of squares over the samples, for every cell, of t = of_soft (its soft hit) + of_hit [its hit]."""
    sums = of_soft.new_zeros(2, len(of_soft))
    if c := loops(soft):
        call(c.add_up, *index.shape, index.contiguous(), soft.contiguous(), of_soft.contiguous(), of_hit.contiguous(), *sums)
        return sums
    t = of_soft[index] * soft
    t[:, 0] += of_hit[index[:, 0]]
    return sums.scatter_add_(1, index.flatten().expand(2, -1), torch.stack([t.flatten(), t.flatten().square()]))


def kalman_gain(signal: float, expected: Float[Tensor, " m"], smoothing: float) -> Float[Tensor, " m"]:
    """By how much of what a batch says each cell is to move: signal / (signal + noise), for a chi^2 of `signal` before.

    The noise of a cell that many of n samples should hit is that of its hits, 1 / n. The soft hits of a lighter one have less,
    but a bias too, which no average takes away: it moves as if they had SOFT_NOISE / n.

    Args:
        signal: chi^2 of the present heights.
        expected: Hits that every cell should have, n nu.
        smoothing: As in `smoothed_mass`.
    """
    b = expected / (expected + smoothing)
    noise = torch.lerp(torch.full_like(b, SOFT_NOISE), torch.ones_like(b), b) * len(b) / expected.sum()
    return (signal / (signal + noise)).clamp_min(0.01)


def correct_overfull(
    residual: Float[Tensor, " m"], seen: Look, target: DiscreteMeasure, gain: Float[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """The masses that cells are to gain, but for light cells that certainly hold far more than their weight.

    The gain is right for the error of most cells. One with c hits where e = n nu_i were due is wrong beyond doubt once the
    `deviance` D is large: its own gain is 1 - SURE / D, and since masses of light cells grow exponentially with their heights,
    it is to lose w log(w / nu) of that in place of w - nu.
    """
    nu = target.weights
    count = seen.count.sum(0).to(nu)
    w = count / count.sum()
    own = 1 - SURE / deviance(count, count.sum() * nu).clamp_min(SURE)
    return torch.where((w > nu) & (own > gain), -own * torch.xlogy(w, w / nu), residual)


def deviance(count: Float[Tensor, " k"], due: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """How unlikely c hits are where e were due: 2 (c log(c / e) - c + e), about 1 where only chance is at work."""
    return 2 * (torch.xlogy(count, count / due.clamp_min(1e-300)) - count + due)


def typical_jump(direction: Float[Tensor, " m"], target: DiscreteMeasure, seen: Look, gap: Float[Tensor, " l"]) -> float:
    """How far a step moves facets, in units of how far from them the samples are.

    A sample changes its cell when the height difference of its two best cells changes by more than its gap; samples on a facet
    count by the mean gap beside it. Such a jump is 1 at most for 99 % of the samples and 1/3 for half of them when this is 1,
    both where all samples count the same and where all cells do.
    Neighbours may rise together as far as they like: only differences move facets.
    """
    own = (seen.value[:, 0] - seen.value[:, 1]).to(gap)
    first, second = seen.index[:, 0], seen.index[:, 1]
    apart = direction.index_select(0, first) - direction.index_select(0, second)
    jump, by_cell = apart.abs() / torch.maximum(gap, own), (1 / target.weights).index_select(0, first)
    return max(max(high, 3 * middle) for middle, high in quantiles(jump, by_cell))


def quantiles(value: Float[Tensor, " l"], weight: Float[Tensor, " l"]) -> list[list[float]]:
    """Median and 99 % quantile of values that are not negative, each counting the same, and by weight."""
    if c := loops(value):
        found, value, weight = value.new_empty(2, 2), value.contiguous(), weight.contiguous()
        call(c.quantiles, len(value), value, weight, found)
        return found.tolist()
    value, order = value.sort()
    share = torch.stack([torch.ones_like(weight), weight[order]]).cumsum(1)
    place = torch.searchsorted(share, share[:, -1:] * share.new_tensor([0.5, 0.99])).clamp_max(len(value) - 1)
    return value[place].tolist()


def raise_stranded(
    step: Float[Tensor, " m"],
    missed: Bool[Tensor, " m"],
    target: DiscreteMeasure,
    seen: Look,
    delta: float | None,
) -> Float[Tensor, " m"]:
    """Raise the cells that should have been hit by now and were not, until they would be.

    A cell without hits has no facets, so no Newton step sees it. Its deficits u(x) - h_i - <x, y_i> say how far it must rise to
    win samples, while the cells that have them now take their steps. No step raises it beyond 0.7 of the hits that it should
    have: the ridge of the Newton system knows nothing of how small a cell is. Where the next step looks at the same samples
    (delta is None) it rises as far as that.

    New samples are won by chance, and to win too many costs more than to win none. So it rises only to where it should win
    some, the larger of two guesses. One is where the blurred hits sum_x exp((h_i + <x, y_i> - u(x)) / delta) are half of those
    that it should have, the other half of a Sinkhorn iteration, on the side of the targets. The other takes the least deficits
    for the tail of an exponential law (Hill, 1975), and follows it to `CAUTIOUS` of those hits: further than the first where
    deficits fall off faster than by delta, as they do for light cells between heavy ones.
    """
    stranded, (rise, enough) = missed.nonzero()[:, 0], _rises(step, missed, target, seen)
    rises = enough
    if delta is not None:
        h, y, due = seen.heights[stranded], target.points[stranded], len(seen.x) * target.weights[stranded]
        captured = kernels.soft_potential(y, seen.x, -seen.value[:, 0], delta).to(step)
        blurred = delta * (0.5 * due).log() - captured - h
        scale = (rise[:, -1:] - rise).sum(1) / max(1, rise.shape[1] - 1)
        tail = rise[:, -1] + scale * (CAUTIOUS * due / rise.shape[1]).clamp_max(1).log()
        rises = torch.maximum(blurred, tail)
    return step.index_copy(0, stranded, torch.minimum(torch.maximum(step[stranded], rises), enough))


def hold_hidden(
    step: Float[Tensor, " m"], hidden: Bool[Tensor, " m"], target: DiscreteMeasure, seen: Look
) -> Float[Tensor, " m"]:
    """Take cells without hits down with the cells that hide them, so that none wins more than 0.7 of its hits.

    No Newton step sees them. Where a heavy cell of a narrow clump sinks, its light neighbours would win all that it had.
    """
    cells, (_, enough) = hidden.nonzero()[:, 0], _rises(step, hidden, target, seen)
    return step.index_copy(0, cells, torch.minimum(step[cells], enough))


def _rises(
    step: Float[Tensor, " m"], cells: Bool[Tensor, " m"], target: DiscreteMeasure, seen: Look
) -> tuple[Float[Tensor, "s k"], Float[Tensor, " s"]]:
    """By how much some cells must rise to win a sample, two, three and so on, while the others take their steps.

    Also returns for how much each wins 0.7 of the hits that it should have, one at least.
    """
    n = len(seen.x)
    due = (0.7 * n * target.weights[cells]).ceil().long().clamp(1, min(n, MOST_COUNTED))
    best, sample = kernels.topk(target.points[cells], seen.x, -seen.value[:, 0], min(n, MOST_COUNTED))
    rise = step[seen.index[sample, 0]] - best.to(step) - seen.heights[cells][:, None]  # the cell that it is won from rises too
    rise = rise.sort(dim=1).values
    return rise, rise.gather(1, due[:, None] - 1)[:, 0]


def lower_overfull(wrong: Bool[Tensor, " m"], target: DiscreteMeasure, seen: Look) -> Float[Tensor, " m"] | None:
    """Lower those of some cells that hold more than their due, to where each would keep only as many samples as that.

    It keeps those by which it is the best by most. None where no cell holds more, among the samples looked at.
    """
    due, first = len(seen.x) * target.weights, seen.index[:, 0]
    over = wrong & (torch.bincount(first, minlength=len(due)) > due)
    own = over.index_select(0, first).nonzero()[:, 0]
    if not len(own):
        return None
    margin, order = (seen.value[own, 0] - seen.value[own, 1]).to(due).sort(descending=True)
    cell, order = first[own[order]].sort(stable=True)
    margin = margin[order]
    cell, count = torch.unique_consecutive(cell, return_counts=True)
    kept = torch.minimum(due[cell].round().long(), count - 1)
    place = count.cumsum(0) - count + kept  # of the first that is given away
    above = torch.where(kept > 0, margin[(place - 1).clamp_min(0)], 2 * margin[place])
    return seen.heights.index_add(0, cell, -(margin[place] + above) / 2)
