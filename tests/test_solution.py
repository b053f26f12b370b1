"""iterate and solve: the loop, the budgets, the warnings, and a run that is killed and goes on."""

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import contract
import pytest
import torch

import sdot

SOLVERS = [sdot.Newton(), sdot.Adam(), sdot.Averaged(), sdot.Averaged(eps=0.0)]


def problem(m=200, d=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return sdot.Gaussian(dim=d), sdot.DiscreteMeasure.uniform(torch.randn(m, d, generator=g) * 2 + 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_solvers_keep_the_contract(solver):
    contract.check_solver(solver)


def test_default_solve_meets_its_tolerance():
    source, target = problem(m=500, d=8)
    solution = sdot.solve(source, target, tol=0.02, generator=seeded())
    assert solution.converged
    assert solution.reason == "tol"
    assert solution.certificate.chi2 <= 0.02
    assert solution.history[-1].step == len(solution.history)
    assert solution.seconds >= solution.history[-1].seconds
    fresh = sdot.certify(solution.map, source, target, generator=seeded(7))
    assert fresh.chi2 <= 0.02 + 4 * fresh.chi2_error


def test_dtype_is_kept():
    source, target = problem()
    solution = sdot.solve(source, target.to(torch.float64), tol=0.1, generator=seeded())
    assert solution.map.points.dtype == torch.float64


@pytest.mark.parametrize("m", [1, 2, 3])
def test_few_targets(m):
    source, target = problem(m=m, d=2)
    solution = sdot.solve(source, target, tol=0.01, generator=seeded())
    assert solution.converged
    assert solution.certificate.empty_cells == 0


def test_indices_are_the_users():
    """Repeated points and points without weight stay in place, and are never hit."""
    y = torch.tensor([[9.0, 9], [0, 0], [1, 0], [0, 0], [0, 1]])
    with pytest.warns(UserWarning, match="repeat|weight 0"):
        target = sdot.DiscreteMeasure(y, torch.tensor([0, 0.2, 0.3, 0.2, 0.3]))
    solution = sdot.solve(sdot.UniformCube(2), target, tol=0.001, generator=seeded())
    x = torch.rand(20_000, 2, generator=seeded(1))
    share = torch.bincount(solution.map.cell(x), minlength=5) / len(x)
    torch.testing.assert_close(share, torch.tensor([0, 0.4, 0.3, 0, 0.3]), atol=0.03, rtol=0)
    assert share[0] == share[3] == 0
    assert torch.isneginf(solution.map.heights[[0, 3]]).all()
    state = next(sdot.iterate(sdot.UniformCube(2), target, generator=seeded()))
    assert state.heights.shape == (5,)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"max_samples": 5000}, "max_samples = 5,000 ended the run"),
        ({"max_seconds": 1e-3}, "max_seconds = 0.001 ended the run"),
    ],
)
def test_a_budget_that_ends_first_warns(budget, message):
    source, target = problem(m=1000)
    with pytest.warns(sdot.ConvergenceWarning, match=message) as caught:
        solution = sdot.solve(source, target, tol=1e-4, **budget, generator=seeded())
    assert not solution.converged
    assert solution.reason == next(iter(budget))
    assert f"chi2 = {solution.certificate.chi2:.3g}" in str(caught[0].message)


@dataclass(frozen=True)
class Exploding:
    def init(self, target, draw):
        return sdot.State(heights=torch.zeros_like(target.weights))

    def step(self, state, target, draw):
        list(draw(10))
        return replace(state, heights=state.heights / (0.0 if state.step == 3 else 1.0), chi2=1.0)


def test_a_solver_that_diverges_keeps_its_last_good_heights():
    source, target = problem()
    with pytest.warns(sdot.ConvergenceWarning, match="not numbers"):
        solution = sdot.solve(source, target, Exploding(), generator=seeded())
    assert solution.reason == "diverged"
    assert torch.isfinite(solution.map.heights).all()
    with pytest.raises(FloatingPointError, match="step 4"):
        list(sdot.iterate(source, target, Exploding()))


@dataclass(frozen=True)
class Optimist:
    """Believes from its first step on that it is there, a little more with each, and is there after two. Draws samples once."""

    factor: float

    def init(self, target, draw):
        return sdot.State(heights=torch.tensor([0.0, 1.0], dtype=torch.float64))

    def step(self, state, target, draw):
        if state.step == 0:
            list(draw(1000))
        heights = state.heights if state.step == 0 else torch.zeros_like(state.heights)
        return replace(state, heights=heights, chi2=0.009 * self.factor**state.step)


def test_better_heights_from_the_same_samples_are_certified_too():
    """An estimate that is no lower asks for more samples first, of which there are none here."""
    target = sdot.DiscreteMeasure.uniform(torch.tensor([[-1.0], [1.0]]))
    solution = sdot.solve(sdot.Gaussian(1), target, Optimist(0.9), tol=0.01)
    assert [r.step for r in solution.history] == [1, 2]
    solution = sdot.solve(sdot.Gaussian(1), target, Optimist(1.0), tol=0.01, max_seconds=0.1)
    assert len(solution.history) > 2


def test_progress_shows_the_error_falling(capsys):
    source, target = problem()
    sdot.solve(source, target, tol=0.05, progress=True, generator=seeded())
    out, err = capsys.readouterr()
    assert out == ""
    assert "-> 0.05" in err
    assert "chi2" in err


