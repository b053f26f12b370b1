"""CUDA from pip wheels, laid out as KeOps expects it.

KeOps asks the system for the libraries `cuda`, `nvrtc` and `cudart`, and for cuda.h and nvrtc.h in one folder; where one of
them is missing it drops to the CPU and says so only on standard output. The wheels that torch brings have all of it, in folders
of their own. So before KeOps is imported, links to them are put into one temporary folder.

Some compilers put a copy of the C++ library into what KeOps compiles, and a process that holds two of them dies at the first
formula. Where the system's copy is there for all to use, its symbols come first, and all is well; so it is loaded like that. As
KeOps may still bring its process down, a first formula is tried in a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

LIBRARIES = ("cuda", "nvrtc", "cudart")
HEADERS = ("cuda.h", "nvrtc.h")
DRIVER = ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/wsl/lib")

TRIAL = "SDOT_KEOPS_TRIAL"  # set in the environment of a trial

_folder: tempfile.TemporaryDirectory[str] | None = None  # lives as long as the process


@contextlib.contextmanager
def visible() -> Iterator[None]:
    """While KeOps is imported for the first time, let it find CUDA wherever it is."""
    with contextlib.suppress(OSError):
        ctypes.CDLL("libstdc++.so.6", mode=ctypes.RTLD_GLOBAL)
    if "keopscore" in sys.modules or _complete():
        yield
        return
    folder, find = Path(_fresh_folder()), ctypes.util.find_library
    lay_out(folder, _roots())
    os.environ["CUDA_PATH"] = str(folder)
    os.environ["LIBRARY_PATH"] = os.pathsep.join(filter(None, [str(folder / "lib64"), os.environ.get("LIBRARY_PATH")]))
    for name in LIBRARIES:  # what KeOps compiles names them without a path
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(folder / "lib64" / f"lib{name}.so"), mode=ctypes.RTLD_GLOBAL)

    def find_library(name: str) -> str | None:
        link = folder / "lib64" / f"lib{name}.so"
        return str(link) if name in LIBRARIES and link.exists() else find(name)

    ctypes.util.find_library = find_library
    try:
        yield
    finally:
        ctypes.util.find_library = find


def lay_out(folder: Path, roots: Iterable[Path]) -> None:
    """Link every header and the three libraries found under the roots into folder/include and folder/lib64; the first wins."""
    include, lib = folder / "include", folder / "lib64"
    include.mkdir(parents=True)
    lib.mkdir()
    for root in roots:
        for header in sorted((root / "include").glob("*")):
            _link(include / header.name, header)
        for name in LIBRARIES:
            for place in ("lib64", "lib", "."):
                for library in sorted((root / place).glob(f"lib{name}.so*")):
                    _link(lib / f"lib{name}.so", library)


@cache
def trial(code: str) -> str:
    """Run code that uses KeOps in a process of its own, with this one's path; why it ended badly, or nothing."""
    path = os.pathsep.join(filter(None, sys.path))
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, TRIAL: "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 0:
        return ""
    said = run.stderr.strip().splitlines()[-1:]
    why = f"died of signal {-run.returncode}" if run.returncode < 0 else f"ended with {run.returncode}"
    return f"a trial in a process of its own {why}" + "".join(f" ({line})" for line in said)


def _roots() -> list[Path]:
    """Toolkits that were named, the usual one, the wheels, and where drivers live."""
    named = [Path(os.environ[key]) for key in ("CUDA_PATH", "CUDA_HOME") if key in os.environ]
    packages = [Path(p) for p in [*site.getsitepackages(), site.getusersitepackages(), *sys.path] if p]
    wheels = [root for p in packages for root in sorted((p / "nvidia").glob("*")) if root.is_dir()]
    return [*named, Path("/usr/local/cuda"), *wheels, *map(Path, DRIVER)]


def _complete() -> bool:
    """Whether KeOps finds everything on its own."""
    toolkits = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    headers = any(all((Path(root) / "include" / h).is_file() for h in HEADERS) for root in toolkits if root)
    return headers and all(ctypes.util.find_library(name) for name in LIBRARIES)


def _fresh_folder() -> str:
    global _folder
    _folder = tempfile.TemporaryDirectory(prefix="sdot-cuda-")
    return _folder.name


def _link(link: Path, target: Path) -> None:
    if not link.exists():
        link.symlink_to(target.resolve())
