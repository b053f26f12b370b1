"""Ways to find the k best targets on a GPU: the library's backends, and what one would write without them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdot import kernels

Topk = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]


def methods() -> dict[str, Topk]:
    """The library's backends, and what one would write without it."""
    own = {name: ours(name) for name in ("triton", "blocked", "keops")}
    return {
        **own,
        "product + top-k, compiled": compiled(),
        "the same in TF32": _in_tf32(compiled()),
        "brute force": brute_force,
    }


def ours(name: str) -> Topk:
    """A backend of the library."""
    return lambda x, y, h, k: kernels.topk(x, y, h, k, backend=name)


def compiled() -> Topk:
    """What `torch.compile` makes of the definition, on as many rows as give 2^28 scores."""
    torch.compiler.reset()  # each problem gets kernels of its own
    f = torch.compile(lambda x, y, h, k: torch.topk(x @ y.T + h, k, dim=1) if k > 1 else (x @ y.T + h).max(1, keepdim=True))

    def run(x: Tensor, y: Tensor, h: Tensor, k: int) -> tuple[Tensor, Tensor]:
        rows = max(1, min(len(x), 2**28 // len(y)))
        parts = [f(x[s : s + rows], y, h, k) for s in range(0, len(x), rows)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    return run


def _in_tf32(f: Topk) -> Topk:
    def run(x: Tensor, y: Tensor, h: Tensor, k: int) -> tuple[Tensor, Tensor]:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return f(x, y, h, k)
        finally:
            torch.set_float32_matmul_precision(before)

    return run


def brute_force(x: Tensor, y: Tensor, h: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As flat indexes do it: tiles of products, the k best of each tile, merged."""
    rows, columns = min(len(x), 2**14), 2**14
    values, indices = [], []
    for i in range(0, len(x), rows):
        v, j = [], []
        for c in range(0, len(y), columns):
            s = torch.addmm(h[c : c + columns], x[i : i + rows], y[c : c + columns].T)
            best = s.topk(min(k, s.shape[1]), dim=1)
            v.append(best.values)
            j.append(best.indices + c)
        best = torch.cat(v, 1).topk(k, dim=1)
        values.append(best.values)
        indices.append(torch.cat(j, 1).gather(1, best.indices))
    return torch.cat(values), torch.cat(indices)
