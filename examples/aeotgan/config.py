"""What a run depends on: frozen dataclasses, and a preset for each data set.

Where each default comes from is told in README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    latent: int  # dimension of the codes
    epochs: int
    batch_size: int = 256
    lr: float = 1e-3  # highest learning rate of Adam
    noise: float = 0.1  # added to the codes in training, in their standard deviations, so that blends decode well


@dataclass(frozen=True, kw_only=True)
class TransportConfig:
    tol: float = 0.02  # chi^2 of the cell masses, see sdot.solve
    precision: float = 0.1  # of the centres of the cells, see sdot.estimate_cells


@dataclass(frozen=True, kw_only=True)
class GanConfig:
    """One step trains the generator; one in `inner` also trains the discriminator. An epoch pairs each image once."""

    epochs: int
    paired: int = 32  # m, reconstructed images in a batch
    ratio: int = 3  # generated images for each reconstructed one; as many random real ones
    lr: float = 2e-5  # of the generator
    lr_ratio: float = 1.0  # R: the discriminator learns at lr / R
    inner: int = 1  # T, steps of the generator for each of the discriminator
    beta1: float = 0.5  # of Adam, for both
    image: float = 10.0  # weight of the content loss, a mean square over pixels
    feature: float = 0.1  # of each layer of the encoder but the last, a mean square over its outputs
    latent: float = 0.1  # of the last layer, the codes
    ema: float = 0.999  # the generator that is kept is an average over about 1 / (1 - ema) steps; 0 keeps the last
    views: int = 8  # how often pictures are drawn


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig:
    """Of the GAN that is fed with Gaussian noise; its batches and epochs are those of `gan`. The rate is DCGAN's."""

    lr: float = 2e-4
    lr_ratio: float = 1.0
    inner: int = 1


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How a run is judged."""

    samples: int = 10_000  # images of each method; in several draws where fewer are held out
    classifier_epochs: int = 3
    weights: str = ""  # an .npz file with a network for features, see pretrained.py; a classifier is trained when empty
    fid: int = 0  # images of the published FID, which needs torch-fidelity; none when 0


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run; those of a stage stand under the stage's name."""

    data: str
    network: str  # family of generator, encoder and discriminator, see networks.FAMILIES
    seed: int = 0
    threads: int | None = None  # of the CPU; all of them when None, but small networks only wait for each other
    ae: AutoencoderConfig
    ot: TransportConfig = TransportConfig()
    gan: GanConfig
    baselines: BaselinesConfig = BaselinesConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


MANY_CODES = TransportConfig(tol=0.05, precision=0.3)  # tens of thousands
PRESETS = {
    "digits": Config(
        data="digits",
        network="perceptron",
        threads=1,
        ae=AutoencoderConfig(latent=8, epochs=200, lr=5e-3),
        gan=GanConfig(epochs=100, lr=5e-4),
        baselines=BaselinesConfig(lr=1e-3),
        evaluate=EvaluateConfig(samples=9000, classifier_epochs=20),
    ),
    "mnist": Config(
        data="mnist",
        network="infogan",
        ae=AutoencoderConfig(latent=32, epochs=8, batch_size=128, lr=2e-3),
        ot=MANY_CODES,
        gan=GanConfig(epochs=2, lr=2e-4, ema=0.99),
    ),
    "cifar10": Config(
        data="cifar10",
        network="sngan",
        ae=AutoencoderConfig(latent=128, epochs=200),
        ot=MANY_CODES,
        gan=GanConfig(epochs=500, lr_ratio=10.0, inner=25),
        evaluate=EvaluateConfig(classifier_epochs=30),
    ),
    "celeba": Config(
        data="celeba",
        network="dcgan",
        ae=AutoencoderConfig(latent=128, epochs=200),
        ot=MANY_CODES,
        gan=GanConfig(epochs=500, lr_ratio=5.0, inner=15),
    ),
    "celebahq": Config(
        data="celebahq",
        network="wgan-div-resnet-256",
        ae=AutoencoderConfig(latent=128, epochs=200, batch_size=64),
        ot=MANY_CODES,
        gan=GanConfig(epochs=500, paired=8, lr_ratio=5.0, inner=15),
    ),
}
PRESETS["fashion-mnist"] = replace(PRESETS["mnist"], data="fashion-mnist")
PRESETS["cifar10-resnet"] = replace(PRESETS["cifar10"], network="sngan-resnet")
PRESETS["celeba-resnet"] = replace(PRESETS["celeba"], network="wgan-div-resnet")


def override(config: Any, assignments: list[str]) -> Any:
    """The configuration with some fields replaced, each written as `gan.epochs=5`."""
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"a setting is written NAME=VALUE, for example gan.epochs=5, but {text!r} came.")
        config = _replaced(config, name.split("."), value, text)
    return config


def _replaced(config: Any, path: list[str], value: str, text: str) -> Any:
    known = [field.name for field in fields(config)]
    if path[0] not in known:
        raise ValueError(f"{text!r} sets {path[0]!r}, which is none of {', '.join(known)}.")
    now = getattr(config, path[0])
    if is_dataclass(now) and len(path) > 1:
        return replace(config, **{path[0]: _replaced(now, path[1:], value, text)})
    if is_dataclass(now) or len(path) > 1:
        raise ValueError(f"{text!r} does not name a single setting; write it like gan.epochs=5.")
    kind = int if now is None else type(now)
    try:
        return replace(config, **{path[0]: kind(value)})
    except ValueError as error:
        raise ValueError(f"{text!r} needs a value of the kind of {now!r}.") from error
