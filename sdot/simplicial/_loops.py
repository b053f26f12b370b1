"""Loops in C, which take over from torch's operations where points are on a CPU and a compiler is found."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from ..kernels._build import optional


@cache
def loops() -> ctypes.CDLL | None:
    """loops.c, or None where no compiler is."""
    c = optional(Path(__file__).with_name("loops.c"))
    if c is not None:
        pointer, long = ctypes.c_void_p, ctypes.c_long
        for measure in (c.lengths_of_floats, c.lengths_of_doubles):
            measure.argtypes, measure.restype = [long, long, *[pointer] * 4], None
        c.forest.argtypes, c.forest.restype = [long, long, *[pointer] * 4], long
        c.extend.argtypes, c.extend.restype = [long, long, long, *[pointer] * 4], long
    return c
