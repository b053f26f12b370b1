"""The command line: `sdot solve`, `sdot info`, `sdot sample`, `sdot estimate`."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import _checks, _files, kernels
from .extension import PiecewiseLinearMap
from .measures import BLOCK, DiscreteMeasure, Gaussian, Source, UniformBall, UniformCube
from .serialization import info, load, save
from .solution import ConvergenceWarning, solve
from .solvers import Adam, Averaged, Newton

SOURCES = {"gaussian": Gaussian, "cube": UniformCube, "ball": UniformBall}
SOLVERS = {"newton": Newton, "adam": Adam, "averaged": Averaged}
# What `estimate` knows of Newton, at best and at worst; see docs/choosing.md
EFFICIENCY, EFFICIENCY_EVEN = (1.1, 0.7), (14.0, 2.0)  # (m - 1) / (n chi^2), without and with evenly spread points
START = (2, 6)  # samples a target before the efficiency is reached
PASSES = (2, 10)  # times that an evenly spread point is assigned
EDGES = (50, 300)  # edges a target, temporary copies counted
OVERHEAD = (0.05, 0.2)  # seconds, of some tens of steps


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0 done, 1 stopped before its tolerance, 2 wrong input."""
    settings = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return int(settings.run(settings))
        except ValueError as error:
            print(f"sdot {settings.command}: {error}", file=sys.stderr)
            return 2


def _solve(s: argparse.Namespace) -> int:
    points = torch.from_numpy(_floats(_files.read_array(s.points))).to(s.device)
    if s.weights:
        target = DiscreteMeasure(points, _checks.tensor("weights", _floats(_files.read_array(s.weights))))
    else:
        target = DiscreteMeasure.uniform(points)
    source = SOURCES[s.source](dim=target.dim)
    solution = solve(
        source,
        target,
        SOLVERS[s.solver](),
        tol=s.tol,
        max_samples=s.max_samples,
        max_seconds=s.max_seconds,
        progress=not s.quiet,
        checkpoint=s.checkpoint,
        generator=torch.Generator().manual_seed(s.seed),
    )
    save(solution.map, s.output, source=source, certificate=solution.certificate)
    if not s.quiet:
        print(f"{solution.certificate}\nwrote {s.output} after {solution.seconds:.1f} s")
    return 0 if solution.converged else 1


def _info(s: argparse.Namespace) -> int:
    about = info(s.map)
    print(f"{about.map}: {about.points:,} points in R^{about.dim}, {about.dtype}")
    if about.weights:
        moved = "" if about.moved is None else f", {100 * about.moved:.1f} % of the source move"
        print(f"extension: {about.weights}, targets up to {about.max_edge_length:.4g} apart are blended{moved}")
    print(f"source: {_describe(about.source)}")
    print(f"certificate: {about.certificate or 'none was saved with it'}")
    return 0


def _sample(s: argparse.Namespace) -> int:
    _checks.count("-n", s.number)
    S, about = load(s.map, device=s.device), info(s.map)
    T = S.map if isinstance(S, PiecewiseLinearMap) else S
    source = SOURCES[s.source](dim=about.dim) if s.source else about.source
    if source is None:
        raise ValueError(f"{s.map} does not say which source it carries; name one with --source.")
    generator = torch.Generator(s.device).manual_seed(s.seed)
    x = source.sample(s.number, like=T.points, generator=generator)
    result = T.cell(x) if s.cells else T.soft(x, s.eps) if s.eps is not None else S(x)
    _files.write_array(s.output, result.cpu().numpy())
    print(f"wrote {s.output}: {tuple(result.shape)} {str(result.dtype).removeprefix('torch.')}")
    return 0


def _estimate(s: argparse.Namespace) -> int:
    m, d, tol = _checks.count("m", s.m), _checks.count("d", s.d), _checks.positive("tol", s.tol)
    about = estimated(m, d, tol, torch.device(s.device))
    if s.json:
        print(json.dumps(about))
        return 0
    samples, scores, memory, seconds = (about[key] for key in ("samples", "scores", "memory_mb", "seconds"))
    print(
        f"{m:,} targets in R^{d} to chi2 = {tol:g} with Newton, from a Gaussian, a cube or a ball\n"
        f"samples  {samples[0]:,.0f} to {samples[1]:,.0f}, {samples[0] / m:.3g} to {samples[1] / m:.3g} a target\n"
        f"scores   {scores[0]:.1e} to {scores[1]:.1e}, at {about['ns_per_score']:.2g} ns each\n"
        f"memory   {memory[0]:,.0f} to {memory[1]:,.0f} MB beside torch's own\n"
        f"time     {_duration(seconds[0])} to {_duration(seconds[1])} on {s.device}, {torch.get_num_threads()} threads"
    )
    return 0


