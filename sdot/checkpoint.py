"""Checkpoints of a running solve: everything that the next step depends on, and a fingerprint of the problem."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import _files
from .measures import DiscreteMeasure, Draw, Source
from .solvers import Solver

KIND = "checkpoint"
OTHER_VERSION = "the checkpoint was written by another version of the library: finish with that, or delete it."


@dataclass(frozen=True)
class Record:
    """One line of a solve's history: seconds since its start, samples drawn, the solver's own estimate of chi^2."""

    step: int
    samples: int
    seconds: float
    chi2: float


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds a solve between two steps, or nowhere to write when `path` is None."""

    path: str | os.PathLike[str] | None
    fingerprint: dict[str, str]

    def write(self, state: Any, seed: int, refused: int, history: list[Record]) -> None:
        if self.path is None:
            return
        values = {f.name: getattr(state, f.name) for f in fields(state)}
        tensors = {name: v for name, v in values.items() if isinstance(v, Tensor)}
        tensors["history"] = torch.tensor([list(asdict(r).values()) for r in history], dtype=torch.float64).reshape(-1, 4)
        info = {
            "kind": KIND,
            "fingerprint": self.fingerprint,
            "seed": seed,
            "refused": refused,
            "state": {name: v for name, v in values.items() if not isinstance(v, Tensor)},
        }
        _files.write(self.path, tensors, info)

    def read(self) -> tuple[dict[str, Any], int, int, list[Record]] | None:
        """The state's values, the seed, how long the history was when a certificate was refused, and the history; None before
        the first write."""
        if self.path is None or not Path(self.path).exists():
            return None
        tensors, info = _files.read(self.path, KIND)
        different = [name for name, value in self.fingerprint.items() if info["fingerprint"].get(name) != value]
        if different:
            raise ValueError(
                f"checkpoint {self.path} belongs to another run: its {' and '.join(different)} differ from what is to be "
                f"solved now; delete the file or pass another path. (A sampler that does not draw from its generator "
                f"differs from itself.)"
            )
        if "refused" not in info:
            raise ValueError(OTHER_VERSION)
        rows = tensors.pop("history").tolist()
        history = [Record(int(step), int(samples), seconds, chi2) for step, samples, seconds, chi2 in rows]
        return {**info["state"], **tensors}, info["seed"], info["refused"], history


def restore(template: Any, values: dict[str, Any]) -> Any:
    """A state of the template's type and device with the values of a checkpoint."""
    device = template.heights.device
    if values.keys() != {f.name for f in fields(template)}:
        raise ValueError(OTHER_VERSION)
    return replace(template, **{n: v.to(device) if isinstance(v, Tensor) else _like(v) for n, v in values.items()})


def _like(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def fingerprint(source: Source, target: DiscreteMeasure, solver: Solver) -> dict[str, str]:
    """Short hashes of all that a run depends on. The source is known by a few samples of a fixed seed."""
    (probe,) = Draw(source, target.points, 0, 0)(16)
    return {
        "points": _digest(target.points),
        "weights": _digest(target.weights),
        "source": _digest(probe),
        "solver": repr(solver),
    }


def _digest(t: Tensor) -> str:
    data = t.detach().cpu().contiguous()
    return hashlib.sha256(f"{data.dtype}{tuple(data.shape)}".encode() + data.numpy().tobytes()).hexdigest()[:32]
