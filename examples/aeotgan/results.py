"""The folder of a run: each stage ends by writing `<stage>.json`, with the settings that it was made from.

Tensors are safetensors with one JSON string, also in checkpoints. Nothing is ever pickled.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from config import Config
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

EVERY = 60.0  # seconds between two checkpoints
Part = nn.Module | torch.optim.Optimizer


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end: nobody ever sees half a file."""
    part = path.with_name(f"part-{path.name}")
    try:
        yield part
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be written ({error}); free some space, or choose another folder with --out."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def write(path: Path, content: Any) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], info: Any = None) -> None:
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with replacing(path) as part:
        save_file(plain, part, metadata={"json": json.dumps(info)})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {}).get("json", "null"))
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); make it again with --force.") from error


def settings(config: Config, digest: str, stages: list[str]) -> dict[str, Any]:
    """All that the last of these stages depends on, by name."""
    nested = asdict(config)
    own = {f"{stage}.{name}": value for stage in stages for name, value in nested[stage].items()}
    return {"data": config.data, "network": config.network, "images": digest, "seed": config.seed, **own}


def check_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse what was made with other settings."""
    names = [name for name in before | now if before.get(name) != now.get(name)]
    if names:
        changes = ", ".join(f"{name} was {before.get(name)} and is {now.get(name)}" for name in names)
        raise ValueError(
            f"{path} was made with other settings ({changes}); pass --force to make it again, or another folder with --out."
        )


def read(out: Path, stage: str, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """The results of a stage, or None before it has run."""
    path = out / f"{stage}.json"
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    check_same(path, result.get("settings", {}), made_from)
    return result


def discard(out: Path, stages: list[str]) -> None:
    """Forget what these stages have made or begun."""
    for stage in stages:
        for path in (out / f"{stage}.json", *out.glob(f"{stage}*.checkpoint")):
            path.unlink(missing_ok=True)


class Checkpoint:
    """A training between two steps: networks, optimisers, further tensors, and what JSON can hold.

    Only the first of several processes writes; all of them read.
    """

    def __init__(self, path: Path, parts: dict[str, Part], made_from: dict[str, Any], writes: bool = True) -> None:
        self.path, self.parts, self.made_from, self.writes = path, parts, made_from, writes
        self.written = time.monotonic()

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Put the parts back as they were; the further tensors and the information, or None before the first write."""
        if not self.path.exists():
            return None
        tensors, info = load_tensors(self.path)
        check_same(self.path, info["settings"], self.made_from)
        for name, part in self.parts.items():
            own = {key.removeprefix(f"{name}/"): tensors.pop(key) for key in list(tensors) if key.startswith(f"{name}/")}
            _restore(part, own)
        return tensors, info["state"]

    def due(self) -> bool:
        return self.writes and time.monotonic() - self.written >= EVERY

    def write(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        if not self.writes:
            return
        packed = {f"{name}/{key}": t for name, part in self.parts.items() for key, t in _tensors(part).items()}
        if any(not t.isfinite().all() for t in packed.values()):
            raise FloatingPointError("the weights are not all finite")
        save_tensors(self.path, packed | tensors, {"settings": self.made_from, "state": state})
        self.written = time.monotonic()


def _tensors(part: Part) -> dict[str, Tensor]:
    if isinstance(part, nn.Module):
        return part.state_dict()
    state = part.state_dict()["state"]
    return {f"{k}.{name}": torch.as_tensor(value) for k, values in state.items() for name, value in values.items()}


def _restore(part: Part, tensors: dict[str, Tensor]) -> None:
    if isinstance(part, nn.Module):
        part.load_state_dict(tensors)
        return
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        k, name = key.split(".")
        state.setdefault(int(k), {})[name] = value
    part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def check_finite(values: Mapping[str, float], what: str, step: int) -> None:
    """Stop a training whose losses are not numbers any more."""
    bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"{what}: {', '.join(bad)} at step {step}. The last good checkpoint is kept; go on from it with a lower learning "
            f"rate in a copy of the folder, or start again with --force and --set {what}.lr=..."
        )
