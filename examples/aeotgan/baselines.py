"""Stage `baselines`: what else could be made of the same networks in the same number of epochs.

A GAN fed with Gaussian noise, its generator new; a variational autoencoder (Kingma and Welling, 2014), whose decoder learns its
own variance (Rybkin et al., ICML 2021), so that there is no weight to choose between its two losses. The third baseline, the
decoder fed with a Gaussian fitted to the codes, needs no training.

Writes baselines-gan.safetensors, baselines-vae.safetensors, their checkpoints, histories and pictures, and baselines.json.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import autoencoder
import gan
import machine
import networks
import results
import torch
from autoencoder import Training
from config import Config
from data import Images
from jaxtyping import Float
from torch import Generator, Tensor, nn
from transport import Sampler

KEY = 4  # of this stage's randomness


def main(config: Config, images: Images, out: Path) -> dict[str, Any]:
    b, here = config.baselines, machine.current()
    plain = replace(config, gan=replace(config.gan, lr=b.lr, lr_ratio=b.lr_ratio, inner=b.inner))
    torch.manual_seed(config.seed)
    found = gan.train(plain, images, noise(config), networks.generator(config), out, name="baselines-gan")
    model, last, seconds = train_vae(config, images, out)
    if here.leads:
        results.save_tensors(out / "baselines-vae.safetensors", model.decoder.state_dict())
        (out / "baselines-gan.checkpoint").unlink(missing_ok=True)
        (out / "baselines-vae.checkpoint").unlink(missing_ok=True)
    return {"baselines-gan": found, "vae": {"epochs": config.ae.epochs, "seconds": seconds, **last}}


def noise(config: Config) -> Sampler:
    """What the Gaussian-noise GAN and the variational autoencoder are fed with."""
    return Sampler(lambda n, generator: torch.randn(n, config.ae.latent, generator=generator))


def fitted(codes: Float[Tensor, "m d"]) -> Sampler:
    """A Gaussian with the mean and the covariance of the codes."""
    mean, covariance = codes.double().mean(0), torch.cov(codes.double().T)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt()  # of rank d also where the codes are not

    def draw(n: int, generator: Generator) -> Tensor:
        z = torch.randn(n, codes.shape[1], generator=generator, dtype=torch.float64)
        return (mean + z @ root.T).to(codes)

    return Sampler(draw)


class VariationalAutoencoder(nn.Module):
    """The same encoder but for its last layer, which has the mean and the logarithm of the variance of each coordinate."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        family = networks.FAMILIES[config.network]
        self.encoder, self.decoder = family.encoder(2 * config.ae.latent), family.generator(config.ae.latent)

    def forward(self, x: Float[Tensor, "n c h w"], noise: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
        """The images made of samples of their codes, and the divergence of the codes' law from N(0, I)."""
        mean, log_variance = self.encoder(x).float().clamp(-20, 20).chunk(2, 1)
        made = self.decoder(mean + (log_variance / 2).exp() * noise)
        return made, (mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean() / 2


def train_vae(config: Config, images: Images, out: Path) -> tuple[VariationalAutoencoder, dict[str, float], float]:
    """The evidence lower bound in nats an image, D / 2 log (mean square error) - D_KL; otherwise as in stage `ae`."""

    def objective(made: tuple[Tensor, Tensor], batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        image, divergence = made
        error = nn.functional.mse_loss(image.float(), batch)
        return batch[0].numel() / 2 * error.log() + divergence, {"error": error, "divergence": divergence}

    torch.manual_seed(config.seed)
    model = machine.current().placed(VariationalAutoencoder(config))
    training = Training(
        objective,
        out / "baselines-vae.checkpoint",
        name="vae",
        label="vae",
        told=("error", "divergence"),
        shown="error {error:.4f}, divergence {divergence:.1f}",
        key=KEY,
        identity={"training": "vae"},
    )
    last, seconds = autoencoder.fit(config, images, model, training)
    return model.eval(), {"error": math.nan, "divergence": math.nan} | last, seconds
