"""Methods by name: each takes a problem and a budget of CPU seconds, and returns heights and the samples that they cost."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

import sdot

from .problems import Problem


@dataclass(frozen=True)
class Outcome:
    heights: Tensor
    samples: int


Method = Callable[[Problem, float, int], Outcome]


def iterated(solver: sdot.Solver) -> Method:
    """A solver of this library until the budget is spent."""

    def run(problem: Problem, budget: float, seed: int) -> Outcome:
        end = time.process_time() + budget
        for state in sdot.iterate(problem.source, problem.target, solver, generator=Generator().manual_seed(seed)):
            if time.process_time() >= end:
                return Outcome(state.heights, state.samples)
        raise AssertionError("iterate never ends")

    return run


def pot(
    lr0: float | None = None, batch_size: int = 32, eps: float = 0.1, max_iter: int | None = None, torch_backend: bool = False
) -> Method:
    """POT's averaged stochastic gradient (DRAG). Steps are chosen to fill the budget, after 30 that tell their price.

    Args:
        lr0: First step; POT's default sqrt(m batch_size) when None.
        batch_size: Samples a step.
        eps: First temperature, in the units of |x - y|^2.
        max_iter: Steps, whatever the budget.
        torch_backend: Hand it tensors instead of arrays.
    """

    def run(problem: Problem, budget: float, seed: int) -> Outcome:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ot.semidiscrete import solve_semidiscrete
        y, nu, g = problem.target.points, problem.target.weights.to(problem.target.points), Generator().manual_seed(seed)

        def sampler(n: int) -> Tensor | np.ndarray:
            x = problem.source.sample(n, like=y, generator=g)
            return x if torch_backend else x.numpy()

        arrays = (y, nu) if torch_backend else (y.numpy(), nu.numpy())
        options = {"lr0": lr0, "batch_size": batch_size, "decreasing_reg_initial_eps": eps}

        def solve(steps: int) -> np.ndarray | Tensor:
            return solve_semidiscrete(arrays[0], sampler, arrays[1], max_iter=steps, **options)

        start = time.process_time()
        solve(30)
        steps = max_iter or max(30, int(30 * budget / (time.process_time() - start)))
        potential = torch.as_tensor(solve(steps), dtype=torch.float64)
        return Outcome(from_pot(potential, y), steps * batch_size)

    return run


def from_pot(potential: Tensor, y: Tensor) -> Tensor:
    """POT's potential is for the cost |x - y|^2, twice ours: h = g / 2 - |y|^2 / 2."""
    return potential / 2 - y.double().square().sum(1) / 2


def pot_grid(problem: Problem) -> Iterator[tuple[str, Method]]:
    """The settings that are searched: step and temperature around the scale of the problem, batches small and large."""
    m = len(problem.target)
    x = problem.source.sample(256, like=problem.target.points, generator=Generator().manual_seed(0))
    spread = float(torch.cdist(x, problem.target.points).square().std(1).mean())
    for rate, batch, eps in itertools.product((0.1, 1.0), (64, 512), (0.01, 0.1)):
        name = f"lr0 = {rate:g} s sqrt(m B), B = {batch}, eps0 = {eps:g} s"
        yield name, pot(rate * spread * math.sqrt(m * batch), batch, eps * spread)


METHODS: dict[str, Method] = {
    "sdot Newton": iterated(sdot.Newton()),
    "sdot Averaged": iterated(sdot.Averaged()),
    "sdot Adam (AE-OT)": iterated(sdot.Adam()),
    "POT defaults": pot(max_iter=10_000),
}
