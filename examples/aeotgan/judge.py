"""What a run's images are judged by: the features of its real images, and every measure of a set of new ones against them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import autoencoder
import features
import machine
import metrics
import torch
from config import Config
from data import Images
from features import FeatureNetwork
from jaxtyping import Float
from metrics import Moments, Novelty
from torch import Tensor, nn
from transport import Sampler

KEY = 5  # of this stage's randomness
PROBED = 1000  # images whose nearest training images are looked for
WATCHED = 5000  # images of the Frechet distance on the way


@dataclass(frozen=True, eq=False)
class Layers:
    """Frechet distance to the training images by features of all layers, each brought to mean 0 and variance 1 over them."""

    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]
    truth: Moments

    @classmethod
    def of(cls, z: Float[Tensor, "m d"]) -> Self:
        mean, std = z.mean(0), z.std(0)
        std = torch.where(std > 1e-4 * std.max(), std, 1.0)  # what is constant stays so
        return cls(mean, std, Moments.of((z - mean) / std))

    def frechet(self, z: Float[Tensor, "n d"]) -> float:
        return metrics.frechet(Moments.of((z - self.mean) / self.std), self.truth)


class Truth:
    """The training images' features before the last layer, and Frechet distances to them."""

    def __init__(self, network: FeatureNetwork, images: Float[Tensor, "m c h w"]) -> None:
        z = network.features(images)
        self.network, self.features = network, network.final(z)
        self.moments = Moments.of(self.features)
        self.layers = Layers.of(z) if network.last is not None else None

    def frechet(self, z: Float[Tensor, "n d"]) -> dict[str, float]:
        """By the features before the last layer, and by those of all layers where there are any."""
        found = {"frechet": metrics.frechet(Moments.of(self.network.final(z)), self.moments)}
        return found if self.layers is None else {**found, "frechet_layers": self.layers.frechet(z)}


class Judge:
    """Measures of images against training and held-out ones, `size` of them a draw: as many as are held out."""

    def __init__(self, config: Config, images: Images, out: Path) -> None:
        self.network = features.choose(config, images, out)
        self.size = min(config.evaluate.samples, len(images.test))
        self.truth = Truth(self.network, images.train)
        held_out, hold = self.network.final(self.network.features(images.test[: self.size])), machine.current().hold
        self.held_out, self.held_out_moments = hold(held_out), Moments.of(held_out)
        self.novelty = Novelty.against(hold(images.train).flatten(1), images.test[:PROBED].flatten(1))
        self.feature_novelty = Novelty.against(hold(self.truth.features), held_out[:PROBED])
        self.shares = None
        if images.train_labels is not None and self.network.head is not None:
            self.shares = metrics.histogram(images.train_labels, int(images.train_labels.max()) + 1)

    def bias(self, n: int) -> float:
        """The Frechet distance that n fresh images would have, in the mean, if features were Gaussian."""
        return metrics.bias(self.truth.moments, n, len(self.truth.features))

    def one(self, new: Float[Tensor, "n c h w"], z: Float[Tensor, "n d"], held_out: bool = False) -> dict[str, float]:
        """Measures that depend on how many images there are, of one draw; of the held-out images themselves those that do
        not compare them with themselves."""
        z = self.network.final(z)
        moments = Moments.of(z)
        found = {"frechet_drawn": metrics.frechet(moments, self.truth.moments)}
        if not held_out:
            found |= {"frechet_held_out": metrics.frechet(moments, self.held_out_moments), **metrics.fidelity(self.held_out, z)}
        found |= self.novelty(new[:PROBED].flatten(1))
        return found | {f"feature_{name}": value for name, value in self.feature_novelty(z[:PROBED]).items()}

    def all(self, z: Float[Tensor, "n d"]) -> dict[str, float]:
        """Measures of all draws together: the more images the better."""
        found = self.truth.frechet(z)
        return found if self.shares is None else found | metrics.classes(self.network.probabilities(z), self.shares)


def watch(config: Config, images: Images, sampler: Sampler, out: Path) -> Callable[[int, nn.Module], dict[str, float]] | None:
    """The Frechet distance of a generator to the training images, for the curves of a training; None without features."""
    if features.wanting(config, images):
        return None
    network = features.choose(config, images, out)
    truth = Truth(network, images.train)
    codes = sampler(min(config.evaluate.samples, WATCHED), machine.keyed(config.seed, KEY))

    def frechet(step: int, generator: nn.Module) -> dict[str, float]:
        return truth.frechet(network.features(autoencoder.apply(generator, codes)))

    return frechet
