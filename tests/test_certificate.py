"""The certificate says how far a map is from optimal, and how well it knows: checked where every error is known exactly."""

import math
from collections.abc import Sequence
from dataclasses import replace

import closed_forms as cf
import pytest
import torch
from closed_forms import Problem
from torch import Tensor

import sdot
from sdot import Certificate


def judge(p: Problem, n: int, seed: int = 0) -> Certificate:
    """A certificate from exactly n samples."""
    return sdot.certify(p.map, p.source, p.target, precision=1e-9, max_samples=n, generator=cf.seeded(seed))


def off_by(spread: float) -> Problem:
    """Cells of known masses w on the line, and weights nu that differ from them by factors e^(spread N(0, 1))."""
    p = cf.PROBLEMS["uniform line"]()
    return cf.missed(p, torch.softmax(p.target.weights.log() + spread * cf.reals(len(p.target), seed=1), 0))


def masses() -> Tensor:
    return cf.PROBLEMS["uniform line"]().target.weights


def assert_standard(z: Sequence[float]) -> None:
    """Mean zero, and 95 % within 1.96: four and three standard deviations are allowed to the sample."""
    n, inside = len(z), sum(abs(v) < 1.96 for v in z)
    assert abs(sum(z)) / n < 4 / math.sqrt(n)
    assert abs(inside / n - 0.95) < 3 * math.sqrt(0.95 * 0.05 / n)


# --- chi^2


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.3, 1.0])
def test_chi2_and_its_error(spread: float):
    p = off_by(spread)
    exact = cf.chi2(masses(), p.target.weights)
    certificates = [judge(p, 1000, seed) for seed in range(200)]
    assert_standard([(c.chi2 - exact) / c.chi2_error for c in certificates])


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_stopping_does_not_spoil_the_estimate(spread: float):
    """Samples are drawn until the error looks small enough, which favours low estimates: by less than half an error."""
    p, repeats = off_by(spread), 100
    exact = cf.chi2(masses(), p.target.weights)
    certificates = [
        sdot.certify(p.map, p.source, p.target, precision=5e-3, generator=cf.seeded(seed)) for seed in range(repeats)
    ]
    z = [(c.chi2 - exact) / c.chi2_error for c in certificates]
    assert abs(sum(z)) / repeats < 0.5 + 3 / math.sqrt(repeats)
    assert sum(abs(v) < 1.96 for v in z) / repeats > 0.95 - 3 * math.sqrt(0.95 * 0.05 / repeats)


def test_chi2_error_at_the_optimum():
    """Never below the truth, and above it by the noise of its own estimate."""
    p, n = off_by(0.0), 10**4
    ratio = [judge(p, n, seed).chi2_error / cf.chi2_sd(len(p.target), n) for seed in range(50)]
    assert min(ratio) > 1 - 1e-3  # sqrt(1 - 1/n) and the like
    assert sum(ratio) / len(ratio) < 1.3  # 1.13 in the long run


@pytest.mark.parametrize("delta", [0.0, 0.02, 0.1, 0.5])
def test_tv_bound_covers(delta: float):
    """w = (1 +- delta) nu has TV = delta / 2 = chi / 2: the inequality is sharp, so only the confidence is left."""
    sign = torch.tensor([1.0, -1.0]).repeat(10).double()
    nu = torch.softmax(cf.reals(10, seed=2), 0).repeat_interleave(2) / 2
    p = cf.line(sdot.Gaussian(1), cf.NORMAL, cf.spaced(20, 3), (1 + delta * sign) * nu, cf.ONE)
    tv = cf.total_variation(p.target.weights, nu)
    assert tv == pytest.approx(delta / 2)
    bounds = [judge(cf.missed(p, nu), 1000, seed).tv_bound for seed in range(200)]
    assert sum(bound >= tv for bound in bounds) >= 0.95 * 200 - 2 * math.sqrt(200 * 0.95 * 0.05)  # chance takes two deviations
    # and it says something: TV plus the three standard deviations of chi^2, (2 * 19)^(1/2) / 1000 + 2 delta / 1000^(1/2)
    assert sorted(bounds)[100] < math.sqrt(delta**2 + 3 * (0.0062 + delta * 0.064)) / 2


