"""One measurement: a method runs for its budget, and the judge looks at what it returns."""

from __future__ import annotations

from benchmarks import record
from benchmarks.judge import Verdict, judge
from benchmarks.methods import Method, Outcome
from benchmarks.problems import Problem
from benchmarks.record import Row


def measure(
    problem: Problem, method: Method, budget: float, *, precision: float, relative: float = 0.1, fill: bool = False
) -> Row:
    """A row of results.

    Args:
        problem: What is solved.
        method: What solves it.
        budget: CPU seconds.
        precision: Standard error of the judged chi^2, or `relative` times chi^2 if that is more.
        relative: See there.
        fill: Run once more, for longer, where less than 95 % of the budget was used: a guess of steps was short.
    """
    before = record.forget_peak_memory()
    outcome = method.run(problem, budget, problem.seed)
    if fill and outcome.cpu < 0.95 * budget:
        outcome = method.run(problem, budget**2 / outcome.cpu, problem.seed)
    memory = round(record.peak_memory_mb() - before, 1)
    verdict = judge(problem, outcome.heights, precision, relative=relative, seed=problem.seed)
    return {**row_of(problem, method, outcome, verdict), "memory_mb": memory}


def row_of(problem: Problem, method: Method, outcome: Outcome, verdict: Verdict) -> Row:
    m = problem.cells
    return {
        "method": method.name,
        "settings": method.settings,
        "problem": problem.name,
        "m": m,
        "d": problem.target.dim,
        "seed": problem.seed,
        "cpu": round(outcome.cpu, 3),
        "wall": round(outcome.wall, 3),
        "samples": outcome.samples,
        "samples_per_target": round(outcome.samples / m, 1),
        "chi2": verdict.chi2,
        "chi2_error": verdict.error,
        "empty": verdict.empty,
        "eta": verdict.eta(m, outcome.samples),
    }


def said(row: Row) -> Row:
    print(
        f"{row['role']:10s} {row['method']:15s} {row['settings']:44s} cpu {row['cpu']:7.2f} s  "
        f"n/m {row['samples_per_target']:7.1f}  chi2 {row['chi2']:.5f} +- {row['chi2_error']:.5f}  "
        f"eta {row['eta']:.3f}  {'met' if row.get('met') else ''}",
        flush=True,
    )
    return row


def bracket(rows: list[Row], target: float) -> tuple[float, float] | None:
    """Seconds that were too few for chi^2 <= target, and seconds that were enough; None if none were enough."""
    enough = min((row["cpu"] for row in rows if row["chi2"] <= target), default=None)
    if enough is None:
        return None
    return max((row["cpu"] for row in rows if row["cpu"] < enough), default=enough / 4), enough
