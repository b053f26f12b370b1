"""The Triton kernels compile for a GPU that need not be there, without spilling registers, in the instructions counted."""

import json
import os
import subprocess
import sys

import pytest


def compile_in_a_process(code):
    """The compiler is told of a device of its own, which must not leak into other tests."""
    pytest.importorskip("triton")
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def test_no_spills_and_few_instructions():
    rows = json.loads(
        compile_in_a_process("import json; from benchmarks import gpu_code; print(json.dumps(list(gpu_code.measure())))")
    )
    named = {
        "lower",
        "pack_points",
        "tile_heights",
        "edge",
        "scale_heights",
        "tile_maxima",
        "threshold",
        "list_pairs",
        "rescore",
    }
    assert {row["kernel"] for row in rows} == named | {"merge", "log_sum_exp", "weighted_sum"}
    for row in rows:
        assert row["spilled_bytes"] == 0, row
        assert row["blocks_per_multiprocessor"] >= 1, row
    cost = {(row["kernel"], row.get("d")): row.get("instructions_per_score") for row in rows}
    assert cost["tile_maxima", 3] < 2.5
    assert cost["tile_maxima", 64] < 2.8
    assert cost["tile_maxima", 128] < 3.0
    assert cost["log_sum_exp", 8] < 7.5


def test_the_smallest_problem_compiles():
    compile_in_a_process("from benchmarks import gpu_code; gpu_code.smallest()")
