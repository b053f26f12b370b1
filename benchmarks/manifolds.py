"""Codes with held-out ones beside them: synthetic manifolds, where they truly lie, and principal components of images."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from benchmarks import data
from benchmarks.clouds import eight_gaussians
from benchmarks.fidelity import Reference

TRAIN, HELD = 15_000, 5000


@dataclass(frozen=True, eq=False)
class Codes:
    """A data set: `strays(codes)` is the share that lies where no data is, `None` where nobody knows; labels for training."""

    name: str
    reference: Reference
    strays: Callable[[Tensor], float] | None = None
    labels: Tensor | None = None


def moons(m: int, d: int = 32, noise: float = 0.02, seed: int = 0) -> Codes:
    """Two half circles that reach into each other, turned into R^d, with a little noise in all directions."""
    g = Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(d, d, generator=g)).Q[:2]

    def draw(n: int) -> Tensor:
        angle, upper = math.pi * torch.rand(n, generator=g), torch.rand(n, generator=g) < 0.5
        one = torch.stack([angle.cos(), angle.sin()], 1)
        two = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
        return torch.where(upper[:, None], one, two) @ turn + noise * torch.randn(n, d, generator=g)

    def distance(z: Tensor) -> Tensor:
        t = torch.linspace(0, math.pi, 2000)
        curve = torch.cat([torch.stack([t.cos(), t.sin()], 1), torch.stack([1 - t.cos(), 0.5 - t.sin()], 1)])
        return torch.cdist(z, curve @ turn).amin(1)

    return _synthetic("moons-32", draw, distance, m)


def torus(m: int, d: int = 16, noise: float = 0.02, seed: int = 0) -> Codes:
    """A torus of radii 2 and 0.7, turned into R^d, with a little noise in all directions."""
    g = Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(d, d, generator=g)).Q[:3]

    def draw(n: int) -> Tensor:
        a, b = 2 * math.pi * torch.rand(2, n, generator=g)
        wide = 2 + 0.7 * b.cos()
        return torch.stack([wide * a.cos(), wide * a.sin(), 0.7 * b.sin()], 1) @ turn + noise * torch.randn(n, d, generator=g)

    def distance(z: Tensor) -> Tensor:
        p = z @ turn.T
        ring = ((p[:, :2].norm(dim=1) - 2).square() + p[:, 2].square()).sqrt() - 0.7
        return (ring.square() + (z - p @ turn).square().sum(1)).sqrt()

    return _synthetic("torus-16", draw, distance, m)


def clusters(m: int, d: int = 32, k: int = 20, intrinsic: int = 8, seed: int = 0) -> Codes:
    """k Gaussians on random subspaces, with gaps between them.

    What strays lies between clusters: the distance is that to the nearest one in units of its standard deviations, those of
    the thin directions taken as 0.5.
    """
    g = Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(k, d, generator=g)
    axes = torch.linalg.qr(torch.randn(k, d, intrinsic, generator=g)).Q * torch.linspace(1, 0.3, intrinsic)
    inverse = torch.linalg.inv(axes @ axes.mT + 0.5**2 * torch.eye(d))

    def draw(n: int) -> Tensor:
        label = torch.randint(k, (n,), generator=g)
        inside = (axes[label] @ torch.randn(n, intrinsic, 1, generator=g))[..., 0]
        return centres[label] + inside + 0.05 * torch.randn(n, d, generator=g)

    def distance(z: Tensor) -> Tensor:
        away = z[:, None] - centres  # (n, k, d)
        return torch.einsum("nkd,kde,nke->nk", away, inverse, away).amin(1).sqrt()

    return _synthetic("clusters-32", draw, distance, m)


def plane(m: int, seed: int = 0) -> Codes:
    """Eight narrow Gaussians on a circle. What strays lies between them."""

    def draw(n: int) -> Tensor:
        return eight_gaussians(n, seed=next(seeds))

    def distance(z: Tensor) -> Tensor:
        angle = torch.arange(8) * (math.pi / 4)
        return torch.cdist(z, 2 * torch.stack([angle.cos(), angle.sin()], 1)).amin(1)

    seeds = iter(range(seed, seed + 10))
    return _synthetic("plane-2", draw, distance, m)


def images(name: str, d: int, seed: int = 0) -> Codes:
    """Principal components of training images."""
    pixels, labels = _pixels(name)
    order = _some(len(pixels), seed)
    x = torch.from_numpy(pixels[order].reshape(len(order), -1).astype(np.float32) / 255)
    mean = x[:TRAIN].mean(0)
    _, directions = torch.linalg.eigh((x[:TRAIN] - mean).T @ (x[:TRAIN] - mean))
    return _real(f"{name}-{d}", (x - mean) @ directions[:, -d:].flip(1), labels[order])


def latents(name: str, seed: int = 0) -> Codes:
    """Codes of training images by the autoencoder of examples/aeotgan."""
    z, labels = data.codes(name), _pixels(name)[1]
    order = _some(len(z), seed)
    z = z[order] - z[order[:TRAIN]].mean(0)
    return _real(f"{name}-latent-{z.shape[1]}", z, labels[order])


def _some(n: int, seed: int) -> Any:
    return torch.randperm(n, generator=Generator().manual_seed(seed))[: TRAIN + 2 * HELD].numpy()


def _real(name: str, z: Tensor, labels: Any) -> Codes:
    """Scaled so that a coordinate has variance 1 in the mean over the training codes."""
    train, held, fresh = (z / z[:TRAIN].square().mean().sqrt()).split([TRAIN, HELD, HELD])
    return Codes(name, Reference(train, held, fresh), labels=torch.from_numpy(labels.astype(np.int64)))


def _pixels(name: str) -> tuple[Any, Any]:
    if name == "cifar10":
        from PIL import Image

        sheets = [np.asarray(Image.open(data.file(name, f"cifar10_train_{k}.webp"))) for k in range(5)]
        tiles = [s.reshape(s.shape[0] // 32, 32, -1, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3) for s in sheets]
        return np.concatenate(tiles), np.load(data.file(name, "cifar10_labels.npz"))["y_train"]
    x, labels = (
        gzip.decompress(data.file(name, f"train-{kind}-ubyte.gz").read_bytes()) for kind in ("images-idx3", "labels-idx1")
    )
    return np.frombuffer(x, np.uint8, offset=16).reshape(-1, 784), np.frombuffer(labels, np.uint8, offset=8)


def _synthetic(name: str, draw: Callable[[int], Tensor], distance: Callable[[Tensor], Tensor], m: int) -> Codes:
    reference = Reference(draw(m), draw(HELD), draw(HELD))
    limit = distance(draw(20_000)).quantile(0.999)
    return Codes(name, reference, lambda z: float((distance(z) > limit).double().mean()))


SETS: dict[str, Callable[[], Codes]] = {
    "plane-2": lambda: plane(1000),
    "moons-32": lambda: moons(2000),
    "torus-16": lambda: torus(5000),
    "clusters-32": lambda: clusters(10_000),
    "mnist-32": lambda: images("mnist", 32),
    "mnist-latent-32": lambda: latents("mnist"),
    "fashion-mnist-32": lambda: images("fashion-mnist", 32),
    "cifar10-64": lambda: images("cifar10", 64),
}
