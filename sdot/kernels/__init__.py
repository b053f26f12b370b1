"""One primitive: the scores h_j + <x_i, y_j> of n samples against m targets, reduced over j without being stored.

Several implementations share each signature; this is the only place that knows hardware.

| backend | what | where |
| --- | --- | --- |
| `reference` | dense, the definition | tests |
| `blocked` | matrix products in tiles | anywhere torch runs |
| `fused` | C loops, compiled at first use | CPU |
| `tree` | lifted k-d tree, `topk` only, decided in float64 | CPU; on request, for heights near their optimum |
| `keops` | compiled KeOps formulas | CPU and CUDA, on request |
| `triton` | fused tiles, exact where it decides | CUDA, from `choice.WORTH` scores on |

"auto" tries them in the order that was measured to be fastest (`choice.py`); SDOT_BACKEND puts another one first.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import _checks
from . import blocked, choice, fused, keops, reference, tree, triton
from ._unavailable import Unavailable

BACKENDS: dict[str, ModuleType] = {
    "reference": reference,
    "blocked": blocked,
    "fused": fused,
    "tree": tree,
    "keops": keops,
    "triton": triton,
}

PRECISE_DIM = 3  # see `precise`

_failed: set[tuple[str, str]] = set()  # (backend, device type): said once, not tried again


def topk(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], k: int = 1, backend: str = "auto"
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k largest scores h_j + <x_i, y_j> of every sample, in decreasing order, and the targets that attain them.

    The values are differentiable in x, y and h (the maximum's gradient is that of its winner).

    Args:
        x: Samples.
        y: Targets, of the same dtype and on the same device. Scores are computed in this dtype.
        h: Heights, in the units of <x, y>; -inf hides a target.
        k: How many, at most m.
        backend: "auto" or one of `BACKENDS`.

    Returns:
        Values and indices. Ties are broken in favour of any one of the tied targets (of the first one by `fused`).

    Raises:
        ValueError: Shapes, dtypes or devices that do not fit, or k > m.
        RuntimeError: A backend asked for by name that cannot run here; `backends` says why.
    """
    h = _check(x, y, h)
    k = _checks.count("k", k, most=y.shape[0])
    with torch.no_grad():
        value, index = _call("topk", backend, x, y, h, k)
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad or h.requires_grad):
        value = torch.einsum("nd,nkd->nk", x, y[index]) + h[index]
    return value, index


def backends(device: str | torch.device = "cpu") -> dict[str, str]:
    """What can run on a device: "available", or why not. Runs each backend on one point, so the first call may compile."""
    x = torch.zeros(1, 2, device=device)
    return {name: _state(name, x) for name in BACKENDS}


@torch.no_grad()
def soft_mass(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float, backend: str = "auto"
) -> Float[Tensor, " m"]:
    """The mean over the samples of softmax_j((h_j + <x_i, y_j>) / eps): the masses of the blurred power cells.

    Args:
        x, y, h, backend: As for `topk`.
        eps: Temperature, in the units of the scores.

    Returns:
        Masses, summing to one, in the dtype of the points. As eps -> 0 they tend to the share of samples in each cell.
    """
    h, eps = _check(x, y, h), _checks.positive("eps", eps)
    if x.shape[0] == 0:
        raise ValueError("x holds no samples, so there is no mean mass; pass at least one row.")
    return _call("soft_mass", backend, x, y, h, eps)  # type: ignore[no-any-return]


@torch.no_grad()
def soft_potential(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float, backend: str = "auto"
) -> Float[Tensor, " n"]:
    """eps log sum_j exp((h_j + <x_i, y_j>) / eps): the blurred maximum of the scores. Arguments as for `soft_mass`."""
    h, eps = _check(x, y, h), _checks.positive("eps", eps)
    return _call("soft_potential", backend, x, y, h, eps)  # type: ignore[no-any-return]


@torch.no_grad()
def soft_average(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float, backend: str = "auto"
) -> Float[Tensor, "n d"]:
    """sum_j softmax_j((h_j + <x_i, y_j>) / eps) y_j, the gradient of `soft_potential`. Arguments as for `soft_mass`."""
    h, eps = _check(x, y, h), _checks.positive("eps", eps)
    return _call("soft_average", backend, x, y, h, eps)  # type: ignore[no-any-return]


@torch.no_grad()
def above(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], least: Float[Tensor, " n"]
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """All pairs with h_j + <x_i, y_j> >= least_i: the samples and the targets of them, in no order. x is not empty."""
    return _call("above", "auto", x, y, h, least)  # type: ignore[no-any-return]


def precise(points: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The points in the dtype in which they must be scored: float64 up to `PRECISE_DIM` dimensions, their own beyond.

    Many targets in few dimensions are close together beside the size of their scores: rounding optimal heights to float32
    sends 3e-4 of the mass of the plane to a wrong one of 10,000 targets, 3e-3 with 100,000.
    """
    few = points.shape[1] <= PRECISE_DIM and points.device.type != "mps"
    return points.double() if few else points


def _check(x: Tensor, y: Tensor, h: Tensor) -> Tensor:
    """Refuse what does not fit; return the heights in the dtype of the points."""
    for name, value in (("x", x), ("y", y)):
        _checks.floating(name, value)
        if value.dim() != 2:
            raise ValueError(f"{name} must have shape (n, d), one point a row, but its shape is {tuple(value.shape)}.")
    _checks.same_kind("x", x, "y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must live in the same space, but x lives in R^{x.shape[1]}, y in R^{y.shape[1]}.")
    if y.shape[0] == 0:
        raise ValueError("y holds no targets; pass at least one row.")
    _checks.heights(h, y.shape[0])
    return h.to(y)


def _call(name: str, backend: str, x: Tensor, y: Tensor, h: Tensor, last: Any) -> Any:
    if backend != "auto":
        return _function(backend, name)(x, y, h, last)
    for candidate in choice.order(name, x, y, last):
        if (candidate, x.device.type) in _failed or not hasattr(_module(candidate), name):
            continue
        try:
            return _function(candidate, name)(x, y, h, last)
        except Unavailable as reason:
            _failed.add((candidate, x.device.type))
            warnings.warn(f"sdot falls back to another backend: {reason}", RuntimeWarning, stacklevel=4)
    raise AssertionError("'blocked' runs everywhere, and every order ends with it")


def _state(backend: str, x: Tensor) -> str:
    try:
        _function(backend, "topk")(x, x, x[:, 0], 1)
    except Unavailable as reason:
        return str(reason)
    return "available"


def _function(backend: str, name: str) -> Any:
    if not hasattr(_module(backend), name):
        raise Unavailable(f"backend {backend!r} has no {name}; use backend='auto'.")
    return getattr(BACKENDS[backend], name)


def _module(backend: str) -> ModuleType:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {sorted(BACKENDS)}, but {backend!r} came.")
    return BACKENDS[backend]
