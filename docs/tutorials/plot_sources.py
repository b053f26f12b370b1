"""
Your own source
===============

A source is anything with a dimension and a sampler. This page writes some, and shows what goes wrong with two that
look harmless.
"""

# %%
# The protocol
# ------------
# `sample(n, *, like, generator)` returns n independent samples, shape (n, dim), in the dtype and on the device of
# `like`. All its randomness should come from `generator`: then runs are repeatable, and resume.

import warnings
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import sdot

INK, LINE, ACCENT, SOFT = sdot.plot.INK, sdot.plot.LINE, sdot.plot.ACCENT, sdot.plot.SOFT


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one spread around several centres, all equally likely."""

    centres: Tensor  # (k, d)
    spread: float

    @property
    def dim(self):
        return self.centres.shape[1]

    def sample(self, n, *, like, generator=None):
        options = {"device": like.device, "generator": generator}
        which = torch.randint(len(self.centres), (n,), **options)
        noise = torch.randn(n, self.dim, dtype=like.dtype, **options)
        return self.centres.to(like)[which] + self.spread * noise


# %%
# Or none of your own: `PushForward` warps a source by a function, and keeps its evenly spread points, which spare
# most of the samples in two and three dimensions.


def bend(x):
    return torch.stack([x[:, 0], 0.5 * x[:, 1] + 0.35 * x[:, 0] ** 2 - 0.4], 1)


mixture = Mixture(torch.tensor([[-1.2, -0.7], [1.2, -0.7], [0.0, 1.2]]), 0.35)
banana = sdot.PushForward(sdot.Gaussian(dim=2), bend)

generator = torch.Generator().manual_seed(0)
target = sdot.DiscreteMeasure.uniform(torch.randn(150, 2, generator=generator) @ torch.diag(torch.tensor([1.0, 0.5])))
solutions = {
    name: sdot.solve(source, target, tol=0.01, generator=torch.Generator().manual_seed(1))
    for name, source in (("a mixture", mixture), ("a banana", banana))
}
for name, solution in solutions.items():
    print(f"{name}: {solution.history[-1].samples / len(target):.0f} samples a target, {solution.certificate}")

# %%

figure, axes = plt.subplots(1, 2, figsize=(8.8, 4.15))
for ax, (name, solution), source in zip(axes, solutions.items(), (mixture, banana), strict=True):
    x = source.sample(4000, like=target.points, generator=generator)
    sdot.plot.cells(solution.map, (-2.6, -2.2), (2.6, 2.4), targets=False, ax=ax)
    ax.scatter(*x.T, s=1.8, color=INK, alpha=0.45, linewidths=0)
    ax.scatter(*target.points.T, s=7, color=ACCENT, linewidths=0)
    ax.set(xlim=(-2.6, 2.6), ylim=(-2.2, 2.4))
    ax.set_title(name)

# %%
# Samples in ink, targets in red. The mixture asks for more samples: it has no `from_uniform`, so its samples are
# independent. Every cell holds one part in 150 of the dots, wherever they are.
#
# What goes wrong: atoms
# ----------------------
# A *bootstrap* draws from a list of values. Mass on one value cannot be shared among targets: with N values some
# cells get one more than others, whatever the heights. The solver notices, and says so.


@dataclass(frozen=True)
class Bootstrap:
    values: Tensor
    noise: float = 0.0

    @property
    def dim(self):
        return self.values.shape[1]

    def sample(self, n, *, like, generator=None):
        options = {"device": like.device, "generator": generator}
        x = self.values.to(like)[torch.randint(len(self.values), (n,), **options)]
        return x + self.noise * torch.randn(n, self.dim, dtype=like.dtype, **options)


values = sdot.Gaussian(dim=2).sample(400, like=target.points, generator=generator)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    stuck = sdot.solve(Bootstrap(values), target, tol=0.01, max_samples=300_000, generator=torch.Generator().manual_seed(2))
print(caught[-1].message)

# %%
# Noise of the size of the distance between neighbouring values makes it a continuous measure (a kernel density estimate):

smooth = sdot.solve(Bootstrap(values, noise=0.1), target, tol=0.01, generator=torch.Generator().manual_seed(2))
print(smooth.certificate)

# %%
# What goes wrong: heavy tails
# ----------------------------
# A normal point divided by :math:`u^{1/1.5}`, u uniform, is farther away than r with a probability of the order of
# :math:`r^{-1.5}`: it has a mean, but no variance. The masses of the cells do not mind, for they are probabilities,
# and chi² is as good as ever. But the cost is infinite. W2² is the mean of what has none, and every seed gives
# another:


@dataclass(frozen=True)
class Slash:
    dim: int
    tail: float

    def sample(self, n, *, like, generator=None):
        options = {"dtype": like.dtype, "device": like.device, "generator": generator}
        return torch.randn(n, self.dim, **options) / torch.rand(n, 1, **options).clamp_min(1e-7) ** (1 / self.tail)


for seed in range(3):
    heavy = sdot.solve(Slash(2, tail=1.5), target, tol=0.01, generator=torch.Generator().manual_seed(seed))
    print(heavy.certificate)
