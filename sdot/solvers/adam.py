"""Adam on Monte-Carlo gradients with sample doubling: the algorithm of AE-OT."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..measures import DiscreteMeasure, Draw
from .base import State, batch_chi2, centre, count_cells, score_spread


@dataclass(frozen=True, kw_only=True)
class AdamState(State):
    """Moments of the gradient, the present number of samples and the best energy seen with it."""

    mean: Float[Tensor, " m"]
    square: Float[Tensor, " m"]
    unit: float = 1.0
    batch: int = 0
    best: float = math.inf
    stalled: int = 0


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma and Ba, 2015) on the semi-dual, as published for AE-OT (An et al., ICLR 2020, Algorithm 1).

    Every step draws fresh samples, centres the gradient w_hat - nu and takes an Adam step; when the energy has not fallen
    for `patience` steps the number of samples doubles.

    Attributes:
        lr: Step size, in units of the spread of the scores <x, y_i>, so that it does not depend on the data's scale.
        betas: Decay of the first and second moment.
        adam_eps: Added to the root of the second moment, in units of 1 / m.
        samples_per_target: First number of samples a step, per target.
        patience: Steps without a lower energy after which the number of samples doubles.
        max_samples_per_target: Where the doubling stops.
    """

    lr: float = 0.005
    betas: tuple[float, float] = (0.9, 0.5)
    adam_eps: float = 1e-3
    samples_per_target: float = 1.0
    patience: int = 30
    max_samples_per_target: float = 1024.0

    def init(self, target: DiscreteMeasure, draw: Draw) -> AdamState:
        zero = torch.zeros_like(target.weights)
        unit = score_spread(target, draw)
        batch = max(256, math.ceil(self.samples_per_target * len(target)))
        return AdamState(heights=zero, mean=zero, square=zero, unit=unit, batch=batch)

    def step(self, state: AdamState, target: DiscreteMeasure, draw: Draw) -> AdamState:
        count, value = count_cells(state.heights, target, draw, state.batch)
        energy = value - float(target.weights @ state.heights)
        gradient = count / state.batch - target.weights
        gradient = gradient - gradient.mean()
        (b1, b2), t = self.betas, state.step + 1
        mean = b1 * state.mean + (1 - b1) * gradient
        square = b2 * state.square + (1 - b2) * gradient.square()
        direction = (mean / (1 - b1**t)) / ((square / (1 - b2**t)).sqrt() + self.adam_eps / len(target))
        stalled = 0 if energy < state.best else state.stalled + 1
        double = stalled >= self.patience and state.batch < self.max_samples_per_target * len(target)
        estimate = batch_chi2(count, target)
        return replace(
            state,
            heights=centre(state.heights - self.lr * state.unit * direction, target),
            chi2=estimate if math.isinf(state.chi2) else 0.9 * state.chi2 + 0.1 * estimate,
            mean=mean,
            square=square,
            batch=2 * state.batch if double else state.batch,
            best=math.inf if double else min(energy, state.best),
            stalled=0 if double else stalled,
        )
