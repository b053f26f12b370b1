"""Sample efficiency eta = (m - 1) / (n chi2) of a solver on every problem: 1 is what independent samples allow.

python -m benchmarks.efficiency                        all problems, about three hours on one core
python -m benchmarks.efficiency plane-500 --seeds 3    some of them
python -m benchmarks.efficiency --quick                all, two seeds to n = 60 m: seven minutes

At n / m = 30, 60, 100, 300, ... the heights are judged on fresh samples, to 5 % of the (m - 1) / n that is the limit. Problems
with at most 2,000 targets go to n = 3000 m over 20 seeds, larger ones to n = 300 m over 5 seeds, unless options say otherwise.
Started again, it goes on where it was stopped.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from torch import Generator

import sdot
from benchmarks import command
from benchmarks.data import Missing
from benchmarks.judge import judge
from benchmarks.problems import USUAL, Problem, find, make
from benchmarks.record import Row, Table

MARKS = (30, 60, 100, 300, 1000, 3000)  # samples per target at which states are judged
SOLVERS = {"newton": sdot.Newton, "adam": sdot.Adam, "averaged": sdot.Averaged}


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("problems", nargs="*", default=USUAL, metavar="PROBLEM", help=f"of {', '.join(USUAL)}; all of these")
    parser.add_argument("--solver", choices=SOLVERS, default="newton")
    parser.add_argument("--seeds", type=int, help="instances of each problem (20 for m <= 2000, 5 above)")
    parser.add_argument("--most", type=int, help="largest n / m (3000 for m <= 2000, 300 above)")
    parser.add_argument("--quick", action="store_true", help="two seeds, n / m to 60")
    options = parser.parse_args()
    command.start(options)
    for name in options.problems:
        small = find(name)[1] <= 2000
        seeds = options.seeds or (2 if options.quick else 20 if small else 5)
        most = options.most or (60 if options.quick else 3000 if small else 300)
        try:
            measure(name, options.solver, seeds, most)
        except Missing as reason:
            print(f"{name}: skipped, {reason}")


def measure(name: str, solver: str, seeds: int, most: int) -> list[Row]:
    """Rows of one problem, over all its seeds, in a file of their own."""
    family, m = find(name)
    table = Table(f"efficiency-{solver}-{family.name}-{m}", most=most)
    for seed in range(seeds):
        if not table.find(seed=seed, last=True):
            table.rows = [row for row in table.rows if row["seed"] != seed]
            for row in run(make(name, seed), SOLVERS[solver](), most):
                print(line(table.add(row)), flush=True)
    summary = summarise(table.rows)
    for row in summary:
        print(summary_line(f"{family.name}-{m}", row))
    print(f"wrote {table.save(summary=summary).name}")
    return table.rows


def run(problem: Problem, solver: sdot.Solver, most: int) -> list[Row]:
    """One run of a solver, judged whenever it passes a mark."""
    rows, marks = list[Row](), [mark for mark in MARKS if mark <= most]
    m = problem.cells
    for state in sdot.iterate(problem.source, problem.target, solver, generator=Generator().manual_seed(problem.seed)):
        passed = [mark for mark in marks if state.samples >= mark * m]
        if not passed:
            continue
        limit = (m - 1) / state.samples
        verdict = judge(problem, state.heights, 0.05 * limit, seed=problem.seed)
        marks = [mark for mark in marks if mark not in passed]
        rows.append(
            {
                "problem": problem.name,
                "seed": problem.seed,
                "mark": passed[-1],
                "last": not marks,
                "m": m,
                "d": problem.target.dim,
                "step": state.step,
                "samples": state.samples,
                "chi2": verdict.chi2,
                "chi2_error": verdict.error,
                "own_chi2": state.chi2 if math.isfinite(state.chi2) else None,
                "eta": verdict.eta(m, state.samples),
                "empty": verdict.empty,
                "empty_expected": verdict.empty_expected,
            }
        )
        if not marks:
            break
    return rows


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """For every mark: eta over the seeds, the most empty cells beyond chance, and how far the state's own chi^2 is off."""
    summary = []
    for mark in sorted({row["mark"] for row in rows}):
        here = [row for row in rows if row["mark"] == mark]
        eta = [row["eta"] for row in here]
        known = [row for row in here if row["own_chi2"] is not None]
        summary.append(
            {
                "mark": mark,
                "seeds": len(here),
                "eta_mean": statistics.fmean(eta),
                "eta_min": min(eta),
                "eta_max": max(eta),
                "empty_worst": max(0.0, *(row["empty"] - row["empty_expected"] for row in here)),
                "own_over_judged": ratio(known) if known else None,
            }
        )
    return summary


def ratio(rows: list[Row]) -> float:
    return math.fsum(row["own_chi2"] for row in rows) / math.fsum(row["chi2"] for row in rows)


def line(row: Row) -> str:
    own = "none" if row["own_chi2"] is None else f"{row['own_chi2']:.5f}"
    return (
        f"{row['problem']:18s} seed {row['seed']:2d}  n/m {row['samples'] / row['m']:7.1f}  eta {row['eta']:.3f}  "
        f"chi2 {row['chi2']:.5f} +- {row['chi2_error']:.5f}  own {own}  "
        f"empty {row['empty']} ({row['empty_expected']:.1f} by chance)"
    )


def summary_line(name: str, row: dict[str, Any]) -> str:
    own = "none" if row["own_over_judged"] is None else f"{row['own_over_judged']:.2f}"
    return (
        f"{name:18s} n/m >= {row['mark']:4d}  eta {row['eta_mean']:.3f} ({row['eta_min']:.3f} to {row['eta_max']:.3f}, "
        f"{row['seeds']} seeds)  empty beyond chance {row['empty_worst']:.1f}  own / judged {own}"
    )


if __name__ == "__main__":
    main()
