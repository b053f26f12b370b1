"""The compiled backend on machines that lack something, each in a process of its own, and the choice between backends."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sdot
from sdot import kernels
from sdot.kernels import _build, choice, fused

AUTO = """
import sys, warnings, torch, sdot
sys.stdout.reconfigure(line_buffering=True)
x = torch.randn(40, 3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        index = sdot.kernels.topk(x, x, torch.zeros(40))[1]
        mass = sdot.kernels.soft_mass(x, x, torch.zeros(40), 1.0)
right = torch.equal(index, sdot.kernels.topk(x, x, torch.zeros(40), backend="reference")[1])
print(right, *[w.message for w in caught], sep="|")
"""


def start(code, tmp_path, **env):
    env = {**os.environ, "SDOT_CACHE": str(tmp_path / "cache"), **env}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def finish(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert err == ""  # no compiler's word reaches the user
    return out.strip()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of another processor")
@pytest.mark.parametrize(
    "source", sorted(Path(sdot.__file__).parent.rglob("*.c")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_variant_is_c(source):
    """One that does not compile would go unseen: a plainer and slower one takes its place."""
    variants = ["-msse2", "-mavx2 -mfma", "-mavx512f", "-mavx512f -mavx512vnni", "-mavx512f -mavx512vnni -mamx-tile -mamx-bf16"]
    for flags in variants:
        for double in (0, 1):
            command = [*_build.compiler(), *_build.FLAGS, *flags.split(), f"-DDOUBLE={double}", "-fsyntax-only", str(source)]
            run = subprocess.run(command, capture_output=True, text=True)
            assert run.returncode == 0, (flags, run.stderr)


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("/nonexistent", "needs a C compiler, but CC is '/nonexistent', which is no program"),
        ("false", "cannot be compiled by .*false: it wrote nothing"),
        ("broken", "cannot be compiled by .*broken: fused.c:1: error: no such thing"),
    ],
)
def test_without_a_working_compiler_another_backend_is_used_and_said_once(tmp_path, compiler, reason):
    if compiler == "broken":
        script = tmp_path / "broken"
        script.write_text("#!/bin/sh\necho 'fused.c:1: error: no such thing' >&2\nexit 1\n")
        script.chmod(0o755)
        compiler = str(script)
    right, *said = finish(start(AUTO, tmp_path, CC=compiler)).split("|")
    assert right == "True"
    assert len(said) == 1
    assert re.search(f"falls back to another backend: backend 'fused' {reason}", said[0]), said


def test_no_compiler_at_all(tmp_path):
    (tmp_path / "empty").mkdir()
    right, said = finish(start(AUTO, tmp_path, PATH=str(tmp_path / "empty"), CC="")).split("|")
    assert right == "True"
    assert "there is no cc, gcc or clang" in said


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert finish(start(AUTO, tmp_path)) == "True"


def test_processes_may_race_to_an_empty_cache(tmp_path):
    assert [finish(p) for p in [start(AUTO, tmp_path) for _ in range(2)]] == ["True"] * 2
    files = sorted(p.name for p in (tmp_path / "cache").iterdir())
    assert len(files) == 1  # the library, and nothing half written
    assert finish(start(AUTO, tmp_path)) == "True"  # from the cache


def test_backends_says_what_runs_here():
    state = sdot.backends()
    assert list(state) == list(kernels.BACKENDS)
    assert state["reference"] == state["blocked"] == state["fused"] == state["tree"] == "available"


def test_backends_says_why_not(monkeypatch):
    monkeypatch.setattr(fused, "_reasons", {torch.float32: fused.Unavailable("no compiler here")})
    assert sdot.backends()["fused"] == "no compiler here"


def test_the_table_is_read_upwards():
    table = {"cpu": {"d": [2, 8], "m": [10, 100], "topk": [["a", "b"], ["c d", ""]], "soft_mass": [["e", "e"], ["e", "e"]]}}
    assert choice.fastest(table, "cpu", "topk", 1, 1) == ["a"]
    assert choice.fastest(table, "cpu", "topk", 2, 11) == ["b"]
    assert choice.fastest(table, "cpu", "topk", 3, 10) == ["c", "d"]
    assert choice.fastest(table, "cpu", "topk", 99, 10**9) == []
    assert choice.fastest(table, "cpu", "soft_average", 2, 10) == ["e"]
    assert choice.fastest(table, "xpu", "topk", 2, 10) == []


def test_the_shipped_table_names_backends_that_exist():
    for kind, measured in choice.table().items():
        for name in ("topk", "soft_mass"):
            assert len(measured[name]) == len(measured["d"]), kind
            for row in measured[name]:
                assert len(row) == len(measured["m"])
                assert {b for names in row for b in names.split()} <= {*kernels.BACKENDS, "triton"}


def test_the_shipped_table_is_what_was_measured_on_a_gpu():
    kernels = pytest.importorskip("benchmarks.kernels")
    assert choice.table()["cuda"] == kernels.gpu_table(kernels.record.RESULTS / "gpu")


@pytest.mark.usefixtures("unchecked")
def test_triton_is_for_calls_that_pay_for_its_launches():
    class Points:
        shape, device = (choice.WORTH // 1024, 64), torch.device("cuda")

    class Fewer(Points):
        shape = (choice.WORTH // 1024 - 1, 64)

    y = torch.empty(1024, 64)
    assert choice.order("topk", Points(), y, 2) == ["triton", "blocked"]
    assert choice.order("topk", Fewer(), y, 2) == ["blocked"]


def test_environment_and_argument_override_the_table(monkeypatch):
    x, h = torch.randn(30, 3), torch.zeros(30)
    called = []
    for name in ("blocked", "fused"):
        real = kernels.BACKENDS[name].topk
        monkeypatch.setattr(kernels.BACKENDS[name], "topk", lambda *a, name=name, real=real: called.append(name) or real(*a))
    kernels.topk(x, x, h)
    monkeypatch.setenv("SDOT_BACKEND", "blocked")
    kernels.topk(x, x, h)
    kernels.topk(x, x, h, backend="fused")
    monkeypatch.setenv("SDOT_BACKEND", "tree")
    kernels.soft_mass(x, x, h, 1.0)  # the tree has none: no reason to stop
    assert called == ["fused", "blocked", "fused"]
    monkeypatch.setenv("SDOT_BACKEND", "abacus")
    with pytest.raises(ValueError, match="'abacus' came"):
        kernels.topk(x, x, h)


def test_what_fused_does_not_suit_goes_elsewhere_in_silence():
    x, y = torch.randn(9, 80), torch.randn(10_000, 80)
    assert choice.order("topk", x, y, 1) == ["blocked"]  # few samples, many coordinates
    assert choice.order("topk", y[:10], y, 1) == ["fused", "blocked"]
    assert choice.order("topk", y, y, fused.MAX_K + 1) == ["blocked"]
    assert choice.order("topk", y, y, 2) == ["fused", "blocked"]
    with pytest.raises(RuntimeError, match="at most 32 targets a sample, but k = 40"):
        kernels.topk(y, y, y[:, 0], 40, backend="fused")
    with pytest.raises(RuntimeError, match="backend 'tree' has no soft_mass"):
        kernels.soft_mass(y, y, y[:, 0], 1.0, backend="tree")
