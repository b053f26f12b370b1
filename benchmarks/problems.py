"""Problems by name: each a source and a target, drawn afresh for every seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import sdot


@dataclass(frozen=True)
class Problem:
    name: str
    source: sdot.Source
    target: sdot.DiscreteMeasure


def clusters(m: int, d: int, k: int, intrinsic: int | None = None, seed: int = 0) -> Tensor:
    """m points in k clusters of uneven sizes, each a Gaussian on its own random subspace: what latent codes look like.

    Sizes follow a geometric law with ratio 10 between the first and the last cluster; centres are N(0, 4 I); within a cluster
    the standard deviations along its axes fall from 1 to 0.3.
    """
    g = torch.Generator().manual_seed(seed)
    intrinsic = intrinsic or d
    share = torch.logspace(0, -1, k)
    label = torch.multinomial(share, m, replacement=True, generator=g)
    centres = 2 * torch.randn(k, d, generator=g)
    axes = torch.linalg.qr(torch.randn(k, d, intrinsic, generator=g)).Q * torch.linspace(1, 0.3, intrinsic)
    y = torch.empty(m, d)
    for c in range(k):
        inside = (label == c).nonzero()[:, 0]
        y[inside] = centres[c] + torch.randn(len(inside), intrinsic, generator=g) @ axes[c].T
    return y + 0.02 * torch.randn(m, d, generator=g)


def eight_gaussians(m: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    angle = torch.randint(8, (m,), generator=g) * (torch.pi / 4)
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(m, 2, generator=g)


def uneven(m: int, decades: float, seed: int = 0) -> Tensor:
    """Weights spread evenly over so many powers of ten."""
    g = torch.Generator().manual_seed(seed)
    w = 10 ** (-decades * torch.rand(m, generator=g, dtype=torch.float64))
    return w / w.sum()


def _latent(m: int, d: int, k: int, intrinsic: int | None = None) -> Callable[[int], Problem]:
    def make(seed: int) -> Problem:
        target = sdot.DiscreteMeasure.uniform(clusters(m, d, k, intrinsic, seed))
        return Problem(f"latent-{d}-{m}", sdot.Gaussian(dim=d), target)

    return make


def _plane(seed: int) -> Problem:
    return Problem("plane-1000", sdot.UniformCube(2), sdot.DiscreteMeasure.uniform(eight_gaussians(1000, seed)))


def _weighted(seed: int) -> Problem:
    y = clusters(10_000, 64, 20, 8, seed)
    return Problem("weighted-64-10000", sdot.Gaussian(dim=64), sdot.DiscreteMeasure(y, uneven(10_000, 1.0, seed)))


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "plane-1000": _plane,
    "latent-16-4000": _latent(4000, 16, 10),
    "weighted-64-10000": _weighted,
    "latent-64-50000": _latent(50_000, 64, 20, 8),
}
