"""Residual networks: SNGAN's for 32 x 32, WGAN-div's for 64 x 64, and the same with two more blocks for 256 x 256."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from networks_convolutional import layer_norm
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS_64 = (512, 256, 128, 64)
WIDTHS_256 = (512, 512, 256, 128, 64, 32)
Wrap = Callable[[nn.Module], nn.Module]


def same(layer: nn.Module) -> nn.Module:
    return layer


def nothing(channels: int) -> nn.Module:
    return nn.Identity()


class Block(nn.Module):
    """Norm, ReLU, 3 x 3, norm, ReLU, 3 x 3, beside a 1 x 1 shortcut; the size doubles, halves or stays."""

    def __init__(
        self, c: int, wider: int, resize: nn.Module, *, first: bool = False, norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        wrap: Wrap = same,
    ) -> None:  # fmt: skip
        super().__init__()
        grows = isinstance(resize, nn.Upsample)
        start = [] if first else [norm(c), nn.ReLU()]
        self.residual = nn.Sequential(
            *start,
            resize if grows else nn.Identity(),
            wrap(nn.Conv2d(c, wider, 3, padding=1)),
            norm(wider),
            nn.ReLU(),
            wrap(nn.Conv2d(wider, wider, 3, padding=1)),
            nn.Identity() if grows else resize,
        )
        straight = c == wider and isinstance(resize, nn.Identity)
        self.shortcut = nn.Identity() if straight else nn.Sequential(resize, wrap(nn.Conv2d(c, wider, 1)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.residual(x) + self.shortcut(x)
        return out


class SumPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3))


def generator(latent: int, start: int, widths: Sequence[int]) -> nn.Sequential:
    blocks = [Block(c, n, nn.Upsample(scale_factor=2)) for c, n in itertools.pairwise((start, *widths))]
    return nn.Sequential(
        nn.Sequential(nn.Linear(latent, 4 * 4 * start), nn.Unflatten(1, (start, 4, 4))),
        *blocks,
        nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.Conv2d(widths[-1], 3, 3, padding=1), nn.Sigmoid()),
    )


def encoder(latent: int, start: int, widths: Sequence[int]) -> nn.Sequential:
    """The generator's mirror: its blocks in opposite order, halving where they double."""
    back = (*reversed(widths), start)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, back[0], 3, padding=1)),
        *[Block(c, n, nn.AvgPool2d(2)) for c, n in itertools.pairwise(back)],
        nn.Sequential(nn.BatchNorm2d(start), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * start, latent)),
    )


def discriminator(widths: Sequence[int]) -> nn.Sequential:
    """With layer norm, as in WGAN-div: batch norm would tie the scores of a batch together."""
    ends = (*widths[1:], widths[-1])
    return nn.Sequential(
        nn.Conv2d(3, widths[0], 3, padding=1),
        *[Block(c, n, nn.AvgPool2d(2), norm=layer_norm) for c, n in zip(widths, ends, strict=True)],
        nn.Flatten(),
        nn.Linear(4 * 4 * ends[-1], 1),
    )


def sngan_generator(latent: int) -> nn.Sequential:
    return generator(latent, 256, (256, 256, 256))


def sngan_encoder(latent: int) -> nn.Sequential:
    return encoder(latent, 256, (256, 256, 256))


def sngan_discriminator() -> nn.Sequential:
    c, wrap = 128, spectral_norm
    return nn.Sequential(
        Block(3, c, nn.AvgPool2d(2), first=True, norm=nothing, wrap=wrap),
        Block(c, c, nn.AvgPool2d(2), norm=nothing, wrap=wrap),
        *[Block(c, c, nn.Identity(), norm=nothing, wrap=wrap) for _ in range(2)],
        nn.ReLU(),
        SumPool(),
        spectral_norm(nn.Linear(c, 1)),
    )


def generator_64(latent: int) -> nn.Sequential:
    return generator(latent, 512, WIDTHS_64)


def encoder_64(latent: int) -> nn.Sequential:
    return encoder(latent, 512, WIDTHS_64)


def discriminator_64() -> nn.Sequential:
    return discriminator(tuple(reversed(WIDTHS_64)))


def generator_256(latent: int) -> nn.Sequential:
    return generator(latent, 512, WIDTHS_256)


def encoder_256(latent: int) -> nn.Sequential:
    return encoder(latent, 512, WIDTHS_256)


def discriminator_256() -> nn.Sequential:
    return discriminator(tuple(reversed(WIDTHS_256)))
