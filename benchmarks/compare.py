"""Error reached by every method in the same CPU time, judged on the same fresh samples.

python -m benchmarks.compare latent-16-4000 --budget 20
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

import sdot
from benchmarks import record
from benchmarks.methods import METHODS, Method, pot_grid
from benchmarks.problems import Problem, make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problem", help="a name of benchmarks.problems, with -M after it for M targets")
    parser.add_argument("--budget", type=float, default=20.0, help="CPU seconds for each method (%(default)s)")
    parser.add_argument("--tune", type=float, default=4.0, help="CPU seconds for each setting of the search (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    problem = make(settings.problem, settings.seed)
    rows = [measure(name, method, problem, settings.budget, settings.seed) for name, method in METHODS.items()]
    tried = [measure(f"POT, {name}", method, problem, settings.tune, settings.seed) for name, method in pot_grid(problem)]
    best = min(range(len(tried)), key=lambda k: tried[k]["chi2"])
    name, method = list(pot_grid(problem))[best]
    rows.append(measure(f"POT, best of {len(tried)}: {name}", method, problem, settings.budget, settings.seed))
    path = record.write(f"compare-{settings.problem}", rows + [{**row, "search": True} for row in tried])
    print(f"wrote {path.name}")


def measure(name: str, method: Method, problem: Problem, budget: float, seed: int) -> dict[str, Any]:
    wall, cpu = time.monotonic(), time.process_time()
    outcome = method(problem, budget, seed)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    T = sdot.BrenierMap(problem.target.points, outcome.heights)
    c = sdot.certify(T, problem.source, problem.target, generator=torch.Generator().manual_seed(10**6 + seed))
    m = len(problem.target)
    row = {
        "method": name,
        "problem": problem.name,
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "samples_per_target": round(outcome.samples / m, 1),
        "chi2": c.chi2,
        "chi2_error": c.chi2_error,
        "empty_cells": c.empty_cells,
        "eta": round((m - 1) / (outcome.samples * max(c.chi2, 1e-12)), 3),
    }
    print(f"{name:60s} cpu {cpu:6.1f} s  n/m {row['samples_per_target']:7.1f}  chi2 {c.chi2:.4f}  eta {row['eta']}", flush=True)
    return row


if __name__ == "__main__":
    main()
