"""Files: safetensors with one JSON string, written atomically. No pickle is ever loaded."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

KEY = "sdot"
Path_ = str | os.PathLike[str]


def write(path: Path_, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write beside the file, then rename: whoever reads sees the old file or the new one, never a part."""
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode  # the user's own: safetensors would leave 0600
        save_file(tensors, part, metadata={KEY: json.dumps(info)})
        part.chmod(mode)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be written ({error}); choose a folder that exists or can be made, that you may write to and "
            f"that has space."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def read(path: Path_, kind: str, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the information of a file of ours; `kind` is the word for it in messages."""
    advice = f"pass a file that this library wrote as a {kind}, or write it again if it was cut short."
    try:
        with safe_open(path, framework="pt", device=device) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            info = json.loads((file.metadata() or {}).get(KEY, "null"))
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a {kind} ({error}); {advice}") from error
    if not isinstance(info, dict) or info.get("kind") != kind:
        came = info.get("kind") if isinstance(info, dict) else "foreign"
        raise ValueError(f"{path} is a {came} safetensors file, but a {kind} was expected; {advice}")
    return tensors, info


def read_array(path: Path_) -> NDArray[Any]:
    """A .npy array, never unpickled."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a .npy array ({error}); save one with numpy.save.") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} holds several arrays; save the one you mean with numpy.save.")
    return array


def write_array(path: Path_, array: NDArray[Any]) -> None:
    """A .npy array, written atomically."""
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        os.replace(part, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error}); choose a folder that you may write to.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
