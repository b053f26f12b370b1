"""The autoencoders: a perceptron for digits of 8 x 8 pixels, a small convolutional network for MNIST."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Images to codes and back. Codes have mean 0 and variance 1 in every coordinate, pixels lie in [0, 1]."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(encoder, nn.BatchNorm1d(latent, affine=False))
        self.decoder = nn.Sequential(decoder, nn.Sigmoid())

    def forward(self, x: Float[Tensor, "n c h w"], noise: float = 0.0) -> Float[Tensor, "n c h w"]:
        z = self.encoder(x)
        return self.decoder(z + noise * torch.randn_like(z))


def build(data: str, latent: int) -> Autoencoder:
    encoder, decoder = {"digits": perceptron, "mnist": convolutional}[data](latent)
    return Autoencoder(encoder, decoder, latent)


def load(path: Path, data: str, latent: int) -> Autoencoder:
    """A trained autoencoder, ready for use."""
    model = build(data, latent)
    model.load_state_dict(load_file(path))
    return model.eval()


def perceptron(latent: int, width: int = 256) -> tuple[nn.Module, nn.Module]:
    def layers(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs)]

    encoder = nn.Sequential(nn.Flatten(), *layers(64, latent))
    return encoder, nn.Sequential(*layers(latent, 64), nn.Unflatten(1, (1, 8, 8)))


def convolutional(latent: int, width: int = 32) -> tuple[nn.Module, nn.Module]:
    halve, double = {"kernel_size": 4, "stride": 2, "padding": 1}, {"kernel_size": 4, "stride": 2, "padding": 1}
    encoder = nn.Sequential(
        nn.Conv2d(1, width, **halve),  # (n, 32, 14, 14)
        nn.GELU(),
        nn.Conv2d(width, 2 * width, **halve),  # (n, 64, 7, 7)
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(2 * width * 7 * 7, latent),
    )
    decoder = nn.Sequential(
        nn.Linear(latent, 2 * width * 7 * 7),
        nn.GELU(),
        nn.Unflatten(1, (2 * width, 7, 7)),
        nn.ConvTranspose2d(2 * width, width, **double),
        nn.GELU(),
        nn.ConvTranspose2d(width, 1, **double),
    )
    return encoder, decoder
