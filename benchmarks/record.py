"""Write results with all that is needed to read them later: command, versions, device."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import sdot

RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    packages = {"sdot": sdot.__version__}
    for name in ("torch", "triton", "numpy", "pykeops", "POT"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "command": " ".join(["python", "-m", "benchmarks." + Path(sys.argv[0]).stem, *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": packages,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def peak_memory_mb() -> float:
    """Largest resident size of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**environment(), "rows": rows}, indent=1) + "\n")
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
