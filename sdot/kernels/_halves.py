"""Points as float16 ones: exact powers of two for the range, split parts for the precision, and what is lost (`_triton_pack`).

Everything stays on the device: no number here reaches Python.

**The bound.** Write x^ and y^ for the points that the product really uses, in scaled units: the rounded point, or the sum of a
high and a low half. Then

    <x, y> - <x^, y^> = <x - x^, y> + <x^, y - y^>,

and the split product leaves out <low x, low y>, so that each score is off by at most

    |x - x^| |y| + |x^| |y - y^| + |low x| |low y| + gamma (|h| + |x| |y|).

The last term is the accumulation. A matrix unit adds 16 products to the sum at a time, after shifting all 17 to the exponent of
the largest and cutting off what falls below its last place, and cuts the result once more: 18 errors of 2^-23 of the largest
number at hand, which |h| + |x| |y| bounds. Columns that fill up to a full step are zero and lose nothing: `used` products in
K / 16 steps make gamma = (used + K / 8) 2^-23, and a little more. (How the units truncate is known from experiments, not from a
specification; the factor leaves room for it.) For the score s of
any target, |h| <= |s| + |x| |y|; applied to the targets that attain the computed maximum T of a tile and the true one, both are
within

    b = |x - x^| Y + |x^| D + |low x| L + 2 gamma |x| Y + gamma |T|

of each other, where Y, D, L are the largest |y|, |y - y^| and |low y| in the tile. MARGIN pays for the rounding of these norms,
for |y^| in the place of |y| and for the factor 1 / (1 - gamma).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TOP = 14  # the largest coordinate is scaled to just under 2^14: inside float16, with 28 binary orders above its subnormals
MARGIN = 1.01
FLOOR = 2.0**-50  # added to norms, whose squares may have underflowed


def width(d: int, parts: int) -> int:
    """Columns of the packed points: a power of two up to 128, a multiple of 64 beyond."""
    columns = parts * d
    return max(16, 1 << (columns - 1).bit_length()) if columns <= 128 else -(-columns // 64) * 64


def slab(columns: int) -> int:
    """How many of these columns a kernel multiplies at once: all of them where they are 256 or a smaller power of two."""
    return columns if columns in (16, 32, 64, 128, 256) else 64


def tile_bounds(stats: Float[Tensor, "3 p"], tile: int, tiles: int) -> Float[Tensor, "3 t"]:
    """The factors Y, D and L of the bound: the largest |y|, |y - y^| and |low y| of each tile, zeros for tiles beyond."""
    more = stats.new_zeros(3, tile * tiles - stats.shape[1])
    return torch.cat([stats, more], 1).view(3, tiles, tile).amax(2)


def gamma(used: int, columns: int) -> float:
    """Relative error of a sum of a height with its shift and `columns` products, of which all but `used` are zero."""
    return MARGIN * 2**-23 * (used + columns / 8 + 8)
