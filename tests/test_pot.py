"""Agreement with POT (Flamary et al., JMLR 2021), whose cost is |x - y|^2 and whose potentials are twice ours."""

import math
from functools import cache

import closed_forms as cf
import numpy as np
import pytest
import torch

import sdot
from sdot import semidual

ot = pytest.importorskip("ot")
pytest.importorskip("ot.semidiscrete")


@cache
def solved() -> tuple[cf.Problem, sdot.Solution]:
    """A cloud without symmetry or closed form."""
    y, nu = cf.reals(25, 3, seed=1) + 0.5, cf.weights(25, seed=2)
    p = cf.problem(sdot.UniformBall(3, radius=2.0), y, nu, torch.zeros(25, dtype=torch.float64), None)
    solution = sdot.solve(p.source, p.target, tol=1e-3, generator=cf.seeded(0))
    return p, solution


def discrete(n: int, seed: int) -> tuple[torch.Tensor, float, np.ndarray]:
    """Samples of the source, and POT's exact transport from them onto the target: its cost and its potential on the target."""
    p, _ = solved()
    x = p.sample(n, seed)
    cost = ot.dist(x.numpy(), p.target.points.numpy())
    value, log = ot.emd2(np.full(n, 1 / n), p.target.weights.numpy(), cost, log=True, numItermax=10**6)
    return x, float(value), np.asarray(log["v"])


def test_w2_squared_of_a_sampled_problem():
    p, solution = solved()
    x, value, _ = discrete(3000, seed=3)
    g = semidual.kantorovich(solution.map.heights, p.target.points)
    dual = 2 * semidual.c_transform(solution.map.heights, p.target, x) + 2 * float(p.target.weights @ g)
    # our potential is feasible for POT's problem, and optimal but for the fluctuation of the cells' masses, (m - 1) / n
    slack = value - float(dual.mean())
    assert -1e-9 <= slack < 4 * (25 - 1) / 3000 / cf.stiffness(exact())
    # and the value of POT's problem is W_2^2 up to the noise of 3000 samples
    certificate = solution.certificate
    noise = math.hypot(float(dual.std()) / math.sqrt(3000), certificate.w2_squared_error)
    assert abs(value - certificate.w2_squared) < 4 * noise + 4 * (25 - 1) / 3000 / cf.stiffness(exact())


def exact() -> cf.Problem:
    p, solution = solved()
    return cf.replace(p, heights=solution.map.heights)


def test_potentials_of_a_sampled_problem():
    """POT's dual potential on the target is twice ours, up to the noise of its samples."""
    p, solution = solved()
    n, nu = 3000, p.target.weights
    _, _, v = discrete(n, seed=3)
    g = semidual.kantorovich(solution.map.heights, p.target.points)
    difference = torch.from_numpy(v) / 2 - g
    difference = difference - nu @ difference
    # chi^2 of n samples is (m - 1) / n; see `stiffness` for what that allows, twice
    assert float((nu @ difference.square()).sqrt()) < 2 * math.sqrt((25 - 1) / n) / cf.stiffness(exact())


def test_c_transform_and_cells():
    p, solution = solved()
    x, y = p.sample(2000, seed=4), p.target.points
    g = 2 * semidual.kantorovich(solution.map.heights, y)
    transformed = ot.semidiscrete.semidiscrete_c_transform(y, x, g)
    torch.testing.assert_close(2 * semidual.c_transform(solution.map.heights, p.target, x), transformed, rtol=1e-9, atol=1e-9)
    weight = ot.semidiscrete.semidiscrete_atom_weights(y, x, g)
    assert torch.equal(weight.argmax(1), solution.map.cell(x))
    torch.testing.assert_close(ot.semidiscrete.semidiscrete_ot_map(y, x, g), solution.map(x))


@pytest.mark.parametrize("eps", [0.01, 1.0])
def test_entropic_map(eps: float):
    """POT's softmax has the weights nu in front, ours has them in the heights: h_i + eps log nu_i, at twice the temperature."""
    p, solution = solved()
    x, y, nu = p.sample(500, seed=5), p.target.points, p.target.weights
    g = 2 * semidual.kantorovich(solution.map.heights, y)
    theirs = ot.semidiscrete.semidiscrete_ot_map(y, x, g, a_target=nu, reg=2 * eps)
    ours = sdot.BrenierMap(y, solution.map.heights + eps * nu.log()).soft(x, eps)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("delta", [0.0, 0.3])
def test_the_example_of_pot(delta: float):
    """U[delta, 1 + delta] onto k/m, k = 1..m: g_k = k (1 / (2 m^2) - delta / m) for the half cost."""
    m = 10
    k = torch.arange(1, m + 1, dtype=torch.float64)
    t, nu = k / m, cf.real([1 / m] * m)
    p = cf.translate_source(cf.line(sdot.UniformCube(1), cf.UNIFORM, t, nu, cf.ONE), delta * cf.ONE)
    g = semidual.kantorovich(p.heights, p.target.points)
    expected = k * (1 / (2 * m**2) - delta / m)
    torch.testing.assert_close(g - g[0], expected - expected[0], rtol=1e-12, atol=1e-12)
    solution = sdot.solve(p.source, p.target, tol=1e-3, generator=cf.seeded(0))
    mine = semidual.kantorovich(solution.map.heights, p.target.points)
    # boundaries lie at -m (h_{k+1} - h_k), and chi^2 <= 0.001 leaves the mass below each within (0.001 c (1 - c))^(1/2) < 0.016
    torch.testing.assert_close(mine.diff(), expected.diff(), rtol=0.0, atol=0.02 / m)
