"""What each part of the default solver is worth: sample efficiency with one of them changed at a time.

python -m benchmarks.ablation        ten minutes on one core
"""

from __future__ import annotations

from typing import Any

import sdot
from benchmarks import command
from benchmarks.efficiency import run, summarise
from benchmarks.problems import make
from benchmarks.record import Table

PROBLEMS = ("latent-8-1000", "latent-16-1000", "latent-64-1000", "weighted-16-1000", "weighted-64-1000")
PLANAR = ("plane-1000",)

CHANGES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "as it is": ({}, (*PROBLEMS, *PLANAR)),
    "pairs of the best two scores only": ({"neighbours": 2}, PROBLEMS),
    "eight best scores": ({"neighbours": 8}, PROBLEMS),
    "half as many edges": ({"edges_per_target": 24}, PROBLEMS),
    "a quarter of the edges": ({"edges_per_target": 12}, PROBLEMS),
    "facets seen from twice as far": ({"layer": 1.0}, PROBLEMS),
    "facets seen from half as far": ({"layer": 0.25}, PROBLEMS),
    "a ridge that fades ten times later": ({"ridge": 3.0}, PROBLEMS),
    "hits, not smoothed": ({"smoothing": 1e-3}, PROBLEMS),
    "batches of 0.3 of all samples": ({"growth": 0.3}, PROBLEMS),
    "batches of half of all samples": ({"growth": 0.5}, PROBLEMS),
    "a start that waits for nobody": ({"stragglers": 1.0}, PROBLEMS),
    "slower cooling, by 0.7": ({"cooling": 0.7}, PROBLEMS),
    "independent samples in the plane": ({"quasi_dim": 0}, PLANAR),
}


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--most", type=int, default=300)
    options = parser.parse_args()
    command.start(options)
    table = Table("ablation", seeds=options.seeds, most=options.most)
    for change, (settings, problems) in CHANGES.items():
        for name in problems:
            if table.find(change=change, problem=name):
                continue
            rows = [
                row for seed in range(options.seeds) for row in run(make(name, seed), sdot.Newton(**settings), options.most)
            ]
            for row in summarise(rows):
                table.add({"change": change, "settings": settings, "problem": name, **row})
                print(
                    f"{change:40s} {name:18s} n/m >= {row['mark']:4d}  eta {row['eta_mean']:.2f} (least {row['eta_min']:.2f})"
                )
    print(f"wrote {table.save().name}")


if __name__ == "__main__":
    main()
