"""Clusters of targets that as a whole certainly lack mass are lifted as a whole.

A step closes the part of what every cell lacks that the evidence of all cells together allows. For a light cluster far from
the others that is slow: each of its cells expects next to nothing of a batch, and only all of them together show that it is
empty. Sums over the cluster do show it, and the samples say by how much it must rise.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import kernels
from ..measures import DiscreteMeasure
from .evidence import SURE, Look, deviance

MOST = 64  # clusters
FEWEST = 8  # targets in one, on average
SEEDED = 10_000  # targets that the clusters are found from
ROUNDS = 3  # of Lloyd's iteration
LACKING = 0.5  # of its weight: what a cluster holds less of is not a matter of a few steps
PART = 0.5  # of what it lacks is what it is lifted to: its cells share that badly at first


def clusters(target: DiscreteMeasure) -> Int[Tensor, " m"]:
    """The cluster of every target: Lloyd's iteration, from points each farthest from those before it (Gonzalez, 1985)."""
    m = len(target)
    y = target.points[:: math.ceil(m / SEEDED)]
    square = y.square().sum(1)
    nearest, seeds = torch.full_like(square, math.inf), [square.argmin()]
    for _ in range(min(MOST, m // FEWEST) - 1):
        last = seeds[-1]
        nearest = torch.minimum(nearest, square + square[last] - 2 * (y @ y[last]))
        seeds.append(nearest.argmax())
    centres = y[torch.stack(seeds)]
    for _ in range(ROUNDS):
        label = _nearest(y, centres)
        size = torch.bincount(label, minlength=len(centres))[:, None]
        centres = torch.where(size > 0, torch.zeros_like(centres).index_add_(0, label, y) / size.clamp_min(1), centres)
    return _nearest(target.points, centres)


def lift_clusters(
    step: Float[Tensor, " m"], cluster: Int[Tensor, " m"], seen: Look, target: DiscreteMeasure
) -> Float[Tensor, " m"]:
    """Beside the step, lift clusters of far too little mass to where they win half of the samples that they lack.

    A cluster has c samples of e that were due. Where c < e / 2 beyond any chance (`evidence.SURE`), all of its cells rise by
    the k-th smallest of the deficits u(x) - max_i (h_i + <x, y_i>), i in the cluster, of the samples in other cells, k as many
    as it is to win.
    """
    h, n, looked, first = seen.heights, int(seen.count.sum()), len(seen.x), seen.index[:, 0]
    due = torch.zeros(MOST, dtype=h.dtype, device=h.device).index_add_(0, cluster, n * target.weights)
    count = torch.zeros_like(due).index_add_(0, cluster, seen.count.sum(0).to(due))
    for k in ((count < LACKING * due) & (deviance(count, due) > SURE)).nonzero()[:, 0].tolist():
        inside = cluster == k
        best, _ = kernels.topk(seen.x, target.points[inside], (h + step)[inside])
        above = seen.value[:, 0].to(h) + step.index_select(0, first) - best[:, 0]
        deficit = torch.where(inside.index_select(0, first), math.inf, above)
        wins = math.ceil(PART * float(due[k] - count[k]) * looked / n)
        lift = float(deficit.kthvalue(min(wins, looked)).values)
        if 0 < lift < math.inf:
            step = torch.where(inside, step + lift, step)
    return step


def _nearest(x: Float[Tensor, "n d"], centres: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    return kernels.topk(x, centres, -0.5 * centres.double().square().sum(1))[1][:, 0]
