"""The command line: `sdot solve`, `sdot info`, `sdot sample`, `sdot estimate`."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import _checks, _files
from .budget import estimate_budget
from .extension import PiecewiseLinearMap
from .measures import DiscreteMeasure, Gaussian, Source, UniformBall, UniformCube
from .serialization import info, load, save
from .solution import ConvergenceWarning, solve
from .solvers import Adam, Averaged, Newton

SOURCES = {"gaussian": Gaussian, "cube": UniformCube, "ball": UniformBall}
SOLVERS = {"newton": Newton, "adam": Adam, "averaged": Averaged}


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
    budget = estimate_budget(s.m, s.d, s.tol, device=s.device)
    print(json.dumps(asdict(budget)) if s.json else budget)
    return 0


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
