"""How time and memory of a solve grow with the number of targets, and what share of the time is not the kernels'.

python -m benchmarks.scaling                     m = 1,000 to 200,000 in d = 16 and 64 to chi2 = 0.05: an hour on one core
python -m benchmarks.scaling --most 20000        to m = 20,000: five minutes
python -m benchmarks.scaling --million           m = 1,000,000 in d = 16 to chi2 = 0.1: a day on one core, take --threads

Time that is spent below a function of sdot.kernels counts as the kernels', below one of sdot.measures as drawing samples,
and the rest (linear solve, bookkeeping) is listed by its largest parts. Neither the certificate nor what the first steps in a
process load is counted. Started again, it goes on where it was stopped.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

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
    """One run until its own estimate of chi^2 is below tol, under the profiler, then judged."""
    methods.warm_up(make(f"{find(problem.name)[0].name}-{SIZES[0]}"))
    before, shares = record.forget_peak_memory(), Shares()
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
    """Time by function of the library while it is entered: each moment belongs to the innermost of them that runs.

    Whatever runs below a function of the kernels is "kernels", below one of the measures "drawing".
    """

    def __init__(self) -> None:
        self.spent = Counter[str]()
        self._stack, self._last = ["caller"], 0.0

    def __enter__(self) -> Shares:
        self._last = time.perf_counter()
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self.spent[self._stack[-1]] += time.perf_counter() - self._last

    def _event(self, frame: FrameType, what: str, _: object) -> None:
        if what not in ("call", "return") or not frame.f_code.co_filename.startswith(str(record.LIBRARY)):
            return
        now, here = time.perf_counter(), self._stack[-1]
        self.spent[here] += now - self._last
        self._last = now
        if what == "call":
            self._stack.append(here if here in ("kernels", "drawing") else label(frame.f_code))
        elif len(self._stack) > 1:
            self._stack.pop()

    def row(self) -> dict[str, Any]:
        total = self.spent.total()
        rest = {name: seconds for name, seconds in self.spent.most_common() if name not in ("kernels", "drawing")}
        return {
            "kernels": round(self.spent["kernels"] / total, 4),
            "drawing": round(self.spent["drawing"] / total, 4),
            "rest": round(sum(rest.values()) / total, 4),
            "parts": {name: round(seconds / total, 4) for name, seconds in list(rest.items())[:8]},
        }


def label(code: CodeType) -> str:
    path = Path(code.co_filename)
    if path.parent.name == "kernels":
        return "kernels"
    return "drawing" if path.name == "measures.py" else f"{path.stem}.{code.co_name}"


if __name__ == "__main__":
    main()
