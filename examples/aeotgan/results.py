"""The folder of a run: each stage ends by writing `<stage>.json`, with the settings that it was made from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from config import Config


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end: nobody ever sees half a file."""
    part = path.with_name(f"part-{path.name}")
    yield part
    os.replace(part, path)


def write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")


def settings(config: Config, digest: str, stages: list[str]) -> dict[str, Any]:
    """All that the last of these stages depends on, by name."""
    nested = asdict(config)
    own = {f"{stage}.{name}": value for stage in stages for name, value in nested[stage].items()}
    return {"data": config.data, "images": digest, "seed": config.seed, **own}


def read(out: Path, stage: str, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """The results of a stage, or None before it has run."""
    path = out / f"{stage}.json"
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    before = result.get("settings", {})
    names = [name for name in before | made_from if before.get(name) != made_from.get(name)]
    if names:
        changes = ", ".join(f"{name} was {before.get(name)} and is {made_from.get(name)}" for name in names)
        raise ValueError(
            f"{path} was made with other settings ({changes}); pass --force to make it again, or another folder with --out."
        )
    return result


def discard(out: Path, stages: list[str]) -> None:
    """Forget what these stages have made or begun."""
    for stage in stages:
        for ending in ("json", "checkpoint"):
            (out / f"{stage}.{ending}").unlink(missing_ok=True)
