"""Stage `ot`: carry noise onto the codes by optimal transport, extend the map between neighbouring codes, decode new images.

The only stage that solves. The optimal map T sends noise x to one of the codes, so that decoding T(x) would only return
reconstructions. The extension S blends codes that lie close together: new codes, new images (AE-OT, the GAN's epoch 0).

Reads autoencoder.safetensors and codes.npy; writes map.safetensors, generated.png, nearest.png, walks.png, codes.png,
convergence.png and ot.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import autoencoder
import machine
import networks
import numpy as np
import pictures
import torch
from config import Config
from data import Images
from jaxtyping import Float
from torch import Generator, Tensor

import sdot

KEY = 2  # of this stage's randomness
PLENTY = 100_000  # samples that shares are counted from


@dataclass(frozen=True)
class Sampler:
    """Codes from noise: `image` of what `draw` makes on the CPU of a generator, and of that alone.

    The two are apart so that noise of many steps can be carried to codes at once.
    """

    draw: Callable[[int, Generator], Float[Tensor, "n d"]]
    image: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]] = lambda x: x

    def __call__(self, n: int, generator: Generator) -> Float[Tensor, "n d"]:
        return self.image(self.draw(n, generator)).cpu()


def main(config: Config, images: Images, out: Path) -> dict[str, Any]:
    if not machine.current().leads:
        return {}  # one process solves, the others wait
    generator = machine.keyed(config.seed, KEY)
    codes = torch.from_numpy(np.load(out / "codes.npy")).to(machine.current().device)
    source, target = sdot.Gaussian(dim=config.ae.latent), sdot.DiscreteMeasure.uniform(codes)
    solution = sdot.solve(
        source, target, tol=config.ot.tol, progress=True, checkpoint=out / "ot.checkpoint", generator=generator
    )
    started, T = time.monotonic(), solution.map
    cells = sdot.estimate_cells(T, source, precision=config.ot.precision, generator=generator)
    K = sdot.rips_complex(codes, max_dim=1)
    S = sdot.PiecewiseLinearMap(T, cells, K)
    seconds = time.monotonic() - started
    sdot.save(S, out / "map.safetensors", source=source, certificate=solution.certificate)

    many = noise(source, PLENTY, generator).to(codes.device)
    pictures.convergence(out / "convergence.png", solution, config.ot.tol)
    draw(config, images, out)
    return {
        "certificate": asdict(solution.certificate),
        "summary": str(solution.certificate),
        "samples": solution.history[-1].samples,
        "seconds": solution.seconds,
        "stopped_by": solution.reason,
        "extension_seconds": seconds,
        "moved": S.share_moved(many),
        "rule": S.weights,
        "max_edge_length": K.max_edge_length,
        "max_edge_length_because": K.reason,
        "edges": len(K.simplices[1]),
        "unresolved_cells": len(cells.unresolved),
        "class_shares": shares(images.train_labels),
        "class_shares_of_map": shares(images.train_labels, T.cell(many)),
    }


def draw(config: Config, images: Images, out: Path) -> None:
    """What the decoder makes of new codes."""
    decoder = machine.current().placed(networks.load(out / "autoencoder.safetensors", config).decoder)
    codes, sampler = torch.from_numpy(np.load(out / "codes.npy")), generator_codes(out)
    new = sampler(2000, machine.keyed(config.seed, KEY, 1))
    pictures.generated(out, "", autoencoder.apply(decoder, new[:160]), images.train)
    pictures.sheet(out / "walks.png", autoencoder.apply(decoder, walks(out, machine.keyed(config.seed, KEY, 2))), columns=16)
    pictures.embedding(out / "codes.png", codes, new)


def generator_codes(out: Path) -> Sampler:
    """n new codes, through the extension that this stage has saved."""
    return carried(*extension(out))


def carried(source: sdot.Source, f: Callable[[Tensor], Tensor]) -> Sampler:
    """What a map makes of the source, on the device."""
    device = machine.current().device
    return Sampler(lambda n, generator: noise(source, n, generator), lambda x: f(x.to(device)))


def noise(source: sdot.Source, n: int, generator: Generator) -> Float[Tensor, "n d"]:
    """Samples of the source, drawn on the CPU, so that they are the same on every device."""
    return source.sample(n, like=torch.empty(0), generator=generator)


def walks(out: Path, generator: Generator, rows: int = 8, steps: int = 16) -> Float[Tensor, "n d"]:
    """Codes along walks through the extension, one walk after the other.

    Each leads from noise a to noise b along cos(t) a + sin(t) b, all of which is as good a sample of the source as they are.
    """
    source, S = extension(out)
    a, b = noise(source, 2 * rows, generator).to(S.points.device).view(2, rows, 1, S.dim)
    t = torch.linspace(0, torch.pi / 2, steps).to(a)[:, None]
    return S((t.cos() * a + t.sin() * b).flatten(0, 1)).cpu()


def extension(out: Path) -> tuple[Any, sdot.PiecewiseLinearMap]:
    """The source, and the extension that this stage has saved."""
    path = out / "map.safetensors"
    return sdot.info(path).source, sdot.load(path, device=str(machine.current().device))


def shares(labels: Tensor | None, rows: Tensor | None = None) -> list[float] | None:
    """How often each class occurs, among all images or these."""
    if labels is None:
        return None
    own = labels if rows is None else labels[rows.cpu()]
    return (torch.bincount(own, minlength=int(labels.max()) + 1) / len(own)).tolist()
