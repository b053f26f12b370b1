"""Normal and uniform numbers for sources, several times as fast as torch's on a CPU, so that drawing is never the bottleneck.

In float32 on a CPU with a compiler they come from random.c, under a key that is drawn from the generator: the same generator
gives the same numbers, on any number of threads. Elsewhere they are torch's own.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from .kernels._build import call, optional
from .kernels._threads import divide

STRETCH = 2**15  # numbers of one stream, as in random.c
WORTH = 2**10  # numbers from which on a key of their own is no loss
WORK = 2**5  # multiplications that one number is as much work as


def normal(n: int, d: int, *, like: Tensor, generator: Generator | None) -> Float[Tensor, "n d"]:
    """Independent standard normal numbers, in the dtype and on the device of `like`."""
    x = _filled("normal", n, d, like, generator)
    return torch.randn(n, d, dtype=like.dtype, device=like.device, generator=generator) if x is None else x


def uniform(n: int, d: int, *, like: Tensor, generator: Generator | None) -> Float[Tensor, "n d"]:
    """Independent numbers that are uniform on [0, 1)."""
    x = _filled("uniform", n, d, like, generator)
    return torch.rand(n, d, dtype=like.dtype, device=like.device, generator=generator) if x is None else x


def _filled(law: str, n: int, d: int, like: Tensor, generator: Generator | None) -> Tensor | None:
    if like.device.type != "cpu" or like.dtype != torch.float32 or n * d < WORTH or (c := _library()) is None:
        return None
    key, x = int(torch.randint(2**63 - 1, (), generator=generator)), torch.empty(n * d)

    def run(i: int, end: int) -> None:
        part = x[i * STRETCH : end * STRETCH]
        call(getattr(c, law), key, i, len(part), part)

    divide(run, -(-n * d // STRETCH), n * d * WORK)
    return x.view(n, d)


@cache
def _library() -> ctypes.CDLL | None:
    c = optional(Path(__file__).with_name("random.c"))
    if c is not None:
        for fill in (c.normal, c.uniform):
            fill.argtypes, fill.restype = [ctypes.c_uint64, ctypes.c_long, ctypes.c_long, ctypes.c_void_p], None
    return c
