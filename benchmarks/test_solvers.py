"""Error against time, every method on the same problems: `make bench`, and `python -m benchmarks.report` after it."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.judge import judge
from benchmarks.problems import Problem, make
from benchmarks.record import Table
from benchmarks.suite import Entry, Plan, answers, close_in, contest

Measured = tuple[Problem, Table]


def test_conversion(entry: Entry, plan: Plan) -> None:
    """Sign and scale: a method's heights give its own assignment (which it checks itself), and are better than none.

    It is also what imports and compiles everything before a clock starts.
    """
    problem = make("weighted-16-60")
    outcome = plan.methods(entry)[0].run(problem, 0.02, 0)
    nothing = torch.zeros_like(outcome.heights)
    assert judge(problem, outcome.heights, 0.1).chi2 < judge(problem, nothing, 0.1).chi2


def test_error(benchmark: Any, problem: Measured, rung: int, entry: Entry, plan: Plan) -> None:
    """chi^2 after a budget, for the settings that come to this rung."""
    rows = benchmark.pedantic(contest, (problem[1], problem[0], entry, plan, rung), rounds=1, iterations=1)
    benchmark.extra_info["rows"] = rows


def test_time(benchmark: Any, problem: Measured, wanted: float, entry: Entry, plan: Plan) -> None:
    """Seconds to a wanted chi^2."""
    made, table = problem
    row = benchmark.pedantic(close_in, (table, made, entry, plan, wanted), rounds=1, iterations=1)
    benchmark.extra_info["row"] = row
    table.save(summary=answers(table.rows, plan.wanted))
