"""How often `solve` fails on problems that are made to be hard, and whether it says so.

python -m benchmarks.hard                   600 problems to tol = 0.1: three minutes on one core
python -m benchmarks.hard --count 100

Every problem is drawn from its number: 20 to 1,600 targets in 1 to 16 dimensions, uniform, in clumps of a
ten-thousandth to a tenth of their distances, in pairs 1e-6 apart, Cauchy, on a few lines, on a rough grid, or in four
far clusters; weights exp(s N(0, 1)) with s = 0, 1, 2 or 3, which is up to eight decades; a cube or a Gaussian. The
judge looks at every answer. A solve has failed when it ends in a `ConvergenceWarning`, and is false when it ends
without one and the judge finds it worse than tol by more than all errors.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Generator, Tensor

import sdot
from benchmarks import command
from benchmarks.judge import judge
from benchmarks.problems import Problem
from benchmarks.record import Row, Table

DIMENSIONS = (2, 2, 3, 3, 1, 4, 8, 16)
TOL = 0.1


def clumps(y: Tensor, g: Generator) -> Tensor:
    m, d = y.shape
    centres = torch.randn(max(2, m // 20), d, generator=g, dtype=y.dtype)
    label = torch.randint(len(centres), (m,), generator=g)
    return centres[label] + 10 ** (-1 - 3 * _uniform(g)) * y


def pairs(y: Tensor, g: Generator) -> Tensor:
    half = len(y) // 2
    return torch.cat([y[:half], y[: len(y) - half] + 1e-6 * y[half:]])


def four_clusters(y: Tensor, g: Generator) -> Tensor:
    centres = 10 * torch.randn(4, y.shape[1], generator=g, dtype=y.dtype)
    return y + centres[torch.randint(4, (len(y),), generator=g)]


SHAPES: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "uniform": lambda y, g: torch.rand(y.shape, generator=g, dtype=y.dtype),
    "clumps": clumps,
    "pairs": pairs,
    "cauchy": lambda y, g: y / torch.rand(len(y), 1, generator=g, dtype=y.dtype),
    "lines": lambda y, _: torch.cat([y[:, :1], y[:, 1:].round()], 1),
    "grid": lambda y, g: (3 * y).round() + 1e-3 * torch.rand(y.shape, generator=g, dtype=y.dtype),
    "clusters": four_clusters,
}


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--count", type=int, default=600, help="problems, numbered from 0 (%(default)s)")
    options = parser.parse_args()
    command.start(options)
    measure(options.count)


def measure(count: int) -> list[Row]:
    """A row for every problem, and how many of each shape failed."""
    table = Table("hard", tol=TOL)
    for number in range(count):
        if not table.find(number=number):
            row = table.add(run(number))
            if row["failed"] or row["false"]:
                print({k: row[k] for k in ("number", "shape", "m", "d", "spread", "chi2", "false")}, flush=True)
    summary = summarise(table.rows)
    for line in summary:
        print(
            f"{line['shape']:10s} {line['problems']:4d} problems  {line['failed']:3d} failed  {line['false']:3d} false  "
            f"n/m {line['samples_per_target']:6.1f}"
        )
    print(f"wrote {table.save(summary=summary).name}")
    return table.rows


def problem(number: int) -> tuple[Problem, Row]:
    """The problem of a number, and what it is."""
    g = Generator().manual_seed(number)
    d, m = DIMENSIONS[int(8 * _uniform(g))], int(10 ** (1.3 + 1.9 * _uniform(g)))
    shape, spread = [*SHAPES][int(len(SHAPES) * _uniform(g))], int(4 * _uniform(g))
    y = SHAPES[shape](torch.randn(m, d, generator=g, dtype=torch.float64), g)
    w = torch.exp(spread * torch.randn(m, generator=g, dtype=torch.float64))
    source = sdot.UniformCube(d) if _uniform(g) < 0.5 else sdot.Gaussian(d)
    about = {"number": number, "shape": shape, "m": m, "d": d, "spread": spread, "source": type(source).__name__}
    return Problem(f"hard-{number}", number, source, sdot.DiscreteMeasure(y, w / w.sum())), about


def run(number: int) -> Row:
    """One solve, judged."""
    p, about = problem(number)
    cpu = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solution = sdot.solve(p.source, p.target, tol=TOL, generator=Generator().manual_seed(number))
    cpu, failed = time.process_time() - cpu, any(issubclass(w.category, sdot.ConvergenceWarning) for w in caught)
    verdict = judge(p, solution.map.heights, TOL / 10, relative=0.1, seed=number)
    error = math.hypot(verdict.error, solution.certificate.chi2_error)
    return {
        **about,
        "failed": failed,
        "false": not failed and not verdict.chi2 <= TOL + 4 * error,
        "chi2": verdict.chi2,
        "chi2_error": verdict.error,
        "samples_per_target": solution.history[-1].samples / len(p.target),
        "cpu": round(cpu, 3),
    }


def summarise(rows: list[Row]) -> list[Row]:
    """By shape and all together: how many, how many failed, and the geometric mean of the samples a target."""
    parts = {"all": rows} | {shape: [row for row in rows if row["shape"] == shape] for shape in SHAPES}
    return [
        {
            "shape": shape,
            "problems": len(part),
            "failed": sum(row["failed"] for row in part),
            "false": sum(row["false"] for row in part),
            "samples_per_target": round(statistics.geometric_mean(row["samples_per_target"] for row in part), 1),
            "cpu": round(sum(row["cpu"] for row in part), 1),
        }
        for shape, part in parts.items()
        if part
    ]


def _uniform(g: Generator) -> float:
    return float(torch.rand((), generator=g))


if __name__ == "__main__":
    main()
