"""Speeds of the kernels: billions of scores a second, every backend in turn on the same numbers.

python -m benchmarks.kernels                  # all sizes, one thread, CPU time: about 6 minutes
python -m benchmarks.kernels --quick          # a corner of it: a minute
python -m benchmarks.kernels --threads 2      # wall time on a quiet machine
python -m benchmarks.kernels --write-table    # and write what "auto" looks up

`plain` is what one writes without the library: addmm in tiles that fit the cache, and max (topk for k > 1; softmax for masses).
Heights are those of the identity map, h = -|y|^2 / 2, a little disturbed. Repetitions are interleaved and the fastest counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sdot
from benchmarks import record

FUNCTIONS = ("topk", "soft_mass")
GPU_SAMPLES = 262_144  # of the sweep on a GPU
AUTOMATIC = ("triton", "blocked")  # what "auto" may choose on a GPU: KeOps compiles each formula first
DIMS, TARGETS, KS = (2, 3, 8, 16, 32, 64, 128), (1000, 10_000, 50_000, 200_000), (1, 2, 8)
TABLE = Path(__file__).parent.parent / "sdot" / "kernels" / "choice.json"
ROWS = 64  # fewer rows would starve the product of `plain`
SECONDS = 0.2  # of one measurement of `plain`, roughly


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--write-table", action="store_true")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    dims, targets = (DIMS[::3], TARGETS[:2]) if settings.quick else (DIMS, TARGETS)
    rows = []
    for d in dims:
        for m in targets:
            for row in measure(d, m, getattr(torch, settings.dtype), settings.threads, settings.repeat):
                rows.append(row)
                speeds = "  ".join(f"{name} {speed:.3g}" for name, speed in row["speed"].items())
                print(f"d {d:4d}  m {m:7d}  {row['function']:9s} k {row['k']}  {speeds}", flush=True)
    rows.append(sampling(settings.threads))
    path = record.write(f"kernels-{settings.dtype}-{settings.threads}{'-quick' if settings.quick else ''}", rows)
    print(f"1e9 scores a second; wrote {path.name}")
    if settings.write_table:
        write_table(rows[:-1], dims, targets)


def measure(d: int, m: int, dtype: torch.dtype, threads: int, repeat: int) -> Iterator[dict[str, Any]]:
    n = max(512, min(2**15, int(SECONDS * 1e9 / (1 + d / 40) / m)))
    x, y, h = drawn(n, d, m, dtype)
    cases: list[tuple[str, int, Callable[[], Any], dict[str, str]]] = [
        ("topk", k, lambda k=k: plain_topk(x, y, h, k), candidates("topk", d, m)) for k in KS
    ]
    cases.append(("soft_mass", 0, lambda: plain_mass(x, y, h), candidates("soft_mass", d, m)))
    for name, k, plain, others in cases:
        last = k or 1.0
        functions = {"plain": plain} | {
            backend: lambda backend=backend, name=name, last=last: getattr(sdot.kernels, name)(x, y, h, last, backend=backend)
            for backend in others
        }
        seconds = fastest(functions, threads, repeat)
        speed = {backend: float(f"{n * m / t / 1e9:.4g}") for backend, t in seconds.items()}
        yield {"function": name, "k": k, "d": d, "m": m, "n": n, "speed": speed}


def drawn(n: int, d: int, m: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, targets, and heights close to those of the identity map."""
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(size, d, generator=g, dtype=dtype) for size in (n, m))
    return x, y, -y.square().sum(1) / 2 + 0.1 * m ** (-2 / d) * torch.randn(m, generator=g, dtype=dtype)


def candidates(function: str, d: int, m: int) -> list[str]:
    """KeOps on a CPU is left out: it is slower than `plain` everywhere, and each formula takes seconds to compile."""
    return ["blocked", "fused", *(["tree"] if function == "topk" and d <= 3 and m >= 10_000 else [])]


def fastest(functions: dict[str, Callable[[], Any]], threads: int, repeat: int) -> dict[str, float]:
    """CPU seconds on one thread, wall seconds on several."""
    clock, best = time.thread_time if threads == 1 else time.perf_counter, dict.fromkeys(functions, float("inf"))
    for turn in range(repeat + 1):
        for name, function in functions.items():
            start = clock()
            function()
            if turn:  # the first is a warm-up: compilers, caches
                best[name] = min(best[name], clock() - start)
    return best


