"""POT's `ot.semidiscrete` (Flamary et al., JMLR 2021): averaged stochastic gradient with a falling temperature, DRAG."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Generator

from benchmarks.methods import Clock, Method, Outcome, Peer, filling
from benchmarks.problems import Problem


def pot(*, step: float = 0.0, batch: int = 32, eps: float = 0.0) -> Method:
    """Its solver in its published form, on arrays in single precision, the fastest of its backends on a CPU.

    Args:
        step: First step in units of (spread of the cost) (m batch)^(1/2), where m = 1 / sum nu_i^2 counts uneven weights;
            POT's own rule when 0, which knows no unit of cost.
        batch: Samples a step.
        eps: First temperature in units of (spread of the cost) / m^(1 / d); POT's own 0.1 when 0.
    """

    def run(problem: Problem, budget: float, seed: int) -> Outcome:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ot.semidiscrete import semidiscrete_atom_weights, solve_semidiscrete
        peer, g = Peer.of(problem), Generator().manual_seed(seed)
        y, nu = peer.points.numpy(), peer.weights.to(peer.points).numpy()

        def sampler(n: int) -> np.ndarray:
            return problem.source.sample(n, like=peer.points, generator=g).numpy()

        options = {
            "batch_size": batch,
            "lr0": step * peer.unit * math.sqrt(peer.effective * batch) if step else None,
            "decreasing_reg_initial_eps": eps * peer.blur if eps else 0.1,
        }

        def solve(steps: int) -> tuple[np.ndarray, float, float]:
            clock = Clock()
            potential = solve_semidiscrete(y, sampler, nu, max_iter=steps, **options)
            return potential, clock.cpu, clock.wall

        steps = filling(budget, lambda steps: solve(steps)[1], batch * len(y))
        potential, cpu, wall = solve(steps)
        heights = peer.heights(torch.from_numpy(potential))
        x = sampler(256)
        own = semidiscrete_atom_weights(y, x, potential).argmax(1)
        peer.check(heights, torch.from_numpy(x), torch.from_numpy(own))
        return Outcome(heights, steps * batch, cpu, wall)

    return Method("POT", f"step {step:g}, batch {batch}, eps {eps:g}" if step else "defaults", run)


def grid() -> list[Method]:
    """Twelve settings. Short steps and low temperatures suit uneven weights, long and high ones many dimensions."""
    batch_32 = ((0.03, 0.1), (0.1, 0.1), (0.3, 0.1), (0.3, 0.3), (0.3, 1), (0.3, 3), (1, 0.3), (1, 1), (1, 3), (3, 1))
    return [pot(step=step, batch=32, eps=eps) for step, eps in batch_32] + [
        pot(step=step, batch=256, eps=eps) for step, eps in ((0.3, 0.5), (1, 1))
    ]
