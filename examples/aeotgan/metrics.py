"""How good a set of generated images is, from features of it and of real images. Nothing of size n x m is stored.

Distances are computed where the real ones are.

Frechet distance: Heusel et al., NeurIPS 2017. Precision and recall: Kynkaanniemi et al., NeurIPS 2019. Density and coverage:
Naeem et al., ICML 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

K = 5  # balls around features reach to the K-th nearest of their own kind
VALUES = 2**26  # numbers copied to float64 at once
ROWS = 1024  # features compared with all others at once
UNSURE = 0.9  # an image is between classes if none is as likely as that


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of n features, in float64."""

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]
    count: int

    @classmethod
    def of(cls, x: Float[Tensor, "n d"]) -> Moments:
        if len(x) < 2 or not torch.isfinite(x).all():
            raise ValueError(f"at least two features, all of them finite, are needed, but {tuple(x.shape)} came.")
        x = x.double()
        mean = x.mean(0)
        return cls(mean, (x - mean).T @ (x - mean) / (len(x) - 1), len(x))


def frechet(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of two Gaussians, |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2).

    The root of A and that of the product come from eigenvalues of symmetric matrices, with the negative ones that rounding
    makes set to zero; so singular covariances, with fewer features than dimensions, do no harm. Of samples of one
    distribution it is not zero but `bias`: compare only what was measured on as many images.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    product = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * product
    return max(distance.item(), 0.0)


def bias(truth: Moments, n: int, m: int) -> float:
    """Expected `frechet` between n and m samples of one Gaussian, to first order in 1/n + 1/m.

    (1/n + 1/m) (tr S + sum_ij s_i s_j (1 + [i = j]) / (2 (s_i + s_j))), s the eigenvalues of its covariance S: the variance
    of the means, and that of the covariances in the metric of Bures.
    """
    s = torch.linalg.eigvalsh(truth.covariance).clamp_min(0)
    s = s[s > 0]
    pairs = torch.outer(s, s) / (s[:, None] + s) / 2
    return (1 / n + 1 / m) * float(s.sum() + pairs.sum() + pairs.diagonal().sum())


def distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Iterator[Float[Tensor, "b m"]]:
    """Distances of every x to all y, some rows at a time, in float64 about the mean of y, on y's device."""
    centre = y.double().mean(0)
    y = y.double() - centre
    for part in x.split(ROWS):
        yield torch.cdist(part.to(y) - centre, y)


def nearest(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Distance to the nearest y, and which it is. Of y, too, only some rows are held in float64 at a time."""
    rows = max(1, VALUES // y.shape[1])
    best = torch.full((len(x),), torch.inf, dtype=torch.float64, device=y.device)
    index = torch.zeros_like(best, dtype=torch.int64)
    for k, part in enumerate(y.split(rows)):
        found = [block.min(1) for block in distances(x, part)]
        distance = torch.cat([f.values for f in found])
        index = torch.where(distance < best, torch.cat([f.indices for f in found]) + k * rows, index)
        best = torch.minimum(best, distance)
    return best.to(x.device), index.to(x.device)


def radii(x: Float[Tensor, "n d"], k: int = K) -> Float[Tensor, " n"]:
    """Distance of every x to the k-th nearest other x."""
    if len(x) <= k:
        raise ValueError(f"more than k = {k} features are needed for balls that reach to the k-th nearest, but {len(x)} came.")
    return torch.cat([block.kthvalue(k + 1).values for block in distances(x, x)])  # the nearest is x itself


def fidelity(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = K) -> dict[str, float]:
    """Precision, recall, density and coverage.

    precision: share of fake features in a ball around a real one. recall: share of real ones in a ball around a fake one.
    density: balls around real features that a fake one lies in, in the mean, over k. coverage: share of balls around real
    features with a fake one inside. All depend on how many features there are; of two samples of one distribution density
    is 1 in the mean, and coverage near 1 - 2^-k.
    """
    fake = fake.to(real.device)
    real_radius, fake_radius = radii(real, k), radii(fake, k)
    precise, balls = 0, 0
    reached, covered = torch.zeros(2, len(real), dtype=torch.bool, device=real.device)
    for distance, radius in zip(distances(fake, real), fake_radius.split(ROWS), strict=True):
        inside = distance <= real_radius
        precise += int(inside.any(1).sum())
        balls += int(inside.sum())
        covered |= inside.any(0)
        reached |= (distance <= radius[:, None]).any(0)
    return {
        "precision": precise / len(fake),
        "recall": reached.double().mean().item(),
        "density": balls / len(fake) / k,
        "coverage": covered.double().mean().item(),
    }


def histogram(labels: Int[Tensor, " n"], classes: int) -> Float[Tensor, " classes"]:
    """Share of every class."""
    return torch.bincount(labels, minlength=classes).double() / len(labels)


def classes(probabilities: Float[Tensor, "n c"], truth: Float[Tensor, " c"]) -> dict[str, float]:
    """What a classifier sees in images whose classes should have the shares `truth`.

    class_tv: total-variation distance of the histograms. class_worst: largest |share / true share - 1|. class_least: the
    smallest share / true share; 0 where a class is missing. mixed: share of images with no class as likely as UNSURE.
    """
    top = probabilities.max(1)
    share = histogram(top.indices.cpu(), len(truth))
    ratio = share[truth > 0] / truth[truth > 0]
    return {
        "class_tv": ((share - truth).abs().sum() / 2).item(),
        "class_worst": (ratio - 1).abs().max().item(),
        "class_least": ratio.min().item(),
        "mixed": (top.values < UNSURE).double().mean().item(),
    }


@dataclass(frozen=True, eq=False)
class Novelty:
    """How near new images come to training images, in the units of how near held-out ones do."""

    train: Float[Tensor, "m d"]
    held_out: Float[Tensor, " n"]  # distances of held-out images to their nearest training images

    @classmethod
    def against(cls, train: Float[Tensor, "m d"], held_out: Float[Tensor, "n d"]) -> Novelty:
        return cls(train, nearest(held_out, train)[0])

    def __call__(self, new: Float[Tensor, "n d"]) -> dict[str, float]:
        """novelty: median distance over that of held-out images; 1 for fresh images, 0 for copies. copied: share nearer to
        a training image than all but one in a hundred held-out images are; 0.01 for fresh images."""
        distance = nearest(new, self.train)[0]
        return {
            "novelty": (distance.median() / self.held_out.median()).item(),
            "copied": (distance < self.held_out.quantile(0.01)).double().mean().item(),
        }
