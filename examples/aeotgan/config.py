"""What a run depends on: frozen dataclasses, and a preset for each data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    latent: int  # dimension of the codes
    epochs: int
    batch_size: int
    lr: float  # highest learning rate of Adam
    noise: float = 0.1  # added to the codes in training, in their standard deviations, so that blends decode well


@dataclass(frozen=True, kw_only=True)
class TransportConfig:
    tol: float = 0.015  # chi^2 of the cell masses, see sdot.solve
    hardness: float = 0.6  # mean largest weight in a blend of codes; 1 would return the codes themselves


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run; those of a stage stand under the stage's name."""

    data: str
    seed: int = 0
    threads: int | None = None  # of the CPU; all of them when None, but networks this small only wait for each other
    ae: AutoencoderConfig
    ot: TransportConfig = TransportConfig()


PRESETS = {
    "digits": Config(data="digits", threads=1, ae=AutoencoderConfig(latent=16, epochs=200, batch_size=256, lr=5e-3)),
    "mnist": Config(
        data="mnist", ae=AutoencoderConfig(latent=32, epochs=12, batch_size=128, lr=2e-3), ot=TransportConfig(hardness=0.7)
    ),
}
