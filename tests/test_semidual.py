"""The semi-dual energy: its derivative, its laws, its conjugate, and the error of the masses."""

import math
from dataclasses import replace

import closed_forms as cf
import pytest
import torch
from closed_forms import Problem

import sdot
from sdot import semidual

ROUNDING = {"rtol": 1e-12, "atol": 1e-12}  # float64, sums of a few hundred terms of size one


def cloud(m: int = 63, d: int = 3, *, hidden: int = 0) -> Problem:
    """Random points, weights and heights; the first `hidden` targets have no weight and no cell."""
    nu, h = cf.weights(m, seed=1), 0.3 * cf.reals(m, seed=2)
    nu[:hidden], h[:hidden] = 0.0, -torch.inf
    return cf.problem(sdot.Gaussian(d), cf.reals(m, d, seed=3), nu / nu.sum(), h, None)


@pytest.mark.filterwarnings("ignore:3 of 63 target points have weight 0")
@pytest.mark.parametrize("hidden", [0, 3])
@pytest.mark.parametrize("n", [1, 63, 257])
def test_autograd_of_the_energy_is_the_gradient(n: int, hidden: int):
    p = cloud(hidden=hidden)
    x, h = p.sample(n), p.heights.clone().requires_grad_()
    semidual.energy(h, p.target, x).backward()
    torch.testing.assert_close(h.grad, semidual.gradient(p.heights, p.target, x), **ROUNDING)


def test_differences_of_the_energy():
    """The energy of finitely many samples is piecewise linear: while no sample changes cell, differences are exact."""
    p, direction = cloud(), cf.reals(63, seed=4)
    x = p.sample(257)
    value, _ = sdot.kernels.topk(x, p.target.points, p.heights, k=2)
    step = 0.4 * float((value[:, 0] - value[:, 1]).min() / (2 * direction.abs().max()))
    ahead, behind = (semidual.energy(p.heights + s * direction, p.target, x) for s in (step, -step))
    slope = semidual.gradient(p.heights, p.target, x) @ direction
    # energies of size one have rounding 1e-16 each, divided by the step
    assert float((ahead - behind) / (2 * step)) == pytest.approx(float(slope), abs=1e-15 / step)


def test_differences_of_the_energy_in_smooth_directions():
    """Along <a, y> the energy is that of a moved source, so the normal law gives its second derivative: a' L a = <a, B a>."""
    p = cloud(m=12)
    n, step = 2**18, 0.05
    x, y, a = p.sample(n), p.target.points, torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    ahead, here, behind = (semidual.energy(p.heights + s * (y @ a), p.target, x) for s in (step, 0.0, -step))
    cell = p.map.cell(x)
    moment = (x @ a) * (y[cell] @ a)  # its mean is a' Y' L Y a by Stein's identity
    # symmetric pairs of samples a step apart: noise sd / (step n)^(1/2) and a bias of step^2
    allowed = 4 * float(moment.std()) / math.sqrt(step * n) + step**2
    assert abs(float(ahead - 2 * here + behind) / step**2 - float(moment.mean())) < allowed


def test_energy_moves_with_the_source_and_scales():
    p, a, s = cloud(), cf.reals(3, seed=5), 2.5
    x, y, nu, h = p.sample(257), p.target.points, p.target.weights, p.heights
    moved = semidual.energy(h, p.target, x + a) - nu @ y @ a
    torch.testing.assert_close(semidual.energy(h + y @ a, p.target, x), moved, **ROUNDING)
    torch.testing.assert_close(semidual.energy(s * h, p.target, s * x), s * semidual.energy(h, p.target, x), **ROUNDING)


def test_a_constant_changes_nothing():
    p = cloud()
    x = p.sample(257)
    torch.testing.assert_close(semidual.energy(p.heights + 7, p.target, x), semidual.energy(p.heights, p.target, x), **ROUNDING)
    assert torch.equal(semidual.gradient(p.heights + 7, p.target, x), semidual.gradient(p.heights, p.target, x))
    assert float(semidual.gradient(p.heights, p.target, x).sum()) == pytest.approx(0, abs=1e-14)


def test_the_gradient_supports_the_energy():
    """E(k) >= E(h) + <dE(h), k - h>: convexity, sample by sample."""
    p, x = cloud(), cloud().sample(257)
    below = semidual.energy(p.heights, p.target, x), semidual.gradient(p.heights, p.target, x)
    for seed in range(20):
        step = cf.reals(63, seed=seed)
        assert float(semidual.energy(p.heights + step, p.target, x)) >= float(below[0] + below[1] @ step) - 1e-12  # rounding


