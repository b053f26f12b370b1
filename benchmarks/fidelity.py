"""How well generated codes stand for held-out ones: is each of them plausible, are all of the others reached, are they new.

Precision and recall: Kynkaanniemi et al., NeurIPS 2019; density and coverage: Naeem et al., ICML 2020; with balls that reach to
the k-th nearest code of their own kind. The 1-nearest-neighbour test: Lopez-Paz and Oquab, ICLR 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

import sdot

K = 5
DIRECTIONS = 256


def nearest(x: Tensor, y: Tensor, k: int = 1) -> Tensor:
    """Distances from every x to the k nearest y, shape (n, k), increasing."""
    centre = y.mean(0)
    x, y = x - centre, y - centre
    _, index = sdot.kernels.topk(x, y, -y.square().sum(1) / 2, k)
    return torch.cat([(a[:, None] - y[i]).norm(dim=2) for a, i in zip(x.split(4096), index.split(4096), strict=True)])


def in_a_ball(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Which x lie in the ball around some y: max_j r_j^2 - |x - y_j|^2 >= 0 is one search."""
    centre = y.mean(0)
    x, y = (x - centre).double(), (y - centre).double()
    value, _ = sdot.kernels.topk(x, y, (radius.double().square() - y.square().sum(1)) / 2)
    return 2 * value[:, 0] >= x.square().sum(1)


def balls_around(x: Tensor, y: Tensor, radius: Tensor) -> float:
    """How many balls around a y an x lies in, in the mean."""
    return sum(int((torch.cdist(b, y) <= radius).sum()) for b in x.split(512)) / len(x)


def sliced_distance(x: Tensor, y: Tensor) -> float:
    """Sliced Wasserstein distance of order 2 of two clouds of one size, over directions that are always the same."""
    u = torch.randn(x.shape[1], DIRECTIONS, generator=Generator().manual_seed(0))
    u = torch.nn.functional.normalize(u, dim=0)
    return float(((x @ u).sort(0).values - (y @ u).sort(0).values).square().mean().sqrt())


@dataclass(frozen=True, eq=False)
class Reference:
    """Training codes, held-out ones that judge, and as many fresh ones that say what is possible."""

    train: Tensor
    held: Tensor
    fresh: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", nearest(self.held, self.held, K + 1)[:, -1])
        object.__setattr__(self, "far", float(nearest(self.fresh, self.train).median()))

    def judge(self, codes: Tensor) -> dict[str, float]:
        """Measures of codes, as many as there are held-out ones; `new` is 1 for fresh codes and 0 for training codes."""
        radius: Tensor = self.radius  # type: ignore[attr-defined]
        to_held, to_codes = nearest(codes, self.held), nearest(self.held, codes)
        own, own_held = nearest(codes, codes, K + 1), nearest(self.held, self.held, 2)[:, 1:]
        same = ((own[:, 1:2] < to_held).double().mean() + (own_held < to_codes).double().mean()) / 2
        return {
            "precision": float(in_a_ball(codes, self.held, radius).double().mean()),
            "recall": float(in_a_ball(self.held, codes, own[:, -1]).double().mean()),
            "density": balls_around(codes, self.held, radius) / K,
            "coverage": float((to_codes[:, 0] <= radius).double().mean()),
            "new": float(nearest(codes, self.train).median()) / self.far,  # type: ignore[attr-defined]
            "sliced": sliced_distance(codes, self.held),
            "two_sample": float(same),
            "variance": float(codes.var(0).sum() / self.held.var(0).sum()),
        }
