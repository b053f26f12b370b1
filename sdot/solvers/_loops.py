"""Loops in C, which take over from torch's operations where tensors are on a CPU and a compiler is found."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ..kernels._build import optional


def loops(like: Tensor) -> ctypes.CDLL | None:
    return _library() if like.device.type == "cpu" else None


@cache
def _library() -> ctypes.CDLL | None:
    """loops.c, or None where no compiler is."""
    c = optional(Path(__file__).with_name("loops.c"))
    if c is None:
        return None
    pointer, long = ctypes.c_void_p, ctypes.c_long
    edges: list[Any] = [long, long, pointer, pointer, pointer]
    c.gather.argtypes = [*edges, long, long, pointer, pointer, pointer, ctypes.c_double, long, *[pointer] * 3]
    c.gather.restype = long
    c.solve.argtypes = [*edges, pointer, pointer, ctypes.c_double, long, pointer]
    c.drift.argtypes = [*edges, pointer, pointer]
    c.scale.argtypes, c.scale.restype = [long, *[pointer] * 5], None
    c.pair_means.argtypes = [long, long, *[pointer] * 4]
    c.add_up.argtypes, c.add_up.restype = [long, long, *[pointer] * 6], None
    c.quantiles.argtypes = [long, *[pointer] * 3]
    return c
