"""The softened reductions: a running log-sum-exp, and averages under the softmax.

Scores come out of a split float16 product (`_halves`: high high + high low + low high, side by side along K, float32 sums) in
units of log 2: SCALE <x, y> + H with H = height log2(e) / eps. Padded targets have height -inf.
"""

from __future__ import annotations

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int32
from torch import Tensor

from . import _halves
from ._triton_grid import ROWS, shares
from ._triton_pack import pack

NEG_INF = tl.constexpr(float("-inf"))
TILE = 64  # targets a tile


@triton.jit
@no_type_check
def _scores(
    X, Y, H, scale, row, column, K: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, W: tl.constexpr, STAGES: tl.constexpr
):
    """Scores of a tile: X (., K) at the rows, Y (., K) at the columns."""
    feature = tl.arange(0, BK)
    x_at = X + row[:, None] * K + feature[None, :]
    y_at = Y + column[None, :] * K + feature[:, None]
    acc = tl.zeros([BM, W], tl.float32)
    for k in tl.range(0, K, BK, num_stages=STAGES):
        acc = tl.dot(tl.load(x_at + k), tl.load(y_at + k), acc)
    return acc * scale + tl.load(H + column)[None, :]


@triton.jit(do_not_specialize=["n"])
@no_type_check
def log_sum_exp(
    X, Y, H, SCALE, OUT, n, tiles, per_program,
    K: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, W: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """OUT[s, i] = log2 sum_j 2^score_ij over the s-th share of the tiles, with a maximum that runs along."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    row = tl.minimum(rows, n - 1).to(tl.int64)
    share = tl.program_id(1)
    first = share * per_program
    count = tl.minimum(per_program, tiles - first)
    column = first.to(tl.int64) * W + tl.arange(0, W)
    scale = tl.load(SCALE)
    top, total = tl.full([BM], NEG_INF, tl.float32), tl.zeros([BM], tl.float32)
    if K == BK:
        x = tl.load(X + row[:, None] * K + tl.arange(0, K)[None, :])
        y_at = Y + column[None, :] * K + tl.arange(0, K)[:, None]
    for _ in tl.range(0, count, num_stages=STAGES if K == BK else 1):
        if K == BK:
            a = tl.dot(x, tl.load(y_at)) * scale + tl.load(H + column)[None, :]
            y_at += W * K
        else:
            a = _scores(X, Y, H, scale, row, column, K, BK, BM, W, STAGES)
        new = tl.maximum(top, tl.max(a, axis=1))
        origin = tl.where(new == NEG_INF, 0.0, new)  # nothing but hidden targets so far
        total = total * tl.exp2(top - origin) + tl.sum(tl.exp2(a - origin[:, None]), axis=1)
        top = new
        column += W
    tl.store(OUT + share.to(tl.int64) * n + rows, top + tl.log2(total), mask=rows < n)


@triton.jit(do_not_specialize=["n"])
@no_type_check
def weighted_sum(
    X, Y, H, SCALE, TOTAL, OUT, n, d, tiles, per_program,
    K: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, W: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """OUT[s, i] = sum_j 2^(score_ij - TOTAL_i) y_j over the s-th share of the tiles, BD coordinates a program.

    Y holds the points as high | low | high parts of d columns each; the weights are split in two parts as well.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    row = tl.minimum(rows, n - 1).to(tl.int64)
    share = tl.program_id(1)
    first = share * per_program
    count = tl.minimum(per_program, tiles - first)
    column = first.to(tl.int64) * W + tl.arange(0, W)
    coordinate = tl.program_id(2) * BD + tl.arange(0, BD)
    inside = coordinate < d
    scale, total = tl.load(SCALE), tl.load(TOTAL + row)
    out = tl.zeros([BM, BD], tl.float32)
    for _ in range(count):
        p = tl.exp2(_scores(X, Y, H, scale, row, column, K, BK, BM, W, STAGES) - total[:, None])
        p_high = p.to(tl.float16)
        p_low = (p - p_high.to(tl.float32)).to(tl.float16)
        y_at = Y + column[:, None] * K + coordinate[None, :]
        y_high = tl.load(y_at, mask=inside[None, :], other=0.0)
        y_low = tl.load(y_at + d, mask=inside[None, :], other=0.0)
        out = tl.dot(p_high, y_high, out)
        out = tl.dot(p_high, y_low, out)
        out = tl.dot(p_low, y_high, out)
        column += W
    place = OUT + (share.to(tl.int64) * n + row[:, None]) * d + coordinate[None, :]
    tl.store(place, out, mask=(rows < n)[:, None] & inside[None, :])


def sum_shape(columns: int) -> dict[str, int]:
    """Block shape of `log_sum_exp` for so many packed columns."""
    slab = _halves.slab(columns)
    return {"K": columns, "BK": slab, "BM": ROWS, "W": TILE, "STAGES": 3 if slab <= 64 else 2, "num_warps": 4}


def average_shape(columns: int, d: int) -> dict[str, int]:
    """Block shape of `weighted_sum` for so many packed columns and dimensions."""
    coordinates = min(64, max(16, triton.next_power_of_2(d)))
    return {"K": columns, "BK": min(columns, 64), "BM": ROWS, "W": TILE, "BD": coordinates, "STAGES": 2, "num_warps": 8}


def _scaled(v: Float[Tensor, " ..."], e: Int32[Tensor, ""]) -> Float[Tensor, " ..."]:
    """2^e v, rounded once."""
    return (v.double() * ((e.long() + 1023) << 52).view(torch.float64)).to(v)


class _Scores:
    """The arguments that the kernels share: packed points, heights and the scale that takes products to units of log 2."""

    def __init__(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> None:
        n, m = len(x), len(y)
        self.tiles = -(-m // TILE)
        left, right = pack(x, "hhl"), pack(y, "hlh", rows=self.tiles * TILE)
        self.x, self.y, self.y_exponent = left.values, right.values, right.exponent
        unit = h.new_full((1,), math.log2(math.e) / eps)
        self.h = h.new_full((self.tiles * TILE,), -torch.inf)
        self.h[:m] = h * unit
        self.scale = _scaled(unit, -(left.exponent + right.exponent))
        self.n, self.columns = n, self.x.shape[1]
        self.blocks = -(-n // ROWS)
        self.each, self.programs = shares(x, self.blocks, self.tiles)

    def log2_sum(self) -> Float[Tensor, " n"]:
        out = self.h.new_empty(self.programs, self.n)
        log_sum_exp[(self.blocks, self.programs)](
            self.x, self.y, self.h, self.scale, out, self.n, self.tiles, self.each, **sum_shape(self.columns)
        )
        return torch.logsumexp(out * math.log(2), 0) / math.log(2) if self.programs > 1 else out[0]


def potential(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, " n"]:
    """eps log sum_j exp((h_j + <x_i, y_j>) / eps)."""
    return _Scores(x, y, h, eps).log2_sum() * (eps * math.log(2))


def average(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, "n d"]:
    """sum_j softmax_j((h_j + <x_i, y_j>) / eps) y_j."""
    s, (n, d) = _Scores(x, y, h, eps), x.shape
    shape, out = average_shape(s.columns, d), x.new_empty(s.programs, n, d)
    weighted_sum[(s.blocks, s.programs, -(-d // shape["BD"]))](
        s.x, s.y, s.h, s.scale, s.log2_sum(), out, n, d, s.tiles, s.each, **shape
    )
    return _scaled(out.sum(0), -s.y_exponent)
