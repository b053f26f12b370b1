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
half, single, double, i32, i64 = torch.float16, torch.float32, torch.float64, torch.int32, torch.int64


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
    search, topk, soft, pack, halves = (import_module(f"sdot.kernels.{name}") for name in PARTS)
    tiles = 8 * -(-M // (8 * search.tile_size()))
    one, four = {"grid": (1,), "num_warps": 1}, {"grid": (1,), "num_warps": 4}
    for d in (3, 5, 8, 15, 16, 32, 64, 128, 256, 512):
        form = search.form(d, "hhl")
        columns = halves.width(d, len(form))
        shape = search.matrix_shape(columns)
        code = topk.tile_maxima.warmup(half, single, half, single, single, single, 0.1, N, tiles, tiles, grid=(1, 1), **shape)
        yield "tile_maxima", columns, {"d": d, **shape}, code
        shape = {"D": triton.next_power_of_2(d), "FORM": pack.FORMS[form]}
        shape["BR"] = max(1, pack.BLOCK // shape["D"])
        code = pack.pack_points.warmup(single, i32, half, single, N, N, d, K=columns, **shape, **four)
        yield "pack_points", 0, {"d": d, **shape}, code
    tile = {"W": search.tile_size(), **four}
    yield "lower", 0, {}, pack.lower.warmup(single, i32, N, TOP=14, B=pack.BLOCK, **four)
    yield "tile_heights", 0, {}, topk.tile_heights.warmup(single, i32, single, single, M, **tile)
    yield "scale_heights", 0, {}, topk.scale_heights.warmup(single, single, i32, i32, i32, single, single, **tile)
    block = {"TERMS": 2, "SLOTS": search.SLOTS, "BR": 32, "BT": search.GROUP, **one}
    for k in search.WIDTHS:
        edges = (single, single, i32, i32, single, single, i32, tiles, tiles)
        yield "edge", 0, {"k": k}, topk.edge.warmup(*edges, KK=k, B=1024, **four)
        maps = (single, single, single, single, single, i32, i32)
        yield "threshold", 0, {"k": k}, topk.threshold.warmup(*maps, 0.1, N, tiles, tiles, KK=k, **block)
        for d, kind in ((64, single), (3, single), (3, double), (64, double)):
            points = (kind, kind, kind, i64, i32, i32, kind, i32, N, M, search.tile_size() * tiles, d)
            shape = {
                "BR": search.RESCORED,
                "W": search.tile_size(),
                "BD": search.features(torch.empty(0, d, dtype=kind, device="meta")),
            }
            code = topk.rescore.warmup(*points, KK=k, **shape, **four)
            yield "rescore", 0, {"k": k, "d": d, "bits": 8 * kind.itemsize, **shape}, code
        code = topk.merge.warmup(single, i64, single, i32, single, i64, 0, 0, N, M, k, KK=k, BR=128, BE=4, **four)
        yield "merge", 0, {"k": k}, code
    lists = (single, single, single, single, i64, i32, i32, i32, 0.1, 0, N, 0, N, tiles, tiles)
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
    search, topk, soft, pack, halves = (import_module(f"sdot.kernels.{name}") for name in PARTS)
    grid, width = {"grid": (1, 1)}, halves.width(1, 3)
    for kind in (single, double):
        pack.lower.warmup(kind, i32, 1, TOP=14, B=pack.BLOCK, **grid)
        pack.pack_points.warmup(kind, i32, half, single, 1, 1, 1, K=16, D=2, FORM=1, BR=1024, **grid)
        topk.tile_heights.warmup(kind, i32, single, single, 1, W=256, **grid)
        for features in (1, search.FEATURES)[: 1 if kind == double else 2]:
            points = (kind, kind, kind, i64, i32, i32, kind, i32, 1, 1, 256, 1)
            topk.rescore.warmup(*points, KK=1, BR=16, W=256, BD=features, **grid)
        topk.merge.warmup(single, i64, kind, i32, kind, i64, 0, 0, 1, 1, 1, KK=1, BR=128, BE=4, **grid)
    topk.edge.warmup(single, single, i32, i32, single, single, i32, 1, 8, KK=1, B=1024, **grid)
    topk.scale_heights.warmup(single, single, i32, i32, i32, single, single, W=256, **grid)
    topk.tile_maxima.warmup(half, single, half, single, single, single, 0.1, 1, 1, 1, **search.matrix_shape(16), **grid)
    slots = {"TERMS": 3, "SLOTS": search.SLOTS, "BR": 32, "BT": 8}
    topk.threshold.warmup(single, single, single, single, single, i32, i32, 0.1, 1, 1, 8, KK=1, **slots, **grid)
    topk.list_pairs.warmup(single, single, single, single, i64, i32, i32, i32, 0.1, 0, 1, 0, 1, 1, 8, **slots, **grid)
    points = (half, half, single, single)
    soft.log_sum_exp.warmup(*points, single, 1, 1, 1, **soft.sum_shape(width), **grid)
    soft.weighted_sum.warmup(*points, single, single, 1, 1, 1, 1, **soft.average_shape(width, 1), **grid)


PARTS = ("_triton_search", "_triton_topk", "_triton_soft", "_triton_pack", "_halves")


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
        if not scores or ("HGMMA" in code and "MNMX" not in text):  # the inner loop of a sum in parts
            continue
        count = {name: text.count(name) for name in ("VIMNMX3", "FMNMX", "MUFU.EX2", "FFMA", "FADD", "MOV", "LDS", "LDG")}
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
