"""KeOps LazyTensor formulas (Charlier et al., JMLR 2021): compiled at first use, fast on GPUs in low dimension.

pykeops is imported when the first formula runs, and never before: importing it looks for compilers and prints.
Whatever goes wrong inside it (no compiler, no CUDA toolkit, no place for its cache) comes out as `Unavailable`.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_lock = threading.Lock()  # two threads that compile one formula break each other


class Unavailable(RuntimeError):
    """KeOps cannot run here; the message says why and what to do."""


def topk(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    with _keops(x) as (vi, vj):
        scores = (vi(x) | vj(y)) + vj(h[:, None])
        if k == 1:
            value, index = scores.max_argmax(dim=1)
        else:
            value, index = (-scores).Kmin_argKmin(K=k, dim=1)
            value = -value
    return value, index


def soft_potential(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, " n"]:
    return _log_sum_exp(x / eps, y, h / eps)[:, 0] * eps


def soft_mass(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, " m"]:
    x, h = x / eps, h / eps
    total = _log_sum_exp(x, y, h)
    with _keops(x) as (vi, vj):
        mass = ((vi(x) | vj(y)) + vj(h[:, None]) - vi(total)).exp().sum(dim=0)
    result: Tensor = mass[:, 0] / x.shape[0]
    return result


def soft_average(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, "n d"]:
    x, h = x / eps, h / eps
    total = _log_sum_exp(x, y, h)
    with _keops(x) as (vi, vj):
        weight = ((vi(x) | vj(y)) + vj(h[:, None]) - vi(total)).exp()
        return (weight * vj(y)).sum(dim=1)  # type: ignore[no-any-return]


def _log_sum_exp(x: Tensor, y: Tensor, h: Tensor) -> Tensor:
    with _keops(x) as (vi, vj):
        return ((vi(x) | vj(y)) + vj(h[:, None])).logsumexp(dim=1)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _keops(like: Tensor) -> Iterator[tuple[Any, Any]]:
    """Vi and Vj, with KeOps' prints swallowed and its failures given one name."""
    if like.device.type not in ("cpu", "cuda"):
        raise Unavailable(f"KeOps runs on cpu and cuda, not on {like.device.type}; use backend='blocked'.")
    with _lock, contextlib.redirect_stdout(io.StringIO()):
        try:
            os.environ.setdefault("PYKEOPS_VERBOSE", "0")
            os.environ.setdefault("KEOPS_VERBOSE", "0")
            from pykeops.torch import Vi, Vj

            yield Vi, Vj
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            need = "a C++ compiler (g++)" + (", the CUDA toolkit" if like.is_cuda else "") + " and a writable cache"
            raise Unavailable(
                f"backend 'keops' cannot run here: {type(error).__name__}: {error}. KeOps compiles its formulas and "
                f"needs {need} (KEOPS_CACHE_FOLDER); install them or use backend='blocked'."
            ) from error
