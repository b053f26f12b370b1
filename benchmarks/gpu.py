"""Time the backends on a GPU, and the solver with them. Every timed answer is checked against float64 in the same row.

python -m benchmarks.gpu --seconds 300 --out benchmarks/results/gpu
python -m benchmarks.gpu --warm triton    (only compiles, so that several processes can, beforehand)
python -m benchmarks.gpu --dry-run        (toy sizes; on a CPU with TRITON_INTERPRET=1)

Times are medians between device events, after a warm-up that compiles, over inputs that take turns and exceed the cache.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import sdot
from benchmarks import record
from benchmarks.gpu_methods import Topk, methods, ours
from benchmarks.problems import make
from sdot import kernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CACHE = 2**28  # bytes; several times any cache
STAGES = {"topk": 0.6, "soft": 0.1, "shapes": 0.1, "solve": 0.2}  # and the share of the time that each may take
CHECKED = 256  # rows of every answer that are compared with float64


class Case(NamedTuple):
    n: int
    m: int
    d: int
    k: int = 1
    dtype: torch.dtype = torch.float32


def cases(dry: bool) -> Iterator[Case]:
    """The goals first, then a sweep, then small numbers of samples."""
    if dry:
        yield from (Case(300, 700, 3), Case(300, 700, 20, 2), Case(100, 300, 5, 1, torch.float64))
        return
    n, m = 1_000_000, 100_000
    yield from (Case(n, m, d) for d in (64, 128, 2, 3, 16, 8, 32, 256))
    yield from (
        Case(262_144, m, d, k) for k, m, d in itertools.product((1, 2, 8), (1_000, 10_000, 65_536), (2, 3, 8, 16, 32, 64, 128))
    )
    yield from (Case(1024, m, d, 2) for m, d in itertools.product((10_000, 1_000_000), (3, 64)))
    yield from (Case(65_536, 65_536, d, k, torch.float64) for d, k in ((2, 1), (3, 1), (3, 8), (64, 1)))
    yield from (Case(65_536, 65_536, 512, k) for k in (1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="budget of the whole run (%(default)s)")
    parser.add_argument("--out", type=Path, default=record.RESULTS / "gpu")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES), help="stages (all)")
    parser.add_argument("--problems", nargs="+", choices=SOLVED, help="of the stage `solve` (all)")
    parser.add_argument(
        "--warm", metavar="METHOD", help="run a method once on every case that it is timed on, and time nothing"
    )
    parser.add_argument("--dry-run", action="store_true")
    settings = parser.parse_args()
    end, dry = time.monotonic() + settings.seconds, settings.dry_run
    if settings.warm:
        warm(settings.warm, dry, end)
        return
    settings.out.mkdir(parents=True, exist_ok=True)
    ceilings = measure_ceilings(256 if dry else 8192)
    rows = {
        "topk": lambda: (row for case in cases(dry) for row in topk_rows(case)),
        "soft": lambda: soft_rows(dry),
        "shapes": lambda: shape_rows(dry),
        "solve": lambda: solver_rows(dry, settings.problems),
    }
    start, left = time.monotonic(), sum(STAGES[name] for name in settings.only)
    for name in settings.only:
        kept, stop = [], time.monotonic() + STAGES[name] / left * (end - time.monotonic())
        left -= STAGES[name]
        for row in rows[name]():
            kept.append(row)
            print(
                " ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()),
                flush=True,
            )
            text = json.dumps({**record.environment(), "ceilings": ceilings, "rows": kept}, indent=1)
            (settings.out / f"{name}{'-dry-run' if dry else ''}.json").write_text(text + "\n")
            if time.monotonic() > stop:
                print(f"{name}: the time is up")
                break
        print(f"{name}: done after {time.monotonic() - start:.0f} s", flush=True)


def warm(name: str, dry: bool, end: float) -> None:
    """Compile all that the timings of a method need: what it compiles is kept on disk."""
    for case in cases(dry):
        if worth_timing(name, case) and time.monotonic() < end:
            x, y, h = problem(case, copies=1)
            with contextlib.suppress(Exception):  # the timings say why
                methods()[name](x[0], y, h, case.k)
    if name == "triton":
        for _ in itertools.chain(soft_rows(dry, [name]), shape_rows(dry)):
            if time.monotonic() > end:
                return


def measure_ceilings(size: int) -> dict[str, float]:
    """What this device does at best: a copy in GB/s, matrix products in TFLOP/s."""
    a = torch.randn(size, size, device=DEVICE)
    copy = milliseconds(lambda x: x.clone(), [(a,), (a + 1,)], 0.3)
    found = {"copy_gb_s": 8 * size**2 / copy / 1e6}
    for dtype in (torch.float32, torch.float16):
        pair = (a.to(dtype), a.T.to(dtype))
        found[f"{dtype}".removeprefix("torch.") + "_tflop_s"] = (
            2 * size**3 / milliseconds(torch.mm, [pair, pair[::-1]], 0.3) / 1e9
        )
    return found


def milliseconds(f: Callable[..., Any], inputs: list[tuple[Any, ...]], budget: float, most: int = 30) -> float:
    """Median time of a call after a first one, inputs in turn, for `budget` seconds or `most` calls, and two at least."""
    f(*inputs[-1])
    synchronize()
    times, end = [], time.monotonic() + budget
    for turn in itertools.cycle(inputs):
        times.append(one_time(f, turn))
        if len(times) >= most or (len(times) >= 2 and time.monotonic() > end):
            return statistics.median(times)
    raise AssertionError("there are inputs")


def one_time(f: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    if DEVICE.type == "cpu":
        start = time.perf_counter()
        f(*arguments)
        return 1e3 * (time.perf_counter() - start)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    f(*arguments)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def problem(case: Case, copies: int = 64) -> tuple[list[Tensor], Tensor, Tensor]:
    """Several batches of Gaussian samples, and targets whose cells all matter."""
    g = torch.Generator(DEVICE).manual_seed(0)
    draw = {"generator": g, "device": DEVICE, "dtype": case.dtype}
    y = torch.randn(case.m, case.d, **draw)
    copies = min(copies, max(2, -(-CACHE // (case.n * case.d * y.element_size()))))
    return [torch.randn(case.n, case.d, **draw) for _ in range(copies)], y, -0.5 * y.square().sum(1)


def topk_rows(case: Case, candidates: dict[str, Topk] | None = None) -> Iterator[dict[str, Any]]:
    xs, y, h = problem(case)
    for name, f in (candidates or methods()).items():
        if not worth_timing(name, case):
            continue
        row = {"method": name, **case._asdict(), "dtype": str(case.dtype).removeprefix("torch.")}
        try:
            ms = milliseconds(f, [(x, y, h, case.k) for x in xs], 0.3 if case.n >= 1_000_000 else 0.1)
            yield {**row, "ms": ms, "scores_per_s": case.n * case.m / ms * 1e3, **check(f, xs[0], y, h, case.k)}
        except Exception as error:  # a method that cannot run is a row that says why
            yield {**row, "error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


def worth_timing(name: str, case: Case) -> bool:
    """Slow methods only where they set the bar, compiled ones only where there is something to compile for."""
    large, bar = case.n >= 1_000_000, case.d in (3, 20, 64, 128)
    if case.dtype == torch.float64:
        return name in ("triton", "blocked", "keops")
    if "compiled" in name or "TF32" in name:
        return large and bar and (case.d == 64 or "TF32" not in name)
    if name == "brute force":
        return large and bar
    if name == "keops":
        return bar and case.k <= 2
    return name == "triton" or (bar if large else case.k <= 2)


def check(f: Topk, x: Tensor, y: Tensor, h: Tensor, k: int) -> dict[str, float]:
    """Regret: how far the attained scores are below the best ones, against |x| |y|; and how many rows name other targets."""
    value, index = f(x, y, h, k)
    part = torch.randperm(len(x), device=x.device)[:CHECKED]
    s = x[part].double() @ y.double().T + h.double()
    best, size = s.topk(k, dim=1), x.double().norm(dim=1).max() * y.double().norm(dim=1).max()
    return {
        "regret": float((best.values - s.gather(1, index[part])).max() / size),
        "value_error": float((value[part] - best.values).abs().max() / size),
        "rows_that_differ": float((best.indices != index[part]).any(1).double().mean()),
    }


def soft_rows(dry: bool, names: Sequence[str] = ("triton", "blocked", "keops")) -> Iterator[dict[str, Any]]:
    """The softened masses, whose cost should be a small multiple of the assignment's."""
    sizes = itertools.product((65_536, 1_000), (2, 8, 16, 64, 128))
    for case in [Case(200, 300, 5)] if dry else [Case(262_144, m, d) for m, d in sizes]:
        xs, y, h = problem(case)
        for name in names:
            row = {"method": name, **case._asdict(), "dtype": "float32", "function": "soft_mass"}
            try:
                ms = milliseconds(
                    lambda x, y=y, h=h, b=name: kernels.soft_mass(x, y, h, 1.0, backend=b), [(x,) for x in xs], 0.5
                )
                mass = kernels.soft_mass(xs[0][:4096], y, h, 1.0, backend=name).double()
                exact = kernels.soft_mass(xs[0][:4096].double(), y.double(), h.double(), 1.0, backend="blocked")
                yield {**row, "ms": ms, "total_variation": float((mass - exact).abs().sum() / 2)}
            except Exception as error:
                yield {**row, "error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


def shape_rows(dry: bool) -> Iterator[dict[str, Any]]:
    """Other block shapes of the first pass than the library's, to choose by measurement."""
    try:
        search = import_module("sdot.kernels._triton_search")  # not public: a measurement of its insides
    except ImportError:
        return
    usual, before = search.matrix_shape, (search.ROWS, search.COLUMNS, search.PER)
    shapes = itertools.product((20,), SHAPES[:2]) if dry else itertools.product((64, 128, 16), SHAPES)
    for d, (rows, columns, per, warps, stages) in shapes:
        search.ROWS, search.COLUMNS, search.PER = rows, columns, per
        own = {"BM": rows, "W": columns, "PER": per, "num_warps": warps, "STAGES": stages}
        search.matrix_shape = lambda wide, own=own: {**usual(wide), **own}
        try:
            for row in topk_rows(Case(200, 300, d) if dry else Case(262_144, 65_536, d), {"triton": ours("triton")}):
                yield {**row, **own}
        finally:
            search.matrix_shape, (search.ROWS, search.COLUMNS, search.PER) = usual, before


SHAPES = [  # samples, targets, products a tile, warps, stages
    (128, 128, 2, 4, 3),
    (128, 128, 1, 4, 3),
    (128, 128, 4, 4, 3),
    (128, 128, 2, 4, 2),
    (128, 128, 2, 4, 4),
    (128, 128, 2, 8, 3),
    (256, 128, 2, 8, 2),
    (256, 128, 2, 8, 3),
    (128, 64, 4, 4, 3),
    (128, 64, 4, 4, 4),
    (64, 128, 2, 4, 3),
    (64, 256, 1, 4, 3),
    (128, 256, 1, 8, 2),
    (128, 256, 1, 8, 3),
]


@contextlib.contextmanager
def everywhere(backend: str) -> Iterator[None]:
    """Let "auto" choose this backend, whatever the problem."""
    before = dict(kernels.BACKENDS)
    if backend != "auto":
        kernels.BACKENDS.update(dict.fromkeys(before, before[backend]))
    try:
        yield
    finally:
        kernels.BACKENDS.update(before)
        kernels._failed.clear()


SOLVED = {  # problem: tolerance, methods
    "latent-64-50000": (0.05, ("triton", "blocked")),
    "latent-16-20000": (0.05, ("triton", "blocked")),
    "million": (0.1, ("triton",)),
    "latent-64-2000": (0.01, ("triton", "blocked", "POT")),
    "plane-10000": (0.05, ("blocked", "keops")),
}


def solver_rows(dry: bool, problems: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """`sdot.solve` on the device, and POT with tensors on it where that is installed."""
    chosen = {"plane-1000": (0.05, ("blocked", "POT"))} if dry else {name: SOLVED[name] for name in problems or SOLVED}
    for name, (tol, names) in chosen.items():
        p = make(name)
        target = sdot.DiscreteMeasure(p.target.points.to(DEVICE), p.target.weights.to(DEVICE))
        for method in names:
            row = {"problem": name, "m": len(target), "d": target.dim, "tol": tol, "method": method}
            try:
                for _ in range(1 if method == "POT" or len(target) > 10**5 else 2):  # the last one counts: it compiles nothing
                    synchronize()
                    start = time.perf_counter()
                    if method == "POT":
                        heights, more = by_pot(p.source, target, 2000 if dry else 5000)
                    else:
                        heights, more = by_solver(p.source, target, tol, method, 3.0 if dry else 60.0)
                    synchronize()
                    seconds = time.perf_counter() - start
                T = sdot.BrenierMap(target.points, heights)
                judge = sdot.certify(T, p.source, target, generator=torch.Generator(DEVICE).manual_seed(10**6))
                yield {**row, "seconds": seconds, "chi2": judge.chi2, "chi2_error": judge.chi2_error, **more}
            except Exception as error:
                yield {**row, "error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


def by_solver(
    source: sdot.Source, target: sdot.DiscreteMeasure, tol: float, backend: str, seconds: float
) -> tuple[Tensor, dict[str, Any]]:
    with everywhere(backend):
        g = torch.Generator(DEVICE).manual_seed(0)
        solution = sdot.solve(source, target, tol=tol, max_seconds=seconds, generator=g)
    samples = solution.history[-1].samples / len(target)
    return solution.map.heights, {"reason": solution.reason, "samples_per_target": samples, "solve_seconds": solution.seconds}


def by_pot(source: sdot.Source, target: sdot.DiscreteMeasure, steps: int, batch: int = 512) -> tuple[Tensor, dict[str, Any]]:
    """POT's solver with its own settings but a batch that a GPU can use."""
    from ot.semidiscrete import solve_semidiscrete

    y, g = target.points, torch.Generator(DEVICE).manual_seed(0)
    weights = target.weights.to(y)
    potential = solve_semidiscrete(
        y, lambda n: source.sample(n, like=y, generator=g), weights, max_iter=steps, batch_size=batch
    )
    heights = potential.double() / 2 - y.double().square().sum(1) / 2
    return heights, {"reason": "steps", "samples_per_target": steps * batch / len(target)}


if __name__ == "__main__":
    main()
