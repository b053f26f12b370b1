"""The definition: dense, obvious, slow. Every other backend is held equal to this page by the tests."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def scores(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"]) -> Float[Tensor, "n m"]:
    return x @ y.T + h


def topk(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    value, index = scores(x, y, h).topk(k, dim=1)
    return value, index


def soft_potential(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, " n"]:
    return eps * torch.logsumexp(scores(x, y, h) / eps, dim=1)


def soft_mass(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, " m"]:
    return torch.softmax(scores(x, y, h) / eps, dim=1).mean(0)


def soft_average(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], h: Float[Tensor, " m"], eps: float) -> Float[Tensor, "n d"]:
    return torch.softmax(scores(x, y, h) / eps, dim=1) @ y
