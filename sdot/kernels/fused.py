"""Compiled loops that reduce scores in registers as they are made (fused.c): the fastest backend on CPUs.

The system's C compiler translates fused.c at first use, some seconds for each dtype, into a cache. The C functions run on
one thread each and release the interpreter, so rows are divided among `torch.get_num_threads()` Python threads: a second
OpenMP runtime beside torch's own would halve the speed of both.

In float32 and high dimension, where the processor multiplies short numbers faster (integers of 16 bits, or of 8 in matrix
tiles), a first pass in them leaves few targets whose scores are then made in float32 (coarse.h). The bounds on its
rounding are rigorous: the answer is the same to the last bit.

Extra memory: one copy of the targets, and for each thread up to 32 MB of scores and some hundred samples.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import blocked
from ._build import call, library
from ._threads import divide
from ._unavailable import Unavailable

GROUP = 8  # targets whose largest score is compared at once, as in fused.c
MAX_K = 32
MAX_TARGETS = 2**27  # groups are numbered by float32, exactly up to 2^24
MOST_COARSE = 32  # as in coarse.h
TOGETHER = 2  # as in tiles.h
BOUND = 4  # numbers of a group's bound, as in coarse.h
MOST_TILED = 512  # coordinates, or sums of digits pass 32 bits

# in tiles or in integers; short numbers, bounds on what rounding did to them, the mean of the targets
Coarse = tuple[bool, Tensor, Tensor, Tensor]

_lock = threading.Lock()
_reasons: dict[torch.dtype, Unavailable] = {}


def topk(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Ties go to the lowest index. Scores that are NaN are passed over."""
    if k > MAX_K:
        raise Unavailable(f"backend 'fused' keeps at most {MAX_K} targets a sample, but k = {k}; use backend='blocked'.")
    c, x, (n, d), m = compiled(x), x.contiguous(), x.shape, y.shape[0]
    if m > MAX_TARGETS:
        raise Unavailable(f"backend 'fused' takes at most {MAX_TARGETS} targets, but {m} came; use backend='blocked'.")
    panels, heights, coarse = _ready(c, y, h, n, k)
    value, index = x.new_empty(n, k), torch.empty(n, k, dtype=torch.int64)
    divide(lambda i, end: _search(c, x[i:end], panels, heights, m, k, coarse, value[i:end], index[i:end]), n, n * m * d)
    return value, index


def _search(
    c: ctypes.CDLL,
    x: Tensor,
    panels: Tensor,
    heights: Tensor,
    m: int,
    k: int,
    coarse: Coarse | None,
    value: Tensor,
    index: Tensor,
) -> None:
    problem = (x, *x.shape, panels, heights, m, k, value, index)
    if coarse is None:
        call(c.topk, *problem)
    else:
        call(c.coarse_topk, coarse[0], *problem, *coarse[1:3])


def above(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], least: Float[Tensor, " n"]
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """All pairs with h_j + <x_i, y_j> >= least_i, and some that miss it by rounding: the samples and the targets of them."""
    if x.dtype != torch.float32:
        return blocked.above(x, y, h, least)
    c, x, least, (n, d), m = compiled(x), x.contiguous(), least.contiguous(), x.shape, y.shape[0]
    panels, heights, coarse = _ready(c, y, h, n, 1)
    count = 64 * n
    while True:
        room, found = count, torch.empty(2, count, dtype=torch.int64)
        problem = (x, n, d, panels, heights, m, least, room, *found)
        count = call(c.above, *problem) if coarse is None else call(c.coarse_above, coarse[0], *problem, *coarse[1:])
        if count <= room:
            sample, target = found[:, :count]
            return sample, target


def _ready(c: ctypes.CDLL, y: Tensor, h: Tensor, n: int, k: int) -> tuple[Tensor, Tensor, Coarse | None]:
    """Targets and heights in panels, and what a first pass over n samples wants, where there is to be one."""
    panels, heights, (m, d) = packed(c, y, GROUP), filled(h, GROUP), y.shape
    form = coarse_form(c, n, d, m, k)
    return panels, heights, None if form is None else coarsened(c, panels, heights, d, tiled=form)


def soft_potential(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, " n"]:
    top, total = x.new_empty(x.shape[0]), torch.empty(x.shape[0], dtype=torch.float64)
    _soft(x, y, h, eps, top=top, total=total)
    return ((top + total.log2()) * (eps * math.log(2))).to(x.dtype)


def soft_mass(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, " m"]:
    return (_soft(x, y, h, eps, mass=True)[: len(h)] / x.shape[0]).to(x.dtype)


def soft_average(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, "n d"]:
    average = torch.empty(x.shape, dtype=x.dtype)
    _soft(x, y, h, eps, average=average)
    return average


