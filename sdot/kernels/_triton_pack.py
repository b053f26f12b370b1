"""Points as the matrix units read them: float16, scaled by powers of two and split in parts, and the norms of what was lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int32
from torch import Tensor

from . import _halves

BLOCK = 2048  # coordinates that a program packs at once
FORMS = {"h": 0, "hhl": 1, "hlh": 2}
MARGIN, FLOOR = tl.constexpr(_halves.MARGIN), tl.constexpr(_halves.FLOOR)


@triton.jit
@no_type_check
def power(e, DOUBLE: tl.constexpr):
    """2^e in float32 or float64, put together from its bits; 0 below the normal numbers."""
    if DOUBLE:
        value = tl.where(e < -1022, 0, (e.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    else:
        value = tl.where(e < -126, 0, (e + 127) << 23).to(tl.float32, bitcast=True)
    return value


@triton.jit
@no_type_check
def _exponent(top, DOUBLE: tl.constexpr):
    """frexp's exponent of numbers that are not negative; that of the smallest normal number for those below it."""
    if DOUBLE:
        value = tl.maximum(top.to(tl.int64, bitcast=True) >> 52, 1).to(tl.int32) - 1022
    else:
        value = tl.maximum(top.to(tl.int32, bitcast=True) >> 23, 1) - 126
    return value


@triton.jit
@no_type_check
def _norm(v):
    return tl.sqrt(tl.sum(v * v, axis=1)) * MARGIN + FLOOR


@triton.jit(do_not_specialize=["n"])
@no_type_check
def lower(V, E, n, TOP: tl.constexpr, B: tl.constexpr):
    """Lower E until 2^E v is below 2^TOP for all n numbers v that are finite."""
    DOUBLE: tl.constexpr = V.dtype.element_ty == tl.float64
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    v = tl.abs(tl.load(V + at, mask=at < n, other=0.0))
    v = tl.where(v < float("inf"), v, tl.zeros_like(v))
    tl.atomic_min(E, TOP - _exponent(tl.max(v, axis=0), DOUBLE))


@triton.jit(do_not_specialize=["n"])
@no_type_check
def pack_points(V, E, OUT, STATS, n, padded, d, K: tl.constexpr, D: tl.constexpr, FORM: tl.constexpr, BR: tl.constexpr):
    """V (n, d), scaled by 2^E, into OUT (., K); the norms of points, of what was lost and of low parts into STATS (3, padded).

    A point that is not finite becomes zero, and its norm NaN.
    """
    DOUBLE: tl.constexpr = V.dtype.element_ty == tl.float64
    rows, column = tl.program_id(0) * BR + tl.arange(0, BR), tl.arange(0, D)
    live, place = rows < n, rows.to(tl.int64)[:, None]
    inside = live[:, None] & (column < d)[None, :]
    v = tl.load(V + place * d + column[None, :], mask=inside, other=0.0)
    broken = tl.sum((tl.abs(v) < float("inf")).to(tl.int32), axis=1) < D
    s = tl.where(broken[:, None], tl.zeros_like(v), v) * power(tl.load(E), DOUBLE)
    high = s.to(tl.float32).to(tl.float16)
    rest = s - high.to(s.dtype)
    size = tl.where(broken, float("nan"), _norm(s.to(tl.float32)))
    tl.store(STATS + rows, size, mask=live)
    at = OUT + place * K + column[None, :]
    tl.store(at, high, mask=inside)
    if FORM == 0:
        tl.store(STATS + padded + rows, _norm(rest.to(tl.float32)), mask=live)
        tl.store(STATS + 2 * padded + rows, tl.zeros([BR], tl.float32), mask=live)
    else:
        low = rest.to(tl.float32).to(tl.float16)
        tl.store(STATS + padded + rows, _norm((rest - low.to(s.dtype)).to(tl.float32)), mask=live)
        tl.store(STATS + 2 * padded + rows, _norm(low.to(tl.float32)), mask=live)
        tl.store(at + d, high if FORM == 1 else low, mask=inside)
        tl.store(at + 2 * d, low if FORM == 1 else high, mask=inside)


@dataclass(frozen=True)
class Packed:
    """Points as a first pass reads them.

    Attributes:
        values: Their parts side by side, filled with zeros to a width of `_halves.width`.
        stats: Norms of the scaled points, of what is lost of them, and of their low parts, each a little too large.
        exponent: e of their scale 2^e.
    """

    values: Float[Tensor, "p w"]
    stats: Float[Tensor, "3 p"]
    exponent: Int32[Tensor, ""]


def exponent(v: Float[Tensor, " ..."], most: Int32[Tensor, ""] | int, top: int = _halves.TOP) -> Int32[Tensor, ""]:
    """The largest e up to `most` for which 2^e v stays below 2^top; what is not finite does not count."""
    e = most.clone() if isinstance(most, Tensor) else torch.full((), most, dtype=torch.int32, device=v.device)
    lower[(-(-v.numel() // BLOCK),)](v.contiguous(), e, v.numel(), TOP=top, B=BLOCK)
    return e


def pack(v: Float[Tensor, "n d"], form: str, most: Int32[Tensor, ""] | int = 90, *, rows: int | None = None) -> Packed:
    """Put points into the form of a first pass.

    Args:
        v: Points.
        form: "h" for one rounded float16 point; "hhl" and "hlh" for the two sides of a split product, whose columns multiply
            to high high + high low + low high.
        most: The largest exponent that their scale may have.
        rows: Pad to so many with zeros.
    """
    (n, d), v = v.shape, v.contiguous()
    rows, columns = rows or n, _halves.width(d, len(form))
    full = rows == n and columns == len(form) * d
    values = (torch.empty if full else torch.zeros)(rows, columns, dtype=torch.float16, device=v.device)
    stats = torch.zeros(3, rows, device=v.device)
    e, wide = exponent(v, most), max(2, triton.next_power_of_2(d))
    block = max(1, BLOCK // wide)
    pack_points[(-(-n // block),)](v, e, values, stats, n, rows, d, K=columns, D=wide, FORM=FORMS[form], BR=block)
    return Packed(values, stats, e)
