"""What a run's images are judged by: the features of its real images, and every measure of a set of new ones against them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

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
class Truth:
    """Features of the training images; those of several layers are brought to mean 0 and variance 1 each."""

    network: FeatureNetwork
    features: Float[Tensor, "m d"]

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        mean, std = self.features.mean(0), self.features.std(0)
        if self.network.last is None:
            return torch.zeros_like(mean), torch.ones_like(std)
        return mean, torch.where(std > 1e-4 * std.max(), std, 1.0)

    def moments(self, z: Float[Tensor, "n d"]) -> Moments:
        mean, std = self.scale
        return Moments.of((z - mean) / std)

    @cached_property
    def own(self) -> Moments:
        return self.moments(self.features)


class Judge:
    """Measures of images against training and held-out ones, `size` of them a draw: as many as are held out."""

    def __init__(self, config: Config, images: Images, out: Path) -> None:
        self.network = features.choose(config, images, out)
        self.size = min(config.evaluate.samples, len(images.test))
        self.truth = Truth(self.network, self.network.features(images.train))
        self.held_out = self.network.features(images.test[: self.size])
        self.class_features = self.network.class_features(self.truth.features)
        self.novelty = Novelty.against(images.train.flatten(1), images.test[:PROBED].flatten(1))
        self.feature_novelty = Novelty.against(self.class_features, self.network.class_features(self.held_out[:PROBED]))
        self.shares = None
        if images.train_labels is not None and self.network.head is not None:
            self.shares = metrics.histogram(images.train_labels, int(images.train_labels.max()) + 1)

    def bias(self, n: int) -> float:
        """The Frechet distance that n fresh images would have, in the mean, if features were Gaussian."""
        return metrics.bias(self.truth.own, n, len(self.truth.features))

    def one(self, new: Float[Tensor, "n c h w"], z: Float[Tensor, "n d"], held_out: bool = False) -> dict[str, float]:
        """Measures that depend on how many images there are, of one draw; of the held-out images themselves those that do
        not compare them with themselves."""
        found, moments, real = {}, self.truth.moments, self.network.class_features(self.held_out)
        known = self.network.class_features(z)
        found["frechet_drawn"] = metrics.frechet(moments(z), self.truth.own)
        if not held_out:
            found["frechet_held_out"] = metrics.frechet(moments(z), moments(self.held_out))
            found |= metrics.fidelity(real, known)
        found |= self.novelty(new[:PROBED].flatten(1))
        return found | {f"feature_{name}": value for name, value in self.feature_novelty(known[:PROBED]).items()}

    def all(self, z: Float[Tensor, "n d"]) -> dict[str, float]:
        """Measures of all draws together: the more images the better."""
        found = {"frechet": metrics.frechet(self.truth.moments(z), self.truth.own)}
        if self.network.last is not None:
            found["frechet_class"] = metrics.frechet(
                Moments.of(self.network.class_features(z)), Moments.of(self.class_features)
            )
        return found if self.shares is None else found | metrics.classes(self.network.probabilities(z), self.shares)


def watch(config: Config, images: Images, sampler: Sampler, out: Path) -> Callable[[int, nn.Module], dict[str, float]] | None:
    """The Frechet distance of a generator to the training images, for the curves of a training; None without features."""
    if features.wanting(config, images):
        return None
    network = features.choose(config, images, out)
    truth = Truth(network, network.features(images.train))
    codes = sampler(min(config.evaluate.samples, WATCHED), machine.keyed(config.seed, KEY))

    def frechet(step: int, generator: nn.Module) -> dict[str, float]:
        made = network.features(autoencoder.apply(generator, codes))
        return {"frechet": metrics.frechet(truth.moments(made), truth.own)}

    return frechet
