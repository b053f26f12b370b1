"""Plain convolutional networks: InfoGAN's for 28 x 28, SNGAN's standard ones for 32 x 32, WGAN-div's for 64 x 64."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

HALVE = {"kernel_size": 4, "stride": 2, "padding": 1}
HALVE_5 = {"kernel_size": 5, "stride": 2, "padding": 2}


def infogan_generator(latent: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Linear(latent, 1024), nn.BatchNorm1d(1024), nn.ReLU()),
        nn.Sequential(nn.Linear(1024, 7 * 7 * 128), nn.BatchNorm1d(7 * 7 * 128), nn.ReLU(), nn.Unflatten(1, (128, 7, 7))),
        nn.Sequential(nn.ConvTranspose2d(128, 64, **HALVE), nn.BatchNorm2d(64), nn.ReLU()),
        nn.Sequential(nn.ConvTranspose2d(64, 1, **HALVE), nn.Sigmoid()),
    )


def infogan_encoder(latent: int) -> nn.Sequential:
    return nn.Sequential(*_infogan(), nn.Sequential(nn.Linear(1024, latent)))


def infogan_discriminator() -> nn.Sequential:
    return nn.Sequential(*_infogan(), nn.Linear(1024, 1))


def _infogan() -> list[nn.Module]:
    return [
        nn.Sequential(nn.Conv2d(1, 64, **HALVE), nn.LeakyReLU(0.1)),
        nn.Sequential(nn.Conv2d(64, 128, **HALVE), nn.BatchNorm2d(128), nn.LeakyReLU(0.1)),
        nn.Sequential(nn.Flatten(), nn.Linear(7 * 7 * 128, 1024), nn.BatchNorm1d(1024), nn.LeakyReLU(0.1)),
    ]


def sngan_generator(latent: int) -> nn.Sequential:
    return nn.Sequential(
        _start(latent, 512),
        *[_grow(c, c // 2, HALVE) for c in (512, 256, 128)],
        nn.Sequential(nn.Conv2d(64, 3, 3, padding=1), nn.Sigmoid()),
    )


def sngan_encoder(latent: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.LeakyReLU(0.1)),
        *[_shrink(c, 2 * c, HALVE) for c in (64, 128, 256)],
        nn.Sequential(nn.Flatten(), nn.Linear(4 * 4 * 512, latent)),
    )


def sngan_discriminator() -> nn.Sequential:
    layers: list[nn.Module] = []
    for c, wider in ((3, 64), (64, 128), (128, 256)):
        layers += [spectral_norm(nn.Conv2d(c, wider, 3, padding=1)), nn.LeakyReLU(0.1)]
        layers += [spectral_norm(nn.Conv2d(wider, wider, **HALVE)), nn.LeakyReLU(0.1)]
    layers += [spectral_norm(nn.Conv2d(256, 512, 3, padding=1)), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Flatten(), spectral_norm(nn.Linear(4 * 4 * 512, 1)))


def dcgan_generator(latent: int) -> nn.Sequential:
    double = {**HALVE_5, "output_padding": 1}
    return nn.Sequential(
        _start(latent, 512),
        *[_grow(c, c // 2, double) for c in (512, 256, 128)],
        nn.Sequential(nn.ConvTranspose2d(64, 3, **double), nn.Sigmoid()),
    )


def dcgan_encoder(latent: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 64, **HALVE_5), nn.LeakyReLU(0.2)),
        *[_shrink(c, 2 * c, HALVE_5) for c in (64, 128, 256)],
        nn.Sequential(nn.Flatten(), nn.Linear(4 * 4 * 512, latent)),
    )


def dcgan_discriminator() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, **HALVE_5), nn.LeakyReLU(0.2)]
    for c in (64, 128, 256):
        layers += [nn.Conv2d(c, 2 * c, **HALVE_5), layer_norm(2 * c), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 4 * 512, 1))


def layer_norm(channels: int) -> nn.Module:
    """Normalisation of each image by itself, with a scale for every channel."""
    return nn.GroupNorm(1, channels)


def _start(latent: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(latent, 4 * 4 * channels), nn.Unflatten(1, (channels, 4, 4)), nn.BatchNorm2d(channels), nn.ReLU()
    )


def _grow(c: int, narrower: int, shape: dict[str, Any]) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(c, narrower, **shape), nn.BatchNorm2d(narrower), nn.ReLU())


def _shrink(c: int, wider: int, shape: dict[str, Any]) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c, wider, **shape), nn.BatchNorm2d(wider), nn.LeakyReLU(0.1))
