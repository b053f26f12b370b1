"""What an extension costs beside the map it extends: samples of a Gaussian through 50,000 targets in d = 64.

python -m benchmarks.extension_speed              about two minutes on one core
python -m benchmarks.extension_speed -m 5000 -d 16

The map and every rule take turns on the same samples; the ratio of their CPU times is what the table says, the median over the
turns. `top 8` is a search for the eight best targets among all in place of one, the other way to find candidates.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

from torch import Generator

import sdot
from benchmarks import command
from benchmarks.clouds import clusters
from benchmarks.record import Row, Table, forget_peak_memory, peak_memory_mb

RULES: dict[str, dict[str, Any]] = {"affine": {}, "project": {}, "softmax": {}, "pair": {}}


def measure(m: int, d: int, n: int, turns: int) -> list[Row]:
    g = Generator().manual_seed(0)
    y, source = clusters(m, d, 20, 8), sdot.Gaussian(dim=d)
    T = sdot.BrenierMap(y, -y.double().square().sum(1) / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sdot.UnresolvedCellsWarning)
        cells = sdot.estimate_cells(T, source, max_samples=4 * m, generator=g)
    K = sdot.rips_complex(y, max_dim=1, max_neighbors=32)
    ways: dict[str, Callable[[Any], Any]] = {"T": T, "top 8": lambda x: sdot.kernels.topk(x, T.points, T.heights, 8)}
    ways |= {rule: sdot.PiecewiseLinearMap(T, cells, K, rule, **settings) for rule, settings in RULES.items()}
    x = source.sample(n, like=y, generator=g)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory = {}
    for turn in range(turns + 1):
        for name, f in ways.items():
            before, start = forget_peak_memory(), time.process_time()
            f(x)
            if turn:  # the first one compiles and warms up
                seconds[name].append(time.process_time() - start)
            else:
                memory[name] = round(peak_memory_mb() - before, 1)
    table = Table(f"extension-speed-{m}-{d}", n=n, turns=turns)
    table.rows = []
    for name, times in seconds.items():
        ratio = statistics.median(t / t0 for t, t0 in zip(times, seconds["T"], strict=True))
        row = {"way": name, "microseconds": 1e6 * statistics.median(times) / n, "ratio": ratio, "memory_mb": memory[name]}
        table.add({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
        print(f"{name:10s} {row['microseconds']:8.2f} us a sample, {ratio:5.2f} times T, {memory[name]:7.1f} MB")
    return table.rows


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("-m", type=int, default=50_000, help="targets (%(default)s)")
    parser.add_argument("-d", type=int, default=64, help="dimensions (%(default)s)")
    parser.add_argument("-n", type=int, default=20_000, help="samples (%(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="(%(default)s)")
    options = parser.parse_args()
    command.start(options)
    measure(options.m, options.d, options.n, options.turns)


if __name__ == "__main__":
    main()
