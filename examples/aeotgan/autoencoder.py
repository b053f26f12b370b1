"""Stage `ae`: train an autoencoder and encode the training images.

Writes autoencoder.safetensors, codes.npy (n, latent), reconstructions.png and ae.json.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import machine
import networks
import numpy as np
import pictures
import results
import torch
from config import Config
from data import Images
from jaxtyping import Float
from replay import Replay
from torch import Tensor, nn
from tqdm import tqdm

KEY = 1  # of this stage's randomness


@dataclass(frozen=True)
class Training:
    """What the training of an encoder and a decoder has of its own.

    Attributes:
        objective: The loss and the values to tell, from what the model makes of a batch, and the batch.
        path: Its checkpoint.
        name: What errors call it.
        label, told, shown: For the progress bar: its name, and which values it says in which words.
        key: Of its randomness.
        noise: Standard deviation of the noise.
        identity: What the checkpoint must agree in, beside the settings of stage `ae`.
    """

    objective: Callable[[Any, Tensor], tuple[Tensor, dict[str, Tensor]]]
    path: Path
    name: str
    label: str
    told: tuple[str, ...]
    shown: str
    key: int
    noise: float = 1.0
    identity: dict[str, str] = field(default_factory=dict)


def main(config: Config, images: Images, out: Path) -> dict[str, Any]:
    here = machine.current()
    with machine.fitting("ae.batch_size", config.ae.batch_size):
        model, seconds = train(config, images, out)
        model.eval()
        codes = apply(model.encoder, images.train)
        errors = {"train_error": error(model, images.train), "test_error": error(model, images.test)}
    if here.leads:
        results.save_tensors(out / "autoencoder.safetensors", model.state_dict())
        with results.replacing(out / "codes.npy") as part, part.open("wb") as file:
            np.save(file, codes.numpy())
        shown = images.test[:48].float()
        pictures.pairs(out / "reconstructions.png", shown, apply(model, shown), ("held-out image", "reconstruction"))
    return {
        "images": len(images.train),
        "latent": config.ae.latent,
        **errors,
        "test_images": len(images.test),
        "seconds": seconds,
    }


def train(config: Config, images: Images, out: Path) -> tuple[networks.Autoencoder, float]:
    """Mean squared error; noise on the codes."""

    def objective(made: Tensor, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = nn.functional.mse_loss(made.float(), batch)
        return loss, {"loss": loss}

    torch.manual_seed(config.seed)
    model = machine.current().placed(networks.autoencoder(config))
    training = Training(
        objective,
        out / "ae.checkpoint",
        name="ae",
        label="autoencoder",
        told=("loss",),
        shown="loss {loss:.4f}",
        key=KEY,
        noise=config.ae.noise,
    )
    return model, fit(config, images, model, training)[1]


def fit(config: Config, images: Images, model: nn.Module, training: Training) -> tuple[dict[str, float], float]:
    """Train model(images, noise), where noise has a normal number for each coordinate of a code: Adam, a learning rate that
    falls to zero along a cosine. Goes on from its checkpoint. Returns the values of the last step, and seconds."""
    here, ae = machine.current(), config.ae
    optimizer, x = here.adam(model.parameters(), ae.lr), here.hold(images.train)
    made_from = results.settings(config, images.digest, ["ae"]) | training.identity | {"processes": here.world}
    checkpoint = results.Checkpoint(training.path, {"model": model, "adam": optimizer}, made_from, here.leads)
    saved = checkpoint.read()
    first, before = (saved[1]["step"], saved[1]["seconds"]) if saved else (0, 0.0)
    called, started = here.ready(model), time.monotonic()
    size = min(ae.batch_size, len(x))
    total = ae.epochs * (len(x) // size)
    values = dict[str, float]()

    def descend(names: tuple[str, ...], batch: Tensor, z: Tensor) -> Tensor:
        with here.precision():
            made = called(batch, z)
        loss, told = training.objective(made, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return torch.stack([told[name].detach() for name in names])

    turn = Replay(descend)
    bar = tqdm(total=total, initial=first, desc=training.label, unit="step", disable=not here.leads)
    for step in range(first, total):
        if checkpoint.due():
            checkpoint.write({}, {"step": step, "seconds": before + time.monotonic() - started})
        rows = epoch_rows(len(x), size, step, config.seed, training.key)
        z = training.noise * torch.randn(size, ae.latent, generator=machine.keyed(config.seed, training.key, step))
        machine.set_rate(optimizer, ae.lr * (1 + math.cos(math.pi * step / total)) / 2)
        numbers = turn(training.told, here.share(x[rows.to(x.device)]).float(), here.share(z))
        values = dict(zip(training.told, numbers(), strict=True))
        results.check_finite(values, training.name, step)
        bar.set_postfix_str(training.shown.format(**values), refresh=False)
        bar.update()
    bar.close()
    here.check_agreement(model)
    seconds = before + time.monotonic() - started
    checkpoint.write({}, {"step": total, "seconds": seconds})
    return values, seconds


def epoch_rows(n: int, size: int, step: int, seed: int, key: int) -> Tensor:
    """The rows of a step's batch: in an epoch each row comes once, in an order of the epoch's own. Left-overs are skipped."""
    epoch, k = divmod(step, n // size)
    return _order(n, seed, key, epoch)[k * size : (k + 1) * size]


@lru_cache(maxsize=2)
def _order(n: int, seed: int, key: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=machine.keyed(seed, key, epoch, 0))


@torch.no_grad()
def apply(model: nn.Module, x: Tensor, size: int = 1024) -> Tensor:
    """The model in batches, so that memory stays small; the outcome on the CPU."""
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device).float()).float().cpu() for part in x.split(size)])


@torch.no_grad()
def error(model: networks.Autoencoder, images: Float[Tensor, "n c h w"]) -> float:
    """Mean squared error of a pixel, in [0, 1]."""
    parts = [(apply(model, x) - x.float()).square().sum(dtype=torch.float64) for x in images.split(1024)]
    return float(sum(parts) / images.numel())
