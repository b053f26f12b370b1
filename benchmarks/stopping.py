"""Does `solve(tol=)` keep its word? An independent judge looks at what it returns, seed by seed.

python -m benchmarks.stopping latent-16-1000                 20 seeds at tol = 0.01: a minute or two
python -m benchmarks.stopping plane full-64 --tol 0.05

For every seed: the judged chi^2 of the answer, and the samples that were drawn against those at which the same run first met
tol, both as the judge sees them. The judge is precise to 5 % of tol. Started again, it goes on where it was stopped.
"""

from __future__ import annotations

import statistics
import warnings
from typing import Any

from torch import Generator

import sdot
from benchmarks import command
from benchmarks.data import Missing
from benchmarks.judge import Moment, first_to_meet, judge
from benchmarks.methods import moments
from benchmarks.problems import USUAL, Problem, find, make
from benchmarks.record import Row, Table


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("problems", nargs="+", metavar="PROBLEM", help=f"of {', '.join(USUAL)}, with -M after it for M targets")
    parser.add_argument("--tol", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    command.start(options)
    for name in options.problems:
        try:
            measure(name, options.tol, options.seeds)
        except Missing as reason:
            print(f"{name}: skipped, {reason}")


def measure(name: str, tol: float, seeds: int) -> list[Row]:
    """Rows of one problem over its seeds, in a file of their own."""
    family, m = find(name)
    table = Table(f"stopping-{family.name}-{m}-tol{tol:g}", tol=tol)
    for seed in range(seeds):
        if not table.find(seed=seed):
            row = table.add(run(make(name, seed), tol))
            print(
                f"{row['problem']:18s} seed {seed:2d}  {row['reason']:4s} chi2 {row['chi2']:.5f} +- {row['chi2_error']:.5f}"
                f"  {'met' if row['met'] else 'MISSED'}  n/m {row['samples'] / row['m']:.1f}, "
                + (f"{row['excess']:.2f} of those needed" if row["excess"] else "never met before"),
                flush=True,
            )
    summary = summarise(table.rows)
    print(f"{family.name}-{m}: {summary}; wrote {table.save(summary=summary).name}")
    return table.rows


def run(problem: Problem, tol: float) -> Row:
    """One solve, judged; then the same states again, to find when they first met tol."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sdot.ConvergenceWarning)
        solution = sdot.solve(problem.source, problem.target, tol=tol, generator=Generator().manual_seed(problem.seed))
    verdict = judge(problem, solution.map.heights, tol / 20, seed=problem.seed)
    drawn, trace = solution.history[-1].samples, list[Moment]()
    for now in moments(problem, sdot.Newton(), problem.seed):
        if now.own <= 5 * tol:
            trace.append(now)
        if now.samples >= drawn:
            break
    first = first_to_meet(problem, trace, tol, seed=problem.seed)
    return {
        "problem": problem.name,
        "seed": problem.seed,
        "m": problem.cells,
        "d": problem.target.dim,
        "reason": solution.reason,
        "chi2": verdict.chi2,
        "chi2_error": verdict.error,
        "certified": solution.certificate.chi2,
        "met": verdict.chi2 <= tol + verdict.error,
        "samples": drawn,
        "samples_needed": first[0].samples if first else None,
        "excess": drawn / first[0].samples if first else None,
        "own_chi2": solution.history[-1].chi2,
        "seconds": round(solution.seconds, 3),
    }


def summarise(rows: list[Row]) -> dict[str, Any]:
    """Seeds that met tol (within the judge's error), and the excess of samples."""
    excess = [row["excess"] for row in rows if row["excess"]]
    return {
        "met": sum(row["met"] for row in rows),
        "seeds": len(rows),
        "excess_mean": round(statistics.fmean(excess), 3) if excess else None,
        "excess_worst": round(max(excess), 3) if excess else None,
        "chi2_mean": statistics.fmean(row["chi2"] for row in rows),
    }


if __name__ == "__main__":
    main()
