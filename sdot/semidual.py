"""The theorem on one page.

The optimal transport from mu to nu = sum_i nu_i delta(y_i) for the cost |x - y|^2 / 2 is x -> y_i on the power cell
W_i = {x : <x, y_i> + h_i >= <x, y_j> + h_j for all j}, where the heights h minimise the convex semi-dual

    E(h) = E_mu[max_i <x, y_i> + h_i] - <nu, h>,      dE/dh_i = mu(W_i) - nu_i.

At the minimum every cell has the mass it should have. Source: Gu, Luo, Sun, Yau, "Variational principles for Minkowski type
problems, discrete optimal transport, and discrete Monge-Ampere equations", 2013; Aurenhammer, Hoffmann, Aronov, 1998.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from . import kernels
from .measures import DiscreteMeasure


def energy(h: Float[Tensor, " m"], target: DiscreteMeasure, x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Estimate the semi-dual energy from samples of the source.

    E(h) = mean_x max_i (<x, y_i> + h_i) - <nu, h>, convex in h. Its gradient is `gradient`, the mass of each
    power cell minus the mass it should have.

    Args:
        h: Heights, in the units of <x, y>; -inf where the weight is zero.
        target: The measure nu, with points y and weights nu.
        x: Samples of the source.

    Returns:
        The energy, in the units of <x, y>.
    """
    value, _ = kernels.topk(x, target.points, h)
    nu = target.weights
    return value.to(nu.dtype).mean() - nu @ torch.where(nu > 0, h.to(nu.dtype), 0.0)


def cell_mass(h: Float[Tensor, " m"], target: DiscreteMeasure, x: Float[Tensor, "n d"]) -> Float[Tensor, " m"]:
    """w_i: the share of the samples that lies in each power cell. Arguments as for `energy`."""
    _, index = kernels.topk(x, target.points, h.detach())
    return torch.bincount(index[:, 0], minlength=len(target)).to(target.weights.dtype) / x.shape[0]


def gradient(h: Float[Tensor, " m"], target: DiscreteMeasure, x: Float[Tensor, "n d"]) -> Float[Tensor, " m"]:
    """dE/dh = w - nu: the mass of each power cell minus the mass it should have. Arguments as for `energy`."""
    return cell_mass(h, target, x) - target.weights


def c_transform(h: Float[Tensor, " m"], target: DiscreteMeasure, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """min_i |x - y_i|^2 / 2 - g_i, with g_i = h_i + |y_i|^2 / 2: the Kantorovich potential on the source's side.

    Equal to |x|^2 / 2 - u_h(x), where u_h is the Brenier potential. Arguments as for `energy`.
    """
    value, _ = kernels.topk(x, target.points, h)
    return x.square().sum(1) / 2 - value[:, 0]


def kantorovich(h: Float[Tensor, " m"], points: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """g_i = h_i + |y_i|^2 / 2: heights as the potential for the cost |x - y|^2 / 2 (half of POT's for |x - y|^2)."""
    return h + points.to(h.dtype).square().sum(1) / 2


def chi2(count: Float[Tensor, " m"], nu: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """Unbiased estimate of chi^2 = sum_i (w_i - nu_i)^2 / nu_i from the counts of M samples per cell.

    sum_i c_i (c_i - 1) / (M (M - 1) nu_i) - 1, where every nu_i > 0. Its standard deviation is sqrt(2 (m - 1)) / M at w = nu.
    """
    n = count.sum()
    return (count * (count - 1) / nu).sum() / (n * (n - 1)) - 1
