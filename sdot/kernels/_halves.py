"""Float32 points as float16 ones: exact powers of two for the range, split parts for the precision, and what is lost.

Everything stays on the device: no number here reaches Python.

**The bound.** Write x^ and y^ for the points that the product really uses, in scaled units: the rounded point, or the sum of a
high and a low half. Then

    <x, y> - <x^, y^> = <x - x^, y> + <x^, y - y^>,

and the split product leaves out <low x, low y>, so that each score is off by at most

    |x - x^| |y| + |x^| |y - y^| + |low x| |low y| + gamma (|h| + |x| |y|).

The last term is the accumulation. A matrix unit adds 16 products to the sum at a time, after shifting all 17 to the exponent of
the largest and cutting off what falls below its last place, and cuts the result once more: 18 errors of 2^-23 of the largest
number at hand, which |h| + |x| |y| bounds. K products take K / 16 such steps: gamma = 18 / 16 K 2^-23, and a little more.
(How the units truncate is known from experiments, not from a specification; the factor leaves room for it.) For the score s of
any target, |h| <= |s| + |x| |y|; applied to the targets that attain the computed maximum T of a tile and the true one, both are
within

    b = |x - x^| Y + |x^| D + |low x| L + 2 gamma |x| Y + gamma |T|

of each other, where Y, D, L are the largest |y|, |y - y^| and |low y| in the tile. MARGIN pays for the rounding of these norms,
for |y^| in the place of |y| and for the factor 1 / (1 - gamma).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32
from torch import Tensor

TOP = 14  # the largest coordinate is scaled to just under 2^14: inside float16, with 28 binary orders above its subnormals
MARGIN = 1.01
FLOOR = 2.0**-50  # added to norms, whose squares may have underflowed


def exponent(v: Float[Tensor, "n d"]) -> Int32[Tensor, ""]:
    """e such that 2^e v fits float16 well, cut to where 2^e is a float32; what is not finite does not count."""
    return (TOP - torch.frexp(v.abs().nan_to_num(0, 0).amax()).exponent).clamp(-126, 90)


def height_limit(h: Float[Tensor, " m"]) -> Int32[Tensor, ""]:
    """The largest e for which 2^e h stays far from overflow; -inf does not count."""
    return 100 - torch.frexp(torch.where(h.isinf(), 0, h).abs().amax()).exponent


def scaled(v: Tensor, e: Int32[Tensor, ""]) -> Tensor:
    """2^e v, exactly: in two factors, since 2^e may be outside float32."""
    half = e // 2
    return v * _power(half) * _power(e - half)


def _power(e: Int32[Tensor, ""]) -> Float[Tensor, ""]:
    """2^e for -126 <= e <= 127, put together from its bits."""
    return ((e + 127) << 23).to(torch.int32).view(torch.float32)


def width(d: int, parts: int) -> int:
    """Columns of the packed points: a power of two up to 128, a multiple of 64 beyond."""
    columns = parts * d
    return max(16, 1 << (columns - 1).bit_length()) if columns <= 128 else -(-columns // 64) * 64


def slab(columns: int) -> int:
    """How many of these columns a kernel multiplies at once: all of them where they are 256 or a smaller power of two."""
    return columns if columns in (16, 32, 64, 128, 256) else 64


@dataclass(frozen=True)
class Packed:
    """Points as the first pass reads them, with the norms of what they were, of what was lost, and of the low parts."""

    values: Float[Tensor, "p w"]
    size: Float[Tensor, " n"]
    lost: Float[Tensor, " n"]
    low: Float[Tensor, " n"]


def pack(v: Float[Tensor, "n d"], e: Int32[Tensor, ""], parts: str, rows: int | None = None) -> Packed:
    """Scale points by 2^e and put them into the form of a first pass.

    Args:
        v: Points.
        e: Their scale.
        parts: "f" for float32 as it is; "h" for one rounded float16 point; "hhl" and "hlh" for the two sides of a split
            product, whose columns multiply to high high + high low + low high.
        rows: Pad to so many with zeros.
    """
    n, d = v.shape
    s = scaled(v, e)
    size, zero = _norm(s), s.new_zeros(n)
    if parts == "f":
        values = s.new_zeros(rows or n, d)
        values[:n] = s
        return Packed(values, size, zero, zero)
    high = s.half()
    low = (s - high.float()).half()
    values = high.new_zeros(rows or n, width(d, len(parts)))
    for place, part in enumerate(parts):
        values[:n, place * d : (place + 1) * d] = high if part == "h" else low
    if parts == "h":
        return Packed(values, size, _norm(s - high.float()), zero)
    return Packed(values, size, _norm(s - high.float() - low.float()), _norm(low.float()))


def row_bounds(x: Packed, gamma: float) -> Float[Tensor, "3 n"]:
    """The factors |x - x^| + 2 gamma |x|, |x^| and |low x| of the bound."""
    return torch.stack([x.lost + 2 * gamma * x.size, x.size + x.lost, x.low])


def tile_bounds(y: Packed, tile: int, tiles: int) -> Float[Tensor, "3 t"]:
    """The factors Y, D and L of the bound: the largest |y|, |y - y^| and |low y| of each tile."""
    each = torch.stack([y.size, y.lost, y.low])
    return torch.cat([each, each.new_zeros(3, tile * tiles - each.shape[1])], 1).view(3, tiles, tile).amax(2)


def gamma(parts: str, columns: int) -> float:
    """Relative error of a sum of so many products and a height; 2^-24 a step in plain float32, doubled."""
    return MARGIN * 2**-23 * (columns + 2 if parts == "f" else 1.125 * columns + 8)


def _norm(v: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    norm: Tensor = torch.linalg.vector_norm(v, dim=1)
    return norm * MARGIN + FLOOR
