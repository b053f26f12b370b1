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
    """Measures of images against training and held-out ones, `size` of them a draw: as many as are held out."""

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

    def bias(self, n: int) -> float:
        """The Frechet distance that n fresh images would have, in the mean, if features were Gaussian."""
        return metrics.bias(self.moments[0], n, len(self.train))

    def one(self, new: Float[Tensor, "n c h w"], z: Float[Tensor, "n d"], held_out: bool = False) -> dict[str, float]:
        """Measures that depend on how many images there are, of one draw; of the held-out images themselves those that do
        not compare them with themselves."""
        found = {"frechet_drawn": metrics.frechet(Moments.of(z), self.moments[0])}
        if not held_out:
            found |= {"frechet_held_out": metrics.frechet(Moments.of(z), self.moments[1]), **metrics.fidelity(self.held_out, z)}
        found |= self.novelty(new[:PROBED].flatten(1))
        return found | {f"feature_{name}": value for name, value in self.feature_novelty(z[:PROBED]).items()}

    def all(self, z: Float[Tensor, "n d"]) -> dict[str, float]:
        """Measures of all draws together: the more images the better."""
        found = {"frechet": metrics.frechet(Moments.of(z), self.moments[0])}
        return found if self.shares is None else found | metrics.classes(self.network.probabilities(z), self.shares)


def watch(config: Config, images: Images, sampler: Sampler, out: Path) -> Callable[[int, nn.Module], dict[str, float]] | None:
    """The Frechet distance of a generator to the training images, for the curves of a training; None without features."""
    if features.wanting(config, images):
        return None
    network = features.choose(config, images, out)
    truth = Moments.of(network.features(images.train))
    codes = sampler(min(config.evaluate.samples, WATCHED), machine.keyed(config.seed, KEY))

    def frechet(step: int, generator: nn.Module) -> dict[str, float]:
        return {"frechet": metrics.frechet(Moments.of(network.features(autoencoder.apply(generator, codes))), truth)}

    return frechet
