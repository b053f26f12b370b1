"""Families of networks: a generator, the encoder that mirrors it, and a discriminator.

All are sequences of stages. The outputs of the encoder's stages have the shapes of the generator's, in opposite order; the
feature loss compares them. Images lie in [0, 1], which a sigmoid ensures: the tanh of the papers, shifted and scaled.
Codes have mean 0 and variance 1 in every coordinate.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import networks_convolutional as convolutional
import networks_resnet as resnet
from config import Config
from jaxtyping import Float
from results import load_tensors
from torch import Tensor, nn


class Family(NamedTuple):
    generator: Callable[[int], nn.Sequential]
    encoder: Callable[[int], nn.Sequential]  # without the normalisation of the codes
    discriminator: Callable[[], nn.Module]
    size: tuple[int, int, int]  # channels, height, width


class Autoencoder(nn.Module):
    def __init__(self, encoder: nn.Sequential, decoder: nn.Sequential, latent: int) -> None:
        super().__init__()
        encoder[-1].append(nn.BatchNorm1d(latent, affine=False))
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Float[Tensor, "n c h w"], noise: Float[Tensor, "n d"] | float = 0.0) -> Float[Tensor, "n c h w"]:
        out: Tensor = self.decoder(self.encoder(x) + noise)
        return out


def stages(network: nn.Sequential, x: Tensor) -> list[Tensor]:
    """What every stage of a network makes of x."""
    outputs = []
    for stage in network:
        x = stage(x)
        outputs.append(x)
    return outputs


def autoencoder(config: Config) -> Autoencoder:
    family, latent = FAMILIES[config.network], config.ae.latent
    return Autoencoder(family.encoder(latent), family.generator(latent), latent)


def generator(config: Config) -> nn.Sequential:
    return FAMILIES[config.network].generator(config.ae.latent)


def discriminator(config: Config) -> nn.Module:
    """Images to scores, (n, 1): the logarithm of the odds that an image is real."""
    return FAMILIES[config.network].discriminator()


def load(path: Path, config: Config) -> Autoencoder:
    """A trained autoencoder, ready for use."""
    model = autoencoder(config)
    model.load_state_dict(load_tensors(path)[0])
    return model.eval()


def load_generator(path: Path, config: Config) -> nn.Sequential:
    """A trained generator, ready for use."""
    model = generator(config)
    model.load_state_dict(load_tensors(path)[0])
    return model.eval()


def perceptron_generator(latent: int, width: int = 256) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Linear(latent, width), nn.GELU()),
        nn.Sequential(nn.Linear(width, width), nn.GELU()),
        nn.Sequential(nn.Linear(width, 64), nn.Unflatten(1, (1, 8, 8)), nn.Sigmoid()),
    )


def perceptron_encoder(latent: int, width: int = 256) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.GELU()),
        nn.Sequential(nn.Linear(width, width), nn.GELU()),
        nn.Sequential(nn.Linear(width, latent)),
    )


def perceptron_discriminator(width: int = 256) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, 1),
    )


FAMILIES = {
    "perceptron": Family(perceptron_generator, perceptron_encoder, perceptron_discriminator, (1, 8, 8)),
    "infogan": Family(
        convolutional.infogan_generator, convolutional.infogan_encoder, convolutional.infogan_discriminator, (1, 28, 28)
    ),
    "sngan": Family(convolutional.sngan_generator, convolutional.sngan_encoder, convolutional.sngan_discriminator, (3, 32, 32)),
    "sngan-resnet": Family(resnet.sngan_generator, resnet.sngan_encoder, resnet.sngan_discriminator, (3, 32, 32)),
    "dcgan": Family(convolutional.dcgan_generator, convolutional.dcgan_encoder, convolutional.dcgan_discriminator, (3, 64, 64)),
    "wgan-div-resnet": Family(resnet.generator_64, resnet.encoder_64, resnet.discriminator_64, (3, 64, 64)),
    "wgan-div-resnet-256": Family(resnet.generator_256, resnet.encoder_256, resnet.discriminator_256, (3, 256, 256)),
}
