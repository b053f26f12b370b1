"""How time and memory of a solve grow with the number of targets, and what share of the time is not the kernels'.

python -m benchmarks.scaling                     m = 1,000 to 200,000 in d = 16 and 64 to chi2 = 0.05: an hour on one core
python -m benchmarks.scaling --most 20000        to m = 20,000: five minutes
python -m benchmarks.scaling --million           m = 1,000,000 in d = 16 to chi2 = 0.1: a day on one core, take --threads

The rest is what is neither spent in a function of sdot.kernels nor in drawing samples: Hessian, linear solve, bookkeeping.
Neither the certificate nor what the first steps in a process load is counted. Started again, it goes on where it was stopped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from torch import Generator

import sdot
from benchmarks import command, methods, record
from benchmarks.judge import judge
from benchmarks.problems import Problem, find, make
from benchmarks.record import Row, Table

SIZES = (1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)
FAMILIES = ("latent-16", "latent-64")


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--families", nargs="+", default=FAMILIES, help="families of problems (%(default)s)")
    parser.add_argument("--most", type=int, default=SIZES[-1], help="largest m (%(default)s)")
    parser.add_argument("--tol", type=float, help="chi^2 to reach (0.05; 0.1 with --million)")
    parser.add_argument("--max-seconds", type=float, default=1800.0, help="wall time of one solve at most (%(default)s)")
    parser.add_argument("--million", action="store_true", help="one run at m = 1,000,000, d = 16, without a limit of time")
    options = parser.parse_args()
    command.start(options)
    if options.million:
        measure("scaling-million", ["million-1000000"], options.tol or 0.1, float("inf"))
    else:
        names = [f"{family}-{m}" for family in options.families for m in SIZES if m <= options.most]
        measure("scaling", names, options.tol or 0.05, options.max_seconds)


def measure(file: str, names: list[str], tol: float, max_seconds: float) -> list[Row]:
    table = Table(file, tol=tol)
    for name in names:
        if not table.find(problem=name):
            row = table.add(run(make(name), tol, max_seconds))
            print(
                f"{row['problem']:20s} chi2 {row['chi2']:.4f} +- {row['chi2_error']:.4f}  n/m {row['samples_per_target']:6.1f}"
                f"  cpu {row['cpu']:8.2f} s  {row['ns_per_score']:6.2f} ns a score  kernels {row['kernels']:.1%}  drawing "
                f"{row['drawing']:.1%}  rest {row['rest']:.1%}  memory {row['memory_mb']:.0f} MB",
                flush=True,
            )
    print(f"wrote {table.save().name}")
    return table.rows


def run(problem: Problem, tol: float, max_seconds: float) -> Row:
    """One run until its own estimate of chi^2 is below tol, then judged."""
    methods.warm_up(make(f"{find(problem.name)[0].name}-{SIZES[0]}"))
    before, shares = record.forget_peak_memory(), Shares(problem.source)
    cpu, wall = time.process_time(), time.monotonic()
    with shares:
        for state in sdot.iterate(problem.source, problem.target, generator=Generator().manual_seed(problem.seed)):
            if state.chi2 <= tol or time.monotonic() - wall > max_seconds:
                break
    cpu, wall, memory = time.process_time() - cpu, time.monotonic() - wall, record.peak_memory_mb() - before
    verdict = judge(problem, state.heights, tol / 20)
    m = problem.cells
    return {
        "problem": problem.name,
        "m": m,
        "d": problem.target.dim,
        "steps": state.step,
        "samples_per_target": round(state.samples / m, 2),
        "own_chi2": state.chi2,
        "chi2": verdict.chi2,
        "chi2_error": verdict.error,
        "eta": verdict.eta(m, state.samples),
        "cpu": round(cpu, 3),
        "wall": round(wall, 3),
        "ns_per_score": round(1e9 * cpu / (state.samples * m), 3),
        "memory_mb": round(memory, 1),
        **shares.row(),
    }


class Shares:
    """The time in kernels and in drawing samples, as shares of the time while it is entered."""

    def __init__(self, source: sdot.Source) -> None:
        self.source = source
        self.spent = Counter[str]()
        self._patches = ExitStack()

    def __enter__(self) -> Shares:
        for name in ("topk", "soft_mass", "soft_potential"):
            self._patches.enter_context(patch.object(sdot.kernels, name, self._timed(getattr(sdot.kernels, name), "kernels")))
        sampler = type(self.source)
        self._patches.enter_context(patch.object(sampler, "sample", self._timed(sampler.sample, "drawing")))
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.spent["rest"] = time.perf_counter() - self._started - self.spent.total()
        self._patches.close()

    def _timed(self, function: Callable[..., Any], what: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments, **options)
            self.spent[what] += time.perf_counter() - started
            return result

        return timed

    def row(self) -> dict[str, float]:
        return {name: round(self.spent[name] / self.spent.total(), 4) for name in ("kernels", "drawing", "rest")}


if __name__ == "__main__":
    main()