def test_cell_mass_counts():
    p = cloud()
    x = p.sample(257)
    share = torch.bincount(p.map.cell(x), minlength=63).double() / 257
    assert torch.equal(semidual.cell_mass(p.heights, p.target, x), share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_are_in_the_precision_of_the_weights(dtype: torch.dtype):
    p = cloud()
    p = replace(p, target=p.target.to(dtype))
    x = p.sample(257)
    assert semidual.energy(p.heights, p.target, x).dtype == torch.float64
    assert semidual.cell_mass(p.heights, p.target, x).dtype == torch.float64
    assert semidual.c_transform(p.heights, p.target, x).dtype == dtype


# --- potentials


def test_c_transform_is_the_least_reduced_cost():
    p = cloud()
    x, y = p.sample(257), p.target.points
    reduced = (x[:, None] - y).square().sum(2) / 2 - semidual.kantorovich(p.heights, y)
    phi = semidual.c_transform(p.heights, p.target, x)
    torch.testing.assert_close(phi, reduced.min(1).values, **ROUNDING)
    assert torch.equal(p.map.cell(x), reduced.argmin(1))
    torch.testing.assert_close(phi, x.square().sum(1) / 2 - p.map.potential(x), **ROUNDING)


def test_duality():
    """mean c-transform + <nu, g> = (E|x|^2 + E|y|^2) / 2 - energy, for the same samples."""
    p = cloud()
    x, y, nu = p.sample(257), p.target.points, p.target.weights
    dual = semidual.c_transform(p.heights, p.target, x).mean() + nu @ semidual.kantorovich(p.heights, y)
    moments = (x.square().sum(1).mean() + nu @ y.square().sum(1)) / 2
    torch.testing.assert_close(dual, moments - semidual.energy(p.heights, p.target, x), **ROUNDING)


def test_kantorovich_of_equal_power_cells():
    """Voronoi cells, the nearest point of each x, are those of g = 0."""
    p = cloud()
    voronoi = replace(p, heights=-p.target.points.square().sum(1) / 2)
    torch.testing.assert_close(
        semidual.kantorovich(voronoi.heights, p.target.points), torch.zeros(63, dtype=torch.float64), **ROUNDING
    )
    x = p.sample(257)
    assert torch.equal(voronoi.map.cell(x), torch.cdist(x, p.target.points).argmin(1))


# --- chi^2


def test_chi2_by_hand():
    count, nu = cf.real([4.0, 2.0, 0.0]), cf.real([0.5, 0.25, 0.25])
    assert float(semidual.chi2(count, nu)) == pytest.approx((12 / 0.5 + 2 / 0.25) / 30 - 1, rel=1e-14)


@pytest.mark.parametrize("w", [0.5, 0.2, 0.0])
def test_chi2_is_unbiased_over_all_outcomes(w: float):
    """Two cells, n samples: the mean over the n + 1 possible counts is exact."""
    nu, n = cf.real([0.2, 0.8]), 5
    mean = 0.0
    for c in range(n + 1):
        chance = math.comb(n, c) * w**c * (1 - w) ** (n - c)
        mean += chance * float(semidual.chi2(cf.real([c, n - c]), nu))
    assert mean == pytest.approx(cf.chi2(cf.real([w, 1 - w]), nu), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0])
def test_chi2_is_unbiased_over_samples(spread: float):
    p = cf.PROBLEMS["uniform line"]()
    w = p.target.weights
    nu = torch.softmax(w.log() + spread * cf.reals(len(w), seed=6), 0)
    n, repeats = 100, 400
    count = n * torch.stack([semidual.cell_mass(p.heights, p.target, x) for x in p.sample(n * repeats).split(n)])
    estimate = torch.stack([semidual.chi2(c, nu) for c in count])
    assert abs(float(estimate.mean()) - cf.chi2(w, nu)) < 4 * float(estimate.std()) / math.sqrt(repeats)
    if spread == 0:
        # the variance of 400 estimates with the kurtosis of chi^2_11 is known to 2 * (3 + 12/11 - 1)^(1/2) / 400^(1/2) = 18 %
        assert float(estimate.std()) == pytest.approx(cf.chi2_sd(len(w), n), rel=0.2)
