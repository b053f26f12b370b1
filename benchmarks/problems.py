"""Problems by name: each a source and a target, drawn afresh for every seed, of any size.

`find("latent-16")` is a family at its usual number of targets, `find("latent-16-50000")` the same family with 50,000.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

import sdot
from benchmarks import clouds, data

Measures = tuple[sdot.Source, sdot.DiscreteMeasure]


@dataclass(frozen=True)
class Problem:
    """One instance. `name` tells family and size, `cells` how many targets carry weight."""

    name: str
    seed: int
    source: sdot.Source
    target: sdot.DiscreteMeasure

    @property
    def cells(self) -> int:
        return len(self.target.support)


@dataclass(frozen=True)
class Family:
    """Instances of one kind: `draw(m, seed)` makes the measures, m being `m` when nobody says otherwise."""

    name: str
    m: int
    what: str
    draw: Callable[[int, int], Measures]

    def __call__(self, seed: int, m: int | None = None) -> Problem:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*repeat an earlier one")
            source, target = self.draw(m or self.m, seed)
        return Problem(f"{self.name}-{len(target)}", seed, source, target)


def find(name: str) -> tuple[Family, int]:
    """The family and the number of targets that a name tells."""
    if name in PROBLEMS:
        return PROBLEMS[name], PROBLEMS[name].m
    family, _, m = name.rpartition("-")
    if family not in PROBLEMS or not m.isdigit():
        raise ValueError(f"{name!r} is not a problem: take one of {', '.join(PROBLEMS)}, with -M after it for M targets.")
    return PROBLEMS[family], int(m)


def make(name: str, seed: int = 0) -> Problem:
    """An instance of the problem that a name tells."""
    family, m = find(name)
    return family(seed, m)


def _gaussian(y: torch.Tensor, weights: torch.Tensor | None = None) -> Measures:
    target = sdot.DiscreteMeasure.uniform(y) if weights is None else sdot.DiscreteMeasure(y, weights)
    return sdot.Gaussian(dim=y.shape[1]), target


def _photo(m: int, seed: int) -> Measures:
    side = math.isqrt(m)
    centre = (torch.arange(side) + 0.5) / side
    y = torch.cartesian_prod(centre, centre)
    weights = data.photograph(side, seed).flatten().double()
    return sdot.UniformCube(2), sdot.DiscreteMeasure(y, weights / weights.sum())


def _bunny(m: int, seed: int) -> Measures:
    return sdot.UniformBall(3), sdot.DiscreteMeasure.uniform(clouds.some_rows(data.bunny(), m, seed))


def _weighted(m: int, d: int, k: int, intrinsic: int, decades: float, seed: int) -> Measures:
    return _gaussian(clouds.clusters(m, d, k, intrinsic, seed), clouds.uneven(m, decades, seed))


_families = [
    Family(
        "plane", 1000, "uniform square, eight Gaussians in the plane",
        lambda m, seed: (sdot.UniformCube(2), sdot.DiscreteMeasure.uniform(clouds.eight_gaussians(m, seed))),
    ),
    Family("photo", 4096, "uniform square, a grid weighted by a photograph's grey values", _photo),
    Family("bunny", 5000, "uniform ball, vertices of the Stanford bunny", _bunny),
    Family("latent-8", 2000, "10 clusters in d = 8", lambda m, seed: _gaussian(clouds.clusters(m, 8, 10, seed=seed))),
    Family("latent-16", 4000, "10 clusters in d = 16", lambda m, seed: _gaussian(clouds.clusters(m, 16, 10, seed=seed))),
    Family("latent-64", 5000, "20 clusters of dimension 8 in d = 64",
           lambda m, seed: _gaussian(clouds.clusters(m, 64, 20, 8, seed))),
    Family("full-64", 5000, "20 clusters in d = 64", lambda m, seed: _gaussian(clouds.clusters(m, 64, 20, seed=seed))),
    Family("full-128", 5000, "20 clusters in d = 128", lambda m, seed: _gaussian(clouds.clusters(m, 128, 20, seed=seed))),
    Family("weighted-64", 10_000, "20 clusters of dimension 8 in d = 64, weights over one power of ten, alike within a cluster",
           lambda m, seed: _weighted(m, 64, 20, 8, 1.0, seed)),
    Family("weighted-16", 4000, "10 clusters in d = 16, weights over four powers of ten, alike within a cluster",
           lambda m, seed: _weighted(m, 16, 10, 16, 4.0, seed)),
    Family("mixed-2", 2000, "uniform square, points of it, weights over four powers of ten, unlike among neighbours",
           lambda m, seed: (sdot.UniformCube(2), sdot.DiscreteMeasure(
               torch.rand(m, 2, generator=torch.Generator().manual_seed(seed)), clouds.uneven(m, 4.0, seed + 1)))),
    Family("mixed-16", 4000, "10 clusters in d = 16, weights over four powers of ten, unlike among neighbours",
           lambda m, seed: _gaussian(clouds.clusters(m, 16, 10, seed=seed), clouds.uneven(m, 4.0, seed + 1))),
    Family("far-64", 3000, "uniform cube, a flat Gaussian far from the origin in d = 64",
           lambda m, seed: (sdot.UniformCube(64), sdot.DiscreteMeasure.uniform(clouds.far_and_flat(m, 64, seed)))),
    Family("remote-16", 2000, "a Gaussian in d = 16 and far from it a cluster of 1 % of the mass",
           lambda m, seed: _gaussian(*clouds.with_far_cluster(m, 16, seed))),
    Family("resnet", 5000, "features of photographs in d = 64",
           lambda m, seed: _gaussian(clouds.some_rows(data.resnet(), m, seed))),
    Family("letter", 20_000, "letters by 16 whole numbers, 1,332 rows repeated",
           lambda m, seed: _gaussian(clouds.some_rows(data.letter(), m, seed))),
    Family("digits", 1500, "codes of the autoencoder of scikit-learn's digits in d = 16",
           lambda m, seed: _gaussian(clouds.some_rows(data.codes("digits"), m, seed))),
    Family("mnist", 10_000, "codes of the autoencoder of MNIST in d = 32",
           lambda m, seed: _gaussian(clouds.some_rows(data.codes("mnist"), m, seed))),
    Family("large", 50_000, "50 clusters of dimension 10 in d = 100",
           lambda m, seed: _gaussian(clouds.clusters(m, 100, 50, 10, seed))),
    Family("million", 1_000_000, "100 clusters in d = 16", lambda m, seed: _gaussian(clouds.clusters(m, 16, 100, seed=seed))),
]  # fmt: skip
PROBLEMS = {family.name: family for family in _families}
USUAL = [name for name in PROBLEMS if name not in ("large", "million")]  # those that a table goes through
