"""POT's `ot.semidiscrete` (Flamary et al., JMLR 2021): averaged stochastic gradient with a falling temperature, DRAG."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.methods import Clock, Method, Outcome, Peer, filling
from benchmarks.problems import Problem


def pot(*, step: float = 0.0, batch: int = 32, eps: float = 0.0, backend: str = "numpy") -> Method:
    """Its solver in its published form, in single precision.

    Args:
        step: First step in units of (spread of the cost) (m batch)^(1/2), where m = 1 / sum nu_i^2 counts uneven weights;
            POT's own rule when 0, which knows no unit of cost.
        batch: Samples a step.
        eps: First temperature in units of (spread of the cost) / m^(1 / d); POT's own 0.1 when 0.
        backend: Whether the points are arrays ("numpy") or tensors ("torch").
    """
    native: Callable[[Tensor], Any] = Tensor.numpy if backend == "numpy" else Tensor.clone

    def run(problem: Problem, budget: float, seed: int) -> Outcome:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ot.semidiscrete import semidiscrete_atom_weights, solve_semidiscrete
        peer, g = Peer.of(problem), Generator().manual_seed(seed)
        y, nu = native(peer.points), native(peer.weights.to(peer.points))

        def sampler(n: int) -> Any:
            return native(problem.source.sample(n, like=peer.points, generator=g))

        options = {
            "batch_size": batch,
            "lr0": step * peer.unit * math.sqrt(peer.effective * batch) if step else None,
            "decreasing_reg_initial_eps": eps * peer.blur if eps else 0.1,
        }

        def solve(steps: int) -> tuple[Any, float, float]:
            clock = Clock()
            potential = solve_semidiscrete(y, sampler, nu, max_iter=steps, **options)
            return potential, clock.cpu, clock.wall

        steps = filling(budget, lambda steps: solve(steps)[1], batch * len(y))
        potential, cpu, wall = solve(steps)
        heights = peer.heights(torch.as_tensor(potential))
        x = sampler(256)
        own = semidiscrete_atom_weights(y, x, potential).argmax(1)
        peer.check(heights, torch.as_tensor(x), torch.as_tensor(own))
        return Outcome(heights, steps * batch, cpu, wall)

    return Method(
        "POT" if backend == "numpy" else "POT, torch", f"step {step:g}, batch {batch}, eps {eps:g}" if step else "defaults", run
    )


def grid(backend: str = "numpy") -> list[Method]:
    """Twelve settings. Short steps and low temperatures suit uneven weights, long and high ones many dimensions."""
    batch_32 = ((0.03, 0.1), (0.1, 0.1), (0.3, 0.1), (0.3, 0.3), (0.3, 1), (0.3, 3), (1, 0.3), (1, 1), (1, 3), (3, 1))
    return [pot(step=step, batch=32, eps=eps, backend=backend) for step, eps in batch_32] + [
        pot(step=step, batch=256, eps=eps, backend=backend) for step, eps in ((0.3, 0.5), (1, 1))
    ]


def warmer() -> list[Method]:
    """Six more, with the temperatures that suit the plane."""
    return [pot(step=step, eps=eps) for step in (0.3, 1, 3) for eps in (10, 30)]
