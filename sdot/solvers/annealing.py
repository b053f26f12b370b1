"""The annealed start: from nothing to cells that are right within a factor of two, for a few samples a target."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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
STARVED = 0.1  # share of such cells that is too many for samples to be shared among the foremost alone
FLAT = 1e-4  # of the length of a line, how far from it targets on it may be at most
DUE = 2  # samples that a cell must be due before it counts as missed


class Pass(NamedTuple):
    """What one pass of the start comes to.

    Attributes:
        heights: After its step.
        hardness: E max_i softmax_i at the heights before, near one when the temperature is nearly zero.
        behind: Share of the cells that were lighter than `BEHIND` times their weight, and so should see this temperature again.
        missed: Share of the cells due several samples that no sample liked best: they are still hidden below their neighbours.
    """

    heights: Float[Tensor, " m"]
    hardness: float
    behind: float
    missed: float


def anneal(h: Float[Tensor, " m"], target: DiscreteMeasure, blocks: Iterable[Tensor], eps: float) -> Pass:
    """One ascent step of the entropic semi-dual at temperature eps: h_i += eps log(nu_i / p_i).

    p_i = E softmax_i((h + <x, y>) / eps) are the masses of the blurred cells. The step is Sinkhorn's, and needs no length
    (Cuturi, 2013; Genevay et al., 2016). The p_i are estimated, though, and log p is far too low where no sample came near.
    A sample is shared by about 1 / hardness cells, hardness = E max_i softmax_i, so what one sample tells of a mass is
    z = hardness / n, and the step is eps log((nu_i + z') / (p_i + z')) with z' = DOUBT z: no evidence, no step. Once most of
    every sample's weight lies on its few best cells, it is shared among those alone, which costs a search in place of m
    exponentials a sample. Where that leaves cells with nothing, light ones between heavy ones, all cells share after all.

    A step is eps log(1 + nu_i / z') at most, so that cells far from all samples, a light cluster with all of its targets, may
    take several. Once the temperature is below what separates a cluster from the others, steps hardly change its mass.
    """
    blocks = list(blocks)
    n, nu = sum(len(x) for x in blocks), target.weights
    largest = largest_weights(blocks[0][:PROBED], target, h, eps)
    hardness = float(largest[:, 0].mean())
    doubt = DOUBT * hardness / n
    found, p = torch.zeros_like(h), torch.zeros_like(h)
    few = float(largest.sum(1).quantile(0.05)) > PART
    for x in blocks:
        best, cell = _foremost(x, target, h, SHARERS if few else 1)
        found += torch.bincount(cell[:, 0], minlength=len(h))
        if few:
            p += torch.zeros_like(h).scatter_add_(0, cell.flatten(), (best / eps).softmax(1).to(h).flatten())
    if not few or float(((p / n + doubt) < BEHIND * (nu + doubt)).double().mean()) > STARVED:
        p.zero_()
        for x in blocks:
            p += kernels.soft_mass(x, target.points, h, eps).to(h) * len(x)
    ratio = (p / n + doubt) / (nu + doubt)
    due = n * nu > DUE
    return Pass(
        heights=centre(h - eps * ratio.log(), target),
        hardness=hardness,
        behind=float((ratio < BEHIND).double().mean()),
        missed=float((due & (found == 0)).sum() / due.sum().clamp_min(1)),
    )


def largest_weights(x: Float[Tensor, "n d"], target: DiscreteMeasure, h: Tensor, eps: float) -> Float[Tensor, "n k"]:
    """The largest of softmax_j((h_j + <x, y_j>) / eps), at most SHARERS for each x, decreasing."""
    best, _ = _foremost(x, target, h, SHARERS)
    return ((best - kernels.soft_potential(x, target.points, h, eps)[:, None]) / eps).exp()


def _foremost(
    x: Float[Tensor, "n d"], target: DiscreteMeasure, h: Tensor, k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    return kernels.topk(x, target.points, h, min(k, len(target)))


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


def line_heights(target: DiscreteMeasure, blocks: Iterable[Tensor]) -> Float[Tensor, " m"] | None:
    """Heights for targets on one line, from samples; None where they are on none.

    There the optimal map is monotone (Villani, Topics in Optimal Transportation, 2003, Thm. 2.18): with targets y_i = a + t_i v
    in increasing order and s = <x, v>, cell i ends where the law of s passes nu_1 + ... + nu_i, at b_i, and the scores of two
    neighbours are equal there: h_(i+1) - h_i = -b_i (t_(i+1) - t_i). The sample's quantiles b_i are interpolated.

    The targets may be off the line by as much as changes scores by the gap in a cell whose gap is less than in three quarters.
    """
    nu, y = target.weights, target.points.to(target.weights.dtype)
    z = y - nu @ y
    far = z[z.square().sum(1).argmax()]
    v = far / far.norm()
    t = z @ v
    off = float((z - t[:, None] * v).norm(dim=1).max())
    if off > FLAT * float(t.abs().max()):
        return None
    x = torch.cat([block.to(nu) for block in blocks])
    t, order = t.sort()
    s = (x @ v).sort().values
    place = (len(s) * nu[order].cumsum(0)[:-1] - 0.5).clamp(0, len(s) - 1)
    before = place.long().clamp_max(len(s) - 2)
    b, apart = torch.lerp(s[before], s[before + 1], place - before), t.diff()
    gaps = b.diff() * torch.minimum(apart[1:], apart[:-1]) / 2
    if len(gaps) and off * float(x.square().mean().sqrt()) > float(gaps.quantile(0.25)):
        return None
    return torch.zeros_like(nu).index_copy_(0, order[1:], -(b * apart).cumsum(0))


def _roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Square root and inverse square root of a symmetric positive matrix."""
    value, vector = torch.linalg.eigh((covariance + covariance.T) / 2)
    value = value.clamp_min(max(1e-12 * float(value.max()), 1e-300))
    return vector * value.sqrt() @ vector.T, vector * value.rsqrt() @ vector.T
