"""Point clouds and weights drawn from a seed."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def clusters(m: int, d: int, k: int, intrinsic: int | None = None, seed: int = 0) -> Tensor:
    """m points in k clusters of uneven sizes, each a Gaussian on its own random subspace: what latent codes look like.

    Sizes follow a geometric law with ratio 10 between the first and the last cluster; centres are N(0, 4 I); within a cluster
    the standard deviations along its axes fall from 1 to 0.3.
    """
    g = Generator().manual_seed(seed)
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
    """Eight narrow Gaussians on a circle of radius 2."""
    g = Generator().manual_seed(seed)
    angle = torch.randint(8, (m,), generator=g) * (torch.pi / 4)
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(m, 2, generator=g)


def far_and_flat(m: int, d: int, seed: int = 0) -> Tensor:
    """A Gaussian at distance 50 from the origin whose standard deviations fall from 1 to 0.01 along turned axes."""
    g = Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(d, d, generator=g)).Q
    away = torch.nn.functional.normalize(torch.randn(d, generator=g), dim=0)
    return 50 * away + (torch.randn(m, d, generator=g) * torch.logspace(0, -2, d)) @ turn.T


def with_far_cluster(m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A standard Gaussian, and a narrow one at distance 6 sqrt(d): a twentieth of the points, each of a fifth of the weight."""
    y = torch.randn(m, d, generator=Generator().manual_seed(seed))
    w = torch.ones(m, dtype=torch.float64)
    far = slice(m - m // 20, m)
    y[far] = 6 + 0.3 * y[far]
    w[far] = 0.2
    return y, w / w.sum()


def uneven(m: int, decades: float, seed: int = 0) -> Tensor:
    """Weights spread evenly over so many powers of ten; with the seed of `clusters` they are alike within a cluster."""
    g = Generator().manual_seed(seed)
    w = 10 ** (-decades * torch.rand(m, generator=g, dtype=torch.float64))
    return w / w.sum()


def some_rows(x: Tensor, m: int, seed: int = 0) -> Tensor:
    """m rows of x, without repetition, in an order of their own."""
    if m > len(x):
        raise ValueError(f"there are {len(x)} rows, but {m} were wanted; ask for fewer.")
    return x[torch.randperm(len(x), generator=Generator().manual_seed(seed))[:m]]