def test_nothing_is_printed(capfd):
    source, target = problem()
    sdot.solve(source, target, tol=0.05, generator=seeded())
    assert capfd.readouterr() == ("", "")


# Checkpoints

KILLED = """
import sys, torch, sdot
from safetensors.torch import save_file
torch.set_num_threads(1)
y = torch.randn(1500, 6, generator=torch.Generator().manual_seed(0))
solution = sdot.solve(sdot.Gaussian(dim=6), sdot.DiscreteMeasure.uniform(y), sdot.{solver}, tol=1e-9, max_samples=400_000,
                      checkpoint=sys.argv[1], checkpoint_every=0.0, generator=torch.Generator().manual_seed(5))
save_file({{"heights": solution.map.heights, "steps": torch.tensor([r.samples for r in solution.history])}}, sys.argv[2])
"""


@pytest.mark.parametrize("solver", ["Newton()", "Adam()", "Averaged(batch_size=8192)"])
def test_a_killed_run_ends_with_the_same_bits(solver, tmp_path):
    whole, killed, path = tmp_path / "whole", tmp_path / "killed", tmp_path / "ot.safetensors"

    def start(*files):
        return subprocess.Popen([sys.executable, "-W", "ignore", "-c", KILLED.format(solver=solver), *map(str, files)])

    assert start(tmp_path / "other.safetensors", whole).wait(300) == 0
    for _ in range(2):
        process = start(path, killed)
        before = path.stat().st_mtime_ns if path.exists() else 0
        while not (path.exists() and path.stat().st_mtime_ns > before):
            assert process.poll() is None, "the run ended before it could be killed: make it longer"
            time.sleep(0.001)
        time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not killed.exists()
    assert start(path, killed).wait(300) == 0
    assert killed.read_bytes() == whole.read_bytes()


@pytest.fixture
def written(tmp_path):
    source, target = problem()
    path = tmp_path / "deep" / "ot.safetensors"
    solution = sdot.solve(source, target, tol=0.05, checkpoint=path, generator=seeded())
    return path, source, target, solution


def test_a_finished_run_is_not_run_again(written):
    path, source, target, solution = written
    again = sdot.solve(source, target, tol=0.05, checkpoint=path, generator=seeded(99))
    assert torch.equal(again.map.heights, solution.map.heights)
    assert again.history == solution.history
    assert again.certificate == solution.certificate


def test_a_finished_run_goes_on_to_a_finer_tolerance(written):
    path, source, target, solution = written
    finer = sdot.solve(source, target, tol=0.01, checkpoint=path, generator=seeded())
    assert finer.history[: len(solution.history)] == solution.history
    assert finer.certificate.chi2 <= 0.01
    whole = sdot.solve(source, target, tol=0.01, generator=seeded())
    assert torch.equal(whole.map.heights, finer.map.heights)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s, t: (s, sdot.DiscreteMeasure.uniform(t.points + 1), sdot.Newton()), "points"),
        (
            lambda s, t: (s, sdot.DiscreteMeasure(t.points, torch.linspace(0, 0.01, 201)[1:] / 1.005), sdot.Newton()),
            "weights",
        ),
        (lambda s, t: (sdot.UniformCube(4), t, sdot.Newton()), "source"),
        (lambda s, t: (s, t, sdot.Newton(ridge=0.5)), "solver"),
    ],
)
def test_a_checkpoint_of_other_data_is_refused(written, change, named):
    path, source, target, _ = written
    with pytest.raises(ValueError, match=rf"belongs to another run: its {named} differ.*delete the file or pass another path"):
        sdot.solve(*change(source, target), tol=0.05, checkpoint=path)


def test_a_damaged_checkpoint_is_refused(written):
    path, source, target, _ = written
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        sdot.solve(source, target, checkpoint=path)


@pytest.mark.parametrize("name", [b"refused", b"residual"])
def test_a_checkpoint_of_another_version_is_refused(written, name):
    path, source, target, _ = written
    path.write_bytes(path.read_bytes().replace(name, name[::-1]))
    with pytest.raises(ValueError, match="written by another version of the library: finish with that, or delete it"):
        sdot.solve(source, target, tol=0.05, checkpoint=path, generator=seeded())


def test_a_checkpoint_that_cannot_be_written_is_said(tmp_path):
    source, target = problem()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be written.*choose a folder"):
        sdot.solve(source, target, tol=0.1, checkpoint=tmp_path / "file" / "ot.safetensors", generator=seeded())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": sdot.Gaussian(dim=3)}, r"source.dim = 3, but target.points has shape \(200, 4\)"),
        ({"source": object()}, "a object came, which has no `dim`"),
        ({"solver": "newton"}, "solver must have `init` and `step`"),
        ({"tol": 0.0}, "tol must be a positive number"),
        ({"tol": float("nan")}, "tol must be a positive number"),
        ({"max_samples": -1}, "max_samples must be a whole number"),
        ({"max_seconds": 0.0}, "max_seconds must be a positive number"),
    ],
)
def test_bad_input(arguments, message):
    source, target = problem()
    with pytest.raises(ValueError, match=message):
        sdot.solve(**{"source": source, "target": target, **arguments})
