"""The annealed start: from nothing to cells that are right within a factor of two, for a few samples a target."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from .. import kernels
from ..measures import DiscreteMeasure
from .base import centre

DOUBT = 0.3  # in samples: how much evidence a cell needs before its mass is believed


def anneal(
    h: Float[Tensor, " m"], target: DiscreteMeasure, blocks: Iterable[Tensor], eps: float
) -> tuple[Float[Tensor, " m"], float]:
    """One ascent step of the entropic semi-dual at temperature eps: h_i += eps log(nu_i / p_i).

    p_i = E softmax_i((h + <x, y>) / eps) are the masses of the blurred cells. The step is Sinkhorn's, and needs no length
    (Cuturi, 2013; Genevay et al., 2016). The p_i are estimated, though, and log p is far too low where no sample came near.
    A sample is shared by about 1 / hardness cells, hardness = E max_i softmax_i, so what one sample tells of a mass is
    z = hardness / n, and the step is eps log((nu_i + z') / (p_i + z')) with z' = DOUBT z: no evidence, no step.

    Returns:
        The new heights, and the hardness: near one when the temperature is nearly zero.
    """
    p, n, hardness = torch.zeros_like(h), 0, 0.0
    for x in blocks:
        p += kernels.soft_mass(x, target.points, h, eps).to(p) * x.shape[0]
        n += x.shape[0]
        hardness = hardness or mean_largest_weight(x[:1024], target, h, eps)
    doubt = DOUBT * hardness / n
    return centre(h + eps * ((target.weights + doubt) / (p / n + doubt)).log(), target), hardness


def mean_largest_weight(x: Float[Tensor, "n d"], target: DiscreteMeasure, h: Tensor, eps: float) -> float:
    """The mean over x of max_j softmax_j((h_j + <x, y_j>) / eps)."""
    best = kernels.topk(x, target.points, h)[0][:, 0]
    return float(((best - kernels.soft_potential(x, target.points, h, eps)) / eps).exp().mean())


def gaussian_heights(target: DiscreteMeasure, x: Float[Tensor, "n d"]) -> Float[Tensor, " m"]:
    """Heights of the optimal map between the Gaussians with the moments of the samples and of the target.

    That map is y = b + A (x - a) with A = S^-1/2 (S^1/2 C S^1/2)^1/2 S^-1/2 for the covariances S, C and means a, b, and the
    Brenier potential's conjugate gives h(y) = -1/2 (y - b)' A^-1 (y - b) - <a, y>. Eigenvalues of A have a floor: thin data
    would make A^-1 meaningless.
    """
    nu, y, x = target.weights, target.points.to(target.weights.dtype), x.to(target.weights.dtype)
    a, b = x.mean(0), nu @ y
    z = y - b
    root, inverse_root = _roots((x - a).T @ (x - a) / x.shape[0])
    middle, _ = _roots(root @ ((z * nu[:, None]).T @ z) @ root)
    value, vector = torch.linalg.eigh(inverse_root @ middle @ inverse_root)
    value = value.clamp_min(max(1e-3 * float(value.max()), 1e-300))
    curvature: Tensor = ((z @ vector).square() / value).sum(1)
    return -0.5 * curvature - z @ a


def _roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Square root and inverse square root of a symmetric positive matrix."""
    value, vector = torch.linalg.eigh((covariance + covariance.T) / 2)
    value = value.clamp_min(max(1e-12 * float(value.max()), 1e-300))
    return vector * value.sqrt() @ vector.T, vector * value.rsqrt() @ vector.T
