"""Compile the Triton kernels for one GPU architecture, without a GPU, and read their machine code.

python -m benchmarks.gpu_code

Reported for every kernel: registers, bytes of local memory (spills), shared memory, how many blocks fit on a multiprocessor,
and for the loops over all scores the instructions a thread issues per score. Those bound the speed: a multiprocessor issues
128 of them a clock, and maxima and exponentials have slower units of their own.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from benchmarks import record

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
REGISTERS, SHARED, BLOCKS = 65536, 227 * 1024, 32  # of a multiprocessor of compute capability 9.0
N, M = 1_000_003, 100_000  # sizes, for what the compiler specialises on
half, single, i32, i64 = torch.float16, torch.float32, torch.int32, torch.int64


class Target:
    """Stands in for a driver: the compiler only asks it what to compile for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def main() -> None:
    rows = list(measure())
    for row in rows:
        print(" ".join(f"{key} {value}" for key, value in row.items() if value is not None))
    print(f"wrote {record.write('gpu/machine-code', rows)}")


def measure(capability: int = 90) -> Iterator[dict[str, Any]]:
    """A row for every kernel in the shapes that the library launches."""
    triton.runtime.driver.set_active(Target(capability))
    for name, columns, options, compiled in kernels():
        yield {"kernel": name, **options, **read(compiled, columns)}


