"""What a complex costs, in units of assigning as many samples as there are points.

python -m benchmarks.complex                     m = 10,000 and 50,000 in d = 2, 16 and 64: about 5 minutes on one core
python -m benchmarks.complex --most 10000        the smaller ones: half a minute

Everything is timed in turn, a few times over, and the fastest counts: CPU time on one thread, wall time on several. Memory is
the largest growth of the process. Started again, it goes on where it was stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

import sdot
from benchmarks import clouds, command, record
from benchmarks.record import Row, Table

SIZES = (10_000, 50_000)
CLOUDS: dict[str, Callable[[int], Tensor]] = {
    "square": lambda m: torch.rand(m, 2, generator=Generator().manual_seed(0)),
    "clusters-16": lambda m: clouds.clusters(m, 16, 10, 8),
    "clusters-64": lambda m: clouds.clusters(m, 64, 10, 8),
    "normal-64": lambda m: torch.randn(m, 64, generator=Generator().manual_seed(0)),
}


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="largest m (%(default)s)")
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    command.start(options)
    measure([m for m in SIZES if m <= options.most], options.repeat)


def measure(sizes: list[int], repeat: int) -> list[Row]:
    table = Table("complex", repeat=repeat)
    for name, cloud in CLOUDS.items():
        for m in sizes:
            if not table.find(cloud=name, m=m):
                for row in rows(name, cloud(m), repeat):
                    table.add(row)
                    print(
                        f"{name:12s} m {m:6d}  {row['what']:18s} {row['seconds']:8.3f} s  {row['passes']:6.2f} assignments"
                        f"  {row['simplices']}  {row['memory_mb']:.0f} MB",
                        flush=True,
                    )
    print(f"wrote {table.save().name}")
    return table.rows


def rows(name: str, y: Tensor, repeat: int) -> list[Row]:
    h = -y.square().sum(1) / 2
    _, index = sdot.kernels.topk(y, y, h, 11)
    eps = float((y - y[index[:, 10]]).norm(dim=1).median())
    work: dict[str, Callable[[], Any]] = {
        "assignment": lambda: sdot.kernels.topk(y, y, h),
        "edges, 10th median": lambda: sdot.rips_complex(y, eps, max_dim=1),
        "edges, 10 nearest": lambda: sdot.rips_complex(y, math.inf, max_dim=1, max_neighbors=10),
        "edges, auto": lambda: sdot.rips_complex(y, max_dim=1),
        "triangles, auto": lambda: sdot.rips_complex(y),
    }
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    best, memory, results = dict.fromkeys(work, math.inf), dict.fromkeys(work, 0.0), dict[str, Any]()
    for _ in range(repeat):
        for what, action in work.items():
            results.pop(what, None)
            before, start = record.forget_peak_memory(), clock()
            results[what] = action()
            best[what] = min(best[what], clock() - start)
            memory[what] = max(memory[what], record.peak_memory_mb() - before)
    complexes = {what: K for what, K in results.items() if isinstance(K, sdot.SimplicialComplex)}
    return [
        {
            "cloud": name,
            "m": len(y),
            "d": y.shape[1],
            "what": what,
            "seconds": round(best[what], 4),
            "passes": round(best[what] / best["assignment"], 3),
            "assignment": round(best["assignment"], 4),
            "simplices": [len(s) for s in K.simplices],
            "max_edge_length": K.max_edge_length,
            "reason": K.reason,
            "memory_mb": round(memory[what], 1),
        }
        for what, K in complexes.items()
    ]


if __name__ == "__main__":
    main()
