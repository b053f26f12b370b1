"""Matrix products in tiles: bounded memory, no compilation, any device torch knows.

A tile is `rows` samples against `columns` targets and is reduced before the next one is computed, so the extra
memory is one tile, whatever the number of samples and targets: 4 MB in float32 on a CPU (it stays in the cache),
512 MB on a GPU. For `topk` a copy of the targets may come on top.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

GROUP = 64  # targets whose maximum is taken together, see `_row_topk`


def tile_shape(n: int, m: int, device: torch.device, *, whole_rows: bool = False) -> tuple[int, int]:
    """Rows and columns of a tile of scores; `whole_rows` asks for all columns at once, if 16 such rows fit."""
    size, width = (2**20, 2**12) if device.type == "cpu" else (2**27, 2**16)
    columns = max(1, m if whole_rows and 16 * m <= size else min(m, width))
    return max(1, min(n, size // columns)), columns


def topk(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    n, m = x.shape[0], y.shape[0]
    value, index = x.new_empty(n, k), torch.empty(n, k, dtype=torch.int64, device=x.device)
    y, h = _whole_groups(n, y, h, k)
    tile = Tile(n, y, h)
    first, *others = tile.column_slices()
    for i in tile.row_slices():
        best, where = _row_topk(tile.scores(x[i], first), min(k, first.stop))
        for j in others:
            v, c = _row_topk(tile.scores(x[i], j), min(k, j.stop - j.start))
            best, where = _merge(best, where, v, c + j.start, k)
        value[i], index[i] = best, where
    return value, index if len(h) == m else _hidden_instead(index, m)


def above(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], least: Float[Tensor, " n"]
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """All pairs with h_j + <x_i, y_j> >= least_i: the samples and the targets of them, in no order."""
    tile = Tile(x.shape[0], y, h)
    pairs = [
        torch.stack(_row_above(tile.scores(x[i], j), least[i])) + torch.tensor([[i.start], [j.start]], device=x.device)
        for i in tile.row_slices()
        for j in tile.column_slices()
    ]
    row, column = torch.cat([torch.empty(2, 0, dtype=torch.int64, device=x.device), *pairs], dim=1)
    return row, column


def soft_potential(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, " n"]:
    tile = Tile(x.shape[0], y, h / eps)
    return torch.cat([_log_sum_exp(tile, x[i] / eps) for i in tile.row_slices()] + [x.new_empty(0)]) * eps


def soft_mass(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, " m"]:
    mass = torch.zeros_like(h, dtype=torch.float32 if h.device.type == "mps" else torch.float64)
    for _, j, p in _softmax_tiles(x, y, h, eps):
        mass[j] += p.sum(0)
    return (mass / x.shape[0]).to(x.dtype)


def soft_average(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, "n d"]:
    average = torch.zeros_like(x)
    for i, j, p in _softmax_tiles(x, y, h, eps):
        average[i] += p @ y[j]
    return average


class Tile:
    """One buffer of scores, used for every tile."""

    def __init__(self, n: int, y: Float[Tensor, "m d"], h: Float[Tensor, " m"], *, whole_rows: bool = False) -> None:
        self.n, self.m, self.y, self.h = n, len(h), y, h
        self.rows, self.columns = tile_shape(n, self.m, y.device, whole_rows=whole_rows)
        other = y.device.type != "cpu" or y.dtype != torch.float32 or torch.compiler.is_compiling()
        self.onednn = not other and _onednn()
        self.buffer = y.new_empty(0 if self.onednn else self.rows * self.columns)

    def row_slices(self) -> list[slice]:
        return [slice(s, min(s + self.rows, self.n)) for s in range(0, self.n, self.rows)]

    def column_slices(self) -> list[slice]:
        return [slice(s, min(s + self.columns, self.m)) for s in range(0, self.m, self.columns)]

    def scores(self, x: Float[Tensor, "n d"], j: slice) -> Float[Tensor, "n c"]:
        if self.onednn:
            return torch.ops.mkldnn._linear_pointwise(x, self.y[j], self.h[j], "none", [], "")  # type: ignore[no-any-return]
        out = self.buffer[: x.shape[0] * (j.stop - j.start)].view(x.shape[0], -1)
        return torch.addmm(self.h[j], x, self.y[j].T, out=out)


@cache
def _onednn() -> bool:
    """Whether to take oneDNN's product: MKL, the other one in torch, leaves AMD processors at 40 % of their peak.

    It makes a tensor for every tile. glibc may return each to the system when it is freed, and page faults in the next one then
    take four times as long as its product. Not so once it has freed one as large as that below, whose pages nobody touches.
    """
    try:
        amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        amd = False
    if amd:
        torch.empty(31 * 2**20, dtype=torch.uint8)
    return amd and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _whole_groups(n: int, y: Tensor, h: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As many hidden targets more as fill the last group, where `_row_topk` makes groups and n samples are worth the copy."""
    missing = -len(h) % GROUP if n >= max(GROUP, y.shape[1]) and len(h) > 2 * k * GROUP else 0
    if not missing:
        return y, h
    return torch.cat([y, y.new_zeros(missing, y.shape[1])]), torch.cat([h, h.new_full((missing,), -torch.inf)])