def kernels() -> Iterator[tuple[str, int, dict[str, int], Any]]:
    """Name, length of the sums, shape and code; imported by name because these parts of the library are not public."""
    search, topk, soft, halves = (import_module(f"sdot.kernels.{name}") for name in PARTS)
    tiles = 8 * -(-M // (8 * search.TILE))
    for d in (5, 8, 15, 16, 32, 64, 128, 256, 512):
        columns = halves.width(d, len(search.parts(d, "hhl")))
        shape = search.matrix_shape(columns)
        code = topk.tile_max_half.warmup(half, half, single, single, N, tiles, tiles, W=search.TILE, grid=(1, 1), **shape)
        yield "tile_max_half", columns, {"d": d, **shape}, code
    for d in range(1, search.FLOAT_DIM + 1):
        shape = {"BM": search.ROWS, "BN": search.SLOTS, "W": search.FLOAT_TILE, "num_warps": 4}
        code = topk.tile_max_float.warmup(single, single, single, single, N, 100_352, 196, 196, D=d, grid=(1, 1), **shape)
        yield "tile_max_float", d, {"d": d, **shape}, code
    bounds, one, four = (single, single, single), {"grid": (1,), "num_warps": 1}, {"grid": (1,), "num_warps": 4}
    block = {"TERMS": 2, "BR": 32, "BT": search.GROUP, **one}
    for k in search.WIDTHS:
        yield "threshold", 0, {"k": k}, topk.threshold.warmup(*bounds, single, i32, 0.1, N, tiles, tiles, KK=k, **block)
        for tile, d in ((search.TILE, 64), (search.FLOAT_TILE, 3)):
            points, shape = (
                (single, single, single, i64, i32, i32, single, i32, N, M, 100_352, d),
                {"BR": 2048 // tile, "W": tile},
            )
            code = topk.rescore.warmup(*points, KK=k, BD=search.features(d), **shape, **four)
            yield "rescore", d if d < 5 else search.FEATURES, {"k": k, "d": d, **shape}, code
        code = topk.merge.warmup(i64, single, i32, single, i64, 0, 0, N, k, KK=k, BR=128, BE=4, **four)
        yield "merge", 0, {"k": k}, code
    lists = (*bounds, single, i64, i32, i32, 0.1, 0, N, 0, N, tiles, tiles)
    yield "list_pairs", 0, {}, topk.list_pairs.warmup(*lists, **block)
    for d in (2, 8, 16, 64, 128, 512):
        columns = halves.width(d, 3)
        points, tiles = (half, half, single, single), -(-M // soft.TILE)
        for name, kernel, shape, extra in (
            ("log_sum_exp", soft.log_sum_exp, soft.sum_shape(columns), (single, N, tiles, tiles)),
            ("weighted_sum", soft.weighted_sum, soft.average_shape(columns, d), (single, single, N, d, tiles, tiles)),
        ):
            counted = columns if name == "log_sum_exp" else 0  # the other multiplies twice
            yield name, counted, {"d": d, **shape}, kernel.warmup(*points, *extra, grid=(1, 1), **shape)


def smallest() -> None:
    """Compile everything for one sample, one target and one dimension: sizes that are 1 become constants of their own kind."""
    triton.runtime.driver.set_active(Target(90))
    search, topk, soft, halves = (import_module(f"sdot.kernels.{name}") for name in PARTS)
    grid, maps, width = {"grid": (1, 1)}, (single, single, single), halves.width(1, 3)
    topk.tile_max_half.warmup(half, half, single, single, 1, 1, 1, W=search.TILE, **search.matrix_shape(16), **grid)
    topk.tile_max_float.warmup(single, single, single, single, 1, 512, 1, 1, D=1, BM=128, BN=32, W=512, **grid)
    topk.threshold.warmup(*maps, single, i32, 0.1, 1, 1, 8, TERMS=1, KK=1, BR=32, BT=8, **grid)
    topk.list_pairs.warmup(*maps, single, i64, i32, i32, 0.1, 0, 1, 0, 1, 1, 8, TERMS=1, BR=32, BT=8, **grid)
    for features in (1, search.FEATURES):
        points = (single, single, single, i64, i32, i32, single, i32, 1, 1, 512, 1)
        topk.rescore.warmup(*points, KK=1, BR=16, W=128, BD=features, **grid)
    topk.merge.warmup(i64, single, i32, single, i64, 0, 0, 1, 1, KK=1, BR=128, BE=4, **grid)
    points = (half, half, single, single)
    soft.log_sum_exp.warmup(*points, single, 1, 1, 1, **soft.sum_shape(width), **grid)
    soft.weighted_sum.warmup(*points, single, single, 1, 1, 1, 1, **soft.average_shape(width, 1), **grid)


PARTS = ("_triton_search", "_triton_topk", "_triton_soft", "_halves")


def read(compiled: Any, columns: int) -> dict[str, Any]:
    """What the assembler reports, and what the hottest loop holds."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        report, code = (run(tool, file.name) for tool in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c")))
    usage = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    shared, warps = compiled.metadata.shared, compiled.metadata.num_warps
    room = min(REGISTERS // (-(-usage["REG"] // 8) * 8 * 32 * warps), SHARED // max(shared + 1024, 1), BLOCKS)
    return {
        "registers": usage["REG"],
        "spilled_bytes": usage["STACK"] + usage["LOCAL"],
        "shared_bytes": shared,
        "blocks_per_multiprocessor": room,
        **per_score(code, columns),
    }


def run(tool: tuple[str, ...], file: str) -> str:
    return subprocess.run([TOOLS / tool[0], *tool[1:], file], capture_output=True, text=True, check=True).stdout


def per_score(code: str, columns: int) -> dict[str, Any]:
    """Instructions a score in the smallest loop that computes whole scores; nothing where there is none.

    A warpgroup of 128 threads issues HGMMA.64xNx16 for 64 N 16 / columns scores; else a thread issues `columns` FFMA for one.
    """
    for body in loops(code):
        text = "\n".join(body)
        products = sum(math.prod(map(int, shape)) for shape in re.findall(r"HGMMA\.(\d+)x(\d+)x(\d+)", text)) / 128
        scores = (products or text.count("FFMA")) / columns if columns else 0
        if not scores or ("HGMMA" in code and "FMNMX" not in text):  # the inner loop of a sum in parts
            continue
        count = {name: text.count(name) for name in ("FMNMX", "MUFU.EX2", "FFMA", "FADD", "MOV", "LDS", "LDG")}
        return {
            "instructions_per_score": round(len(body) / scores, 2),
            "of_these": {name: round(value / scores, 2) for name, value in count.items() if value},
        }
    return {}


def loops(code: str) -> Iterator[list[str]]:
    """The instructions between every label and a branch back to it, shortest first."""
    lines = [line for line in code.splitlines() if re.match(r"\.L_x_\d+:", line) or ("/*" in line and ";" in line)]
    labels = {line.split(":")[0]: at for at, line in enumerate(lines) if line.startswith(".L_x_")}
    spans = []
    for at, line in enumerate(lines):
        target = re.search(r"BRA.*\(?(\.L_x_\d+)", line)
        if target and labels.get(target.group(1), at) < at:
            spans.append((labels[target.group(1)], at))
    for start, end in sorted(spans, key=lambda span: span[1] - span[0]):
        yield [line for line in lines[start : end + 1] if ";" in line]


if __name__ == "__main__":
    main()
