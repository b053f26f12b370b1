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
        step: First step in units of (spread of the cost) (m batch)^(1/2); POT's own rule when 0, which has no unit of cost.
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
            "lr0": step * peer.unit * math.sqrt(len(y) * batch) if step else None,
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
    """Twelve settings. Batches of 32 lose least to statistics; larger ones take fewer steps in the same time."""
    small = [pot(step=step, batch=32, eps=eps) for step in (0.1, 0.3, 1.0, 3.0) for eps in (0.1, 1.0)]
    return small + [pot(step=step, batch=256, eps=eps) for step in (0.3, 1.0) for eps in (0.3, 1.0)]