def _soft(
    x: Tensor, y: Tensor, h: Tensor, eps: float, *,
    mass: bool = False, average: Tensor | None = None, top: Tensor | None = None, total: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Fill the tensors that are given; return the sums of the masses where they are asked for."""
    c, x, (n, d), scale = compiled(x), x.contiguous(), x.shape, math.log2(math.e) / eps
    panels, heights = packed(c, y, c.lanes()), filled(h * scale, c.lanes())
    masses: dict[int, Tensor] = {}  # by first row: the order of the sum must not depend on who is first

    def run(i: int, end: int) -> None:
        own = torch.zeros(len(heights) if mass else 0, dtype=torch.float64)
        masses[i] = own
        outputs = (own if mass else None, *(None if t is None else t[i:] for t in (average, top, total)))
        call(c.soft, x[i:], end - i, d, scale, panels, heights, len(heights), *outputs)

    divide(run, n, n * len(h) * (d + 10))
    return torch.stack([masses[i] for i in sorted(masses)]).sum(0)


def compiled(like: Tensor) -> ctypes.CDLL:
    """fused.c in the dtype of a tensor."""
    if like.device.type != "cpu":
        raise Unavailable(f"backend 'fused' runs on the CPU, but the points are on {like.device}; use backend='blocked'.")
    with _lock:  # one compilation, and one reason when it fails
        if like.dtype in _reasons:
            raise _reasons[like.dtype]
        try:
            return _library(like.dtype)
        except Unavailable as reason:
            _reasons[like.dtype] = reason
            raise


@cache
def _library(dtype: torch.dtype) -> ctypes.CDLL:
    c = library(Path(__file__).with_suffix(".c"), f"-DDOUBLE={int(dtype == torch.float64)}")
    pointer, long = ctypes.c_void_p, ctypes.c_long
    real = ctypes.c_double if dtype == torch.float64 else ctypes.c_float
    c.lanes.argtypes, c.lanes.restype = [], long
    c.pack.argtypes, c.pack.restype = [pointer, long, long, long, real, pointer], None
    c.topk.argtypes = [pointer, long, long, pointer, pointer, long, long, pointer, pointer]
    if dtype == torch.float32:
        c.above.argtypes, c.above.restype = [*c.topk.argtypes[:6], pointer, long, pointer, pointer], long
    if hasattr(c, "coarse_topk"):
        c.coarse_words.argtypes, c.coarse_words.restype = [ctypes.c_int, long], long
        c.middle.argtypes, c.middle.restype = [pointer, long, long, pointer], None
        c.coarsen.argtypes, c.coarsen.restype = [ctypes.c_int, pointer, pointer, long, long, pointer, pointer, pointer], long
        c.coarse_topk.argtypes = [ctypes.c_int, *c.topk.argtypes, pointer, pointer]
        c.coarse_above.argtypes, c.coarse_above.restype = [ctypes.c_int, *c.above.argtypes, pointer, pointer, pointer], long
    c.soft.argtypes = [pointer, long, long, real, pointer, pointer, long, pointer, pointer, pointer, pointer]
    return c


def packed(c: ctypes.CDLL, points: Tensor, width: int) -> Tensor:
    """Panels of `width` points, coordinate by coordinate, the last one filled up with zeros."""
    points = points.contiguous()
    n, d = points.shape
    blocks = -(-n // width)
    panels = _room(blocks * width * d, points.dtype)

    def run(i: int, end: int) -> None:
        rows = points[i * width : end * width]
        c.pack(rows.data_ptr(), len(rows), d, width, 1.0, panels[i * width * d :].data_ptr())

    divide(run, blocks, points.numel())
    return panels


def _room(count: int, dtype: torch.dtype) -> Tensor:
    """Numbers that begin a cache line, in large pages where they are many: numpy asks for these, torch does not, and small ones
    take three times as long to come by as to fill."""
    size = count * dtype.itemsize
    room = torch.from_numpy(np.empty(size + 64, np.uint8))
    return room[-room.data_ptr() % 64 :][:size].view(dtype)


def coarsened(c: ctypes.CDLL, panels: Tensor, heights: Tensor, d: int, *, tiled: bool) -> Coarse | None:
    """Targets as the first pass wants them, and for every group what that did to them; None where it cannot be told."""
    groups, size = len(heights) // GROUP, GROUP * c.coarse_words(tiled, d)
    together = -(-groups // TOGETHER)
    words, bounds = _room(together * TOGETHER * size, torch.int32), panels.new_empty(groups, BOUND)
    mean, wrong = panels.new_empty(d), list[int]()
    call(c.middle, panels, groups, d, mean)

    def run(i: int, end: int) -> None:
        i, end = i * TOGETHER, min(end * TOGETHER, groups)
        own = (panels[i * GROUP * d :], heights[i * GROUP :], end - i, d, mean, words[i * size :], bounds[i:])
        wrong.append(call(c.coarsen, tiled, *own))

    divide(run, together, panels.numel())
    return None if sum(wrong) else (tiled, words, bounds, mean)


def coarse_form(c: ctypes.CDLL, n: int, d: int, m: int, k: int) -> bool | None:
    """Whether a first pass saves time, and then in which form: it does where there are many scores for each that must be made
    again, and for each target that must be made ready (measured). True: in tiles, False: in integers, None: not at all."""
    if d < 8 or k > MOST_COARSE or n < 128 or m < 100 + 4500 * k * (1 + k / 16) / d:
        return None
    form = _fastest_form(c, min(64, 2 ** round(math.log2(d))))
    return form if not form else n >= 512 and d <= MOST_TILED  # tiles take longer to fill


@cache
def _fastest_form(c: ctypes.CDLL, d: int) -> bool | None:
    """Some processors have no products of short numbers, others no faster ones: measured once, in up to 20 ms."""
    if not hasattr(c, "coarse_topk"):
        return None
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(rows, d, generator=generator) for rows in (768, 4096))
    panels, heights = packed(c, y, GROUP), y.square().sum(1) / -2
    forms = {form: coarsened(c, panels, heights, d, tiled=form) for form in (False, True)[: 1 + c.tiles()]}
    seconds: dict[bool | None, float] = dict.fromkeys([None, *forms], math.inf)
    for form in [*seconds] * 3:
        value, index, start = x.new_empty(768, 1), torch.empty(768, 1, dtype=torch.int64), time.perf_counter()
        _search(c, x, panels, heights, 4096, 1, None if form is None else forms[form], value, index)
        seconds[form] = min(seconds[form], time.perf_counter() - start)
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] < 0.95 * seconds[None] else None


def filled(h: Tensor, width: int) -> Tensor:
    """h, then -inf up to a whole number of panels."""
    heights = h.new_full((-(-len(h) // width) * width,), -torch.inf)
    heights[: len(h)] = h
    return heights
