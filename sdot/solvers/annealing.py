"""The annealed start: from nothing to cells that are right within a factor of two, for a few samples a target."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import kernels
from ..measures import DiscreteMeasure
from .base import centre

DOUBT = 0.3  # in samples: how much evidence a cell needs before its mass is believed
SHARERS = 8  # cells that a sample is shared among in the end
PART = 0.3  # of its weight that nearly every sample must have there by then
PROBED = 256  # samples that tell how the weights are spread
BEHIND = 0.05  # a cell that holds less than this share of its weight has not arrived


def anneal(
    h: Float[Tensor, " m"], target: DiscreteMeasure, blocks: Iterable[Tensor], eps: float
) -> tuple[Float[Tensor, " m"], float, float]:
    """One ascent step of the entropic semi-dual at temperature eps: h_i += eps log(nu_i / p_i).

    p_i = E softmax_i((h + <x, y>) / eps) are the masses of the blurred cells. The step is Sinkhorn's, and needs no length
    (Cuturi, 2013; Genevay et al., 2016). The p_i are estimated, though, and log p is far too low where no sample came near.
    A sample is shared by about 1 / hardness cells, hardness = E max_i softmax_i, so what one sample tells of a mass is
    z = hardness / n, and the step is eps log((nu_i + z') / (p_i + z')) with z' = DOUBT z: no evidence, no step. Once most of
    every sample's weight lies on its few best cells, it is shared among those alone, which costs a search in place of m
    exponentials a sample.

    A step is eps log(1 + nu_i / z') at most, so that cells far from all samples, a light cluster with all of its targets, may
    take several. Once the temperature is below what separates a cluster from the others, steps hardly change its mass.

    Returns:
        The new heights; the hardness, near one when the temperature is nearly zero; and the share of cells that were still
        lighter than `BEHIND` times their weight, and so should see this temperature again.
    """
    p, n, hardness, few = torch.zeros_like(h), 0, 0.0, False
    for x in blocks:
        if n == 0:
            weights = largest_weights(x[:PROBED], target, h, eps)
            hardness, few = float(weights[:, 0].mean()), float(weights.sum(1).quantile(0.05)) > PART
        p += _shared(x, target, h, eps) if few else kernels.soft_mass(x, target.points, h, eps).to(p) * x.shape[0]
        n += x.shape[0]
    doubt = DOUBT * hardness / n
    ratio = (p / n + doubt) / (target.weights + doubt)
    return centre(h - eps * ratio.log(), target), hardness, float((ratio < BEHIND).double().mean())


def largest_weights(x: Float[Tensor, "n d"], target: DiscreteMeasure, h: Tensor, eps: float) -> Float[Tensor, "n k"]:
    """The largest of softmax_j((h_j + <x, y_j>) / eps), at most SHARERS for each x, decreasing."""
    best, _ = _foremost(x, target, h)
    return ((best - kernels.soft_potential(x, target.points, h, eps)[:, None]) / eps).exp()


def _shared(x: Float[Tensor, "n d"], target: DiscreteMeasure, h: Float[Tensor, " m"], eps: float) -> Float[Tensor, " m"]:
    """How many samples each cell has, every one of them shared among its best cells."""
    best, cell = _foremost(x, target, h)
    weight = (best / eps).softmax(1).to(h)
    return torch.zeros_like(h).scatter_add_(0, cell.flatten(), weight.flatten())


def _foremost(x: Float[Tensor, "n d"], target: DiscreteMeasure, h: Tensor) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    return kernels.topk(x, target.points, h, min(SHARERS, len(target)))


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