# --- the costs


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
def test_costs_and_their_errors(spread: float):
    """E|x - T|^2 is W_2^2 to the masses w; the dual has mean W_2^2(mu, w) - 2 <w - nu, h - |y|^2/2> < W_2^2(mu, nu)."""
    hit, p = cf.PROBLEMS["uniform line"](), off_by(spread)
    w, nu, t = masses(), p.target.weights, p.target.points[:, 0]
    dual = hit.w2_squared + 2 * float((nu - w) @ (p.heights + t.square() / 2))
    best = cf.line(p.source, cf.UNIFORM, t, nu, cf.ONE).w2_squared
    assert dual <= best + 1e-12
    certificates = [judge(p, 1000, seed) for seed in range(200)]
    assert_standard([(c.w2_squared - dual) / c.w2_squared_error for c in certificates])
    assert sum(c.cost for c in certificates) / 200 == pytest.approx(hit.w2_squared, rel=0.01)  # 200,000 samples: 0.2 %


@pytest.mark.parametrize("name", ["two atoms", "shells of axes", "plane"])
def test_w2_squared(name: str):
    p = cf.PROBLEMS[name]()
    certificates = [judge(p, 500, seed) for seed in range(100)]
    assert_standard([(c.w2_squared - p.w2_squared) / c.w2_squared_error for c in certificates])


# --- how many samples


@pytest.mark.parametrize("budget", [10, 1000, 40_000])
def test_the_budget_is_spent_and_not_passed(budget: int):
    assert judge(off_by(0.0), budget).samples == budget


@pytest.mark.parametrize(("spread", "precision"), [(0.0, 1e-2), (0.0, 1e-3), (0.3, 1e-3), (1.0, 1e-3)])
def test_the_precision_is_reached(spread: float, precision: float):
    p = off_by(spread)
    c = sdot.certify(p.map, p.source, p.target, precision=precision, generator=cf.seeded(0))
    assert c.chi2_error <= max(precision, abs(c.chi2) / 10)
    assert c.samples < 10**5  # the default budget was not needed
    if spread == 0:
        assert c.samples <= 2 * max(1024, math.sqrt(2 * len(p.target)) / precision)


@pytest.mark.parametrize("budget", [0, -1, 2.5])
@pytest.mark.usefixtures("unchecked")
def test_no_such_budget(budget: float):
    with pytest.raises(ValueError, match="max_samples must be a whole number of at least 1"):
        judge(off_by(0.0), budget)


def test_the_same_seed_gives_the_same_certificate():
    p = off_by(0.3)
    assert judge(p, 1000, seed=5) == judge(p, 1000, seed=5)
    assert judge(p, 1000, seed=5) != judge(p, 1000, seed=6)


# --- cells that nobody hits


def test_empty_cells_are_named():
    p = off_by(0.0)
    h = p.heights.clone()
    h[[2, 5]] -= 100.0
    c = judge(replace(p, heights=h), 10**4)
    assert (c.empty_cells, c.cells) == (2, len(h))
    assert c.empty_expected < 1e-6  # of 10^4 samples, cells of mass 0.02 and more
    assert c.chi2 > float(p.target.weights[[2, 5]].sum())  # sum (0 - nu)^2 / nu, and what the neighbours have too much
    assert "2 of 12 cells empty" in str(c)


def test_empty_cells_expected_by_chance():
    p = cf.PROBLEMS["hypercube"]()
    n, repeats = 128, 100
    certificates = [judge(p, n, seed) for seed in range(repeats)]
    expected = certificates[0].empty_expected
    assert expected == pytest.approx(64 * (1 - 1 / 64) ** n, rel=1e-9)
    # the number of empty cells varies less than a sum of independent ones
    assert abs(sum(c.empty_cells for c in certificates) / repeats - expected) < 4 * math.sqrt(expected / repeats)


def with_stray(p: Problem, height: float) -> Problem:
    """One more target, of no weight, with the given height."""
    y = torch.cat([p.target.points, cf.real([[0.5] * p.target.dim])])
    h, nu = torch.cat([p.heights, cf.real([height])]), torch.cat([p.target.weights, cf.real([0.0])])
    return replace(p, target=sdot.DiscreteMeasure(y, nu), heights=h)


@pytest.mark.filterwarnings("ignore:1 of .* target points have weight 0")
def test_a_hidden_target_leaves_the_certificate_alone():
    p = off_by(0.3)
    assert judge(with_stray(p, -torch.inf), 1000) == judge(p, 1000)


