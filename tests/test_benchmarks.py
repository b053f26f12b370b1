"""The measuring instruments run at toy size, so that they do not rot between two long measurements."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import sdot
from benchmarks import (
    command,
    complex,
    data,
    efficiency,
    extension,
    extension_speed,
    fidelity,
    hard,
    peer_discrete,
    pictures,
    problems,
    race,
    record,
    report,
    scaling,
    stopping,
    suite,
    test_kernels,
)
from benchmarks.fidelity import Reference
from benchmarks.judge import first_to_meet, judge
from benchmarks.manifolds import Codes
from benchmarks.methods import Outcome, Peer, filling, iterated, moments

TOY = "latent-8-60"
DRAWN = [name for name in problems.PROBLEMS if name not in ("digits", "mnist")]  # codes have to be trained first


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", DRAWN)
def test_problems_are_fresh_for_every_seed(name):
    try:
        p, again, other = (problems.make(f"{name}-100", seed) for seed in (0, 0, 1))
    except data.Missing:
        pytest.skip("needs the folder of the real data")
    assert p.name == f"{name}-100"
    assert p.source.dim == p.target.dim
    assert torch.equal(p.target.points, again.target.points)
    assert torch.equal(p.target.weights, again.target.weights)
    same = torch.equal(p.target.points, other.target.points) and torch.equal(p.target.weights, other.target.weights)
    assert not same or name == "photo"  # whose window may be the same one


def test_what_is_no_problem_is_said(monkeypatch):
    with pytest.raises(ValueError, match=r"'latent-17' is not a problem"):
        problems.make("latent-17")
    monkeypatch.delenv("SDOT_DATA", raising=False)
    with pytest.raises(data.Missing, match="SDOT_DATA"):
        problems.make("bunny-100")


def test_efficiency(results, capsys):
    rows = efficiency.measure(TOY, "newton", seeds=1, most=60)
    row = rows[-1]
    assert row["mark"] == 60  # a first step that is long may pass several marks at once
    assert row["samples"] >= 60 * 60
    assert row["eta"] == pytest.approx(59 / (row["samples"] * row["chi2"]))
    assert row["chi2_error"] <= max(0.05 * 59 / row["samples"], 0.03 * row["chi2"])
    capsys.readouterr()
    assert efficiency.measure(TOY, "newton", seeds=1, most=60) == rows  # found, not measured again
    assert "n/m  " not in capsys.readouterr().out
    saved = json.loads((results / f"efficiency-newton-{TOY}.json").read_text())
    assert saved["summary"][-1]["seeds"] == 1


def test_rows_of_another_library_are_left_behind(monkeypatch):
    record.Table("table", tol=1).add({"a": 1})
    assert record.Table("table", tol=1).find(a=1)
    assert not record.Table("table", tol=2).rows
    monkeypatch.setattr(record, "code_digest", lambda: "another")
    assert not record.Table("table", tol=1).rows


def test_stopping():
    (row,) = stopping.measure(TOY, tol=0.1, seeds=1)
    assert row["met"]
    assert row["excess"] >= 1


def test_hard():
    first, *_ = hard.measure(2)
    assert not first["failed"]
    assert not first["false"]
    assert first["chi2"] <= hard.TOL + 3 * first["chi2_error"]
    (again, _), (other, _) = hard.problem(0), hard.problem(1)
    assert torch.equal(again.target.points, hard.problem(0)[0].target.points)
    assert again.target.points.shape != other.target.points.shape


def test_scaling():
    (row,) = scaling.measure("scaling", [TOY], tol=0.2, max_seconds=10)
    assert row["kernels"] + row["drawing"] + row["rest"] == pytest.approx(1, abs=1e-3)
    assert row["kernels"] > 0
    assert row["drawing"] > 0


def test_the_judge_combines_certificates():
    problem = problems.make(TOY)
    zero = torch.zeros(60, dtype=torch.float64)
    loose, tight = judge(problem, zero, 1.0, relative=0.2), judge(problem, zero, 1e-3, relative=0.02)
    assert tight.samples > loose.samples
    assert tight.error <= max(1e-3, 0.02 * tight.chi2)
    assert abs(tight.chi2 - loose.chi2) < 4 * (tight.error + loose.error)


def test_the_first_to_meet_is_the_first():
    problem, trace = problems.make(TOY), []
    for now in moments(problem, sdot.Newton(), 0):
        trace.append(now)
        if now.own < 0.02:
            break
    found = first_to_meet(problem, trace, 0.1)
    assert found is not None
    moment, verdict = found
    assert verdict.chi2 <= 0.1
    before = max(now.samples for now in trace if now.samples < moment.samples)
    previous = next(now for now in trace if now.samples == before)
    assert judge(problem, previous.heights, 0.1 / 20).chi2 > 0.1
    assert first_to_meet(problem, trace, 1e-9) is None


def test_budgets_are_filled():
    assert filling(1.0, lambda steps: 1e-3 * steps, scores=10**9) == 1000


def test_race_against_pot():
    pytest.importorskip("ot.semidiscrete")
    from benchmarks import peer_pot

    problem = problems.make(TOY)
    rules = race.Rules(target=0.2, ratio=4, default_ratio=4, max_seconds=0.2)
    table = race.race(problem, rules, {"POT": ([peer_pot.pot()], peer_pot.grid()[4:6])})
    roles = [row["role"] for row in table.rows]
    assert roles.count("search") == 4
    assert {"sdot", "sdot again", "defaults"} <= set(roles)
    assert all(row["cpu"] > 0 and row["chi2_error"] > 0 for row in table.rows)
    measured = len(table.rows)
    assert len(race.race(problem, rules, {"POT": ([peer_pot.pot()], peer_pot.grid()[4:6])}).rows) == measured


ROW = {
    "entry",
    "budget",
    "method",
    "settings",
    "problem",
    "m",
    "d",
    "seed",
    "cpu",
    "wall",
    "samples",
    "chi2",
    "eta",
    "memory_mb",
}


def test_the_suite(tmp_path):
    """`make bench` at toy size, from the command line to the tables and the picture."""
    name, folder = "latent-8-200", tmp_path / "bench"
    folder.mkdir()
    words = [sys.executable, "-m", "pytest", "benchmarks/test_solvers.py", "-q", "-p", "no:cacheprovider", "--settings", "2",
             "--problems", name, "--budgets", "0.01", "0.3", "--results", str(folder)]  # fmt: skip
    alone = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_XDIST")}  # not in a crowd
    done = subprocess.run(words, cwd=report.ROOT, capture_output=True, text=True, env=alone | command.environment(1))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    found = json.loads((folder / f"solvers-{name}.json").read_text())
    assert {"command", "packages", "device", "threads"} <= found.keys()
    assert found["command"].startswith("python -m pytest benchmarks/test_solvers.py")
    labels = [entry.label for entry in suite.ENTRIES if entry.installed]
    assert {row["entry"] for row in found["rows"]} == set(labels)
    assert all(row.keys() >= ROW for row in found["rows"])
    assert all(
        row["eta"] == pytest.approx(199 / (row["samples"] * max(row["chi2"], row["chi2_error"]))) for row in found["rows"]
    )
    short, long = (next(r for r in found["rows"] if r["entry"] == "sdot Newton" and r["budget"] == b) for b in (0.01, 0.3))
    assert long["chi2"] < short["chi2"]
    assert long["samples"] > short["samples"]
    asked = {(row["entry"], row["wanted"]) for row in found["summary"]}
    assert asked == {(label, wanted) for label in labels for wanted in suite.QUICK.wanted}
    assert all(row["met"] == (row["chi2"] <= row["wanted"]) for row in found["summary"])


def test_tables_and_picture_of_the_suite(tmp_path, monkeypatch):
    problem, own = problems.make(TOY), [entry for entry in suite.ENTRIES if entry.label.startswith("sdot")]
    plan = suite.Plan((TOY,), (0.01, 0.02), (None, 1))
    table = record.Table(f"solvers-{TOY}")
    for rung, entry in itertools.product(range(2), own):
        assert len(suite.contest(table, problem, entry, plan, rung)) == 1
    for entry in own:
        suite.close_in(table, problem, entry, plan, 0.05)
    table.save(summary=suite.answers(table.rows))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "DRAWN", (TOY, TOY))
    assert report.solvers(TOY).count("\n") == report.solvers_short().count("\n") == 2 + len(own)
    pictures.error_against_time(tmp_path / "a.png", *(report.contest(TOY),) * 2)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_only_the_best_settings_go_on():
    table, (entry,) = record.Table("ladder"), [entry for entry in suite.ENTRIES if entry.label == "POT Sinkhorn"]
    plan = suite.Plan(("plane-1000",), budgets=(0.1, 0.4, 1.6), kept=(None, None, 2))
    methods = plan.methods(entry)
    for k, method in enumerate(methods):
        table.add(
            {"entry": entry.label, "settings": method.settings, "budget": 0.4, "cpu": 0.4, "chi2": None if k == 1 else 9.0 - k}
        )
    going_on = suite.survivors(table, entry, plan, 2)
    assert [m.settings for m in going_on] == [m.settings for m in methods[:-3:-1]]
    assert len(suite.survivors(table, entry, plan, 1)) == len(methods)
    best = suite.answer(table.rows, entry.label, 0.05)
    assert best is not None
    assert not best["met"]
    assert best["settings"] == methods[-1].settings


DISCRETE = [peer_discrete.emd(), peer_discrete.sinkhorn(0.1, 30, "sinkhorn_log"), peer_discrete.sinkhorn(0.3, 30, "sinkhorn"),
            peer_discrete.stochastic(0.3, 0.3, 3), peer_discrete.geomloss(0.1, 0.5)]  # fmt: skip


@pytest.mark.parametrize("name", ["plane-60", "weighted-16-60"])
@pytest.mark.parametrize("method", DISCRETE, ids=lambda method: f"{method.name}, {method.settings}")
def test_discrete_peers_solve_the_same_problem(method, name, monkeypatch):
    pytest.importorskip("geomloss" if method.name == "GeomLoss" else "ot")
    problem = problems.make(name)
    outcome = method.run(problem, 0.05, 0)  # its potential is checked against its assignment inside
    nothing = torch.zeros_like(outcome.heights)
    assert judge(problem, outcome.heights, 0.1).chi2 < 0.5 * judge(problem, nothing, 0.1).chi2
    right = Peer.heights
    monkeypatch.setattr(Peer, "heights", lambda peer, potential: right(peer, -potential))
    with pytest.raises(AssertionError, match="disagrees"):
        method.run(problem, 0.01, 0)


def test_speeds_of_kernels(monkeypatch):
    everyone = test_kernels.contenders
    monkeypatch.setattr(
        test_kernels, "contenders", lambda *a: {k: f for k, f in everyone(*a).items() if k != "KeOps"}
    )  # compiles
    rows = test_kernels.speeds(2, 100, 1, scores=1e4)
    assert [row["method"] for row in rows][:2] == ["sdot", "sdot, blocked"]
    assert all(
        row["share"] == pytest.approx(4e-9 * row["samples_per_s"] * 100 / row["product_gflop_s"], rel=0.01) for row in rows
    )


@pytest.mark.parametrize("name", ["plane-60", "weighted-16-60"])
def test_ott_solves_the_same_problem(name):
    pytest.importorskip("ott")
    from benchmarks import peer_ott

    problem = problems.make(name)
    method = peer_ott.averaged_grid()[2]
    outcome = method.run(problem, 0.02, 0)  # its potential is checked against its assignment inside
    assert isinstance(outcome, Outcome)
    assert judge(problem, outcome.heights, 0.1).chi2 < judge(problem, torch.zeros_like(outcome.heights), 0.1).chi2


def test_a_wrong_conversion_is_caught():
    problem = problems.make(TOY)
    peer = Peer.of(problem)
    g = torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = problem.source.sample(200, like=peer.points, generator=torch.Generator().manual_seed(1))
    own = (torch.cdist(x.double(), peer.points.double()).square() - g).argmin(1)
    heights = peer.heights(g)
    peer.check(heights, x, own)
    with pytest.raises(AssertionError, match="disagrees"):
        peer.check(heights + g, x, own)


def test_settings_are_told_by_what_differs():
    assert iterated("a", sdot.Adam()).settings == "defaults"
    assert iterated("a", dataclasses.replace(sdot.Adam(), lr=0.1)).settings == "lr = 0.1"


def test_documents_say_what_the_results_say():
    """`python -m benchmarks.report` would change nothing."""
    for path in report.documents():
        assert report.filled(path.read_text()) == path.read_text(), f"{path.name} is out of date"
    found = "".join(path.read_text() for path in report.documents())
    assert all(f"<!-- table: {name} -->" in found for name in report.TABLES)


def test_complex(results):
    rows = complex.measure([200], repeat=1)
    assert len(rows) == 4 * len(complex.CLOUDS)
    assert all(row["passes"] == pytest.approx(row["seconds"] / row["assignment"], rel=0.2) for row in rows)
    assert all(len(row["simplices"]) == (3 if row["what"].startswith("triangles") else 2) for row in rows)
    assert (results / "complex.json").exists()


def test_measures_of_generated_codes():
    """Against their definitions, written out with all distances."""
    g = torch.Generator().manual_seed(0)
    train, held, fresh, codes = (torch.randn(n, 3, generator=g) + 5 for n in (400, 150, 150, 150))
    reference = Reference(train, held, fresh)
    found = reference.judge(codes)
    own, own_held, across = (torch.cdist(a, b) for a, b in ((codes, codes), (held, held), (codes, held)))
    radius, reach = (d.sort(1).values[:, fidelity.K] for d in (own_held, own))
    assert found["precision"] == pytest.approx(float((across <= radius).any(1).double().mean()))
    assert found["recall"] == pytest.approx(float((across <= reach[:, None]).any(0).double().mean()))
    assert found["density"] == pytest.approx(float((across <= radius).double().sum() / fidelity.K / 150))
    assert found["coverage"] == pytest.approx(float((across.amin(0) <= radius).double().mean()))
    assert found["new"] == pytest.approx(float(torch.cdist(codes, train).amin(1).median()) / reference.far, rel=1e-4)
    for d in (own, own_held):
        d.fill_diagonal_(torch.inf)
    same = torch.cat([own.amin(1) < across.amin(1), own_held.amin(1) < across.amin(0)])
    assert found["two_sample"] == pytest.approx(float(same.double().mean()))
    assert reference.judge(fresh)["new"] == 1
    assert reference.judge(train[:150])["new"] == 0
    assert reference.judge(held)["sliced"] == 0


def test_extension_study(monkeypatch, capsys):
    g = torch.Generator().manual_seed(0)
    y, labels = torch.randn(200, 4, generator=g), torch.randint(10, (200,), generator=g)
    reference = Reference(y, *torch.randn(2, 100, 4, generator=g))
    monkeypatch.setattr(extension, "SETS", {"toy-4": lambda: Codes("toy-4", reference, lambda z: 0.0, labels)})
    rows = extension.measure("toy-4", seeds=1)
    assert {row["method"] for row in rows} == {*report.OTHERS, *report.RULES}
    affine, still = (extension.measure("toy-4", seeds=1)[i] for i in (0, [r["method"] for r in rows].index("T")))
    assert affine["new"] > still["new"] == 0
    assert len(rows) == len(extension.measure("toy-4", seeds=1))  # found, not measured again
    monkeypatch.setattr(report, "RESULTS", record.RESULTS)
    monkeypatch.setattr(report, "STUDIES", ("toy-4",))
    table, affine = report.extension(), report.extension_affine()
    assert table.count("| **`affine`** |") == 1
    assert table.count("\n") == 2 + len(report.OTHERS) + len(report.RULES)
    assert affine.count("\n") == 2 + 5 + 6
    assert " |  |" not in (table + affine).split("\n", 1)[1]  # every method and setting has been measured


def test_extension_speed():
    rows = extension_speed.measure(m=200, d=9, n=100, turns=1)
    assert [row["way"] for row in rows] == ["T", "top 8", *extension_speed.RULES]
    assert rows[0]["ratio"] == 1
