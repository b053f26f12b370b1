"""KeOps LazyTensor formulas (Charlier et al., JMLR 2021): compiled at first use, fast on GPUs in low dimension.

pykeops is imported when the first formula runs, and never before: importing it looks for compilers and prints.
Whatever goes wrong inside it (no compiler, no CUDA toolkit, no place for its cache) comes out as `Unavailable`, and so does
its silent drop to the CPU where the tensors are on a GPU.

On a GPU the height is one more coordinate, h + <x, y> = <(x, 1), (y, h)>, and zeros fill up to a multiple of four: KeOps then
reads shared memory four numbers at a time (its machine code at d = 64 has 16 wide loads for 65 narrow ones).
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

from . import _keops_cuda
from ._unavailable import Unavailable

# what a trial runs: it compiles KeOps' own parts, which this process then finds made
FIRST = "import torch; from sdot.kernels import keops; x = torch.ones(2, 4, device='cuda'); keops.topk(x, x, x[:, 0], 1)"
_lock = threading.Lock()  # two threads that compile one formula break each other


def topk(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    with _keops(x) as (vi, vj):
        scores = _scores(vi, vj, x, y, h)
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
        mass = (_scores(vi, vj, x, y, h) - vi(total)).exp().sum(dim=0)
    result: Tensor = mass[:, 0] / x.shape[0]
    return result


def soft_average(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, "n d"]:
    x, h = x / eps, h / eps
    total = _log_sum_exp(x, y, h)
    with _keops(x) as (vi, vj):
        weight = (_scores(vi, vj, x, y, h) - vi(total)).exp()
        return (weight * vj(y)).sum(dim=1)  # type: ignore[no-any-return]


def _log_sum_exp(x: Tensor, y: Tensor, h: Tensor) -> Tensor:
    h = h.clamp_min(-1e30)  # KeOps' running sum would start at (-inf) - (-inf) where the first target is hidden
    with _keops(x) as (vi, vj):
        return _scores(vi, vj, x, y, h).logsumexp(dim=1)  # type: ignore[no-any-return]


def _scores(vi: Any, vj: Any, x: Tensor, y: Tensor, h: Tensor) -> Any:
    """The formula h_j + <x_i, y_j>, in the form that suits the device."""
    if not _folds(x):
        return (vi(x) | vj(y)) + vj(h[:, None])
    return vi(_widened(x, x.new_ones(len(x)))) | vj(_widened(y, h))


def _folds(x: Tensor) -> bool:
    """On GPUs, from three dimensions on: below, the filling would cost more than it saves."""
    return x.is_cuda and x.shape[1] >= 3


def _widened(points: Tensor, last: Tensor) -> Tensor:
    """(point, last), filled with zeros up to a multiple of four columns."""
    n, d = points.shape
    wide = points.new_zeros(n, -(-(d + 1) // 4) * 4)
    wide[:, :d], wide[:, d] = points, last
    return wide


@contextlib.contextmanager
def _keops(like: Tensor) -> Iterator[tuple[Any, Any]]:
    """Vi and Vj, with KeOps' prints swallowed and its failures given one name."""
    if like.device.type not in ("cpu", "cuda"):
        raise Unavailable(f"KeOps runs on cpu and cuda, not on {like.device.type}; use backend='blocked'.")
    with _lock, contextlib.redirect_stdout(io.StringIO()):
        try:
            os.environ.setdefault("PYKEOPS_VERBOSE", "0")
            os.environ.setdefault("KEOPS_VERBOSE", "0")
            with _keops_cuda.visible() if like.is_cuda else contextlib.nullcontext():
                import pykeops
                from pykeops.torch import Vi, Vj

            if like.is_cuda and not pykeops.config.gpu_available:
                raise Unavailable(
                    f"backend 'keops' cannot run on the GPU here, it would drop to the CPU: "
                    f"{pykeops.config.pykeops_cuda.cuda_message or 'it was imported without a GPU in sight'} It needs the CUDA "
                    f"toolkit (cuda.h, nvrtc.h and the libraries nvrtc and cudart; set CUDA_PATH before the first import of "
                    f"pykeops); install it or use backend='blocked'."
                )
            if like.is_cuda and _keops_cuda.TRIAL not in os.environ and (failed := _keops_cuda.trial(FIRST)):
                raise Unavailable(
                    f"backend 'keops' cannot run on the GPU here: {failed}. Try another release of "
                    f"pykeops, or another CUDA toolkit, or use backend='triton' or 'blocked'."
                )
            yield Vi, Vj
        except (torch.OutOfMemoryError, Unavailable):
            raise
        except Exception as error:
            need = "a C++ compiler (g++)" + (", the CUDA toolkit" if like.is_cuda else "") + " and a writable cache"
            raise Unavailable(
                f"backend 'keops' cannot run here: {type(error).__name__}: {error}. KeOps compiles its formulas and "
                f"needs {need} (KEOPS_CACHE_FOLDER); install them or use backend='blocked'."
            ) from error
