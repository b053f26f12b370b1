"""Fused kernels for NVIDIA GPUs, written in Triton: no score ever leaves the chip.

`topk` is exact where it decides. A first pass looks at all scores in low precision (float16 on the matrix units from 16
dimensions up, split float16 below) and keeps one number a tile of targets, its maximum. A rigorous bound on the rounding of
that pass (`_halves`) says which tiles can hold one of the k best targets, hardly more than one a row, and only these are scored
again, in the precision of the points: float32 or float64. Ties go to the lowest index. A row of x that is not finite gives the
value NaN and some valid index.

The softened reductions use split float16 products, whose error of about 2^-21 |x| |y| is a few times that of float32; they hand
float64 to `blocked`, and so does `topk` for k > 8. Triton compiles at first use, some seconds a shape, and keeps the result on
disk; with TRITON_INTERPRET=1 in the environment the kernels run on the CPU, for tests.
"""

from __future__ import annotations

import contextlib
import os

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import _halves, blocked
from ._triton_grid import ahead, chunks
from ._unavailable import Unavailable

LARGEST_K = 8


def topk(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    _require(x)
    if k > LARGEST_K:
        return blocked.topk(x, y, h, k)
    from ._triton_search import WIDTHS, Candidates, Heights, Targets

    value, index = x.new_empty(len(x), k), torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    with _on_device(x):
        width = next(w for w in WIDTHS if w >= k)
        targets = Targets.prepare(y)
        heights, parts = Heights.prepare(h, targets, width), chunks(x, max(targets.tiles, targets.columns))
        for i, found in ahead((i, Candidates.find(x[i], targets, heights, width)) for i in parts):
            found.resolve(value[i], index[i])
    return value, index


def soft_potential(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, " n"]:
    _require(x)
    if x.dtype != torch.float32:
        return blocked.soft_potential(x, y, h, eps)
    from ._triton_soft import potential

    with _on_device(x):
        return torch.cat([potential(x[i], y, h, eps) for i in _soft_chunks(x)] + [x.new_empty(0)])


def soft_mass(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, " m"]:
    """With u the soft potential, the mass of target j is exp(h_j / eps) times sum_i exp((<x_i, y_j> - u_i) / eps) / n: another
    log-sum-exp, in which samples and targets have changed places. Their sum, which is one but for rounding, replaces n."""
    _require(x)
    if x.dtype != torch.float32:
        return blocked.soft_mass(x, y, h, eps)
    from ._triton_soft import potential

    mass = torch.zeros(len(h), dtype=torch.float64, device=x.device)
    with _on_device(x):
        for i in _soft_chunks(x):
            back = potential(y, x[i], -potential(x[i], y, h, eps), eps)
            mass += ((h.double() + back) / eps).exp()
    return (mass / mass.sum()).to(x.dtype)


def soft_average(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, "n d"]:
    _require(x)
    if x.dtype != torch.float32:
        return blocked.soft_average(x, y, h, eps)
    from ._triton_soft import average

    with _on_device(x):
        return torch.cat([average(x[i], y, h, eps) for i in _soft_chunks(x)] + [x.new_empty(0, x.shape[1])])


def _on_device(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Triton launches on the current device, which need not be that of x."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _require(x: Tensor) -> None:
    """Triton itself, and a device that it compiles for; it is imported here and not before."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            f"backend 'triton' cannot run here: {error}. The package triton (Linux, NVIDIA GPUs) comes with the CUDA builds of "
            f"torch; install one or use backend='blocked'."
        ) from error
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise Unavailable(
            f"backend 'triton' runs on CUDA devices, but x is on {x.device}; move x, y and h to a GPU or use backend='blocked'."
        )
    if x.is_cuda and torch.version.hip:
        raise Unavailable(
            "backend 'triton' is exact by a bound on how NVIDIA's matrix units round, and this GPU is not NVIDIA's; use "
            "backend='blocked'."
        )
    if x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 0):
        raise Unavailable(
            f"backend 'triton' needs a GPU of compute capability 8.0 or later, but {torch.cuda.get_device_name(x.device)} has "
            f"{torch.cuda.get_device_capability(x.device)}; use backend='blocked'."
        )


def _soft_chunks(x: Tensor) -> list[slice]:
    return chunks(x, _halves.width(x.shape[1], parts=3))
