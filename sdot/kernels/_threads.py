"""Rows divided among Python threads, for C functions that run on one thread each and release the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

GRAIN = 2**20  # multiplications that are worth a thread


def divide(run: Callable[[int, int], None], n: int, work: int) -> None:
    """Run over the rows 0..n, on as many threads as torch uses and the work is worth."""
    workers = min(torch.get_num_threads(), max(1, work // GRAIN), n)
    if workers <= 1:
        return run(0, n)
    ends = [n * (w + 1) // workers for w in range(workers)]
    for _ in _pool(os.getpid(), workers).map(run, [0, *ends[:-1]], ends):
        pass
    return None


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Threads do not survive a fork, so each process has its own."""
    return ThreadPoolExecutor(workers, thread_name_prefix="sdot")
