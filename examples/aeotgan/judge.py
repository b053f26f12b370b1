"""What a run's images are judged by: the features of its real images, and every measure of a set of new ones against them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import autoencoder
import features
import machine
import metrics
from config import Config
from data import Images
from jaxtyping import Float
from metrics import Moments, Novelty
from torch import Tensor, nn
from transport import Sampler

KEY = 5  # of this stage's randomness
PROBED = 1000  # images whose nearest training images are looked for
WATCHED = 5000  # images of the Frechet distance on the way


class Judge:
    """Measures of images, `size` of them: as many as are held out, which `real` says what is possible by."""

    def __init__(self, config: Config, images: Images, out: Path) -> None:
        self.network = features.choose(config, images, out)
        self.train, self.held_out = (self.network.features(x) for x in (images.train, images.test))
        self.size = min(config.evaluate.samples, len(images.test))
        self.held_out = self.held_out[: self.size]
        self.moments = Moments.of(self.train), Moments.of(self.held_out)
        pixels = images.train.flatten(1).float()
        self.novelty = Novelty.against(pixels, images.test[:PROBED].flatten(1).float())
        self.feature_novelty = Novelty.against(self.train, self.held_out[:PROBED])
        self.shares = None
        if images.train_labels is not None and self.network.head is not None:
            self.shares = metrics.histogram(images.train_labels, int(images.train_labels.max()) + 1)

    @property
    def bias(self) -> float:
        """The Frechet distance that as many fresh images would have, in the mean, if features were Gaussian."""
        return metrics.bias(self.moments[0], self.size, len(self.train))

    def __call__(self, new: Float[Tensor, "n c h w"], held_out: bool = False) -> dict[str, float]:
        """Every measure; for the held-out images themselves those that do not compare them with themselves."""
        z = self.network.features(new)
        found = {"frechet": metrics.frechet(Moments.of(z), self.moments[0])}
        if not held_out:
            found |= {"frechet_held_out": metrics.frechet(Moments.of(z), self.moments[1]), **metrics.fidelity(self.held_out, z)}
        if self.shares is not None:
            found |= metrics.classes(self.network.probabilities(z), self.shares)
        found |= self.novelty(new[:PROBED].flatten(1))
        return found | {f"feature_{name}": value for name, value in self.feature_novelty(z[:PROBED]).items()}


def watch(config: Config, images: Images, sampler: Sampler, out: Path) -> Callable[[int, nn.Module], dict[str, float]]:
    """The Frechet distance of a generator to the training images, for the curves of a training."""
    network = features.choose(config, images, out)
    truth = Moments.of(network.features(images.train))
    codes = sampler(min(config.evaluate.samples, WATCHED), machine.keyed(config.seed, KEY))

    def frechet(step: int, generator: nn.Module) -> dict[str, float]:
        return {"frechet": metrics.frechet(Moments.of(network.features(autoencoder.apply(generator, codes))), truth)}

    return frechet
