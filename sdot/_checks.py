"""The library's error messages: what was expected, what came, and what to do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)


def tensor(name: str, value: Any) -> Tensor:
    """`value` as a tensor: tensors pass, NumPy arrays are wrapped without a copy where possible."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    raise ValueError(
        f"{name} must be a torch.Tensor or a numpy.ndarray, but a {type(value).__name__} came; "
        f"convert it, for instance with torch.as_tensor({name}, dtype=torch.float32)."
    )


def as_given(given: Any, result: Tensor) -> Any:
    """Arrays in, arrays out: `result` as an array where `given` was one."""
    return result.detach().cpu().numpy() if isinstance(given, np.ndarray) else result


def floating(name: str, value: Tensor) -> Tensor:
    if value.dtype not in DTYPES:
        raise ValueError(
            f"{name} must be float32 or float64, but its dtype is {value.dtype}; convert it with {name}.float() "
            f"(torch) or {name}.astype('float32') (numpy)."
        )
    return value


def finite(name: str, value: Tensor) -> Tensor:
    """Refuse NaN and infinity. Skipped while torch.compile traces: the answer would depend on the data."""
    # a sum is ten times faster than a test of every number, and finite only where all of them are
    if not torch.compiler.is_compiling() and not torch.isfinite(value.sum()) and not torch.isfinite(value).all():
        bad = int((~torch.isfinite(value)).sum())
        raise ValueError(
            f"{name} must be finite, but {bad} of its {value.numel()} entries are NaN or infinite; "
            f"drop those rows or repair what produced them."
        )
    return value


def points(name: str, value: Any, dim: int | None = None, *, empty: bool = False) -> Tensor:
    """A cloud of points: a finite floating tensor of shape (n, d) with n >= 1, or n >= 0 where `empty` is allowed."""
    value = floating(name, tensor(name, value))
    if value.dim() != 2 or value.shape[1] == 0 or (value.shape[0] == 0 and not empty):
        raise ValueError(
            f"{name} must have shape (n, d) with {'d >= 1' if empty else 'n >= 1 and d >= 1'}, one point a row, "
            f"but its shape is {tuple(value.shape)}; a single point x of R^d is x[None, :]."
        )
    if dim is not None and value.shape[1] != dim:
        raise ValueError(f"{name} must live in R^{dim}, the space of the target points, but its shape is {tuple(value.shape)}.")
    return finite(name, value)


def weights(value: Any, n: int) -> Tensor:
    """A distribution over n points, in float64 and summing to one to the last digit."""
    value = finite("weights", floating("weights", tensor("weights", value)))
    if value.shape != (n,):
        raise ValueError(f"weights must have one entry a point, shape ({n},), but their shape is {tuple(value.shape)}.")
    if (value < 0).any():
        raise ValueError(
            f"weights must not be negative, but {int((value < 0).sum())} of {n} are (least {float(value.min()):.3g})."
        )
    value = value.to(precise(value.device))
    total = value.sum()
    if not math.isclose(float(total), 1.0, abs_tol=1e-5):
        raise ValueError(f"weights must sum to 1, but they sum to {float(total):.8g}; pass weights / weights.sum() instead.")
    normalised: Tensor = value / total
    return normalised


def heights(h: Tensor, m: int) -> Tensor:
    if h.shape != (m,):
        raise ValueError(f"heights must have one entry a target point, shape ({m},), but their shape is {tuple(h.shape)}.")
    return h


def positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, but {value!r} came.")
    return value


def count(name: str, value: int, most: int | None = None) -> int:
    if isinstance(value, bool) or value != int(value) or value < 1 or (most is not None and value > most):
        bound = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} must be a whole number of at least 1{bound}, but {value!r} came.")
    return int(value)


def same_kind(name: str, value: Tensor, like_name: str, like: Tensor) -> Tensor:
    """Same dtype, same device."""
    if value.dtype != like.dtype or value.device != like.device:
        raise ValueError(
            f"{name} and {like_name} must share dtype and device, but {name} is {value.dtype} on {value.device} and "
            f"{like_name} is {like.dtype} on {like.device}; convert one with .to(...)."
        )
    return value


def precise(device: torch.device) -> torch.dtype:
    """The dtype of heights, weights and long sums: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
