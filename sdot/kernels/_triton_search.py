"""The exact search for the k best targets: the launches around the kernels of `_triton_topk`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from . import _halves, _triton_topk
from ._triton_grid import ROWS, shares
from ._triton_pack import Packed, exponent, pack

SPLIT_DIM = 15  # split float16 up to here
COLUMNS, PER = 128, 2  # targets of one product, and products a tile
WIDTHS = (1, 2, 8)  # numbers of best targets that kernels are compiled for
GROUP = 8  # tiles whose maxima a thread looks at together
SLOTS = 16  # candidates of a sample that are kept where they are found; those of samples with more are found again
FEATURES = 16  # coordinates that exact float32 scores take at a time
FEW_DIM = 4  # up to here one at a time
PAIRS = 2**22  # most candidate tiles that are scored again at once
RESCORED = 16  # pairs a program: larger blocks spill registers


@dataclass(frozen=True)
class Targets:
    """What depends on y alone: as it came, for the exact scores, and as the first pass reads it, zeros up to whole tiles."""

    y: Float[Tensor, "f p"]  # transposed, so that neighbours are read together
    packed: Packed
    bounds: Float[Tensor, "3 t"]
    gamma: float
    m: int

    @classmethod
    def prepare(cls, y: Float[Tensor, "m d"]) -> Targets:
        (m, d), tiles = y.shape, -(-len(y) // tile_size())
        size = tile_size() * tiles
        parts = form(d, "hlh")
        packed, padded = pack(y, parts, rows=size), y.new_zeros(-(-d // features(y)) * features(y), size)
        padded[:d, :m] = y.T
        bounds = _halves.tile_bounds(packed.stats, tile_size(), -(-tiles // GROUP) * GROUP)
        return cls(padded, packed, bounds, _halves.gamma(len(parts) * d, packed.values.shape[1]), m)

    @property
    def tiles(self) -> int:
        return len(self.packed.values) // tile_size()

    @property
    def columns(self) -> int:
        return self.packed.values.shape[1]


@dataclass(frozen=True)
class Heights:
    """Heights, and what makes all scores that matter positive, for one number of best targets: see `_triton_topk.edge`.

    Attributes:
        exact: As they came.
        first: Scaled by 2^g, g as large as is safe; -inf for padding.
    """

    exact: Float[Tensor, " m"]
    first: Float[Tensor, " p"]
    g: Int32[Tensor, ""]
    edge: Float[Tensor, " 5"]
    floor: Float[Tensor, ""]
    limit: Int32[Tensor, ""]

    @classmethod
    def prepare(cls, h: Float[Tensor, " m"], targets: Targets, width: int) -> Heights:
        h, tiles, padded = h.contiguous(), targets.tiles, targets.bounds.shape[1]
        g = exponent(h, 127 if h.dtype == torch.float32 else 1000, top=100)
        first, high, edge, floor = (h.new_empty(n, dtype=torch.float32) for n in (tile_size() * tiles, tiles, 5, ()))
        limit = torch.empty_like(g)
        _triton_topk.tile_heights[(tiles,)](h, g, first, high, len(h), W=tile_size())
        _triton_topk.edge[(1,)](
            high, targets.bounds, g, targets.packed.exponent, edge, floor, limit, tiles, padded, KK=width, B=1024
        )
        return cls(h, first, g, edge, floor, limit)

    def scaled(self, x: Packed, targets: Targets) -> tuple[Float[Tensor, " p"], Float[Tensor, " 5"]]:
        """`first` and `edge` in the scale of products with these samples."""
        heights, edge = torch.empty_like(self.first), torch.empty_like(self.edge)
        _triton_topk.scale_heights[(targets.tiles,)](
            self.first, self.edge, x.exponent, targets.packed.exponent, self.g, heights, edge, W=tile_size()
        )
        return heights, edge


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
    whole = slab == columns
    stages, warps = 2 if slab > 64 else 4 if whole else 3, 4 if whole and slab <= 128 else 8
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
    first: Int32[Tensor, "s n"]
    start: Int[Tensor, " n+1"]
    width: int
    total: Int[Tensor, ""]
    counted: torch.cuda.Event | None

    @classmethod
    def find(cls, x: Float[Tensor, "n d"], targets: Targets, heights: Heights, width: int) -> Candidates:
        x, n = x.contiguous(), len(x)
        packed = pack(x, form(x.shape[1], "hhl"), heights.limit)
        maxima = first_pass(packed, targets, heights)
        limit, kept = torch.empty_like(packed.stats[0]), torch.empty(1 + SLOTS, n, dtype=torch.int32, device=x.device)
        count, first = kept[0], kept[1:]
        _triton_topk.threshold[(-(-n // 32),)](
            maxima, packed.stats, targets.bounds, heights.floor, limit, count, first, targets.gamma, n, targets.tiles,
            len(maxima), TERMS=terms(x.shape[1]), KK=width, SLOTS=SLOTS, BR=32, BT=GROUP, num_warps=1,
        )  # fmt: skip
        start = torch.zeros(n + 1, dtype=torch.int64, device=x.device)
        torch.cumsum(count, 0, out=start[1:])
        total = torch.empty((), dtype=torch.int64, pin_memory=x.is_cuda).copy_(start[-1], non_blocking=True)
        counted = torch.cuda.current_stream(x.device).record_event() if x.is_cuda else None
        return cls(x, targets, heights, packed, maxima, limit, first, start, width, total, counted)

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
            self.maxima, stats, targets.bounds, self.limit, self.start, self.first, row, tile, targets.gamma, base, len(x),
            first, last, targets.tiles, len(self.maxima), TERMS=terms(x.shape[1]), SLOTS=SLOTS, BR=32, BT=GROUP, num_warps=1,
        )  # fmt: skip
        _triton_topk.rescore[(-(-pairs // RESCORED),)](
            x, targets.y, self.heights.exact, tile.argsort(), row, tile, score, where, pairs, targets.m, targets.y.shape[1],
            x.shape[1], KK=width, BR=RESCORED, W=tile_size(), BD=features(x), num_warps=4,
        )  # fmt: skip
        _triton_topk.merge[(-(-(last - first) // 128),)](
            stats, self.start, score, where, value, index, base, first, last, targets.m, value.shape[1],
            KK=width, BR=128, BE=4, num_warps=4,
        )  # fmt: skip


def terms(d: int) -> int:
    """Terms of the bound that do not vanish: only a split product has low parts."""
    return 3 if d <= SPLIT_DIM else 2


def first_pass(packed: Packed, targets: Targets, heights: Heights) -> Float[Tensor, "t n"]:
    """The largest score of every sample in every tile, scaled, plus the sample's shift; -inf beyond the tiles."""
    n, (first, edge) = len(packed.values), heights.scaled(packed, targets)
    maxima = packed.stats.new_empty(targets.bounds.shape[1], n)
    maxima[targets.tiles :] = -torch.inf
    blocks = -(-n // ROWS)
    each, programs = shares(packed.values, blocks, targets.tiles)
    _triton_topk.tile_maxima[(blocks, programs)](
        packed.values, packed.stats, targets.packed.values, first, edge, maxima, targets.gamma, n, targets.tiles, each,
        **matrix_shape(targets.columns),
    )  # fmt: skip
    return maxima
