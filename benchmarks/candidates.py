"""How many tiles of targets the rounding bound leaves for exact scores, which is what exactness costs.

TRITON_INTERPRET=1 python -m benchmarks.candidates     (on a CPU; on a GPU without the variable)
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch

from benchmarks import record

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    rows = list(measure())
    for row in rows:
        print(" ".join(f"{key} {value}" for key, value in row.items()))
    print(f"wrote {record.write('gpu/candidates', rows)}")


def measure(n: int = 256, m: int = 20_000) -> Iterator[dict[str, Any]]:
    """Gaussian samples and targets, h = -|y|^2 / 2: scores whose best ones lie close together."""
    search = import_module("sdot.kernels._triton_search")  # not public: a measurement of its insides
    g = torch.Generator().manual_seed(0)
    for d in (2, 3, 5, 8, 12, 16, 32, 64, 128, 256):
        x, y = torch.randn(n, d, generator=g).to(DEVICE), torch.randn(m, d, generator=g).to(DEVICE)
        targets = search.Targets.prepare(y)
        for k in (1, 2, 8):
            heights = search.Heights.prepare(-0.5 * y.square().sum(1), targets, k)
            count = search.Candidates.find(x, targets, heights, k).start.diff().double()
            yield {
                "d": d, "m": m, "k": k, "first_pass": search.form(d, "hhl"), "tile": search.tile_size(), "tiles": targets.tiles,
                "candidates_per_row": round(float(count.mean()), 3), "most": int(count.max()),
                "share_of_scores": round(float(count.mean()) * search.tile_size() / m, 5),
            }  # fmt: skip


if __name__ == "__main__":
    main()
