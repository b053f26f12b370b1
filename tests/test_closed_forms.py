"""Answers known on paper: the library agrees with them at the exact heights, and its solvers find them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import closed_forms as cf
import pytest
import torch
from closed_forms import PROBLEMS, Problem
from torch import Tensor

import sdot
from sdot import kernels, semidual


@cache
def exact(name: str) -> Problem:
    return PROBLEMS[name]()


@cache
def stiffness(name: str) -> float:
    return cf.stiffness(exact(name))


def at_most(n: int, seed: int = 0) -> dict[str, Any]:
    """Options of `certify` that make it draw n samples."""
    return {"precision": 1e-9, "max_samples": n, "generator": cf.seeded(seed)}


def centred(h: Tensor, nu: Tensor) -> Tensor:
    return h - nu @ h


def error(h: Tensor, p: Problem) -> float:
    """The weighted root mean square of h - h*, both of weighted mean zero."""
    nu = p.target.weights
    return float((nu @ centred(h - p.heights, nu).square()).sqrt())


def assert_exact(p: Problem, n: int = 2**14) -> None:
    """Masses, energy and W_2^2 at the exact heights are right to within the noise of n samples."""
    m, nu, x = len(p.target), p.target.weights, p.sample(n, seed=1)
    certificate = sdot.certify(p.map, p.source, p.target, **at_most(n))
    assert abs(certificate.chi2) < 4 * cf.chi2_sd(m, n)
    z = semidual.gradient(p.heights, p.target, x) / (nu * (1 - nu) / n).sqrt()
    # m standard normals stay below sqrt(2 log m) + 3 but for one time in a thousand; counts below 20 have longer tails
    assert float(z[n * nu >= 20].abs().max()) < math.sqrt(2 * math.log(m)) + 3
    if p.correlation is not None:
        noise = float(p.map.potential(x).std()) / math.sqrt(n)
        assert abs(float(semidual.energy(p.heights, p.target, x)) - p.correlation) < 4 * noise
        assert abs(certificate.w2_squared - p.w2_squared) < 4 * certificate.w2_squared_error


# --- the oracles among themselves


@pytest.mark.parametrize(
    ("p", "w2_squared"),
    [
        (lambda: cf.dirac(sdot.UniformCube(1), 0.5 * cf.ONE), 1 / 12),
        (lambda: cf.dirac(sdot.UniformCube(1, 0.0, 2.0), cf.ONE), 1 / 3),
        (lambda: cf.cube_grid(1, 2), 1 / 6),
        (
            lambda: cf.line(
                sdot.UniformCube(2),
                cf.UNIFORM,
                cf.real([0.25, 0.75]),
                cf.real([0.5, 0.5]),
                cf.real([1.0, 0.0]),
                cf.real([0.0, 0.5]),
            ),
            1 / 12 + 1 / 48,
        ),
        (lambda: cf.polygon(2, 0.0), 1 / 2),
    ],
    ids=["half", "two", "centre", "halves of a square", "disk"],
)
@pytest.mark.filterwarnings("ignore:1 of 2 target points repeat")
def test_numbers_from_elementary_calculus(p: Callable[[], Problem], w2_squared: float):
    assert p().w2_squared == pytest.approx(w2_squared, rel=1e-12)
    certificate = sdot.certify(p().map, p().source, p().target, **at_most(2**12))
    assert abs(certificate.w2_squared - w2_squared) < 4 * certificate.w2_squared_error


def standard_pair() -> tuple[Problem, Problem]:
    """Two atoms, as a half-space problem and as a problem on the line."""
    y, d = cf.reals(2, 3, seed=40), 3
    half = cf.two_atoms(torch.zeros(d, dtype=torch.float64), cf.identity(d), y, 0.3)
    t = cf.real([0.0, float((y[1] - y[0]).norm())])
    return half, cf.line(sdot.Gaussian(d), cf.NORMAL, t, cf.real([0.3, 0.7]), (y[1] - y[0]) / t[1], y[0])


def cube_pair() -> tuple[Problem, Problem]:
    axis = cf.real([0.125, 0.375, 0.625, 0.875]), cf.real([0.25] * 4)
    return cf.cube_grid(4, 3), cf.grid(sdot.UniformCube(3), cf.UNIFORM, [axis] * 3, cf.identity(3))


def sign_pair() -> tuple[Problem, Problem]:
    axis = cf.real([-1.0, 1.0]), cf.real([0.5, 0.5])
    return cf.hypercube(4), cf.grid(sdot.Gaussian(4), cf.NORMAL, [axis] * 4, cf.identity(4))


def shell_pair() -> tuple[Problem, Problem]:
    radii, nu = cf.real([[0.0, 1.5], [0.2, 0.8]])
    return cf.origin_and_axes(6, 1.5, 0.2), cf.shells(sdot.Gaussian(6), cf.largest_of_normals(6), cf.signed_axes(6), radii, nu)


def square_pair() -> tuple[Problem, Problem]:
    """Four quarters of a square, cut out by polygons and as a grid."""
    grid = cf.cube_grid(2, 2)
    return grid, cf.plane(grid.target.points, grid.heights)


def simplex_pair() -> tuple[Problem, Problem]:
    return cf.simplex(1), cf.line(sdot.Gaussian(1), cf.NORMAL, cf.real([-1.0, 1.0]), cf.real([0.5, 0.5]), cf.ONE)


@pytest.mark.parametrize("pair", [standard_pair, cube_pair, sign_pair, shell_pair, square_pair, simplex_pair])
def test_two_formulas_for_one_problem(pair: Callable[[], tuple[Problem, Problem]]):
    a, b = pair()
    nu = a.target.weights
    if pair is not simplex_pair:  # whose two points may come in the other order
        torch.testing.assert_close(b.target.points, a.target.points)
    torch.testing.assert_close(b.target.weights, nu)
    torch.testing.assert_close(centred(b.heights, nu), centred(a.heights, nu))
    assert b.w2_squared == pytest.approx(a.w2_squared, rel=1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_answer_lies_between_the_bounds(name: str):
    p = exact(name)
    if p.correlation is not None:
        assert cf.gelbrich(p) <= p.w2_squared <= p.independent


# --- at the exact heights


@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_heights(name: str):
    assert_exact(exact(name))


@pytest.mark.parametrize("name", ["hypercube", "E8 roots", "polygon", "cube grid"])
def test_total_variation_of_counts(name: str):
    """At the exact heights E TV = sqrt(m / (2 pi M)) for equal weights and M >> m samples."""
    p, n = exact(name), 2**15
    m = len(p.target)
    tv = float(semidual.gradient(p.heights, p.target, p.sample(n)).abs().sum()) / 2
    # |N(0, 1)| has mean (2/pi)^(1/2), variance 1 - 2/pi; the counts of one sample are exclusive, which takes 1/m off
    assert abs(tv - math.sqrt((m - 1) / (2 * math.pi * n))) < 4 * math.sqrt((1 - 2 / math.pi) / (4 * n))


@pytest.mark.parametrize("name", ["normal grid", "plane in R^128", "simplex"])
def test_exact_heights_in_float32(name: str):
    p = exact(name)
    assert_exact(replace(p, target=p.target.to(torch.float32)))


def test_131072_targets_have_boxes_for_cells():
    p, n, m = cf.binary_grid(17), 512, 131_072
    target = p.target.to(torch.float32)
    assert len(target) == m
    assert float(p.target.weights.max() / p.target.weights.min()) > 900
    x = p.source.sample(n, like=target.points, generator=cf.seeded(0))
    index = sdot.BrenierMap(target.points, p.heights).cell(x)
    upper = x.double() @ cf.frame(128, 17, seed=1) > cf.ndtri(0.4)  # the side of every axis that x lies on
    expected = upper.long() @ (2 ** torch.arange(16, -1, -1))
    # float32 scores of size 20 are off by 1e-5 at most, and x is so near to one of 17 facets with probability 1e-4
    assert int((index != expected).sum()) <= 2
    chi2 = float(semidual.chi2(torch.bincount(index, minlength=m).double(), p.target.weights))
    assert abs(chi2) < 4 * cf.chi2_sd(m, n)


# --- what solvers find


@dataclass(frozen=True)
class From:
    """A solver that starts where it is told to."""

    solver: Any
    heights: Tensor

    def init(self, target: sdot.DiscreteMeasure, draw: Any) -> Any:
        return replace(self.solver.init(target, draw), heights=self.heights)

    def step(self, state: Any, target: sdot.DiscreteMeasure, draw: Any) -> Any:
        return self.solver.step(state, target, draw)


def assert_solved(name: str, solution: sdot.Solution, tol: float) -> None:
    p, c = exact(name), solution.certificate
    assert solution.converged
    assert c.chi2 <= tol
    # what chi^2 may be, to three standard errors; see `stiffness` for what it allows. 2: beyond first order
    allowed = max(c.chi2, 0) + 3 * c.chi2_error
    assert error(solution.map.heights, p) < 2 * math.sqrt(allowed) / stiffness(name)
    assert float(p.target.weights @ solution.map.heights) == pytest.approx(0, abs=1e-9)
    if p.correlation is not None:
        assert abs(c.w2_squared - p.w2_squared) < 4 * c.w2_squared_error + 2 * allowed / stiffness(name)


def budget(p: Problem, tol: float) -> int:
    """Twenty times what an efficient solver needs, and room for a start."""
    return int(20 * len(p.target) / tol) + 5 * 10**4


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_default_solver_finds_the_heights(name: str):
    p = exact(name)
    tol = 0.002 if len(p.target) < 4 else 0.005 if len(p.target) < 50 and p.target.dim < 50 else 0.01
    solution = sdot.solve(p.source, p.target, tol=tol, max_samples=budget(p, tol), generator=cf.seeded(1))
    assert_solved(name, solution, tol)


@pytest.mark.parametrize("name", ["simplex", "cross-polytope", "hypercube", "polygon"])
def test_one_orbit_from_random_heights(name: str):
    """Equal heights are the answer and the usual start, so start elsewhere."""
    p, tol = exact(name), 0.01
    solver = From(sdot.Newton(), cf.reals(len(p.target), seed=2))
    assert sdot.certify(sdot.BrenierMap(p.target.points, solver.heights), p.source, p.target, **at_most(2**12)).chi2 > 0.3
    solution = sdot.solve(p.source, p.target, solver, tol=tol, max_samples=budget(p, tol), generator=cf.seeded(1))
    assert_solved(name, solution, tol)


@pytest.mark.parametrize("name", ["origin and axes", "plane"])
@pytest.mark.parametrize("solver", [sdot.Adam(), sdot.Averaged()], ids=["Adam", "Averaged"])
def test_first_order_solvers(name: str, solver: Any):
    p, tol = exact(name), 0.1
    solution = sdot.solve(p.source, p.target, solver, tol=tol, max_samples=10**6, generator=cf.seeded(1))
    assert_solved(name, solution, tol)


@pytest.mark.parametrize("solver", [sdot.Newton(), sdot.Adam(), sdot.Averaged()], ids=["Newton", "Adam", "Averaged"])
def test_solvers_do_not_mind_where_the_source_is(solver: Any):
    """A source that is far from the origin is the same problem, so it may not cost more samples."""
    p, tol = exact("plane"), 0.1
    q = cf.translate_source(p, cf.real([100.0, -100.0]))
    near = sdot.solve(p.source, p.target, solver, tol=tol, max_samples=10**6, generator=cf.seeded(1))
    used = near.history[-1].samples
    far = sdot.solve(q.source, q.target, solver, tol=tol, max_samples=2 * used, generator=cf.seeded(1))
    assert far.converged


@pytest.mark.slow
@pytest.mark.parametrize("axes", [14, pytest.param(17, marks=pytest.mark.gpu)])  # the latter: an hour without one
def test_the_default_solver_finds_a_big_grid(axes: int):
    p, tol = cf.binary_grid(axes), 0.2
    target = p.target.to("cuda" if torch.cuda.is_available() else "cpu", torch.float32)
    solution = sdot.solve(p.source, target, tol=tol, generator=cf.seeded(1))
    assert solution.certificate.chi2 <= tol
    c, width = solution.certificate, 2.0
    allowed = c.chi2 + 2 * c.chi2_error
    # as in `assert_solved`: the Laplacian is a sum over the axes, so the widest axis alone decides how stiff it is
    stiff = float(cf.normal_density(cf.ndtri(0.4))) / width / (0.4 * 0.6)
    assert error(solution.map.heights.cpu(), p) < 2 * math.sqrt(allowed) / stiff
    assert abs(c.w2_squared - p.w2_squared) < 4 * c.w2_squared_error + 2 * allowed / stiff


# --- the laws

SHIFT, SHEAR = cf.reals(5, seed=50), cf.identity(5) + 0.3 * cf.reals(5, 5, seed=52)


def order(p: Problem) -> Tensor:
    return torch.randperm(len(p.target), generator=cf.seeded(53))


LAWS: dict[str, Callable[[Problem], Problem]] = {
    "translate targets": lambda p: cf.translate_targets(p, SHIFT[: p.target.dim]),
    "scale targets": lambda p: cf.scale_targets(p, 3.0),
    "translate source": lambda p: cf.translate_source(p, SHIFT[: p.target.dim]),
    "scale source": lambda p: cf.scale_source(p, 0.1),
    "turn both": lambda p: cf.transform(p, cf.frame(p.target.dim, p.target.dim, seed=51)),
    "shear both": lambda p: cf.transform(p, SHEAR[: p.target.dim, : p.target.dim]),
    "permute": lambda p: cf.permute(p, order(p)),
    "extend": lambda p: cf.extend(p, sdot.UniformBall(4)),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", ["plane", "line through a ball"])
def test_laws_keep_answers_exact(name: str, law: str):
    q = LAWS[law](exact(name))
    assert_exact(q, 2**13)
    assert cf.gelbrich(q) <= q.w2_squared <= q.independent


@pytest.mark.parametrize("law", LAWS)
def test_laws_keep_cells(law: str):
    """Any heights: the transformed sample lies in the transformed cell."""
    p = replace(exact("sampled cells"), heights=cf.reals(40, seed=54))
    q = LAWS[law](p)
    x, z = p.sample(2**12, seed=3), q.sample(2**12, seed=3)  # z is x, transformed
    cell = q.map.cell(z)
    if law == "permute":
        cell = order(p)[cell]
    assert torch.equal(cell, p.map.cell(x))  # float64 scores tie with probability 1e-11


@pytest.mark.parametrize("law", [law for law in LAWS if law != "extend"])
def test_laws_keep_the_solver_s_path(law: str):
    """The same seed draws the same samples, transformed, so solving and transforming commute to rounding."""
    solved, q = solve_sampled_cells(), LAWS[law](exact("sampled cells"))
    expected = LAWS[law](replace(exact("sampled cells"), heights=solved.map.heights)).heights
    heights = sdot.solve(q.source, q.target, tol=0.02, generator=cf.seeded(4)).map.heights
    nu = q.target.weights
    torch.testing.assert_close(centred(heights, nu), centred(expected, nu), rtol=1e-7, atol=1e-7)


@cache
def solve_sampled_cells() -> sdot.Solution:
    p = exact("sampled cells")
    return sdot.solve(p.source, p.target, tol=0.02, generator=cf.seeded(4))


# --- weights at their limits


def test_only_the_sum_of_the_weights_of_equal_points_counts():
    p = exact("normal grid")
    m, split = len(p.target), 0.25
    points = torch.cat([p.target.points, p.target.points[:10]])
    nu = torch.cat([p.target.weights, split * p.target.weights[:10]])
    nu[:10] *= 1 - split
    with pytest.warns(UserWarning, match="10 of 130 target points repeat an earlier one"):
        target = sdot.DiscreteMeasure(points, nu)
    solution = sdot.solve(p.source, target, tol=0.01, generator=cf.seeded(1))
    alone = sdot.solve(p.source, p.target, tol=0.01, generator=cf.seeded(1))
    torch.testing.assert_close(solution.map.heights[:m], alone.map.heights)  # the first of equal points carries the sum
    assert torch.isneginf(solution.map.heights[m:]).all()


def test_a_point_of_no_weight_changes_nothing():
    p = exact("origin and axes")
    m = len(p.target)
    nu = torch.cat([cf.real([0.0]), p.target.weights])
    with pytest.warns(UserWarning, match="1 of 14 target points have weight 0"):
        target = sdot.DiscreteMeasure(torch.cat([cf.reals(1, 6, seed=5), p.target.points]), nu)
    solution = sdot.solve(p.source, target, tol=0.01, generator=cf.seeded(1))
    alone = sdot.solve(p.source, p.target, tol=0.01, generator=cf.seeded(1))
    torch.testing.assert_close(solution.map.heights[1:], alone.map.heights)
    assert torch.isneginf(solution.map.heights[0])
    assert int(torch.bincount(solution.map.cell(p.sample(2**12)), minlength=m + 1)[0]) == 0


# --- bounds, derivatives


def test_bounds_hold_where_no_answer_is_known():
    """Gelbrich and coordinate by coordinate below, the independent coupling above."""
    y = cf.reals(60, 3, seed=60)
    y = torch.cat([y, y[:, :1] * y[:, 1:2] + 0.5 * y[:, 2:]], 1)  # far from normal and from a product
    nu = torch.softmax(cf.reals(60, seed=61), 0)
    p = cf.problem(sdot.Gaussian(4), y, nu, torch.zeros(60, dtype=torch.float64), None)
    certificate = sdot.solve(p.source, p.target, tol=0.01, generator=cf.seeded(1)).certificate
    slack = 4 * certificate.w2_squared_error
    assert cf.gelbrich(p) < certificate.w2_squared + slack
    assert cf.sum_over_coordinates(p.target, cf.NORMAL, 1.0) < certificate.w2_squared + slack
    assert certificate.w2_squared < p.independent + slack


def test_coordinates_add_up_on_a_grid():
    p = cf.grid(sdot.Gaussian(3), cf.NORMAL, cf.AXES, cf.identity(3))
    assert cf.sum_over_coordinates(p.target, cf.NORMAL, 1.0) == pytest.approx(p.w2_squared, rel=1e-9)


@pytest.mark.parametrize("m", [12, 40])
def test_gaussian_identities_of_the_hessian(m: int):
    """L Y = B and L h = d w - S for any heights, where B_i and S_i are the integrals of x and |x|^2 over cell i.

    Shifting h by <a, y> moves the cells by -a; scaling it dilates them.
    """
    y, n, share = cf.reals(m, 5, seed=62), 2**20, 0.02
    h = cf.reals(m, seed=63)
    p = cf.problem(sdot.Gaussian(5), y, cf.weights(m, 64), h, None)
    L, x = cf.laplacian(p, n, share), p.sample(n)
    first = p.map.cell(x)
    w = torch.bincount(first, minlength=m).to(h) / n
    B = torch.zeros_like(y).index_add_(0, first, x) / n
    S = torch.zeros_like(h).index_add_(0, first, x.square().sum(1)) / n
    # share * n / m samples a cell: their noise, twice since neighbours pull in opposite directions
    allowed = 2 * math.sqrt(m / (share * n))
    assert float((L @ y - B).norm() / B.norm()) < allowed
    assert float((L @ h - (5 * w - S)).norm() / (5 * w - S).norm()) < allowed


def test_hessian_on_the_line():
    """In one dimension the facets are points: -L_{k,k+1} = density(Q(c_k)) / (t_{k+1} - t_k)."""
    p = exact("normal line")
    t, order = p.target.points[:, 0].sort()
    density = cf.normal_density(cf.ndtri(p.target.weights[order].cumsum(0)[:-1].numpy()))
    expected = torch.from_numpy(density) / t.diff()
    L = cf.laplacian(p, 2**18, share=0.05)[order][:, order]
    # 13,000 samples near 29 facets: each counts a few hundred, to 6 % by chance
    torch.testing.assert_close(-L.diagonal(1), expected, rtol=0.25, atol=0.0)
    assert float((-L.diagonal(1) / expected).mean()) == pytest.approx(1, abs=0.04)
    off = L - torch.diag(L.diagonal()) - torch.diag(L.diagonal(1), 1) - torch.diag(L.diagonal(-1), -1)
    assert float(off.abs().max()) == 0


def test_derivative_of_the_cost_by_the_targets():
    """dW_2^2 / dy_i = 2 nu_i (y_i - b_i), so d(correlation) / dy_i = nu_i b_i: autograd against differences of the formula."""
    p, n, step = exact("normal line"), 2**18, 1e-5
    nu, x = p.target.weights, p.sample(n)
    y = p.target.points.clone().requires_grad_()
    kernels.topk(x, y, p.heights)[0].mean().backward()
    t = p.target.points[:, 0]
    correlation = [[cf.on_the_line(cf.NORMAL, t + s * e, nu)[1] for s in (-step, step)] for e in cf.identity(len(t))]
    expected = cf.real([(b - a) / (2 * step) for a, b in correlation])
    noise = (x * (p.map.cell(x)[:, None] == torch.arange(len(t)))).std(0) / math.sqrt(n)
    assert float(((y.grad[:, 0] - expected) / noise).abs().max()) < 4.5  # 30 standard normals
