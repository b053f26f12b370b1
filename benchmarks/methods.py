"""Methods behind one call: a problem and a budget of CPU seconds in, heights and what they cost out.

A method of this library pays for its start, steps and bookkeeping, a peer for its solve alone. Imports and compilation are free
for all of them, and so is a peer's short run that tells how many steps fill the budget. Peers get the targets centred and
without repetitions, as this library makes them for itself.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

import sdot
from benchmarks.judge import Moment
from benchmarks.problems import Problem


class Failed(Exception):
    """A method ended without an answer."""


@dataclass(frozen=True)
class Outcome:
    heights: Tensor
    samples: int
    cpu: float
    wall: float


@dataclass(frozen=True)
class Method:
    """`run(problem, budget, seed)`; `settings` in words, scale-free where they are searched."""

    name: str
    settings: str
    run: Callable[[Problem, float, int], Outcome]


class Clock:
    """CPU and wall seconds since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.monotonic()

    @property
    def cpu(self) -> float:
        return time.process_time() - self._cpu

    @property
    def wall(self) -> float:
        return time.monotonic() - self._wall


def moments(problem: Problem, solver: sdot.Solver, seed: int, *, thin: float = 1.0) -> Iterator[Moment]:
    """The states of a solver of this library with what they had cost; each with `thin` times the samples of the one before.

    What the caller does between two of them is not counted.
    """
    cpu, wall, due, clock = 0.0, 0.0, 0.0, Clock()
    for state in sdot.iterate(problem.source, problem.target, solver, generator=Generator().manual_seed(seed)):
        if state.samples >= due:
            cpu, wall, due = cpu + clock.cpu, wall + clock.wall, thin * state.samples
            yield Moment(state.samples, cpu, wall, state.chi2, state.heights.clone())
            clock = Clock()


_warm = set[str]()  # names of problems


def warm_up(problem: Problem) -> None:
    """The first steps of this library on a problem load and compile what it needs; no run should pay for that."""
    if problem.name not in _warm:
        _warm.add(problem.name)
        states = sdot.iterate(problem.source, problem.target, generator=Generator().manual_seed(0))
        next(state for state in states if state.step == 10)


def iterated(name: str, solver: sdot.Solver) -> Method:
    """A solver of this library until the budget is spent."""

    def run(problem: Problem, budget: float, seed: int) -> Outcome:
        warm_up(problem)
        for now in moments(problem, solver, seed):
            if now.cpu >= budget:
                return Outcome(now.heights, now.samples, now.cpu, now.wall)
        raise AssertionError("iterate never ends")

    return Method(name, changed(solver), run)


def changed(solver: Any) -> str:
    """The settings of a solver that are not its defaults."""
    default, values = dataclasses.asdict(type(solver)()), dataclasses.asdict(solver)
    return ", ".join(f"{name} = {value:g}" for name, value in values.items() if value != default[name]) or "defaults"


def adam_grid() -> list[Method]:
    """AE-OT's Adam: its step and its first batch."""
    return [
        iterated("AE-OT Adam", sdot.Adam(lr=lr, samples_per_target=batch, patience=patience))
        for lr, batch, patience in (
            (0.001, 1.0, 30), (0.002, 1.0, 30), (0.005, 1.0, 30), (0.005, 1.0, 10), (0.005, 0.1, 30), (0.02, 1.0, 30),
        )
    ]  # fmt: skip


@dataclass(frozen=True)
class Peer:
    """What a peer is handed: distinct centred targets with their weights, and the unit of its cost |x - y|^2.

    Attributes:
        unit: Standard deviation of |x - y|^2 over the targets, the mean over x: scales steps.
        blur: unit / m^(1 / d), the order of the cost between neighbouring targets: scales temperatures.
    """

    problem: Problem
    points: Tensor
    weights: Tensor
    unit: float
    blur: float

    @property
    def effective(self) -> float:
        """1 / sum nu_i^2, in place of m where weights are uneven."""
        return 1 / float(self.weights.square().sum())

    @classmethod
    def of(cls, problem: Problem) -> Peer:
        target = problem.target.restrict(problem.target.support).centred()
        x = problem.source.sample(256, like=target.points, generator=Generator().manual_seed(0))
        cost = torch.cdist(x.double(), target.points.double()).square()
        mean = cost @ target.weights
        unit = float(((cost - mean[:, None]).square() @ target.weights).sqrt().mean())
        return cls(problem, target.points, target.weights, unit, unit / len(target) ** (1 / target.dim))

    def heights(self, potential: Tensor) -> Tensor:
        """Heights of the user's targets from a potential for |x - y|^2, which is twice ours: h = g / 2 - |y|^2 / 2."""
        if not potential.isfinite().all():
            raise Failed("its potential is not finite")
        h = potential.double() / 2 - self.points.double().square().sum(1) / 2
        full = torch.full_like(self.problem.target.weights, -torch.inf)
        return full.index_copy_(0, self.problem.target.support, h - self.weights @ h)

    def check(self, heights: Tensor, x: Tensor, cells: Tensor) -> None:
        """The peer's own assignment of samples must be the one that the heights give, but for rounding in its cost."""
        h = heights[self.problem.target.support]
        scores = x.double() @ self.points.double().T + h
        lost = scores.amax(1) - scores.gather(1, cells[:, None].long())[:, 0]
        size = float(x.double().square().sum(1).max() + self.points.double().square().sum(1).max() + h.abs().max())
        assert float(lost.max()) <= 1e-5 * size, f"the converted potential disagrees with the peer's assignment by {lost.max()}"


def filling(budget: float, seconds: Callable[[int], float], scores: int, power: float = 1.0) -> int:
    """Steps that fill a budget, from a run of a tenth of it: early steps may cost more or less than later ones.

    Args:
        budget: CPU seconds.
        seconds: What so many steps take.
        scores: Scores that a step computes, samples times targets; 200 million a second are a first guess.
        power: Seconds grow as this power of the steps.
    """
    steps = max(10, math.ceil(0.1 * budget * 2e8 / scores))
    while (spent := seconds(steps)) < 0.1 * budget:
        steps = math.ceil(steps * min(8.0, 0.15 * budget / max(spent, 1e-6)))
    return math.ceil(steps * (budget / spent) ** (1 / power))
