"""The exact search for the k best targets: the launches around the kernels of `_triton_topk`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from . import _halves, _triton_topk
from ._halves import scaled
from ._triton_grid import ROWS, shares
from ._triton_pack import Packed, pack

SPLIT_DIM = 15  # split float16 up to here
COLUMNS, PER = 128, 2  # targets of one product, and products a tile
WIDTHS = (1, 2, 8)  # numbers of best targets that kernels are compiled for
GROUP = 8  # tiles whose maxima a thread looks at together
FEATURES = 16  # coordinates that exact float32 scores take at a time
FEW_DIM = 4  # up to here one at a time
PAIRS = 2**22  # most candidate tiles that are scored again at once


@dataclass(frozen=True)
class Targets:
    """What depends on y alone: as it came, for the exact scores, and as the first pass reads it; zeros up to whole tiles."""

    y: Float[Tensor, "f p"]
    packed: Packed
    bounds: Float[Tensor, "3 t"]
    m: int

    @classmethod
    def prepare(cls, y: Float[Tensor, "m d"]) -> Targets:
        m, d = y.shape
        tiles = -(-m // tile_size())
        size = tile_size() * tiles
        padded = y.new_zeros(-(-d // features(y)) * features(y), size)
        padded[:d, :m] = y.T
        packed = pack(y, form(d, "hlh"), _halves.exponent(y), rows=size)
        return cls(padded, packed, _halves.tile_bounds(packed.stats, tile_size(), -(-tiles // GROUP) * GROUP), m)

    @property
    def tiles(self) -> int:
        return self.y.shape[1] // tile_size()

    @property
    def columns(self) -> int:
        return self.packed.values.shape[1]

    @property
    def gamma(self) -> float:
        return _halves.gamma(self.columns)


@dataclass(frozen=True)
class Heights:
    """Heights, and what makes all scores that matter positive.

    The `width` targets with the largest heights score at least their least height - |x| (their largest |y|). With that taken
    away and the rounding error of any tile added, the `width`-th best score is at least this error: a tile whose scores are
    all computed as negative cannot hold it. Where fewer targets are not hidden, the last of them takes its place, and nothing
    is known of the `width`-th.

    Attributes:
        exact: As they came; -inf for padding.
        first: For the first pass: scaled by 2^g, g as large as is safe.
        limit: The largest exponent that a sample's scale may have.
        unit: What to add to a sample's exponent for the exponent of its factor on `first`, which is never positive.
        edge: The least of those heights scaled by 2^g, their largest |y|, and the largest factors of any tile in the bound.
        floor: What the `width`-th best score of every sample is known to reach.
    """

    exact: Float[Tensor, " p"]
    first: Float[Tensor, " p"]
    limit: Int32[Tensor, ""]
    unit: Int32[Tensor, ""]
    edge: Float[Tensor, "5"]
    floor: Float[Tensor, ""]

    @classmethod
    def prepare(cls, h: Float[Tensor, " m"], targets: Targets, width: int) -> Heights:
        exact = h.new_full((targets.y.shape[1],), -torch.inf)
        exact[: targets.m] = h
        g = _halves.height_limit(h)
        first = scaled(exact, g).float()
        values, places = first.topk(min(width, len(first)))
        seen = values.isfinite().sum()
        last = (seen - 1).clamp_min(0)
        low, size = values[last].nan_to_num(neginf=0.0), targets.packed.stats[0][places].cummax(0).values[last]
        edge = torch.cat([torch.stack([low, size]), targets.bounds.amax(1)])
        floor = torch.where(seen == width, 0.0, -torch.inf)
        return cls(exact, first, (g - targets.packed.exponent).int(), (targets.packed.exponent - g).int(), edge, floor)


def form(d: int, split: str) -> str:
    """The form of the points in d dimensions."""
    return split if d <= SPLIT_DIM else "h"


def tile_size() -> int:
    return COLUMNS * PER


def features(y: Float[Tensor, "m d"]) -> int:
    return 1 if y.shape[1] <= FEW_DIM or y.dtype == torch.float64 else FEATURES


def matrix_shape(columns: int) -> dict[str, int]:
    """Block shape of the first pass for so many columns: two or more blocks a multiprocessor up to 128 of them, so that one
    block multiplies while another takes maxima."""
    slab = _halves.slab(columns)
    stages, warps = 3 if slab <= 64 else 2, 4 if slab == columns <= 128 else 8
    return {"K": columns, "BK": slab, "BM": ROWS, "W": COLUMNS, "PER": PER, "STAGES": stages, "num_warps": warps}


@dataclass(frozen=True)
class Candidates:
    """Which tiles may hold one of the k best targets of each sample: `start[i + 1] - start[i]` of them.

    `find` only launches. `resolve` waits for one number, how many candidates there are, which sizes the memory for their
    scores; between the two the device has other work, if one launches it.
    """

    x: Float[Tensor, "n d"]
    targets: Targets
    heights: Heights
    packed: Packed
    maxima: Float[Tensor, "t n"]
    limit: Float[Tensor, " n"]
    start: Int[Tensor, " n+1"]
    width: int
    total: Int[Tensor, ""]
    counted: torch.cuda.Event | None

    @classmethod
    def find(cls, x: Float[Tensor, "n d"], targets: Targets, heights: Heights, width: int) -> Candidates:
        x, n = x.contiguous(), len(x)
        packed = pack(x, form(x.shape[1], "hhl"), heights.limit, own=True)
        maxima = first_pass(packed, targets, heights)
        limit, count = x.new_empty(n, dtype=torch.float32), torch.empty(n, dtype=torch.int32, device=x.device)
        _triton_topk.threshold[(-(-n // 32),)](
            maxima, packed.stats, targets.bounds, heights.floor, limit, count, targets.gamma, n, targets.tiles, len(maxima),
            TERMS=terms(x.shape[1]), KK=width, BR=32, BT=GROUP, num_warps=1,
        )  # fmt: skip
        start = torch.zeros(n + 1, dtype=torch.int64, device=x.device)
        torch.cumsum(count, 0, out=start[1:])
        total = torch.empty((), dtype=torch.int64, pin_memory=x.is_cuda).copy_(start[-1], non_blocking=True)
        counted = torch.cuda.Event() if x.is_cuda else None
        if counted is not None:
            counted.record()
        return cls(x, targets, heights, packed, maxima, limit, start, width, total, counted)

    def resolve(self, value: Float[Tensor, "n k"], index: Int[Tensor, "n k"]) -> None:
        """Score the candidates again, PAIRS at a time: hardly more than one part, except where most targets tie."""
        if self.counted is not None:
            self.counted.synchronize()
        spans = [(0, 0, len(self.x), int(self.total))]  # first row and its pair, last row and its pair
        while spans:
            first, base, last, end = spans.pop()
            if end - base > PAIRS and last - first > 1:
                middle = (first + last) // 2
                pair = int(self.start[middle])
                spans += [(first, base, middle, pair), (middle, pair, last, end)]
            else:
                self._resolve(first, last, base, end - base, value, index)

    def _resolve(self, first: int, last: int, base: int, pairs: int, value: Tensor, index: Tensor) -> None:
        x, targets, width, stats = self.x, self.targets, self.width, self.packed.stats
        row, tile, where = (torch.empty(size, dtype=torch.int32, device=x.device) for size in (pairs, pairs, pairs * width))
        score = x.new_empty(pairs * width)
        _triton_topk.list_pairs[(-(-(last - first) // 32),)](
            self.maxima, stats, targets.bounds, self.limit, self.start, row, tile, targets.gamma, base, len(x), first, last,
            targets.tiles, len(self.maxima), TERMS=terms(x.shape[1]), BR=32, BT=GROUP, num_warps=1,
        )  # fmt: skip
        _triton_topk.rescore[(-(-pairs // RESCORED),)](
            x, targets.y, self.heights.exact, tile.argsort(), row, tile, score, where, pairs, targets.m, targets.y.shape[1],
            x.shape[1], KK=width, BR=RESCORED, W=tile_size(), BD=features(x), num_warps=4,
        )  # fmt: skip
        _triton_topk.merge[(-(-(last - first) // 128),)](
            stats, self.start, score, where, value, index, base, first, last, targets.m, value.shape[1],
            KK=width, BR=128, BE=4, num_warps=4,
        )  # fmt: skip


RESCORED = 16  # pairs a program: larger blocks spill registers


def terms(d: int) -> int:
    """Terms of the bound that do not vanish: only a split product has low parts."""
    return 3 if d <= SPLIT_DIM else 2


def first_pass(packed: Packed, targets: Targets, heights: Heights) -> Float[Tensor, "t n"]:
    """The largest score of every sample in every tile, in the sample's own scale and plus its shift; -inf beyond the tiles."""
    n = len(packed.values)
    maxima = packed.stats.new_empty(targets.bounds.shape[1], n)
    maxima[targets.tiles :] = -torch.inf
    blocks = -(-n // ROWS)
    each, programs = shares(packed.values, blocks, targets.tiles)
    _triton_topk.tile_maxima[(blocks, programs)](
        packed.values, packed.stats, packed.exponent, targets.packed.values, heights.first, heights.unit, heights.edge, maxima,
        targets.gamma, n, n - 1, targets.tiles, each, **matrix_shape(targets.columns),
    )  # fmt: skip
    return maxima
