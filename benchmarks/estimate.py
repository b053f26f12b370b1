"""What `sdot estimate` says before a solve, beside what the solve then takes.

python -m benchmarks.estimate latent-16-2000:0.01 plane-300:0.01 far-64-5000:0.05
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from torch import Generator

import sdot
from benchmarks import command, record
from benchmarks.problems import make


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("problems", nargs="+", help="names of benchmarks.problems with -M for M targets, and :TOL")
    options = parser.parse_args()
    command.start(options)
    rows = [measure(*name.split(":")) for name in options.problems]
    print(f"wrote {record.write('estimate', rows).name}")


def measure(name: str, tol: str) -> dict[str, Any]:
    """Times are CPU times, so that other work on the machine does not count."""
    problem = make(name, 0)
    m, d = len(problem.target), problem.target.dim
    said = asdict(sdot.estimate_budget(m, d, float(tol), clock=time.process_time))
    before, cpu = record.forget_peak_memory(), time.process_time()
    solution = sdot.solve(problem.source, problem.target, tol=float(tol), generator=Generator().manual_seed(0))
    cpu = time.process_time() - cpu
    row = {
        "problem": name,
        "m": m,
        "d": d,
        "tol": float(tol),
        "samples": solution.history[-1].samples + solution.certificate.samples,
        "cpu": round(cpu, 3),
        "memory_mb": round(record.peak_memory_mb() - before, 1),
        "estimated": {key: said[key] for key in ("samples", "seconds", "memory_mb", "ns_per_score")},
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
