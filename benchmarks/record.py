"""Write results with all that is needed to read them later: command, versions, device."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import importlib
import json
import os
import platform
import re
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import sdot

RESULTS = Path(__file__).parent / "results"
LIBRARY = Path(str(importlib.import_module("sdot").__file__)).parent
Row = dict[str, Any]


def environment() -> dict[str, Any]:
    packages = {"sdot": sdot.__version__}
    for name in ("torch", "triton", "numpy", "pykeops", "POT", "ott-jax", "jax", "jaxlib", "optax", "geomloss", "faiss-cpu"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "command": " ".join(["python", "-m", _module(Path(sys.argv[0])), *_arguments()]),
        "python": platform.python_version(),
        "packages": packages,
        "sdot_code": code_digest(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def code_digest() -> str:
    """A name for the library as it is now, so that rows measured with another are told apart."""
    digest = hashlib.sha256()
    for path in sorted(path for path in LIBRARY.rglob("*") if path.suffix in (".py", ".c", ".h")):
        digest.update(path.relative_to(LIBRARY).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def peak_memory_mb() -> float:
    """Largest resident size of this process, since `forget_peak_memory` where the system can forget, else since its start."""
    try:
        return round(int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024, 1)
    except (OSError, IndexError):
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def forget_peak_memory() -> float:
    """Begin anew with what is in use, which is returned: memory that was freed goes back to the system, where it can."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory_mb()


def write(name: str, rows: list[Row], **more: Any) -> Path:
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**environment(), **more, "rows": rows}, indent=1) + "\n")
    os.replace(part, path)
    return path


class Table:
    """Rows that are on disk from the moment they are measured.

    A command that is stopped and started again finds them there. Rows that were measured with other settings, other versions
    or another state of the library are left behind.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        self.name, self.settings, self.rows = name, json.loads(json.dumps(settings)), list[Row]()
        path = RESULTS / f"{name}.json"
        if path.exists():
            saved = json.loads(path.read_text())
            same = ("packages", "sdot_code", "device", "threads")
            now = environment()
            if saved.get("settings") == self.settings and all(saved.get(k) == now[k] for k in same):
                self.rows = saved["rows"]
            else:
                print(f"{path.name} was measured with other settings or versions: all of it is measured again.")

    def find(self, **key: Any) -> list[Row]:
        return [row for row in self.rows if all(row.get(name) == value for name, value in key.items())]

    def add(self, row: Row) -> Row:
        self.rows.append(row)
        self.save()
        return row

    def save(self, **more: Any) -> Path:
        return write(self.name, self.rows, settings=self.settings, **more)


def _module(path: Path) -> str:
    return "pytest" if "pytest" in path.parts or path.stem == "pytest" else f"benchmarks.{path.stem}"


def _arguments() -> list[str]:
    """The command's arguments, without folders and files: where they lie is nobody's business."""
    text = re.sub(r"--(data|checkpoint|results)[= ]\S+ ?", "", " ".join(sys.argv[1:]))
    return text.split()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
