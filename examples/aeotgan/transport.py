"""Stage `ot`: carry noise onto the codes by optimal transport, and decode new digits.

The only stage that solves. The optimal map T sends noise x to one of the codes, so that decoding T(x) would only return
reconstructions. The entropic map T.soft(x, eps) blends the few codes whose cells lie nearest to x: new codes, new digits.

Reads autoencoder.safetensors and codes.npy; writes map.safetensors, generated.png, nearest.png, convergence.png and ot.json.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pictures
import torch
from config import Config
from data import Images
from jaxtyping import Float
from torch import Tensor

import sdot

BLEND = 0.9  # a sample is called a blend when no code weighs more


@torch.no_grad()
def main(config: Config, images: Images, out: Path) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(config.seed)
    codes = torch.from_numpy(np.load(out / "codes.npy"))
    source, target = sdot.Gaussian(dim=config.ae.latent), sdot.DiscreteMeasure.uniform(codes)
    solution = sdot.solve(
        source, target, tol=config.ot.tol, progress=True, checkpoint=out / "ot.checkpoint", generator=generator
    )
    T = solution.map
    sdot.save(T, out / "map.safetensors", source=source, certificate=solution.certificate)
    pictures.convergence(out / "convergence.png", solution, config.ot.tol)

    x = source.sample(500, like=codes, generator=generator)
    eps = temperature(T, x, config.ot.hardness)
    weight = largest_weight(T, x, eps)
    decode = networks.load(out / "autoencoder.safetensors", config.data, config.ae.latent).decoder
    new = decode(T.soft(x, eps))
    near = nearest(new, images.train)
    pictures.sheet(out / "generated.png", new[:160])
    pictures.pairs(out / "nearest.png", new[:48], near[:48], ("new digit", "nearest image"))

    held_out = images.test[:500]
    many = source.sample(100_000, like=codes, generator=generator)
    return {
        "certificate": asdict(solution.certificate),
        "summary": str(solution.certificate),
        "samples": solution.history[-1].samples,
        "seconds": solution.seconds,
        "stopped_by": solution.reason,
        "eps": eps,
        "blends": (weight < BLEND).float().mean().item(),
        "mean_largest_weight": weight.mean().item(),
        "nearest_image_to_new": difference(new, near),
        "nearest_image_to_held_out": difference(held_out, nearest(held_out, images.train)),
        "class_shares": shares(images.train_labels),
        "class_shares_of_map": shares(images.train_labels[T.cell(many)]),
    }


def largest_weight(T: sdot.BrenierMap, x: Float[Tensor, "n d"], eps: float) -> Float[Tensor, " n"]:
    """How much the foremost code weighs in each blend T.soft(x, eps)."""
    return ((T.potential(x) - sdot.kernels.soft_potential(x, T.points, T.heights, eps)) / eps).exp()


def temperature(T: sdot.BrenierMap, x: Float[Tensor, "n d"], hardness: float) -> float:
    """The temperature at which the largest weight is `hardness` in the mean, by bisection on a logarithmic scale."""
    high = 10 * T.potential(x).std().item()
    low = 1e-6 * high
    while high > 1.001 * low:
        middle = (low * high) ** 0.5
        harder = largest_weight(T, x, middle).mean() > hardness
        low, high = (middle, high) if harder else (low, middle)
    return middle


def nearest(images: Tensor, training: Tensor) -> Tensor:
    """The nearest training image of each image."""
    return training[torch.cdist(images.flatten(1), training.flatten(1)).argmin(1)]


def difference(a: Tensor, b: Tensor) -> float:
    """Mean squared difference of their pixels."""
    return (a - b).square().mean().item()


def shares(labels: Tensor) -> list[float]:
    """How often each of the ten digits occurs."""
    return (torch.bincount(labels, minlength=10) / len(labels)).tolist()
