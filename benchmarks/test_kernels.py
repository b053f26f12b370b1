"""Speed of finding the best target of a sample: samples a second, and the share of this machine's matrix products.

A score takes d multiplications, so 2 d n m operations for n samples, as many as the product of their matrices alone. The share
is that rate against the rate of a large square product in single precision: what is below 1 goes into maxima, memory and few
dimensions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdot
from benchmarks.kernels import drawn, fastest, plain_topk
from benchmarks.record import Row, Table

SIDE = 1024  # of the square product
WORK = 1e8  # scores of one measurement, roughly


def test_speed(benchmark: Any, size: tuple[int, int], pytestconfig: Any) -> None:
    table, (d, m) = Table("kernels-peers"), size
    if not table.find(d=d, m=m):
        for row in benchmark.pedantic(speeds, (d, m, pytestconfig.option.threads), rounds=1, iterations=1):
            print("  ".join(f"{key} {value}" for key, value in table.add(row).items()), flush=True)
    benchmark.extra_info["rows"] = table.find(d=d, m=m)


def speeds(d: int, m: int, threads: int, scores: float = WORK) -> list[Row]:
    """Rows of every contender, measured in turn, the fastest of three."""
    n = max(64, int(scores / m))
    x, y, h = drawn(n, d, m, torch.float32)
    square = torch.randn(SIDE, SIDE)
    functions = {"product": lambda: square @ square, **contenders(x, y, h)}
    seconds = fastest(functions, threads, 3)
    rate = 2 * SIDE**3 / seconds.pop("product")
    return [
        {
            "method": name, "d": d, "m": m, "n": n, "samples_per_s": float(f"{n / t:.4g}"),
            "share": float(f"{2 * d * n * m / t / rate:.3g}"), "product_gflop_s": float(f"{rate / 1e9:.4g}"),
        }
        for name, t in seconds.items()
    ]  # fmt: skip


def contenders(x: Tensor, y: Tensor, h: Tensor) -> dict[str, Callable[[], Any]]:
    """sdot's own choice and its portable backend, what one writes in torch, and what is installed besides."""
    found: dict[str, Callable[[], Any]] = {
        "sdot": partial(sdot.kernels.topk, x, y, h),
        "sdot, blocked": partial(sdot.kernels.topk, x, y, h, backend="blocked"),
        "torch, addmm and max in tiles": partial(plain_topk, x, y, h, 1),
        "KeOps": partial(sdot.kernels.topk, x, y, h, backend="keops"),
    }
    if importlib.util.find_spec("faiss"):
        found["FAISS, IndexFlatIP"] = flat_index(x, y, h)
    return found


def flat_index(x: Tensor, y: Tensor, h: Tensor) -> Callable[[], Any]:
    """The same search as an exact one for the largest inner product in d + 1 dimensions: <(x, 1), (y, h)>."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(y.shape[1] + 1)
    index.add(torch.cat([y, h[:, None]], 1).numpy())
    queries = torch.cat([x, torch.ones(len(x), 1)], 1).numpy()
    return lambda: index.search(queries, 1)
