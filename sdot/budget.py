"""What a solve will take: samples, scores, memory and time, from formulas and from the speed of this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from . import _checks, kernels
from .certificate import most_samples
from .measures import BLOCK
from .solvers import Newton

Range = tuple[float, float]  # least and most
# What is known of Newton, at best and at worst; docs/choosing.md says from which runs
EFFICIENCY, EFFICIENCY_EVEN = (1.25, 0.6), (14.0, 2.0)  # (m - 1) / (n tol), without and with evenly spread points
START = (2, 6)  # samples a target before the efficiency is reached
PASSES = (2, 10)  # times that an evenly spread point is assigned
EDGES = (50, 300)  # edges a target, temporary copies counted
OVERHEAD = (0.05, 0.2)  # seconds, of some tens of steps


@dataclass(frozen=True)
class Budget:
    """What a solve of m targets in R^d to chi^2 = tol takes with the default solver, least and most.

    Attributes:
        samples: Of the source, those of the certificate included.
        scores: Samples times targets.
        memory_mb: Beside torch's own.
        seconds: On `device` with so many threads.
        ns_per_score: The measured speed.
    """

    m: int
    d: int
    tol: float
    device: str
    threads: int
    samples: Range
    scores: Range
    memory_mb: Range
    seconds: Range
    ns_per_score: float

    def __str__(self) -> str:
        return (
            f"{self.m:,} targets in R^{self.d} to chi2 = {self.tol:g} with Newton, from a Gaussian, a cube or a ball\n"
            f"samples  {_between(f'{n:,.0f}' for n in self.samples)}, {_between(f'{n / self.m:.3g}' for n in self.samples)} "
            f"a target\n"
            f"scores   {_between(f'{n:.1e}' for n in self.scores)}, at {self.ns_per_score:.2g} ns each\n"
            f"memory   {_between(f'{size:,.0f}' for size in self.memory_mb)} MB beside torch's own\n"
            f"time     {_between(_duration(t) for t in self.seconds)} on {self.device}, {self.threads} threads"
        )


def estimate_budget(
    m: int, d: int, tol: float = 0.01, *, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> Budget:
    """What a solve will take, before it starts; this machine's speed is measured for half a second.

    Ranges are wide by design, and held for the solves in docs/choosing.md. Light weights, a busy machine, and sources of
    your own without `from_uniform` in up to three dimensions take more.

    Args:
        m: Targets.
        d: Their dimension.
        tol: The wanted chi^2.
        clock: What measures the speed.
    """
    _checks.count("m", m)
    _checks.count("d", d)
    _checks.positive("tol", tol)
    even = d <= Newton.quasi_dim
    eta, passes = (EFFICIENCY_EVEN, PASSES) if even else (EFFICIENCY, (1, 1))
    # the certificate: a standard error of tol / 10, whose square is 4 chi^2 / n + 2 m / n^2, at chi^2 from tol / 4 to tol
    fresh = [max(m, 1024, min(most_samples(m), 50 / tol * (k + math.sqrt(k**2 + 0.08 * m)))) for k in (1, 4)]
    drawn = [start * max(m, 1024) + (m - 1) / (e * tol) for start, e in zip(START, eta, strict=True)]
    scores = [(n * p + c) * m for n, p, c in zip(drawn, passes, fresh, strict=True)]
    rate, size = _seconds_per_score(m, d, torch.device(device), clock), 8 if even else 4
    points = 3 * m * d * size  # as they came, centred, packed for the kernel
    # samples that are looked at, with their best scores, cells and soft hits
    looked = (2 if even else 1) * Newton.detail * m * (d * size + 20 * Newton.neighbours)
    room = [0, 4 * BLOCK * d * size + 2**25 * torch.get_num_threads()]  # blocks of samples, the kernels' tiles
    return Budget(
        m=m,
        d=d,
        tol=tol,
        device=device,
        threads=torch.get_num_threads(),
        samples=_range(n + c for n, c in zip(drawn, fresh, strict=True)),
        scores=_range(scores),
        memory_mb=_range((points + looked + 24 * e * m + r) / 1e6 for e, r in zip(EDGES, room, strict=True)),
        seconds=_range(t + 1.2 * n * rate + (1e-6 + 1e-8 * d) * n / m for t, n in zip(OVERHEAD, scores, strict=True)),
        ns_per_score=1e9 * rate,
    )


def _seconds_per_score(m: int, d: int, device: torch.device, clock: Callable[[], float]) -> float:
    """The rate of `kernels.topk` for so many targets: the fastest of some short runs, half a second in all."""
    generator = torch.Generator(device).manual_seed(0)
    y = kernels.precise(torch.randn(m, d, device=device, generator=generator))
    x, h = torch.randn(16, d, device=device, generator=generator).to(y), -y.square().sum(1) / 2
    kernels.topk(x, y, h)  # may compile
    best, runs, started = math.inf, 0, time.perf_counter()
    while runs < 5 or time.perf_counter() - started < 0.5:
        begun = clock()
        float(kernels.topk(x, y, h)[0][0, 0])  # waits for the device
        seconds, runs = clock() - begun, runs + 1
        best = min(best, seconds / (len(x) * m))
        if seconds < 0.01 and len(x) < 2**15:
            x, runs = torch.cat([x, x]), 0
    return best


def _range(ends: Iterable[float]) -> Range:
    least, most = ends
    return least, most


def _between(ends: Iterable[str]) -> str:
    return " to ".join(ends)


def _duration(seconds: float) -> str:
    unit, size = next(((u, s) for u, s in (("h", 3600.0), ("min", 60.0)) if seconds >= 2 * s), ("s", 1.0))
    return f"{seconds / size:.2g} {unit}"
