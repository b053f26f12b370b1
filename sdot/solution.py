"""The verb of the library: measures in, map out."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator
from tqdm import tqdm

from . import _checks, kernels
from .certificate import Certificate, certify
from .checkpoint import Checkpoint, Record, fingerprint, restore
from .maps import BrenierMap
from .measures import DiscreteMeasure, Draw, Source, check_same_space, draw_seed, first_of_equal, mix
from .solvers import Newton, Solver, State

CERTIFY, CENTRE = -1, -2  # keys of samples that belong to no step
FIRST = 4096  # samples that are looked at before a run


class ConvergenceWarning(UserWarning):
    """A solve ended before its tolerance; the message says how far it came and what to change."""


@dataclass(frozen=True, eq=False)
class Solution:
    """What `solve` returns.

    Attributes:
        map: The Brenier map, with the user's points in the user's order.
        certificate: chi^2 and more of that map on samples that no step has seen.
        history: A record a step.
        seconds: Wall time, earlier parts of a resumed run included.
        reason: Why it stopped: "tol", "max_samples", "max_seconds" or "diverged".
    """

    map: BrenierMap
    certificate: Certificate
    history: tuple[Record, ...] = field(repr=False)
    seconds: float
    reason: str

    @property
    def converged(self) -> bool:
        return self.reason == "tol"


def iterate(
    source: Source, target: DiscreteMeasure, solver: Solver | None = None, *, generator: Generator | None = None
) -> Iterator[State]:
    """The solver's states, one after each step, without end: the loop is yours.

    Args:
        source: The measure mu.
        target: The measure nu.
        solver: Settings of an algorithm; `Newton()` when left out.
        generator: Randomness: one seed is drawn from it, from which all samples follow.

    Yields:
        States. `heights` has one entry a target point, -inf where the weight is zero.
    """
    run = _Run(source, target, solver or Newton(), draw_seed(generator))
    state = run.start()
    while True:
        state = run.advance(state)
        yield State(heights=run.heights(state), step=state.step, samples=state.samples, chi2=state.chi2)


def solve(
    source: Source,
    target: DiscreteMeasure,
    solver: Solver | None = None,
    *,
    tol: float = 0.01,
    max_samples: int | None = None,
    max_seconds: float | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 30.0,
    generator: Generator | None = None,
) -> Solution:
    """Find the optimal map from a source onto a target, and certify it.

    Args:
        source: The measure mu.
        target: The measure nu.
        solver: Settings of an algorithm; `Newton()` when left out.
        tol: Wanted chi^2 = sum_i (w_i - nu_i)^2 / nu_i of the cell masses w. The run ends once it is certified on fresh
            samples, its standard error included. The mass that goes to wrong targets is at most tol^(1/2) / 2.
        max_samples: Budget of source samples; 30 times the (m - 1) / tol that the best method needs when left out.
        max_seconds: Budget of wall time, looked at between steps.
        progress: Show the error falling toward the tolerance, on standard error.
        checkpoint: File to continue from if it exists, and to keep the run in. A run that is killed and started again ends
            with the same heights to the last bit.
        checkpoint_every: Seconds between two writes.
        generator: Randomness: one seed is drawn from it, from which all samples follow.

    Returns:
        The map and its certificate. Where a budget ended the run first, a `ConvergenceWarning` says so.

    Raises:
        ValueError: Measures of different spaces, a sampler that misbehaves, a checkpoint of other data, bad budgets.
    """
    _checks.positive("tol", tol)
    budget = _checks.count("max_samples", int(30 * max(len(target), 1000) / tol) if max_samples is None else max_samples)
    patience = _checks.positive("max_seconds", max_seconds) if max_seconds is not None else math.inf
    run = _Run(source, target, solver or Newton(), draw_seed(generator))
    file = Checkpoint(checkpoint, fingerprint(source, target, run.solver) if checkpoint is not None else {})
    refused, history = 0, list[Record]()  # how long the history was when a certificate was refused
    if (saved := file.read()) is not None:
        values, run.seed, refused, history = saved
        state = restore(run.start(), values)
    else:
        state = run.start()
    started = time.monotonic() - (history[-1].seconds if history else 0.0)
    written = time.monotonic()
    bar = _Bar(tol) if progress else None
    try:
        while True:
            seconds = time.monotonic() - started
            if bar:
                bar.show(state)
            if state.chi2 <= tol and (not refused or _better(state, history[refused - 1])):
                certificate = run.certify(state, tol / 10)
                if certificate.chi2 + certificate.chi2_error <= tol:  # not by luck
                    reason, chosen = "tol", state
                    break
                refused = len(history)
            over = "max_samples" if state.samples >= budget else "max_seconds" if seconds >= patience else None
            try:
                new = None if over else run.advance(state)
            except FloatingPointError:
                over, new = "diverged", None
            if new is None:
                reason, chosen, certificate = over or "", state, run.certify(state, tol / 10)
                if certificate.chi2 > tol and state.before is not None:
                    earlier = replace(state, heights=state.before)
                    other = run.certify(earlier, tol / 10)
                    chosen, certificate = (earlier, other) if other.chi2 < certificate.chi2 else (chosen, certificate)
                break
            state = new
            history.append(Record(state.step, state.samples, time.monotonic() - started, state.chi2))
            if time.monotonic() - written >= checkpoint_every:
                file.write(state, run.seed, refused, history)
                written = time.monotonic()
    except KeyboardInterrupt:
        file.write(state, run.seed, refused, history)
        raise
    finally:
        if bar:
            bar.close()
    file.write(state, run.seed, refused, history)
    solution = Solution(
        run.map(chosen), certificate, tuple(history), time.monotonic() - started, "tol" if certificate.chi2 <= tol else reason
    )
    if not solution.converged:
        warnings.warn(_advice(solution, run.values, tol, budget, patience), ConvergenceWarning, stacklevel=2)
    return solution


def _better(state: State, refused: Record) -> bool:
    """Whether the heights are worth another certificate after one that was refused."""
    return state.samples >= refused.samples + refused.samples // 8 or state.chi2 <= 0.95 * refused.chi2


def _advice(solution: Solution, values: int, tol: float, budget: int, patience: float) -> str:
    c, samples = solution.certificate, solution.history[-1].samples if solution.history else 0
    head = f"chi2 = {c.chi2:.3g} +- {c.chi2_error:.1g} was reached, tol = {tol:.3g} was wanted"
    if values <= FIRST // 2:
        return (
            f"{head}: the source has atoms ({values:,} distinct values among {FIRST:,} samples), and what lies on one point "
            f"cannot be shared among targets. Raise tol, or let the sampler add a little noise."
        )
    if solution.reason == "diverged":
        return f"{head}: a step gave heights that are not numbers; rescale the points or use a smaller step."
    spent = f"max_samples = {budget:,}" if solution.reason == "max_samples" else f"max_seconds = {patience:g}"
    return (
        f"{head}: {spent} ended the run after {samples:,} samples and {solution.seconds:.0f} s. Raise it, raise tol, or "
        f"continue with checkpoint=."
    )


class _Run:
    """A problem in coordinates of its own, and a solver walking on it.

    Targets without weight are left out, and source and targets are centred: far from the origin scores would lose their
    digits, and solvers need not know where the origin is. Moving the targets leaves the heights; moving the source by b
    changes h_i by -<b, y_i>.
    """

    def __init__(self, source: Source, target: DiscreteMeasure, solver: Solver, seed: int) -> None:
        check_same_space(source, target)
        if not isinstance(solver, Solver):
            raise ValueError(f"solver must have `init` and `step`, such as sdot.Newton(), but {solver!r} came.")
        self.source, self.user_target, self.solver, self.seed = source, target, solver, seed
        self.support = target.support
        self.like = target.points
        self.target = target.restrict(self.support).to(kernels.precise(self.like).dtype).centred()

    def start(self) -> Any:
        (x,) = Draw(self.source, self.like, self.seed, CENTRE)(FIRST)
        self.centre = x.mean(0).to(self.target.points)  # any point will do: a better one saves digits, no more
        self.values = int((first_of_equal(x) == torch.arange(len(x), device=x.device)).sum())
        draw = self._draw(0)
        state = self.solver.init(self.target, draw)
        return replace(state, samples=draw.count)

    def advance(self, state: Any) -> Any:
        draw = self._draw(state.step + 1)
        with torch.no_grad():
            new = self.solver.step(state, self.target, draw)
        if not torch.isfinite(new.heights).all():
            raise FloatingPointError(f"step {state.step + 1} of {self.solver!r} gave heights that are not numbers.")
        return replace(new, step=state.step + 1, samples=state.samples + draw.count)

    def heights(self, state: Any) -> torch.Tensor:
        """Heights in the user's coordinates and order, -inf where there is no weight."""
        h = state.heights - self.target.points.to(state.heights.dtype) @ self.centre.to(state.heights.dtype)
        full = torch.full_like(self.user_target.weights, -torch.inf)
        return full.index_copy_(0, self.support, h - self.target.weights @ h)

    def map(self, state: Any) -> BrenierMap:
        return BrenierMap(self.user_target.points, self.heights(state))

    def certify(self, state: Any, precision: float) -> Certificate:
        """The certificate's samples are keyed as the solver's are, so that a resumed run judges alike."""
        generator = Generator("cpu").manual_seed(mix(self.seed, CERTIFY, state.step))
        return certify(self.map(state), self.source, self.user_target, precision=precision, generator=generator)

    def _draw(self, step: int) -> Draw:
        return Draw(self.source, self.like, self.seed, step, self.centre)


class _Bar:
    """The error, falling toward the tolerance on a logarithmic scale."""

    def __init__(self, tol: float) -> None:
        self.tol, self.worst = tol, 1.0
        self.bar = tqdm(total=100, bar_format="{desc} |{bar}| {elapsed}")

    def show(self, state: State) -> None:
        if math.isinf(state.chi2):
            self.bar.set_description_str(f"starting up, {state.samples:,} samples")
            return
        chi2 = max(state.chi2, 1e-12)
        self.worst = max(self.worst, chi2, 2 * self.tol)
        self.bar.n = round(100 * min(1.0, math.log(self.worst / chi2) / math.log(self.worst / self.tol)))
        self.bar.set_description_str(f"chi2 {chi2:.2g} -> {self.tol:.2g}, {state.samples:,} samples")

    def close(self) -> None:
        self.bar.close()
