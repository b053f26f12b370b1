"""What a solver is: settings, and two methods that take a state to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import kernels
from ..measures import DiscreteMeasure, Draw
from ..semidual import chi2


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a solver stands. Solvers add fields of their own: tensors, numbers and strings, which checkpoints keep.

    Attributes:
        heights: The current answer h, shape (m,), float64, of weighted mean zero.
        step: Steps taken.
        samples: Source samples drawn.
        chi2: The solver's estimate of chi^2 at these heights; infinite before there is one.
        before: The heights before the last step, to fall back on should that have been a bad one.
    """

    heights: Float[Tensor, " m"]
    step: int = 0
    samples: int = 0
    chi2: float = float("inf")
    before: Float[Tensor, " m"] | None = None


@runtime_checkable
class Solver(Protocol):
    """A frozen dataclass of settings with these two methods; adding a solver is adding a file.

    `draw(n)` yields blocks of source samples, n in all. Everything random comes from it, so that a state and its step number
    fix the next state. Every target has positive weight and no two coincide: `iterate` sees to that.
    """

    def init(self, target: DiscreteMeasure, draw: Draw) -> Any: ...

    def step(self, state: Any, target: DiscreteMeasure, draw: Draw) -> Any: ...


def centre(h: Float[Tensor, " m"], target: DiscreteMeasure) -> Float[Tensor, " m"]:
    """Heights are defined up to a constant: the one of weighted mean zero."""
    return h - target.weights @ h


def count_cells(h: Float[Tensor, " m"], target: DiscreteMeasure, draw: Draw, n: int) -> tuple[Int[Tensor, " m"], float]:
    """How many of n fresh samples fall in each power cell, and the mean of u_h over them."""
    count, value = torch.zeros(len(target), dtype=torch.int64, device=h.device), 0.0
    for x in draw(n):
        best, index = kernels.topk(x, target.points, h)
        count += torch.bincount(index[:, 0], minlength=len(target))
        value += float(best.to(h.dtype).sum())
    return count, value / n


def batch_chi2(count: Int[Tensor, " m"], target: DiscreteMeasure) -> float:
    """Unbiased chi^2 at the heights that were counted."""
    return float(chi2(count.to(target.weights.dtype), target.weights))


def score_spread(target: DiscreteMeasure, draw: Draw, n: int = 256) -> float:
    """Mean over x of the standard deviation of <x, y> for y ~ nu: the unit of heights and temperatures."""
    (x,) = draw(n)
    nu, y = target.weights, target.points.to(target.weights.dtype)
    centred = y - nu @ y
    covariance = (centred * nu[:, None]).T @ centred
    x = x.to(nu.dtype)
    return float(torch.einsum("nd,de,ne->n", x, covariance, x).clamp_min(0).sqrt().mean())
