"""The command line, end to end."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdot.cli import main

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


@pytest.fixture
def codes(tmp_path):
    path = tmp_path / "codes.npy"
    np.save(path, np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32))
    return path


def test_solve_info_sample(codes, tmp_path):
    """As a user types it, in processes of their own."""

    def sdot(*arguments):
        command = [sys.executable, "-m", "sdot", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    run = sdot("solve", codes, "-o", "map.safetensors", "--tol", "0.05")
    assert run.returncode == 0, run.stderr
    assert "chi2 0.0" in run.stdout
    assert "wrote map.safetensors" in run.stdout
    assert "-> 0.05" in run.stderr  # the bar

    run = sdot("info", "map.safetensors")
    assert "BrenierMap: 300 points in R^5, float32" in run.stdout
    assert "source: Gaussian(dim=5), standard" in run.stdout
    assert "certificate: chi2" in run.stdout

    run = sdot("sample", "map.safetensors", "-n", 1000, "-o", "samples.npy")
    assert run.stdout == "wrote samples.npy: (1000, 5) float32\n"
    samples, points = np.load(tmp_path / "samples.npy"), np.load(codes)
    assert {tuple(s) for s in samples} <= {tuple(p) for p in points}
    assert len({tuple(s) for s in samples}) > 200  # 1000 draws of 300 points leave 290 on average


def test_options(codes, tmp_path, capsys):
    np.save(tmp_path / "w.npy", np.linspace(1, 3, 300) / 600)
    out = tmp_path / "map"
    solve = ["solve", codes, "-o", out, "--weights", tmp_path / "w.npy", "--source", "cube", "--tol", "0.1", "--quiet"]
    assert main([str(a) for a in [*solve, "--checkpoint", tmp_path / "ck", "--seed", "3"]]) == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "ck").exists()
    results = {}
    for name, option in {"points": [], "soft": ["--eps", "0.5"], "cells": ["--cells"], "ball": ["--source", "ball"]}.items():
        assert main(["sample", str(out), "-n", "50", "-o", str(tmp_path / f"{name}.npy"), *option]) == 0
        results[name] = np.load(tmp_path / f"{name}.npy")
    points = np.load(codes)
    np.testing.assert_array_equal(points[results["cells"]], results["points"])  # the same seed, the same samples
    assert results["cells"].dtype == np.int64
    assert results["soft"].shape == (50, 5)
    assert not np.array_equal(results["soft"], results["points"])
    assert not np.array_equal(results["ball"], results["points"])


def test_half_precision_codes_are_widened(tmp_path):
    np.save(tmp_path / "half.npy", np.random.default_rng(0).normal(size=(50, 3)).astype(np.float16))
    assert main(["solve", str(tmp_path / "half.npy"), "-o", str(tmp_path / "map"), "--tol", "0.1", "--quiet"]) == 0


def test_estimate_before_a_solve(capsys):
    """Ranges that hold for the two runs of benchmarks/results/solve-*.json, whatever the speed of this machine."""
    assert main(["estimate", "300", "5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("300 targets in R^5 to chi2 = 0.01 with Newton")
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["samples", "scores", "memory", "time"]
    for name in ("latent-64-50000", "million-100000"):
        run = json.loads((RESULTS / f"solve-{name}.json").read_text())["rows"][0]
        assert main(["estimate", str(run["m"]), str(run["d"]), "--tol", str(run["tol"]), "--json"]) == 0
        about = json.loads(capsys.readouterr().out)
        low, high = about["samples"]
        assert low < run["m"] * run["samples_per_target"] < high
        low, high = about["memory_mb"]
        assert low < run["peak_memory_mb"] - run["memory_before_mb"] < 1.1 * high
        assert 0 < about["seconds"][0] < about["seconds"][1]


@pytest.mark.filterwarnings("always")
def test_a_budget_that_ends_first_is_status_1(codes, tmp_path, capsys):
    status = main(["solve", str(codes), "-o", str(tmp_path / "map"), "--tol", "1e-6", "--max-samples", "9000", "--quiet"])
    assert status == 1
    assert "sdot: not converged: chi2 = " in capsys.readouterr().err
    assert (tmp_path / "map").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["solve", "missing.npy", "-o", "map"], "missing.npy cannot be read as a .npy array"),
        (["solve", "{integers}", "-o", "map"], "points must be float32 or float64"),
        (["solve", "{codes}", "-o", "{codes}/map", "--tol", "0.5", "--quiet"], "cannot be written"),
        (["solve", "{codes}", "-o", "map", "--weights", "{codes}"], r"weights must have one entry a point"),
        (["solve", "{codes}", "-o", "map", "--tol", "-1"], "tol must be a positive number"),
        (["estimate", "0", "3"], "m must be a whole number"),
        (["estimate", "10", "3", "--tol", "0"], "tol must be a positive number"),
        (["info", "{codes}"], "cannot be read as a map"),
        (["sample", "{codes}", "-n", "5", "-o", "x.npy"], "cannot be read as a map"),
    ],
)
def test_wrong_input_is_status_2_and_one_line(arguments, message, codes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "integers.npy", np.zeros((3, 2), int))
    assert main([a.format(codes=codes, integers=tmp_path / "integers.npy") for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith(f"sdot {arguments[0]}: ")
    assert err.count("\n") == 1


def test_sample_without_a_known_source(tmp_path, capsys):
    import torch

    import sdot

    sdot.save(sdot.BrenierMap(torch.eye(2), torch.zeros(2)), tmp_path / "map")
    assert main(["sample", str(tmp_path / "map"), "-n", "5", "-o", str(tmp_path / "x.npy")]) == 2
    assert "name one with --source" in capsys.readouterr().err


def test_an_extension_is_told_and_drawn_from(tmp_path, capsys):
    import torch

    import sdot

    y = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    T, source = sdot.BrenierMap(y, -y.double().square().sum(1) / 2), sdot.Gaussian(dim=3)
    cells = sdot.estimate_cells(T, source, precision=0.3, generator=torch.Generator().manual_seed(0))
    sdot.save(sdot.PiecewiseLinearMap(T, cells, sdot.rips_complex(y, 1.5)), tmp_path / "map", source=source)
    assert main(["info", str(tmp_path / "map")]) == 0
    out = capsys.readouterr().out
    assert "PiecewiseLinearMap: 50 points in R^3" in out
    assert "extension: affine, targets up to 1.5 apart are blended, 9" in out
    for name, option in {"new": [], "old": ["--cells"]}.items():
        assert main(["sample", str(tmp_path / "map"), "-n", "40", "-o", str(tmp_path / f"{name}.npy"), *option]) == 0
    new, old = np.load(tmp_path / "new.npy"), y.numpy()[np.load(tmp_path / "old.npy")]
    distance = np.linalg.norm(new - old, axis=1)
    assert np.median(distance) > 0
    assert distance.max() <= 1.5