def estimated(
    m: int, d: int, tol: float, device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """What a solve takes, (least, most). Constants were fitted to runs of 300 to 100,000 targets (docs/choosing.md)."""
    even = d <= Newton.quasi_dim
    eta, passes = (EFFICIENCY_EVEN, PASSES) if even else (EFFICIENCY, (1, 1))
    # the certificate: a standard error of tol / 10, whose square is 4 chi^2 / n + 2 m / n^2, at chi^2 from tol / 4 to tol
    most = max(1000 * m, 10**5)
    fresh = [max(m, 1024, min(most, 50 / tol * (k + math.sqrt(k**2 + 0.08 * m)))) for k in (1, 4)]
    drawn = [start * max(m, 1024) + (m - 1) / (e * tol) for start, e in zip(START, eta, strict=True)]
    scores = [(n * p + c) * m for n, p, c in zip(drawn, passes, fresh, strict=True)]
    rate, size = _seconds_per_score(m, d, device, clock), 8 if even else 4
    points = 3 * m * d * size  # as they came, centred, packed for the kernel
    # samples that are looked at, with their best scores, cells and soft hits
    looked = (4 if even else 1) * Newton.detail * m * (d * size + 20 * Newton.neighbours)
    room = [0, 4 * BLOCK * d * size + 2**25 * torch.get_num_threads()]  # blocks of samples, the kernels' tiles
    return {
        "m": m,
        "d": d,
        "tol": tol,
        "samples": [n + c for n, c in zip(drawn, fresh, strict=True)],
        "scores": scores,
        "memory_mb": [(points + looked + 24 * e * m + r) / 1e6 for e, r in zip(EDGES, room, strict=True)],
        "ns_per_score": 1e9 * rate,
        "seconds": [t + 1.2 * n * rate + (1e-6 + 1e-8 * d) * n / m for t, n in zip(OVERHEAD, scores, strict=True)],
    }


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


def _duration(seconds: float) -> str:
    unit, size = next(((u, s) for u, s in (("h", 3600.0), ("min", 60.0)) if seconds >= 2 * s), ("s", 1.0))
    return f"{seconds / size:.2g} {unit}"


def _describe(source: Source | None) -> str:
    if source is None:
        return "not recorded"
    if isinstance(source, Gaussian):
        given = [name for name in ("mean", "covariance") if getattr(source, name) is not None]
        return f"Gaussian(dim={source.dim}), {'given ' + ' and '.join(given) if given else 'standard'}"
    return repr(source)


def _floats(array: NDArray[Any]) -> NDArray[Any]:
    """Half precision is widened; everything else is checked where it is used."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    word = "not converged" if issubclass(category, ConvergenceWarning) else "note"
    print(f"sdot: {word}: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sdot", description="Semi-discrete optimal transport.")
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("solve", help="find the map from a source onto points", description=_solve.__doc__)
    command.add_argument("points", help="target points, a .npy array of shape (m, d)")
    command.add_argument("-o", "--output", required=True, help="map to write, such as map.safetensors")
    command.add_argument("--weights", help="weights of the points, a .npy array of shape (m,); equal when left out")
    command.add_argument("--source", choices=SOURCES, default="gaussian", help="measure that is carried (%(default)s)")
    command.add_argument("--solver", choices=SOLVERS, default="newton", help="algorithm (%(default)s)")
    command.add_argument("--tol", type=float, default=0.01, help="wanted chi^2 (%(default)s)")
    command.add_argument("--max-samples", type=int, help="budget of source samples")
    command.add_argument("--max-seconds", type=float, help="budget of seconds")
    command.add_argument("--checkpoint", help="file to continue from and to keep the run in")
    command.add_argument("--seed", type=int, default=0, help="seed of all randomness (%(default)s)")
    command.add_argument("--device", default="cpu", help="torch device (%(default)s)")
    command.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    command.set_defaults(run=_solve)

    command = commands.add_parser(
        "estimate",
        help="say what a solve will take, before it starts",
        description="Samples, scores, memory and time of a solve with the default solver, from formulas and from the speed of "
        "this machine, which is measured for half a second.",
        epilog="Ranges are wide by design: they held for the solves of docs/choosing.md, 300 to 100,000 targets. Light "
        "weights, a busy machine and sources of your own without `from_uniform` in up to three dimensions take more.",
    )
    command.add_argument("m", type=int, help="number of target points")
    command.add_argument("d", type=int, help="their dimension")
    command.add_argument("--tol", type=float, default=0.01, help="wanted chi^2 (%(default)s)")
    command.add_argument("--device", default="cpu", help="torch device (%(default)s)")
    command.add_argument("--json", action="store_true", help="as JSON, for programs")
    command.set_defaults(run=_estimate)

    command = commands.add_parser("info", help="say what a map file holds")
    command.add_argument("map", help="a map file")
    command.set_defaults(run=_info)

    command = commands.add_parser("sample", help="carry source samples through a map")
    command.add_argument("map", help="a map file")
    command.add_argument("-n", "--number", type=int, required=True, help="how many")
    command.add_argument("-o", "--output", required=True, help=".npy file to write")
    command.add_argument("--source", choices=SOURCES, help="measure to draw from; the recorded one when left out")
    choice = command.add_mutually_exclusive_group()
    choice.add_argument("--eps", type=float, help="temperature of the entropic map, which blends neighbouring points")
    choice.add_argument("--cells", action="store_true", help="write the indices of the points instead")
    command.add_argument("--seed", type=int, default=0, help="seed (%(default)s)")
    command.add_argument("--device", default="cpu", help="torch device (%(default)s)")
    command.set_defaults(run=_sample)
    return parser
