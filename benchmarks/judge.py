"""One judge for all: chi^2 of a method's heights on samples that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator, Tensor

import sdot
from benchmarks.problems import Problem


@dataclass(frozen=True)
class Verdict:
    """`empty` cells were not hit by any of `samples`; chance alone would leave `empty_expected` of them."""

    chi2: float
    error: float
    empty: int
    empty_expected: float
    samples: int

    def eta(self, m: int, samples: int) -> float:
        """Sample efficiency (m - 1) / (n chi^2) of a method that drew n samples; chi^2 is no less than its error."""
        return (m - 1) / (samples * max(self.chi2, self.error))

    def __str__(self) -> str:
        return f"chi2 {self.chi2:.5f} +- {self.error:.5f}, {self.empty} empty"


def judge(problem: Problem, heights: Tensor, precision: float, *, relative: float = 0.03, seed: int = 0) -> Verdict:
    """Certificates on fresh samples until the standard error of their mean is below `precision`, or 3 % of chi^2 if more.

    One certificate ends at a tenth of chi^2, so it takes several to be more precise than that.
    """
    T = sdot.BrenierMap(problem.target.points, heights.to(problem.target.weights))
    parts = list[sdot.Certificate]()
    while True:
        generator = Generator().manual_seed(10**6 + 1000 * seed + len(parts))
        parts.append(sdot.certify(T, problem.source, problem.target, precision=precision, generator=generator))
        n = sum(c.samples for c in parts)
        chi2 = sum(c.samples * c.chi2 for c in parts) / n
        error = math.sqrt(sum((c.samples * c.chi2_error) ** 2 for c in parts)) / n
        if not error > max(precision, relative * chi2) or len(parts) == 100:
            break
    last = max(parts, key=lambda c: c.samples)
    return Verdict(chi2, error, last.empty_cells, last.empty_expected, n)


@dataclass(frozen=True)
class Moment:
    """Where a run stood: what it had spent, its own estimate of chi^2, and its heights."""

    samples: int
    cpu: float
    wall: float
    own: float
    heights: Tensor


def first_to_meet(problem: Problem, trace: Sequence[Moment], tol: float, *, seed: int = 0) -> tuple[Moment, Verdict] | None:
    """The first moment of a run with chi^2 <= tol, found by bisection: chi^2 falls as a run goes on. None if the last fails."""
    verdicts = dict[int, Verdict]()

    def met(k: int) -> bool:
        verdicts[k] = judge(problem, trace[k].heights, tol / 20, seed=seed)
        return verdicts[k].chi2 <= tol

    if not trace or not met(len(trace) - 1):
        return None
    low, high = -1, len(trace) - 1  # trace[low] fails, trace[high] meets
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if met(middle) else (middle, high)
    return trace[high], verdicts[high]
