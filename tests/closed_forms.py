"""Problems whose answer is known on paper, and the laws that carry one answer to another.

u_h(x) = max_i <x, y_i> + h_i is the Brenier potential and its cells have masses nu_i. The least semi-dual energy is the largest
correlation max E<x, y> over couplings of mu and nu, so W_2^2 = E|x|^2 + E|y|^2 - 2 correlation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.integrate import quad
from scipy.special import betaincinv, gamma, ndtr, ndtri
from torch import Generator, Tensor

import sdot
from sdot import kernels
from sdot.solvers.laplacian import facet_edges, soft_hits


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def real(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def reals(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


def identity(d: int) -> Tensor:
    return torch.eye(d, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Problem:
    """A source with its mean and covariance, a target, the exact heights (up to a constant) and the correlation, if known."""

    source: sdot.Source
    target: sdot.DiscreteMeasure
    heights: Tensor
    correlation: float | None
    mean: Tensor
    covariance: Tensor

    @property
    def map(self) -> sdot.BrenierMap:
        return sdot.BrenierMap(self.target.points, self.heights)

    @property
    def independent(self) -> float:
        """E|x - y|^2 for the independent coupling: an upper bound on W_2^2."""
        return self._second - 2 * float(self.mean @ self._barycentre)

    @property
    def w2_squared(self) -> float:
        assert self.correlation is not None
        return self._second - 2 * self.correlation

    @property
    def _second(self) -> float:
        """E|x|^2 + E|y|^2."""
        squares = self.target.points.double().square().sum(1)
        return float(self.covariance.trace() + self.mean.square().sum() + self.target.weights @ squares)

    @property
    def _barycentre(self) -> Tensor:
        return self.target.weights @ self.target.points.double()

    def sample(self, n: int, seed: int = 0) -> Tensor:
        return self.source.sample(n, like=self.target.points, generator=seeded(seed))


def problem(source: sdot.Source, points: Tensor, weights: Tensor, heights: Tensor, correlation: float | None) -> Problem:
    return Problem(source, sdot.DiscreteMeasure(points, weights), heights, correlation, *moments(source))


def moments(source: sdot.Source) -> tuple[Tensor, Tensor]:
    """Mean and covariance."""
    zero, eye = torch.zeros(source.dim, dtype=torch.float64), identity(source.dim)
    if isinstance(source, sdot.UniformCube):
        return zero + (source.low + source.high) / 2, eye * (source.high - source.low) ** 2 / 12
    if isinstance(source, sdot.UniformBall):
        return zero, eye * source.radius**2 / (source.dim + 2)
    assert isinstance(source, sdot.Gaussian)
    return zero if source.mean is None else source.mean, eye if source.covariance is None else source.covariance


# --- one dimension


@dataclass(frozen=True)
class Law:
    """The law of a real variable: its quantile Q and its Lorenz curve p -> int_0^p Q."""

    quantile: Callable[[np.ndarray], np.ndarray]
    lorenz: Callable[[np.ndarray], np.ndarray]

    def centroids(self, nu: np.ndarray) -> np.ndarray:
        """Barycentres of consecutive intervals of masses nu."""
        return np.diff(self.lorenz(np.concatenate([[0.0], np.cumsum(nu)]).clip(0, 1))) / nu


def normal_density(t: np.ndarray) -> np.ndarray:
    return np.exp(-np.square(t) / 2) / math.sqrt(2 * math.pi)


UNIFORM = Law(lambda p: p, lambda p: p**2 / 2)
NORMAL = Law(ndtri, lambda p: -normal_density(ndtri(p)))


def sum_of_two() -> Law:
    """The sum of two uniform variables: a triangle on [0, 2]."""

    def quantile(p: np.ndarray) -> np.ndarray:
        return np.where(p < 0.5, np.sqrt(2 * p), 2 - np.sqrt(2 * (1 - p)))

    def lorenz(p: np.ndarray) -> np.ndarray:
        low, high = math.sqrt(8) / 3 * p**1.5, 1 - 2 * (1 - p) + math.sqrt(8) / 3 * (1 - p) ** 1.5
        return np.where(p < 0.5, low, high)

    return Law(quantile, lorenz)


def ball_marginal(d: int) -> Law:
    """One coordinate of a uniform point of the unit ball: density c (1 - s^2)^((d-1)/2)."""
    a, c = (d + 1) / 2, gamma(d / 2 + 1) / (math.sqrt(math.pi) * gamma((d + 1) / 2))

    def quantile(p: np.ndarray) -> np.ndarray:
        return 2 * betaincinv(a, a, p) - 1

    return Law(quantile, lambda p: -c * (1 - quantile(p) ** 2) ** a / (d + 1))


def largest_of_normals(d: int) -> Law:
    """|x|_inf for x ~ N(0, I_d): cdf F(t) = (2 Phi(t) - 1)^d."""

    def quantile(p: np.ndarray) -> np.ndarray:
        return ndtri((1 + p ** (1 / d)) / 2)

    def lorenz(p: np.ndarray) -> np.ndarray:
        a = quantile(p).clip(0, 12)  # 1 - F(12) < 1e-30
        return p * a - np.array([quad(lambda t: (2 * ndtr(t) - 1) ** d, 0, b, epsabs=1e-12)[0] for b in a])

    return Law(quantile, lorenz)


def on_the_line(law: Law, t: Tensor, nu: Tensor) -> tuple[Tensor, float]:
    """Heights and correlation for targets t on the line: h_{k+1} - h_k = -Q(c_k) (t_{k+1} - t_k), c = cumsum nu."""
    order = t.argsort()
    s, w = t[order].numpy(), nu[order].numpy()
    rise = -law.quantile(np.cumsum(w)[:-1]) * np.diff(s)
    heights = torch.empty_like(t)
    heights[order] = torch.from_numpy(np.concatenate([[0.0], np.cumsum(rise)]))
    return heights, float((s * w) @ law.centroids(w))


def line(source: sdot.Source, law: Law, t: Tensor, nu: Tensor, u: Tensor, b: Tensor | float = 0.0) -> Problem:
    """Targets t_k u + b: the problem on the line for the law of <x, u>. The heights do not depend on b."""
    heights, correlation = on_the_line(law, t, nu)
    offset = torch.zeros_like(u) + b
    return problem(source, t[:, None] * u + offset, nu, heights, correlation + float(moments(source)[0] @ offset))


def dirac(source: sdot.Source, y: Tensor) -> Problem:
    return problem(source, y[None], y.new_ones(1), y.new_zeros(1), float(moments(source)[0] @ y))


# --- any dimension


def two_atoms(mean: Tensor, covariance: Tensor, y: Tensor, nu: float) -> Problem:
    """N(m, S) onto two points: h1 - h2 = (<m, u> + s z) |y2 - y1|.

    Here u = (y2 - y1) / |y2 - y1|, s^2 = <u, S u> and z = Phi^-1(nu). The barycentres are m - S u phi(z) / (s nu) and
    m + S u phi(z) / (s (1 - nu)).
    """
    length = float((y[1] - y[0]).norm())
    u = (y[1] - y[0]) / length
    s, z = float((u @ covariance @ u).sqrt()), float(ndtri(nu))
    heights = real([(float(mean @ u) + s * z) * length, 0.0])
    weights = real([nu, 1 - nu])
    pull = covariance @ u * float(normal_density(np.asarray(z))) / s
    barycentres = torch.stack([mean - pull / nu, mean + pull / (1 - nu)])
    source = sdot.Gaussian(mean=mean, covariance=covariance)
    return problem(source, y, weights, heights, float(weights @ (barycentres * y).sum(1)))


def grid(source: sdot.Source, law: Law, axes: Sequence[tuple[Tensor, Tensor]], frame: Tensor) -> Problem:
    """Targets sum_k t^k f_k with product weights, for independent <x, f_k>: heights add up, cells are boxes."""
    answers = [on_the_line(law, t, nu) for t, nu in axes]
    points = product([t for t, _ in axes]) @ frame.T
    weights = product([nu for _, nu in axes]).prod(1)
    heights = product([h for h, _ in answers]).sum(1)
    return problem(source, points, weights, heights, sum(correlation for _, correlation in answers))


def product(columns: Sequence[Tensor]) -> Tensor:
    """All ways to pick an entry from each column, one a row; the last column runs fastest."""
    return torch.cartesian_prod(*columns).reshape(-1, len(columns))


def cube_grid(n: int, d: int) -> Problem:
    """Centres of the n^d equal cubes of [0, 1]^d: h = -|y|^2 / 2 and W_2^2 = d / (12 n^2)."""
    y = product([(torch.arange(n, dtype=torch.float64) + 0.5) / n] * d)
    nu = torch.full((n**d,), n**-d, dtype=torch.float64)
    second = d / 3 + float(nu @ y.square().sum(1))
    return problem(sdot.UniformCube(d), y, nu, -y.square().sum(1) / 2, (second - d / (12 * n**2)) / 2)


def shells(source: sdot.Source, law: Law, orbit: Tensor, radii: Tensor, nu: Tensor) -> Problem:
    """Copies r_k v of an orbit, the mass nu_k spread evenly over copy k: a problem in r for the law of max_v <x, v>.

    The source is invariant under the group that moves the orbit. A radius of zero is the origin, taken once.
    """
    heights, correlation = on_the_line(law, radii, nu)
    copies = [r * orbit if r > 0 else torch.zeros_like(orbit[:1]) for r in radii]
    size = torch.tensor([len(copy) for copy in copies])
    return problem(source, torch.cat(copies), (nu / size).repeat_interleave(size), heights.repeat_interleave(size), correlation)


def origin_and_axes(d: int, radius: float, p: float) -> Problem:
    """Mass p at the origin, the rest evenly on +- r e_i: the cell of 0 is the cube |x_i| <= a and h_0 - h_1 = r a."""
    a = float(ndtri((1 + p ** (1 / d)) / 2))
    points = torch.cat([torch.zeros(1, d, dtype=torch.float64), radius * signed_axes(d)])
    weights = real([p, *[(1 - p) / (2 * d)] * (2 * d)])
    heights = real([radius * a, *[0.0] * (2 * d)])
    outside = 12 - a * p - quad(lambda t: (2 * ndtr(t) - 1) ** d, a, 12, epsabs=1e-12)[0]  # E[|x|_inf; |x|_inf > a]
    return problem(sdot.Gaussian(d), points, weights, heights, radius * outside)


def one_orbit(source: sdot.Source, points: Tensor, expected_max: float | None) -> Problem:
    """One orbit of a group that leaves the source invariant: equal weights, equal heights, correlation E max_v <x, v>."""
    m = len(points)
    return problem(source, points, torch.full((m,), 1 / m, dtype=torch.float64), points.new_zeros(m), expected_max)


def signed_axes(d: int) -> Tensor:
    axes = identity(d)
    return torch.cat([axes, -axes])


def sign_vectors(d: int) -> Tensor:
    return product([real([-1.0, 1.0])] * d)


def simplex(d: int) -> Problem:
    """d + 1 unit vectors with equal angles: W_2^2 = d + 1 - 2 sqrt((d+1)/d) E max of d + 1 independent normals."""
    n = d + 1
    centred = identity(n) - 1 / n
    basis = torch.linalg.svd(centred).U[:, :d]  # of the hyperplane of sum zero
    largest = quad(lambda x: x * n * normal_density(x) * ndtr(x) ** d, -12, 12)[0]
    return one_orbit(sdot.Gaussian(d), math.sqrt(n / d) * centred @ basis, math.sqrt(n / d) * largest)


def cross_polytope(d: int) -> Problem:
    return one_orbit(sdot.Gaussian(d), signed_axes(d), float(largest_of_normals(d).lorenz(np.ones(1))[0]))


def hypercube(d: int) -> Problem:
    return one_orbit(sdot.Gaussian(d), sign_vectors(d), d * math.sqrt(2 / math.pi))


def polygon(n: int, radius: float) -> Problem:
    """The unit disk onto n points of a circle: sectors, W_2^2 = 1/2 + R^2 - 2 R (2/3) (n/pi) sin(pi/n)."""
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    points = radius * torch.stack([angle.cos(), angle.sin()], 1)
    return one_orbit(sdot.UniformBall(2), points, radius * 2 / 3 * n / math.pi * math.sin(math.pi / n))


def e8_roots() -> Problem:
    """The 240 roots of E8 in R^8: one orbit of its Weyl group; the correlation has no simple formula."""
    pairs = [(i, j, s, t) for i, j in itertools.combinations(range(8), 2) for s in (-1, 1) for t in (-1, 1)]
    whole = torch.zeros(len(pairs), 8, dtype=torch.float64)
    for row, (i, j, s, t) in zip(whole, pairs, strict=True):
        row[i], row[j] = s, t
    half = sign_vectors(8) / 2
    return one_orbit(sdot.Gaussian(8), torch.cat([whole, half[half.prod(1) > 0]]), None)


# --- heights first, then the weights that make them right


def plane(y: Tensor, h: Tensor) -> Problem:
    """The unit square onto the exact areas of the power cells of (y, h), each cut out by its half-planes."""
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    areas, correlation = [], 0.0
    for i in range(len(y)):
        cell = square
        for j in range(len(y)):
            cell = clip(cell, (y[i] - y[j]).numpy(), float(h[i] - h[j]))
        area, first = area_and_first_moment(cell)
        areas.append(area)
        correlation += float(first @ y[i].numpy())
    return problem(sdot.UniformCube(2), y, real(areas), h, correlation)


def clip(polygon: np.ndarray, a: np.ndarray, c: float) -> np.ndarray:
    """The part of a convex polygon where <a, x> + c >= 0 (Sutherland and Hodgman, 1974)."""
    side = polygon @ a + c
    kept = []
    for p, q, s, t in zip(polygon, np.roll(polygon, -1, 0), side, np.roll(side, -1), strict=True):
        kept += [p] if s >= 0 else []
        kept += [p + s / (s - t) * (q - p)] if s * t < 0 else []
    return np.array(kept).reshape(-1, 2)


def area_and_first_moment(polygon: np.ndarray) -> tuple[float, np.ndarray]:
    following = np.roll(polygon, -1, 0)
    cross = polygon[:, 0] * following[:, 1] - polygon[:, 1] * following[:, 0]
    return cross.sum() / 2, cross @ (polygon + following) / 6


def inverse(source: sdot.Source, y: Tensor, h: Tensor, n: int, seed: int) -> Problem:
    """Any heights, onto the masses that n samples give their cells; chi^2 of those weights is (m - 1) / n."""
    generator, count = seeded(seed), torch.zeros(len(y), dtype=torch.int64)
    for _ in range(0, n, 2**16):
        index = kernels.topk(source.sample(2**16, like=y, generator=generator), y, h)[1][:, 0]
        count += torch.bincount(index, minlength=len(y))
    return problem(source, y, count / count.sum(), h, None)


def missed(p: Problem, nu: Tensor) -> Problem:
    """The same map asked for other weights: its cells have the masses of p, so every error is known."""
    return replace(p, target=sdot.DiscreteMeasure(p.target.points, nu))


def chi2(w: Tensor, nu: Tensor) -> float:
    return float(((w - nu).square() / nu).sum())


def total_variation(w: Tensor, nu: Tensor) -> float:
    return float((w - nu).abs().sum()) / 2


# --- laws: from one problem with an answer to another


def translate_targets(p: Problem, b: Tensor) -> Problem:
    """y -> y + b: h stays."""
    target, correlation = sdot.DiscreteMeasure(p.target.points + b, p.target.weights), plus(p.correlation, p.mean @ b)
    return replace(p, target=target, correlation=correlation)


def scale_targets(p: Problem, s: float) -> Problem:
    """y -> s y: h -> s h."""
    target = sdot.DiscreteMeasure(s * p.target.points, p.target.weights)
    return replace(p, target=target, heights=s * p.heights, correlation=times(p.correlation, s))


def scale_source(p: Problem, s: float) -> Problem:
    """x -> s x: h -> s h."""
    source = sdot.PushForward(p.source, lambda x: s * x)
    return Problem(source, p.target, s * p.heights, times(p.correlation, s), s * p.mean, s**2 * p.covariance)


def translate_source(p: Problem, b: Tensor) -> Problem:
    """x -> x + b: h_i -> h_i - <b, y_i>."""
    y, nu = p.target.points, p.target.weights
    source = sdot.PushForward(p.source, lambda x: x + b.to(x))
    return Problem(source, p.target, p.heights - y @ b, plus(p.correlation, nu @ y @ b), p.mean + b, p.covariance)


def transform(p: Problem, a: Tensor) -> Problem:
    """x -> A x and y -> A^-T y: every <x, y> stays, so h stays. With A orthogonal both measures turn together."""
    source = sdot.PushForward(p.source, lambda x: x @ a.T.to(x))
    target = sdot.DiscreteMeasure(p.target.points @ torch.linalg.inv(a), p.target.weights)
    return Problem(source, target, p.heights, p.correlation, a @ p.mean, a @ p.covariance @ a.T)


def permute(p: Problem, order: Tensor) -> Problem:
    target = sdot.DiscreteMeasure(p.target.points[order], p.target.weights[order])
    return replace(p, target=target, heights=p.heights[order])


@dataclass(frozen=True)
class Independent:
    """The law of (x, x') for independent x and x'."""

    first: sdot.Source
    second: sdot.Source

    @property
    def dim(self) -> int:
        return self.first.dim + self.second.dim

    def sample(self, n: int, *, like: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.cat([s.sample(n, like=like, generator=generator) for s in (self.first, self.second)], 1)


def extend(p: Problem, other: sdot.Source) -> Problem:
    """mu -> mu x rho, y -> (y, 0): h stays. This puts an exact answer in the plane into any dimension."""
    points = torch.nn.functional.pad(p.target.points, (0, other.dim))
    mean, covariance = moments(other)
    return Problem(
        source=Independent(p.source, other),
        target=sdot.DiscreteMeasure(points, p.target.weights),
        heights=p.heights,
        correlation=p.correlation,
        mean=torch.cat([p.mean, mean]),
        covariance=torch.block_diag(p.covariance, covariance),
    )


def plus(a: float | None, b: Tensor) -> float | None:
    return None if a is None else a + float(b)


def times(a: float | None, s: float) -> float | None:
    return None if a is None else a * s


# --- bounds for any data


def gelbrich(p: Problem) -> float:
    """W_2^2 of the Gaussians with the moments of source and target: a lower bound (Gelbrich, 1990)."""
    nu, y = p.target.weights, p.target.points
    z = y - nu @ y
    covariance = (z * nu[:, None]).T @ z
    root = square_root(p.covariance)
    middle = square_root(root @ covariance @ root)
    return float((p.mean - nu @ y).square().sum() + p.covariance.trace() + covariance.trace() - 2 * middle.trace())


def square_root(s: Tensor) -> Tensor:
    value, vector = torch.linalg.eigh(s)
    return vector * value.clamp_min(0).sqrt() @ vector.T


def sum_over_coordinates(target: sdot.DiscreteMeasure, law: Law, second: float) -> float:
    """The sum of W_2^2 coordinate by coordinate, for a source of independent coordinates of one law: a lower bound.

    `second` is E x_k^2.
    """
    y, nu = target.points, target.weights
    correlation = sum(on_the_line(law, y[:, k], nu)[1] for k in range(target.dim))
    return target.dim * second + float(nu @ y.square().sum(1)) - 2 * correlation


# --- what sampling allows


def chi2_sd(m: int, n: int) -> float:
    """Standard deviation of the unbiased chi^2 from n samples at the exact heights."""
    return math.sqrt(2 * (m - 1)) / n


def laplacian(p: Problem, n: int, share: float, seed: int = 0) -> Tensor:
    """L = dw/dh at p.heights, as the default solver estimates it: from n samples, a share of them near a facet."""
    m = len(p.target)
    value, index = kernels.topk(p.sample(n, seed), p.target.points, p.heights, k=min(6, m))
    gap = value[:, 0] - value[:, 1]
    delta = (gap.kthvalue(max(1, round(share * n))).values / 3).expand(n)
    (i, j), density = facet_edges(soft_hits(value, delta), index, delta, m)
    adjacency = torch.zeros(m, m, dtype=torch.float64).index_put_((i, j), density / n)
    adjacency = adjacency + adjacency.T
    return torch.diag(adjacency.sum(1)) - adjacency


def stiffness(p: Problem) -> float:
    """The least lambda > 0 with L v = lambda diag(nu) v, for the Laplacian L = dw/dh of the cells.

    As w - nu = L (h - h*) to first order, an error chi^2 of the masses allows (sum_i nu_i (h_i - h*_i)^2)^(1/2) to be at most
    (chi^2)^(1/2) / lambda, and W_2^2 to be off by at most chi^2 / lambda.
    """
    scale = p.target.weights.rsqrt()
    n = min(2**16, 2**23 // (len(p.target) + p.target.dim))
    return float(torch.linalg.eigvalsh(scale[:, None] * laplacian(p, n, share=0.1) * scale)[1])


# --- the catalogue


def weights(m: int, seed: int) -> Tensor:
    """Weights of which the largest is a few times the smallest."""
    return torch.softmax(0.5 * reals(m, seed=seed), 0)


def spaced(m: int, seed: int) -> Tensor:
    """Points of the line in random order, about 4 / m apart and never closer than half of that."""
    steps = torch.arange(m, dtype=torch.float64) + 0.5 * torch.rand(m, dtype=torch.float64, generator=seeded(seed))
    return (4 / m * steps - 2)[torch.randperm(m, generator=seeded(seed))]


def frame(d: int, k: int, seed: int) -> Tensor:
    """k orthonormal vectors of R^d, as columns."""
    return torch.linalg.qr(reals(d, k, seed=seed)).Q


def binary_grid(axes: int, d: int = 128) -> Problem:
    """2^axes targets on a turned box in R^d; 17 axes make 131,072 with weights from 1.7e-7 to 1.7e-4."""
    sides = [(real([-0.5, 0.5 + k / axes]), real([0.4, 0.6])) for k in range(axes)]
    return grid(sdot.Gaussian(d), NORMAL, sides, frame(d, axes, seed=1))


def small_plane() -> Problem:
    y = torch.rand(25, 2, dtype=torch.float64, generator=seeded(3))
    return plane(y, -y.square().sum(1) / 2 + 0.001 * reals(25, seed=4))


def tilted_plane() -> Problem:
    """The exact plane inside R^128, out of line with every axis."""
    return transform(extend(small_plane(), sdot.Gaussian(126)), frame(128, 128, seed=5))


def two_atoms_in_space(nu: float) -> Problem:
    root = reals(4, 4, seed=6)
    return two_atoms(reals(4, seed=7), root @ root.T + 0.1 * identity(4), reals(2, 4, seed=8), nu)


def sampled_cells() -> Problem:
    y = reals(40, 5, seed=9)
    return inverse(sdot.Gaussian(5), y, 0.2 * reals(40, seed=10) - y.square().sum(1) / 2, 2**20, seed=11)


def normal_line(d: int) -> Problem:
    b = 0.3 * reals(d, seed=15)
    return line(sdot.Gaussian(d), NORMAL, spaced(30, 13), weights(30, 14), frame(d, 1, seed=12)[:, 0], b)


def clustered_line() -> Problem:
    """Distances between neighbours from 0.001 to 0.4, hence facets whose densities differ by a factor of a thousand."""
    return line(sdot.Gaussian(1), NORMAL, reals(20, seed=16), torch.softmax(reals(20, seed=17), 0), ONE)


def close_pair() -> Problem:
    """Eight equal weights, two of them on points that nearly coincide: their facet is fifty times as dense as the others."""
    t = real([-1.5, -1.0, -0.5, 0.0, 0.01, 0.7, 1.2, 1.8])
    return line(sdot.Gaussian(1), NORMAL, t, torch.full_like(t, 1 / 8), ONE)


def rare_middle() -> Problem:
    """Three points in a row, the middle one of mass 0.001: its height lies just above the chord of its neighbours."""
    t, nu = real([[0.0, 0.5, 1.0], [0.5, 0.001, 0.499]])
    return line(sdot.UniformCube(1), UNIFORM, t, nu, ONE)


def across(source: sdot.Source, law: Law, u: Tensor) -> Problem:
    return line(source, law, spaced(12, 18), weights(12, 19), u, reals(len(u), seed=21))


ONE, UP, DIAGONAL = real([1.0]), real([0.0, 1.0, 0.0]), real([1.0, 1.0])
AXES = [(spaced(n, 20 + n), weights(n, 30 + n)) for n in (4, 5, 6)]
RADII, MASSES = real([[0.5, 1.0, 1.5, 2.2, 3.0], [0.1, 0.3, 0.25, 0.3, 0.05]])

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "uniform line": lambda: across(sdot.UniformCube(1), UNIFORM, ONE),
    "normal line": lambda: normal_line(1),
    "normal line in R^128": lambda: normal_line(128),
    "line through a ball": lambda: across(sdot.UniformBall(5), ball_marginal(5), frame(5, 1, seed=20)[:, 0]),
    "edge of a cube": lambda: across(sdot.UniformCube(3), UNIFORM, UP),
    "diagonal of a square": lambda: across(sdot.UniformCube(2), sum_of_two(), DIAGONAL),
    "clustered line": clustered_line,
    "close pair": close_pair,
    "two atoms": lambda: two_atoms_in_space(0.3),
    "two atoms, one rare": lambda: two_atoms_in_space(0.99),
    "rare middle": rare_middle,
    "binary grid in R^128": lambda: binary_grid(6),
    "normal grid": lambda: grid(sdot.Gaussian(3), NORMAL, AXES, frame(3, 3, seed=23)),
    "uniform grid": lambda: grid(sdot.UniformCube(3), UNIFORM, AXES, identity(3)),
    "cube grid": lambda: cube_grid(8, 2),
    "shells of axes": lambda: shells(sdot.Gaussian(8), largest_of_normals(8), signed_axes(8), RADII, MASSES),
    "shells of squares": lambda: shells(sdot.UniformCube(2, -1.0, 1.0), sum_of_two(), sign_vectors(2), RADII, MASSES),
    "origin and axes": lambda: origin_and_axes(6, 1.5, 0.2),
    "simplex": lambda: simplex(10),
    "cross-polytope": lambda: cross_polytope(10),
    "hypercube": lambda: hypercube(6),
    "polygon": lambda: polygon(17, 1.5),
    "E8 roots": e8_roots,
    "plane": small_plane,
    "plane in R^128": tilted_plane,
    "sampled cells": sampled_cells,
}