@pytest.mark.filterwarnings("ignore:1 of .* target points have weight 0")
@pytest.mark.parametrize("m", [1, 2])
def test_mass_on_a_target_without_weight_is_an_error(m: int):
    """Three quarters of the mass, or half of it, go where none should: the certificate must not call that exact."""
    t = cf.real([0.0, 1.0])[:m]
    p = cf.problem(sdot.UniformCube(1), t[:, None], cf.real([1 / m] * m), -t.square() / 2, None)
    stray = with_stray(p, -0.125)  # Voronoi cells around 0, (1,) 1/2
    tv = [3 / 4, 1 / 2][m - 1]
    c = judge(stray, 10**4)
    assert c.tv_bound == pytest.approx(tv, abs=0.05)  # 0.005 from sampling and the confidence
    assert c.chi2 == math.inf


@pytest.mark.filterwarnings("ignore:1 of .* target points have weight 0")
@pytest.mark.parametrize("m", [1, 2, 12])
def test_tv_bound_covers_stray_mass(m: int):
    if m == 12:
        p, height = cf.PROBLEMS["uniform line"](), 0.1
    else:
        t, height = cf.real([0.0, 1.0])[:m], -0.125
        p = cf.problem(sdot.UniformCube(1), t[:, None], cf.real([1 / m] * m), -t.square() / 2, None)
    stray = with_stray(p, height)
    w = sdot.semidual.cell_mass(stray.heights, stray.target, p.sample(10**6, seed=99))  # to 0.0005
    tv = cf.total_variation(w, stray.target.weights)
    bounds = [judge(stray, 1000, seed).tv_bound for seed in range(100)]
    assert sum(bound >= tv for bound in bounds) >= 95 - 2 * math.sqrt(100 * 0.95 * 0.05)


@pytest.mark.parametrize("n", [1000, 2000, 4000])
def test_light_cells_that_few_samples_can_tell_of_are_an_error(n: int):
    """One cell has nearly everything. The others hold ten times their weight, too little for one of them to be hit twice."""
    m, nu = 200, 1e-6
    t = torch.arange(1.0, m + 1, dtype=torch.float64) / m
    light = torch.full((m - 1,), nu, dtype=torch.float64)
    ends = torch.cat([cf.real([1 - 10 * (m - 1) * nu]), 10 * light]).cumsum(0)[:-1]
    h = torch.cat([cf.real([0.0]), -(ends * t.diff()).cumsum(0)])
    p = cf.problem(sdot.UniformCube(1), t[:, None], torch.cat([cf.real([1 - (m - 1) * nu]), light]), h, None)
    certificates = [judge(p, n, seed) for seed in range(20)]
    exact = (m - 1) * 81 * nu
    assert all(abs(c.chi2 - exact) <= 2 * c.chi2_error for c in certificates if c.chi2 < 1)
    assert min(c.chi2_error for c in certificates) >= (1 / nu - 1) / n**2


def test_one_target():
    p = cf.dirac(sdot.UniformCube(1), 0.5 * cf.ONE)
    c = judge(p, 1000)
    assert (c.chi2, c.chi2_error, c.tv_bound, c.empty_cells, c.empty_expected, c.cells) == (0, 0, 0, 0, 0, 1)
    assert abs(c.w2_squared - 1 / 12) < 4 * c.w2_squared_error
    assert c.cost == pytest.approx(c.w2_squared, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_samples_are_not_trusted(n: int):
    c = judge(off_by(0.0), n)
    assert c.tv_bound == 1
    assert c.chi2_error == math.inf
    assert c.w2_squared_error > 0  # one sample cannot know how much samples vary


@pytest.mark.usefixtures("unchecked")
def test_a_map_of_other_points():
    p = off_by(0.0)
    other = sdot.DiscreteMeasure.uniform(cf.reals(5, 1, seed=0))
    with pytest.raises(ValueError, match="the map and the target must have the same points"):
        sdot.certify(p.map, p.source, other)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("change", [lambda y: y + 1, lambda y: y[:-1], lambda y: y.flip(0)])
def test_a_map_of_other_points_is_refused(change):
    p = cf.PROBLEMS["uniform line"]()
    other = sdot.DiscreteMeasure.uniform(change(p.target.points))
    with pytest.raises(ValueError, match="must have the same points in the same order"):
        sdot.certify(p.map, p.source, other)
