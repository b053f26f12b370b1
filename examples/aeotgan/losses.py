"""The losses of AE-OT-GAN (An et al., ECCV 2020, Sec. 3.2).

Scores D(x) are logarithms of odds. Each mean square runs over the images and all entries, so that weights mean the same for
images of any size; the paper's sums over entries are these times the number of entries.
"""

from __future__ import annotations

from typing import Any

import networks
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus


def discriminator(real: Float[Tensor, "n 1"], fake: Float[Tensor, "n 1"]) -> Float[Tensor, ""]:
    """-mean log D(real) - mean log(1 - D(fake)) of Goodfellow et al. (2014), where D is the probability."""
    return softplus(-real).mean() + softplus(fake).mean()


def adversarial(fake: Float[Tensor, "n 1"]) -> Float[Tensor, ""]:
    """-mean log D(fake), whose gradient does not fade while the discriminator wins."""
    return softplus(-fake).mean()


class Features(nn.Module):
    """Compares two sets of images by what each layer of an encoder makes of them: (feature loss, latent loss).

    The encoder is frozen: its weights get no gradient, but the images that come second do.
    """

    def __init__(self, encoder: nn.Sequential) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)

    def forward(self, images: Tensor, made: Tensor) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        with torch.no_grad():
            wanted = networks.stages(self.encoder, images)
        terms = [mse_loss(a, b) for a, b in zip(networks.stages(self.encoder, made), wanted, strict=True)]
        return torch.stack(terms[:-1]).sum(), terms[-1]

    def train(self, mode: bool = True) -> Any:
        """Statistics of the encoder stay as they are."""
        return super().train(False)
