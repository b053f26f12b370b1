"""How much work a launch gets: chunks of samples that fit in the scratch memory, and enough blocks to fill the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
ROWS = 128  # samples a block
SCRATCH = 2**26  # float32 numbers that a chunk of samples may put into memory, as tile maxima or packed points
CHUNK = 2**18  # most samples a chunk
WAVE = 6  # blocks a multiprocessor in a launch: two or three run at a time, so that none waits alone at the end


def chunks(x: Tensor, columns: int) -> list[slice]:
    """Slices of the samples, so that SCRATCH holds `columns` numbers for each; in whole waves of blocks if one fits."""
    rows, wave = max(1, min(CHUNK, SCRATCH // columns)), ROWS * WAVE * multiprocessors(x)
    rows = rows // wave * wave if rows >= wave else rows
    return [slice(s, min(s + rows, x.shape[0])) for s in range(0, x.shape[0], rows)]


def ahead(launched: Iterable[T]) -> Iterator[T]:
    """The items, each once the next one has been launched, so that the device has work while one waits for it."""
    before = list[T]()
    for item in launched:
        yield from before
        before = [item]
    yield from before


def shares(x: Tensor, blocks: int, tiles: int) -> tuple[int, int]:
    """Tiles a program, and programs that share them: few blocks of samples fill the device by sharing out the targets."""
    wanted = max(1, min(tiles, WAVE * multiprocessors(x) // blocks))
    each = -(-tiles // wanted)
    return each, -(-tiles // each)


def multiprocessors(x: Tensor) -> int:
    return int(torch.cuda.get_device_properties(x.device).multi_processor_count) if x.is_cuda else 1
