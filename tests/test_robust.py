"""Hard inputs: every solve ends within seconds, with a right answer or with a warning that tells the truth."""

import math
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import sdot

TOL = 0.02
SECONDS = 20.0  # most of them take well under one


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(m: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(m, d, generator=seeded(seed), dtype=dtype)


def uniform(y: Tensor) -> sdot.DiscreteMeasure:
    return sdot.DiscreteMeasure.uniform(y)


@dataclass(frozen=True)
class Sampler:
    """What a user writes: a law with nothing but `dim` and `sample`."""

    dim: int
    draw: Callable[[int, torch.Generator | None], Tensor]

    def sample(self, n: int, *, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.draw(n, generator).to(like)


def finish(
    source: sdot.Source, target: sdot.DiscreteMeasure, tol: float, seed: int, **budget: int
) -> tuple[sdot.Solution, list[warnings.WarningMessage], sdot.Certificate]:
    """Solve, in time, and judge the map on samples that neither the solver nor its own certificate has seen."""
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solution = sdot.solve(source, target, tol=tol, generator=seeded(seed), **budget)
    assert time.monotonic() - start < SECONDS
    assert torch.isfinite(solution.map.heights[target.support]).all()
    assert torch.equal(solution.map.points, target.points)
    return solution, caught, sdot.certify(solution.map, source, target, precision=tol / 10, generator=seeded(12345))


def assert_solved(source: sdot.Source, target: sdot.DiscreteMeasure, tol: float = TOL, seed: int = 0, **budget: int) -> None:
    """The tolerance is met, without a word, and an independent certificate agrees."""
    solution, caught, fresh = finish(source, target, tol, seed, **budget)
    assert [str(c.message) for c in caught] == []
    assert solution.converged
    assert fresh.chi2 <= tol + 4 * fresh.chi2_error


def assert_honest(
    source: sdot.Source, target: sdot.DiscreteMeasure, tol: float = TOL, seed: int = 0, **budget: int
) -> tuple[sdot.Solution, str]:
    """Solved, or a warning whose chi2 an independent certificate confirms. Returns what the warning says."""
    solution, caught, fresh = finish(source, target, tol, seed, **budget)
    if solution.converged:
        assert caught == []
        assert fresh.chi2 <= tol + 4 * fresh.chi2_error
        return solution, ""
    (warning,) = caught
    assert warning.category is sdot.ConvergenceWarning
    stated = re.match(r"chi2 = (\S+) \+- (\S+) was reached", str(warning.message))
    assert stated is not None
    error = math.hypot(float(stated[2]), fresh.chi2_error)
    assert abs(float(stated[1]) - fresh.chi2) <= 4 * error
    return solution, str(warning.message)


# Targets


def clump(d: int, m: int) -> Tensor:
    """Half of the targets lie within 1e-6 of one of the others."""
    y = normal(m, d, dtype=torch.float64)
    y[m // 2 :] = y[0] + 1e-6 * torch.nn.functional.normalize(y[m // 2 :], dim=1)
    return y


def flat(m: int, d: int, rank: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Targets in a subspace of the given dimension, in general position."""
    return normal(m, rank, dtype=dtype) @ torch.linalg.qr(normal(d, rank, seed=1, dtype=dtype))[0].T


def heavy(m: int, d: int) -> sdot.DiscreteMeasure:
    w = torch.full((m,), 0.001 / (m - 1), dtype=torch.float64)
    w[m // 3] = 0.999
    return sdot.DiscreteMeasure(normal(m, d), w)


def decades(m: int, d: int) -> sdot.DiscreteMeasure:
    """Weights from 1e-8 to 1, evenly spread on a logarithmic scale, then normalised."""
    w = torch.logspace(-8, 0, m, dtype=torch.float64)
    return sdot.DiscreteMeasure(normal(m, d), w / w.sum())


CLUMPED = [(2, torch.float32), (2, torch.float64), (8, torch.float32), (8, torch.float64)]
GAUSSIAN = [2, 8]


@pytest.mark.parametrize(("d", "dtype"), CLUMPED)
@pytest.mark.filterwarnings("ignore:.* target points repeat")
def test_a_clump_ends_with_the_truth(d: int, dtype: torch.dtype):
    assert_honest(sdot.Gaussian(dim=d), uniform(clump(d, 200).to(dtype)), max_samples=40_000)


@pytest.mark.parametrize("d", GAUSSIAN)
def test_a_clump_is_solved(d: int):
    assert_solved(sdot.Gaussian(dim=d), uniform(clump(d, 200)), tol=0.05, max_samples=400_000)


@pytest.mark.parametrize("source", [sdot.Gaussian(dim=8), sdot.UniformCube(8)], ids=["gaussian", "cube"])
def test_targets_on_a_line(source: sdot.Source):
    assert_solved(source, uniform(flat(100, 8, 1)), tol=0.1, max_samples=10_000)


@pytest.mark.parametrize("source", [sdot.Gaussian(dim=2), sdot.UniformCube(2)], ids=["gaussian", "cube"])
def test_targets_on_a_line_of_the_plane(source: sdot.Source):
    assert_solved(source, uniform(flat(100, 2, 1)), tol=0.1, max_samples=10_000)


def scattered(y: Tensor, spread: float) -> sdot.DiscreteMeasure:
    """Weights that differ from neighbour to neighbour, log-normal."""
    return sdot.DiscreteMeasure(y, (spread * normal(len(y), 1, seed=3, dtype=torch.float64)[:, 0]).softmax(0))


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("d", [1, 2, 3, 8])
def test_any_weights_on_a_line(d: int, spread: float):
    """The line's own law is all there is to know: 150 samples a target are plenty."""
    assert_solved(sdot.Gaussian(dim=d), scattered(flat(400, d, 1), spread), tol=0.1, max_samples=60_000)


@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_any_weights_in_the_plane(spread: float):
    assert_solved(sdot.Gaussian(dim=2), scattered(normal(1000, 2), spread), tol=0.1, max_samples=120_000)


@pytest.mark.parametrize("d", [3, 16])
def test_targets_on_a_plane(d: int):
    assert_solved(sdot.Gaussian(dim=d), uniform(flat(500, d, 2)))


@pytest.mark.parametrize(("source", "samples"), [(sdot.Gaussian(2), 10_000), (sdot.Gaussian(8), 100_000)], ids=["2", "8"])
def test_one_target_takes_nearly_everything(source: sdot.Source, samples: int):
    """A map that sends all to that target has chi2 = 0.001, so the tolerance is finer; the budget will not reach it."""
    assert_honest(source, heavy(500, source.dim), tol=5e-4, max_samples=samples)


@pytest.mark.parametrize("source", [sdot.Gaussian(8), sdot.UniformCube(16)], ids=["8", "16"])
def test_one_target_takes_nearly_everything_and_is_solved(source: sdot.Source):
    assert_solved(source, heavy(500, source.dim))


def test_one_target_takes_nearly_everything_in_the_plane_and_is_solved():
    assert_solved(sdot.UniformCube(2), heavy(500, 2), max_samples=20_000)


@pytest.mark.filterwarnings("ignore::sdot.ConvergenceWarning")
@pytest.mark.parametrize("budget", [5_000, 12_000])
def test_a_budget_that_ends_on_a_bad_step_does_not_change_what_follows(tmp_path, budget: int):
    """The map then comes from before that step, but the checkpoint goes on after it."""
    source, target = sdot.UniformCube(2), heavy(500, 2)
    settings = {"tol": 1e-6, "checkpoint": tmp_path / "ot.safetensors"}
    sdot.solve(source, target, max_samples=budget, generator=seeded(0), **settings)
    resumed = sdot.solve(source, target, max_samples=40_000, generator=seeded(0), **settings)
    whole = sdot.solve(source, target, tol=1e-6, max_samples=40_000, generator=seeded(0))
    assert [r.chi2 for r in resumed.history] == [r.chi2 for r in whole.history]
    assert torch.equal(resumed.map.heights, whole.map.heights)


@pytest.mark.parametrize("d", [2, 8, 16])
def test_weights_over_eight_decades(d: int):
    """Each weight above one in a thousand is met, on samples drawn here."""
    source, target = sdot.Gaussian(dim=d), decades(200, d)
    solution, said = assert_honest(source, target, max_samples=400_000)
    assert said == ""
    x = source.sample(200_000, like=target.points, generator=seeded(9))
    share = torch.bincount(solution.map.cell(x), minlength=200) / len(x)
    large = target.weights > 1e-3
    assert float((share / target.weights - 1)[large].square().mul(target.weights[large]).sum()) < 2 * TOL


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", GAUSSIAN)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_targets_of_any_scale(d: int, dtype: torch.dtype, scale: float):
    assert_solved(sdot.Gaussian(dim=d), uniform(normal(300, d, dtype=dtype) * scale))


@pytest.mark.parametrize("d", GAUSSIAN)
def test_targets_far_from_the_origin(d: int):
    assert_solved(sdot.Gaussian(dim=d), uniform(normal(300, d, dtype=torch.float64) + 1e6))


@pytest.mark.parametrize("d", GAUSSIAN)
@pytest.mark.filterwarnings("ignore:.* target points repeat")
def test_targets_far_from_the_origin_in_float32(d: int):
    """Rounded to a lattice of 1/16: those are the targets, and scores are taken from their mean."""
    solution, caught, fresh = finish(sdot.Gaussian(dim=d), uniform(normal(300, d) + 1e6), TOL, seed=0)
    assert not [c for c in caught if c.category is sdot.ConvergenceWarning]
    assert solution.converged
    assert fresh.chi2 <= TOL + 4 * fresh.chi2_error


@pytest.mark.parametrize("d", GAUSSIAN)
@pytest.mark.parametrize("spread", [1.0, 0.01])
def test_targets_outside_of_the_support(d: int, spread: float):
    assert_solved(sdot.UniformCube(d), uniform(spread * normal(300, d) + 50 * torch.eye(d)[0]))


@pytest.mark.parametrize("d", GAUSSIAN)
def test_a_source_far_from_the_origin(d: int):
    assert_solved(sdot.UniformCube(d, 1e4, 1e4 + 1), uniform(normal(300, d)))


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("d", [1, 2, 5, 64])
@pytest.mark.parametrize("law", [sdot.Gaussian, sdot.UniformCube])
def test_few_targets(m: int, d: int, law: Callable[[int], sdot.Source]):
    assert_solved(law(d), uniform(normal(m, d)), tol=0.003)


# Sources


def cauchy(d: int) -> Sampler:
    return Sampler(d, lambda n, g: torch.tan(math.pi * (torch.rand(n, d, generator=g, dtype=torch.float64) - 0.5)))


def student(d: int) -> Sampler:
    """Student's t with two degrees of freedom: a mean, but no variance."""

    def draw(n: int, g: torch.Generator | None) -> Tensor:
        z = torch.randn(n, d + 2, generator=g, dtype=torch.float64)
        return z[:, :d] / z[:, d:].square().mean(1, keepdim=True).sqrt()

    return Sampler(d, draw)


@pytest.mark.parametrize("d", GAUSSIAN)
@pytest.mark.parametrize("law", [cauchy, student])
@pytest.mark.parametrize("m", [50, 300])
def test_heavy_tails(d: int, law: Callable[[int], Sampler], m: int):
    assert_solved(law(d), uniform(normal(m, d)))


def atoms(d: int, k: int) -> Sampler:
    value = normal(k, d, seed=5)
    return Sampler(d, lambda n, g: value[torch.randint(k, (n,), generator=g)])


@pytest.mark.parametrize("d", GAUSSIAN)
@pytest.mark.parametrize("k", [1, 10])
def test_fewer_values_than_targets(d: int, k: int):
    """Ten values reach ten targets at most: chi2 >= 50 / 10 - 1 = 4, and the warning says why."""
    solution, said = assert_honest(atoms(d, k), uniform(normal(50, d)), max_samples=100_000)
    assert f"the source has atoms ({k} distinct values among 4,096 samples)" in said
    assert solution.certificate.chi2 > 50 / k - 1.2


@pytest.mark.parametrize("d", GAUSSIAN)
def test_more_values_than_targets(d: int):
    assert_solved(atoms(d, 1000), uniform(normal(50, d)), tol=0.05)


LINE = torch.tensor([1.0, 2.0, -1.0, 0.5])


@pytest.mark.parametrize("dim", [1, 4])
def test_a_source_on_a_line(dim: int):
    source = sdot.PushForward(sdot.Gaussian(dim), lambda x: x[:, :1] * LINE.to(x), dim=4)
    assert_solved(source, uniform(normal(50, 4)), tol=0.1)


def warp(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0] + x[:, 1].square(), x[:, 1].exp()], 1)


PLAIN = Sampler(2, lambda n, g: torch.rand(n, 2, generator=g, dtype=torch.float64))
SQUARES = {
    "even": sdot.PushForward(sdot.UniformCube(2), warp),
    "sampler": PLAIN,
    "pushed sampler": sdot.PushForward(PLAIN, warp),
    "from five dimensions": sdot.PushForward(sdot.Gaussian(dim=5), lambda x: x[:, :2].tanh(), dim=2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("source", SQUARES.values(), ids=SQUARES)
def test_ways_to_draw_in_the_plane(source: sdot.Source, dtype: torch.dtype):
    assert_solved(source, uniform(normal(300, 2, dtype=dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_surface_in_sixteen_dimensions(dtype: torch.dtype):
    embed = normal(2, 16, seed=3)
    source = sdot.PushForward(sdot.Gaussian(dim=2), lambda x: (x @ embed.to(x)).tanh(), dim=16)
    assert_solved(source, uniform(normal(300, 16, dtype=dtype)))


@pytest.mark.parametrize(("d", "values"), [(2, 16), (3, 3), (16, 4)])
@pytest.mark.filterwarnings("ignore:.* target points repeat")
def test_whole_numbers_that_repeat(d: int, values: int):
    y = torch.randint(values, (1000, d), generator=seeded(2)).float()
    y = torch.cat([y, y[:100]])
    assert_solved(sdot.Gaussian(dim=d), uniform(y))
