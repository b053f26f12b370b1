"""Stage `ae`: train an autoencoder and encode the training images.

Writes autoencoder.safetensors, codes.npy (n, latent), reconstructions.png and ae.json.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pictures
import torch
from config import AutoencoderConfig, Config
from data import Images
from jaxtyping import Float
from results import replacing
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm


def main(config: Config, images: Images, out: Path) -> dict[str, Any]:
    torch.manual_seed(config.seed)
    model = networks.build(config.data, config.ae.latent)
    started = time.monotonic()
    train(model, images.train, config.ae)
    seconds = time.monotonic() - started

    model.eval()
    with replacing(out / "autoencoder.safetensors") as part:
        save_file(model.state_dict(), part)
    with replacing(out / "codes.npy") as part:
        np.save(part, apply(model.encoder, images.train).numpy())
    shown = images.test[:48]
    pictures.pairs(out / "reconstructions.png", shown, apply(model, shown), ("held-out image", "reconstruction"))
    return {
        "images": len(images.train),
        "latent": config.ae.latent,
        "train_error": error(model, images.train),
        "test_error": error(model, images.test),
        "test_images": len(images.test),
        "seconds": seconds,
    }


def train(model: networks.Autoencoder, images: Float[Tensor, "n c h w"], config: AutoencoderConfig) -> None:
    """Mean squared error, Adam, a learning rate that falls to zero along a cosine."""
    batches = len(images) // config.batch_size
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * batches)
    with tqdm(total=config.epochs * batches, desc="autoencoder", unit="step") as bar:
        for _ in range(config.epochs):
            for rows in torch.randperm(len(images))[: batches * config.batch_size].view(batches, -1):
                x = images[rows]
                loss = nn.functional.mse_loss(model(x, noise=config.noise), x)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.set_postfix_str(f"loss {loss.item():.4f}", refresh=False)
                bar.update()


@torch.no_grad()
def apply(model: nn.Module, x: Tensor) -> Tensor:
    """The model in batches, so that memory stays small."""
    return torch.cat([model(part) for part in x.split(4096)])


def error(model: networks.Autoencoder, images: Float[Tensor, "n c h w"]) -> float:
    """Mean squared error of a pixel, in [0, 1]."""
    return nn.functional.mse_loss(apply(model, images), images).item()
