"""Which backend to use: a table of what was measured to be fastest, by kind of device, dimension and number of targets.

`choice.json` is written by `python -m benchmarks.kernels --write-table`. For each function and each (d, m) of its grid it
names the backends that beat `blocked`, the fastest first; between the points of the grid, the next larger one holds.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import fused

FEW = 128  # samples that are always worth packing the targets for; in d dimensions d / 8 are, too
WORTH = 2**27  # scores that pay for the launches of the Triton kernels


def order(name: str, x: Tensor, y: Tensor, last: Any) -> list[str]:
    """The backends to try, the fastest first; the last one runs everywhere.

    SDOT_BACKEND comes before all of them. Compiled graphs use torch's own operations, which `torch.compile` sees through.
    """
    if torch.compiler.is_compiling():
        return ["blocked"]
    wanted = os.environ.get("SDOT_BACKEND", "auto")
    measured = fastest(table(), x.device.type, name, y.shape[1], y.shape[0])
    first = [] if wanted in ("", "auto") else [wanted]
    return [*first, *(b for b in measured if _suits(b, name, x, y, last)), "blocked"]


@cache
def table() -> dict[str, Any]:
    return json.loads(Path(__file__).with_suffix(".json").read_text())  # type: ignore[no-any-return]


def fastest(table: dict[str, Any], kind: str, name: str, d: int, m: int) -> list[str]:
    """What the table says; nothing for kinds of devices that it does not know."""
    if kind not in table:
        return []
    measured = table[kind]
    row = measured["topk" if name == "topk" else "soft_mass"][_place(measured["d"], d)]
    names: str = row[_place(measured["m"], m)]
    return names.split()


def _place(grid: list[int], value: int) -> int:
    return min(bisect_left(grid, value), len(grid) - 1)


def _suits(backend: str, name: str, x: Tensor, y: Tensor, last: Any) -> bool:
    if backend == "triton":
        return x.shape[0] * y.shape[0] >= WORTH
    if backend != "fused":
        return True
    return (name != "topk" or last <= fused.MAX_K) and (x.shape[0] >= min(FEW, y.shape[1] // 8) or y.numel() < 2**16)