def plain_topk(x: Tensor, y: Tensor, h: Tensor, k: int) -> None:
    for z in x.split(max(ROWS, 2**18 // len(y))):
        scores = torch.addmm(h, z, y.T)
        scores.max(1) if k == 1 else scores.topk(k, dim=1)


def plain_mass(x: Tensor, y: Tensor, h: Tensor) -> None:
    mass = torch.zeros_like(h)
    for z in x.split(max(ROWS, 2**18 // len(y))):
        mass += torch.softmax(torch.addmm(h, z, y.T), 1).sum(0)


def sampling(threads: int) -> dict[str, Any]:
    """Random numbers, in 1e9 a second: one sample in d dimensions is d of them, and meets m targets."""
    g = torch.Generator().manual_seed(0)
    draws = {
        f"{name} {dtype}": (lambda draw=draw, dtype=dtype: draw(2**22, generator=g, dtype=getattr(torch, dtype)))
        for name, draw in (("rand", torch.rand), ("randn", torch.randn))
        for dtype in ("float32", "float64")
    }
    like = torch.empty(0)
    draws |= {
        "sdot uniform float32": lambda: sdot.UniformCube(64).sample(2**16, like=like, generator=g),
        "sdot normal float32": lambda: sdot.Gaussian(64).sample(2**16, like=like, generator=g),
    }
    return {
        "function": "sampling",
        "speed": {k: float(f"{2**22 / t / 1e9:.4g}") for k, t in fastest(draws, threads, 3).items()},
    }


def write_table(rows: list[dict[str, Any]], dims: tuple[int, ...], targets: tuple[int, ...]) -> None:
    """For a CPU from these rows, for GPUs from what `benchmarks.gpu` has saved."""
    kinds = {"cpu": {"d": dims, "m": targets} | table(rows, dims, targets), "cuda": gpu_table(record.RESULTS / "gpu")}
    parts = []
    for kind, found in kinds.items():
        lines = [f'  "{axis}": {json.dumps(found[axis])}' for axis in ("d", "m")]
        lines += [f'  "{f}": [\n   ' + ",\n   ".join(map(json.dumps, found[f])) + "\n  ]" for f in FUNCTIONS]
        parts.append(f' "{kind}": {{\n' + ",\n".join(lines) + "\n }")
    TABLE.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    print(f"wrote {TABLE.name}")


def table(rows: list[dict[str, Any]], dims: Sequence[int], targets: Sequence[int]) -> dict[str, Any]:
    """The backends that beat `blocked`, the fastest first, for every function and size.

    For topk, k = 1 and 2 decide together. The tree is left out: its speed depends on the heights.
    """

    def names(function: str, d: int, m: int) -> str:
        met = [r["speed"] for r in rows if (r["function"], r["d"], r["m"]) == (function, d, m) and r["k"] < 8]
        cost = {b: sum(1 / speed[b] for speed in met) for b in met[0] if b not in ("plain", "tree")}
        return " ".join(b for b in sorted(cost, key=cost.__getitem__) if cost[b] < cost["blocked"])

    return {f: [[names(f, d, m) for m in targets] for d in dims] for f in FUNCTIONS}


def gpu_table(folder: Path) -> dict[str, Any]:
    """The same from the timings on a GPU, where all backends that it times were timed."""
    speeds = dict[tuple[str, int, int, int], dict[str, float]]()
    for function, name in zip(FUNCTIONS, ("topk", "soft"), strict=True):
        files = sorted(folder.glob(f"{name}*.json"))  # a sweep before what was measured after it
        for r in (row for path in files for row in json.loads(path.read_text())["rows"]):
            if (r["n"], r["dtype"]) == (GPU_SAMPLES, "float32") and r["method"] in AUTOMATIC and "ms" in r:
                speeds.setdefault((function, r["d"], r["m"], r["k"]), {})[r["method"]] = r["n"] * r["m"] / r["ms"]
    rows = [dict(zip(("function", "d", "m", "k"), key, strict=True), speed=s) for key, s in speeds.items() if "blocked" in s]
    d, m = (sorted({r[axis] for r in rows if r["function"] == "soft_mass"}) for axis in ("d", "m"))  # the coarser grid
    return {"d": d, "m": m} | table(rows, d, m)


if __name__ == "__main__":
    main()
