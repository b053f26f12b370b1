"""Projected averaged stochastic gradient, with a temperature that may fall: ASGD and DRAG."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from .. import kernels
from ..measures import DiscreteMeasure, Draw
from .base import State, batch_chi2, centre, count_cells, score_spread


@dataclass(frozen=True, kw_only=True)
class AveragedState(State):
    """`heights` is the average; `last` the iterate it averages, `bound` the box it is kept in."""

    last: Float[Tensor, " m"]
    bound: Float[Tensor, " m"]
    unit: float = 1.0
    check: int = 0


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """Averaged stochastic gradient on the semi-dual.

    h <- P(h - lr_t (p_eps(h) - nu)), lr_t = lr t^-b, eps_t = eps t^-a, and the answer is the average of the iterates, later
    ones weighing more. P clips the heights to a box that contains the optimum. Sources: Genevay, Cuturi, Peyre, Bach, NeurIPS
    2016 (eps fixed or zero); Genans, Godichon-Baggioni, Vialard, Wintenberger, NeurIPS 2025 (projection, falling eps: DRAG).

    Attributes:
        lr: First step, in units of (spread of the scores) * sqrt(m * batch_size).
        lr_decay: b.
        batch_size: Samples a step.
        eps: First temperature, in units of the spread of the scores; 0 takes the hard gradient throughout.
        eps_decay: a; 0 keeps the temperature and so solves the entropic problem.
        average_power: The iterate of step t weighs t^average_power; 0 is the plain mean.
        check_every: Samples between two measurements of chi^2 at the average, in units of the samples drawn so far.
    """

    lr: float = 0.5
    lr_decay: float = 2 / 3
    batch_size: int = 256
    eps: float = 0.1
    eps_decay: float = 0.5
    average_power: float = 2.0
    check_every: float = 0.25

    def init(self, target: DiscreteMeasure, draw: Draw) -> AveragedState:
        zero = torch.zeros_like(target.weights)
        unit, radius = score_spread(target, draw), 0.0
        for x in draw(4096):
            radius = max(radius, float(x.norm(dim=1).max()))
        return AveragedState(heights=zero, last=zero, unit=unit, bound=height_bound(target, radius))

    def step(self, state: AveragedState, target: DiscreteMeasure, draw: Draw) -> AveragedState:
        t = state.step + 1
        eps = self.eps * state.unit * t**-self.eps_decay
        p = torch.zeros_like(state.last)
        for x in draw(self.batch_size):
            p += self._masses(x, target, state.last, eps) * (x.shape[0] / self.batch_size)
        lr = self.lr * state.unit * math.sqrt(len(target) * self.batch_size) * t**-self.lr_decay
        last = centre(state.last - lr * (p - target.weights), target).clamp(-state.bound, state.bound)
        share = (self.average_power + 1) / (self.average_power + t)
        new = replace(state, last=last, heights=centre(state.heights + share * (last - state.heights), target))
        return self._measure(new, target, draw) if state.samples + draw.count >= state.check else new

    def _masses(self, x: Tensor, target: DiscreteMeasure, h: Tensor, eps: float) -> Tensor:
        if eps > 0:
            return kernels.soft_mass(x, target.points, h, eps).to(h.dtype)
        index = kernels.topk(x, target.points, h)[1][:, 0]
        return torch.bincount(index, minlength=len(target)) / x.shape[0]

    def _measure(self, state: AveragedState, target: DiscreteMeasure, draw: Draw) -> AveragedState:
        """The gradient is taken at the iterate, so chi^2 at the average costs samples of its own."""
        drawn = state.samples + draw.count
        n = max(1024, min(len(target), drawn // 10))
        estimate = batch_chi2(count_cells(state.heights, target, draw, n)[0], target)
        return replace(state, chi2=estimate, check=int((1 + self.check_every) * drawn) + n)


def height_bound(target: DiscreteMeasure, radius: float) -> Float[Tensor, " m"]:
    """A box for the optimal heights of weighted mean zero when |x| <= radius.

    |h_i - h_j| <= radius |y_i - y_j|, hence |h_i| <= radius sum_j nu_j |y_i - y_j| <= radius (|y_i - ybar|^2 + tr C)^(1/2).
    """
    nu, y = target.weights, target.points.to(target.weights.dtype)
    distance = (y - nu @ y).square().sum(1)
    return radius * (distance + nu @ distance).sqrt()
