"""Error reached by every method in the same CPU time, judged on the same fresh samples.

python -m benchmarks.compare latent-16-4000 --budget 20        five minutes, most of them for the search of peers' settings
"""

from __future__ import annotations

import sdot
from benchmarks import command, methods, record
from benchmarks.judge import judge
from benchmarks.methods import Method
from benchmarks.problems import Problem, make
from benchmarks.race import Rules, installed, row_of, said
from benchmarks.record import Row


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("problem", help="a name of benchmarks.problems, with -M after it for M targets")
    parser.add_argument("--budget", type=float, default=20.0, help="CPU seconds for each method (%(default)s)")
    parser.add_argument("--tune", type=float, default=4.0, help="CPU seconds for each setting of a search (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    command.start(options)
    problem = make(options.problem, options.seed)
    rows = compare(problem, options.budget, options.tune)
    print(f"wrote {record.write(f'compare-{problem.name}', rows).name}")


def compare(problem: Problem, budget: float, tune: float) -> list[Row]:
    """Rows of this library's solvers, then of every peer: its defaults, its search, its best setting."""
    ours = [methods.iterated(type(solver).__name__, solver) for solver in (sdot.Newton(), sdot.Averaged(), sdot.Adam())]
    rows = [measure(problem, method, "budget", budget) for method in ours]
    for defaults, grid in installed().values():
        tried = [measure(problem, method, "search", tune) for method in grid]
        best = min(range(len(grid)), key=lambda k: tried[k]["chi2"])
        rows += [measure(problem, method, "budget", budget) for method in (*defaults, grid[best])] + tried
    return rows


def measure(problem: Problem, method: Method, role: str, budget: float) -> Row:
    outcome = method.run(problem, budget, problem.seed)
    verdict = judge(problem, outcome.heights, 1e-3, relative=0.1, seed=problem.seed)
    return said({"role": role, **row_of(problem, method, outcome, verdict, Rules())})


if __name__ == "__main__":
    main()
