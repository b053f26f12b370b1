"""The exact search for the k best targets: the launches around the kernels of `_triton_topk`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from . import _halves, _triton_topk
from ._halves import Packed, pack, scaled
from ._triton_grid import ROWS, shares

FLOAT_DIM, SPLIT_DIM = 4, 15  # plain float32 up to the first, split float16 up to the second
TILE = 128  # targets a tile
FLOAT_TILE, MANY = 512, 2**14  # the same in plain float32 for many targets, where rarer bookkeeping outweighs exact scores
SLOTS = 32  # columns of a float32 tile that keep a maximum of their own
WIDTHS = (1, 2, 8)  # numbers of best targets that kernels are compiled for
GROUP = 8  # tiles whose maxima a thread looks at together
FEATURES = 16  # coordinates that exact scores take at a time
PAIRS = 2**22  # most candidate tiles that are scored again at once


@dataclass(frozen=True)
class Targets:
    """What depends on y and h alone, prepared once a call: both as they came, for the exact scores, and as the first pass reads
    them. Padded to whole tiles, y with zeros and h with -inf."""

    y: Float[Tensor, "f p"]
    h: Float[Tensor, " p"]
    packed: Packed
    scale: Int32[Tensor, ""]
    limit: Int32[Tensor, ""]  # what the heights allow the scale of the samples to be
    bounds: Float[Tensor, "3 t"]
    m: int
    tile: int
    parts: str

    @classmethod
    def prepare(cls, y: Float[Tensor, "m d"], h: Float[Tensor, " m"]) -> Targets:
        m, d = y.shape
        tile = FLOAT_TILE if d <= FLOAT_DIM and m >= MANY else TILE
        tiles = -(-m // tile)
        padded = y.new_zeros(-(-d // features(d)) * features(d), tile * tiles)
        heights = h.new_full((tile * tiles,), -torch.inf)
        padded[:d, :m], heights[:m] = y.T, h
        scale = _halves.exponent(y)
        form = parts(d, "hlh")
        packed = pack(y, scale, form, tile * tiles)
        limit, bounds = _halves.height_limit(h) - scale, _halves.tile_bounds(packed, tile, -(-tiles // GROUP) * GROUP)
        return cls(padded, heights, packed, scale, limit, bounds, m, tile, form)

    @property
    def tiles(self) -> int:
        return self.y.shape[1] // self.tile

    @property
    def columns(self) -> int:
        return self.packed.values.shape[1]

    @property
    def terms(self) -> int:
        """Terms of the bound that do not vanish: nothing is lost in float32, and only a split product has low parts."""
        return {"f": 1, "h": 2, "hlh": 3}[self.parts]


def parts(d: int, split: str) -> str:
    """The form of the first pass in d dimensions."""
    return "f" if d <= FLOAT_DIM else split if d <= SPLIT_DIM else "h"


def features(d: int) -> int:
    return 1 if d <= FLOAT_DIM else FEATURES


def search(x: Float[Tensor, "n d"], targets: Targets, value: Float[Tensor, "n k"], index: Int[Tensor, "n k"]) -> None:
    """Write the k best targets of a chunk of samples into `value` and `index`.

    One number comes back to Python: how many candidate tiles there are, which sizes the memory for their scores.
    """
    finite = x.isfinite().all(1, keepdim=True)
    x = torch.where(finite, x, 0).contiguous()
    Candidates.find(x, targets, value.shape[1]).resolve(value, index)
    value.masked_fill_(~finite, torch.nan)
    index.clamp_max_(targets.m - 1)


def tile_maxima(x: Float[Tensor, "n d"], targets: Targets) -> tuple[Float[Tensor, "t n"], Float[Tensor, "3 n"], float]:
    """The first pass: the largest score of every sample in every tile, in scaled units, and what bounds its rounding."""
    n, d = x.shape
    scale = torch.minimum(_halves.exponent(x), targets.limit).clamp_min(-126)
    packed, h = pack(x, scale, parts(d, "hhl")), scaled(targets.h, scale + targets.scale)
    maxima = x.new_empty(targets.bounds.shape[1], n)
    maxima[targets.tiles :] = -torch.inf
    blocks = -(-n // ROWS)
    each, programs = shares(x, blocks, targets.tiles)
    if d <= FLOAT_DIM:
        yt = targets.packed.values.T.contiguous()
        _triton_topk.tile_max_float[(blocks, programs)](
            packed.values,
            yt,
            h,
            maxima,
            n,
            yt.shape[1],
            targets.tiles,
            each,
            D=d,
            BM=ROWS,
            BN=SLOTS,
            W=targets.tile,
            num_warps=4,
        )
    else:
        _triton_topk.tile_max_half[(blocks, programs)](
            packed.values, targets.packed.values, h, maxima, n, targets.tiles, each, W=TILE, **matrix_shape(targets.columns)
        )
    gamma = _halves.gamma(parts(d, "hhl"), targets.columns)
    return maxima, _halves.row_bounds(packed, gamma), gamma


def matrix_shape(columns: int) -> dict[str, int]:
    """Block shape of the first pass for so many columns: two or more blocks a multiprocessor up to 128 of them, so that one
    block multiplies while another takes maxima."""
    slab = _halves.slab(columns)
    stages, warps = 3 if slab <= 64 else 2, 4 if slab == columns <= 128 else 8
    return {"K": columns, "BK": slab, "BM": ROWS, "STAGES": stages, "num_warps": warps}


@dataclass(frozen=True)
class Candidates:
    """Which tiles may hold one of the k best targets of each sample: `start[i + 1] - start[i]` of them, at least k or all."""

    x: Float[Tensor, "n d"]
    targets: Targets
    maxima: Float[Tensor, "t n"]
    bounds: Float[Tensor, "3 n"]
    gamma: float
    limit: Float[Tensor, " n"]
    start: Int[Tensor, " n+1"]
    width: int

    @classmethod
    def find(cls, x: Float[Tensor, "n d"], targets: Targets, k: int) -> Candidates:
        width = next(w for w in WIDTHS if w >= k)
        maxima, bounds, gamma = tile_maxima(x, targets)
        n = len(x)
        limit, count = x.new_empty(n), torch.empty(n, dtype=torch.int32, device=x.device)
        _triton_topk.threshold[(-(-n // 32),)](
            maxima, bounds, targets.bounds, limit, count, gamma, n, targets.tiles, len(maxima),
            TERMS=targets.terms, KK=width, BR=32, BT=GROUP, num_warps=1,
        )  # fmt: skip
        start = torch.zeros(n + 1, dtype=torch.int64, device=x.device)
        torch.cumsum(count, 0, out=start[1:])
        return cls(x, targets, maxima, bounds, gamma, limit, start, width)

    def resolve(self, value: Float[Tensor, "n k"], index: Int[Tensor, "n k"]) -> None:
        """Score the candidates again, PAIRS at a time: hardly more than one part, except where most targets tie."""
        spans = [(0, 0, len(self.x), int(self.start[-1]))]  # first row and its pair, last row and its pair
        while spans:
            first, base, last, end = spans.pop()
            if end - base > PAIRS and last - first > 1:
                middle = (first + last) // 2
                pair = int(self.start[middle])
                spans += [(first, base, middle, pair), (middle, pair, last, end)]
            else:
                self._resolve(first, last, base, end - base, value, index)

    def _resolve(self, first: int, last: int, base: int, pairs: int, value: Tensor, index: Tensor) -> None:
        x, targets, width = self.x, self.targets, self.width
        row, tile, where = (torch.empty(size, dtype=torch.int32, device=x.device) for size in (pairs, pairs, pairs * width))
        score = x.new_empty(pairs * width)
        _triton_topk.list_pairs[(-(-(last - first) // 32),)](
            self.maxima, self.bounds, targets.bounds, self.limit, self.start, row, tile, self.gamma, base, len(x), first, last,
            targets.tiles, len(self.maxima), TERMS=targets.terms, BR=32, BT=GROUP, num_warps=1,
        )  # fmt: skip
        block = 2048 // targets.tile  # pairs: larger blocks spill registers
        _triton_topk.rescore[(-(-pairs // block),)](
            x, targets.y, targets.h, tile.argsort(), row, tile, score, where, pairs, targets.m, targets.y.shape[1], x.shape[1],
            KK=width, BR=block, W=targets.tile, BD=features(x.shape[1]), num_warps=4,
        )  # fmt: skip
        _triton_topk.merge[(-(-(last - first) // 128),)](
            self.start, score, where, value, index, base, first, last, value.shape[1], KK=width, BR=128, BE=4, num_warps=4
        )