def _hidden_instead(index: Tensor, m: int) -> Tensor:
    """The first targets that are not in the list, in place of those from m on: where these are, only hidden ones were left."""
    if index.device.type == "cpu" and not torch.compiler.is_compiling() and not (index >= m).any():
        return index  # a GPU is not to be waited for
    first = torch.arange(index.shape[1], device=index.device)
    for place in range(index.shape[1]):
        free = (index[:, :, None] != first).all(1).int().argmax(1)
        index[:, place] = torch.where(index[:, place] < m, index[:, place], free)
    return index


def _row_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of every row, in two phases where the row is whole groups of columns.

    Maxima without their places are ten times cheaper than with them, so every row is first reduced to the maxima of
    groups of neighbouring columns. The k best columns lie in the k groups with the largest maxima.
    """
    n, m = scores.shape
    groups = m // GROUP
    if m % GROUP or groups <= 2 * k:
        return _largest(scores, k)
    _, winners = _largest(scores.view(n, groups, GROUP).amax(2), k)  # (n, k)
    places = torch.arange(0, n * groups, groups, device=scores.device)[:, None] + winners
    value, place = _largest(scores.view(-1, GROUP).index_select(0, places.flatten()).view(n, -1), k)
    return value, winners.gather(1, place // GROUP) * GROUP + place % GROUP


def _row_above(scores: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Where the scores of a row reach its bound. Most groups of columns hold none, and their maxima say so."""
    n, m = scores.shape
    groups = m // GROUP
    grouped, rest = scores[:, : groups * GROUP].view(n, groups, GROUP), scores[:, groups * GROUP :]
    row, group = (grouped.amax(2) >= least[:, None]).nonzero(as_tuple=True)
    place, within = (grouped[row, group] >= least[row, None]).nonzero(as_tuple=True)
    other, column = (rest >= least[:, None]).nonzero(as_tuple=True)
    return torch.cat([row[place], other]), torch.cat([group[place] * GROUP + within, column + groups * GROUP])


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk`, whose sorting costs more than one or two maxima. Overwrites the scores."""
    if k > 2:
        value, index = scores.topk(k, dim=1)
        return value, index
    value, index = scores.max(dim=1, keepdim=True)
    if k == 1:
        return value, index
    other, second = scores.scatter_(1, index, -torch.inf).max(dim=1, keepdim=True)
    second = torch.where(second == index, (index == 0).long(), second)  # only hidden targets are left: take another one
    return torch.cat([value, other], 1), torch.cat([index, second], 1)


def _merge(v: Tensor, i: Tensor, w: Tensor, j: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of two lists of candidates."""
    value, place = _largest(torch.cat([v, w], 1), min(k, v.shape[1] + w.shape[1]))
    return value, torch.cat([i, j], 1).gather(1, place)


def _log_sum_exp(tile: Tile, x: Tensor) -> Tensor:
    total = x.new_full((x.shape[0],), -torch.inf)
    for j in tile.column_slices():
        total = torch.logaddexp(total, torch.logsumexp(tile.scores(x, j), dim=1))
    return total


def _softmax_tiles(x: Tensor, y: Tensor, h: Tensor, eps: float) -> Iterator[tuple[slice, slice, Tensor]]:
    """(rows, columns, softmax weights), tile by tile: one sweep where a row fits in a tile, else two."""
    tile = Tile(x.shape[0], y, h / eps, whole_rows=True)
    columns = tile.column_slices()
    for i in tile.row_slices():
        z = x[i] / eps
        if len(columns) == 1:
            yield i, columns[0], torch.softmax(tile.scores(z, columns[0]), dim=1)
            continue
        total = _log_sum_exp(tile, z)
        for j in columns:
            yield i, j, tile.scores(z, j).sub_(total[:, None]).exp_()
