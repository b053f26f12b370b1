"""Solve one problem with the default solver and record what it took.

python -m benchmarks.solve latent-64-50000 --tol 0.05
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

import torch

import sdot
from benchmarks import record
from benchmarks.problems import make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problem", help="a name of benchmarks.problems, with -M after it for M targets")
    parser.add_argument("--tol", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", help="file to go on from, and to keep the run in")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    problem = make(settings.problem, settings.seed)
    before, cpu = record.peak_memory_mb(), time.process_time()
    solution = sdot.solve(
        problem.source, problem.target, tol=settings.tol, progress=True, checkpoint=settings.checkpoint,
        generator=torch.Generator().manual_seed(settings.seed),
    )  # fmt: skip
    cpu = time.process_time() - cpu
    judge = sdot.certify(
        solution.map, problem.source, problem.target, precision=settings.tol / 20,
        generator=torch.Generator().manual_seed(10**6 + settings.seed),
    )  # fmt: skip
    m, samples = len(problem.target), solution.history[-1].samples
    row = {
        "problem": settings.problem,
        "seed": settings.seed,
        "m": m,
        "d": problem.target.dim,
        "tol": settings.tol,
        "reason": solution.reason,
        "seconds": round(solution.seconds, 2),
        "cpu_seconds_with_certificate": round(cpu, 2),
        "samples_per_target": round(samples / m, 2),
        "eta": round((m - 1) / (samples * judge.chi2), 3),
        "peak_memory_mb": record.peak_memory_mb(),
        "memory_before_mb": before,
        "judge": asdict(judge),
        "history": [asdict(r) for r in solution.history],
    }
    path = record.write(f"solve-{settings.problem}", [row])
    print(f"{judge}\n{solution.seconds:.1f} s, {samples / m:.1f} samples a target, eta {row['eta']}; wrote {path.name}")


if __name__ == "__main__":
    main()
