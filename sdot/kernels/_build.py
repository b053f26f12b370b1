"""C sources become shared libraries at first use, in a cache that outlives the process.

The file's name in the cache is a hash of everything the machine code depends on: source, compiler, flags, processor. It is
written elsewhere and renamed into place, so processes that start together may all compile; the last one to finish wins and
all of them hold the same code.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ._unavailable import Unavailable

FLAGS = ("-O3", "-fno-math-errno", "-std=gnu11", "-fPIC", "-shared", "-w")
NATIVE = ("-march=native", "-mcpu=native", "")  # the first that the compiler takes


def library(source: Path, *defines: str) -> ctypes.CDLL:
    """The source as a loaded library, compiled where it has not been yet.

    Raises:
        Unavailable: No compiler, or one that fails.
    """
    command, files = compiler(), [source, *sorted(source.parent.glob("*.h"))]
    parts = [*(file.read_text() for file in files), *command, *_stamp(command[0]), *FLAGS, *NATIVE, *defines, processor()]
    name = f"{source.stem}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:20]}.so"
    with contextlib.suppress(OSError):  # not there yet, or no place to keep it
        return ctypes.CDLL(str(cache_folder() / name))
    with tempfile.TemporaryDirectory(prefix="sdot-", ignore_cleanup_errors=True) as folder:
        built = Path(folder, name)
        _compile(command, source, built, defines)
        return _load(_keep(built))


def optional(source: Path, *defines: str) -> ctypes.CDLL | None:
    """`library`, or None where no compiler is, for loops that torch's operations can stand in for."""
    try:
        return library(source, *defines)
    except Unavailable:
        return None


def call(function: Any, *arguments: Any) -> int:
    """What a C function returns; tensors go as pointers to their first number. A negative number is a lack of memory."""
    status = function(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))
    if status is not None and status < 0:
        raise MemoryError(f"sdot found no memory for the buffers of {function.__name__!r}.")
    return status or 0


def compiler() -> list[str]:
    """$CC where it is set, else cc, gcc or clang, whichever is found first."""
    chosen = shlex.split(os.environ.get("CC", ""))
    for command in [chosen] if chosen else [["cc"], ["gcc"], ["clang"]]:
        path = shutil.which(command[0])
        if path:
            return [path, *command[1:]]
    missing = f"CC is {chosen[0]!r}, which is no program" if chosen else "there is no cc, gcc or clang"
    raise Unavailable(f"backend 'fused' needs a C compiler, but {missing}; install one (apt install gcc) or set CC.")


def cache_folder() -> Path:
    """SDOT_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("SDOT_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sdot"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", tempfile.gettempdir())) / "sdot"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdot"


@cache
def processor() -> str:
    """What -march=native depends on: homes are shared between machines that differ."""
    names = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names += sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    return "\n".join(names)


def _stamp(program: str) -> list[str]:
    """A compiler that was replaced is another compiler."""
    stat = os.stat(program)
    return [str(stat.st_size), str(stat.st_mtime_ns)]


def _compile(command: list[str], source: Path, built: Path, defines: tuple[str, ...]) -> None:
    said = ""
    for native in NATIVE:
        flags = [*FLAGS, *([native] if native else []), *defines]
        try:
            run = subprocess.run(
                [*command, *flags, str(source), "-o", str(built)], capture_output=True, text=True, errors="replace", timeout=120
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
            break
        if run.returncode == 0 and built.exists():
            return
        said = run.stderr or run.stdout
    line = next(
        (line.strip() for line in said.splitlines() if "error" in line.lower()), said.strip()[:200] or "it wrote nothing"
    )
    raise Unavailable(f"backend 'fused' cannot be compiled by {command[0]}: {line}. Set CC to a C compiler that works.")


def _keep(built: Path) -> Path:
    """Move into the cache; where that cannot be written, the file stays where it is, for this process."""
    place = cache_folder() / built.name
    with contextlib.suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=place.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(built.read_bytes())
            os.chmod(part, 0o700)
            os.replace(part, place)
        except OSError:
            os.unlink(part)
            raise
        return place
    return built


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"backend 'fused' was compiled, but cannot be loaded: {error}.") from error
