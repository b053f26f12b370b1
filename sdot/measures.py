"""Sources (what is carried) and targets (where to): the two measures of semi-discrete transport."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.quasirandom import SobolEngine

from . import _checks, _random

BLOCK = 2**15  # samples drawn at once, hence held at once
EVEN = -3  # key of the evenly spread points, which belong to no step


@runtime_checkable
class Source(Protocol):
    """The continuous measure mu: anything with a dimension and a sampler.

    `sample(n, like=t)` returns independent samples, shape (n, dim), in the dtype and on the device of t. A sampler that
    draws all its randomness from `generator` makes runs repeatable and resumable.

    A source may also have `from_uniform(u)`: a map from the unit cube, points (n, dim) in (0, 1), that carries the uniform
    measure to mu. In two and three dimensions the default solver then takes evenly spread points through it, and needs many
    times fewer. The sources of this library have it.
    """

    @property
    def dim(self) -> int: ...

    def sample(self, n: int, *, like: Tensor, generator: Generator | None = None) -> Tensor: ...


@dataclass(frozen=True)
class UniformCube:
    """The uniform measure on the cube [low, high]^dim."""

    dim: int
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _checks.count("dim", self.dim)
        if not self.low < self.high:
            raise ValueError(f"low must be less than high, but low = {self.low} and high = {self.high} came.")

    def sample(self, n: int, *, like: Tensor, generator: Generator | None = None) -> Float[Tensor, "n d"]:
        return self.from_uniform(_random.uniform(n, self.dim, like=like, generator=generator))

    def from_uniform(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return u * (self.high - self.low) + self.low


@dataclass(frozen=True)
class UniformBall:
    """The uniform measure on the ball of the given radius around the origin of R^dim."""

    dim: int
    radius: float = 1.0

    def __post_init__(self) -> None:
        _checks.count("dim", self.dim)
        _checks.positive("radius", self.radius)

    def sample(self, n: int, *, like: Tensor, generator: Generator | None = None) -> Float[Tensor, "n d"]:
        direction = torch.nn.functional.normalize(_random.normal(n, self.dim, like=like, generator=generator), dim=1)
        radius = _random.uniform(n, 1, like=like, generator=generator) ** (1 / self.dim)
        return direction.mul_(radius * self.radius)

    def from_uniform(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Normal points z, moved along their rays: |z| has cdf P(d / 2, |z|^2 / 2), and |x| must have cdf |x|^d."""
        z = torch.special.ndtri(u)
        norm = z.norm(dim=1, keepdim=True)
        cdf = torch.special.gammainc(torch.full_like(norm, self.dim / 2), norm.square() / 2)
        x: Tensor = z / norm * (self.radius * cdf ** (1 / self.dim))
        return x


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The normal measure N(mean, covariance); `Gaussian(dim=d)` is the standard one.

    Args:
        dim: Dimension; may be left out when a mean or a covariance tells it.
        mean: (d,), zero when left out.
        covariance: (d, d), symmetric and positive definite; the identity when left out.
    """

    dim: int = 0
    mean: Tensor | None = None
    covariance: Tensor | None = None

    def __post_init__(self) -> None:
        given = {"mean": self.mean, "covariance": self.covariance}
        for name, value in given.items():
            if value is not None:
                value = _checks.finite(name, _checks.floating(name, _checks.tensor(name, value)))
                object.__setattr__(self, name, value)
                if self.dim == 0 and value.dim() > 0:
                    object.__setattr__(self, "dim", value.shape[0])
        _checks.count("dim", self.dim)
        for name, shape in (("mean", (self.dim,)), ("covariance", (self.dim, self.dim))):
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, but its shape is {tuple(value.shape)}.")
        if self.covariance is not None:
            factor, info = torch.linalg.cholesky_ex(self.covariance.double())
            if info or not torch.allclose(self.covariance, self.covariance.mT, rtol=1e-4):
                raise ValueError(
                    "covariance must be symmetric and positive definite; add a small multiple of the identity, "
                    "or push a lower-dimensional Gaussian forward with PushForward."
                )
            object.__setattr__(self, "_factor", factor)

    def sample(self, n: int, *, like: Tensor, generator: Generator | None = None) -> Float[Tensor, "n d"]:
        return self._shape(_random.normal(n, self.dim, like=like, generator=generator))

    def from_uniform(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return self._shape(torch.special.ndtri(u))

    def _shape(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Normal points to points of this law."""
        if self.covariance is not None:
            x = x @ self._factor.to(x).mT  # type: ignore[attr-defined]
        return x if self.mean is None else x + self.mean.to(x)


@dataclass(frozen=True, eq=False)
class PushForward:
    """The law of function(x) for x drawn from a source: a warped, rotated or learned measure.

    Args:
        source: The measure that is drawn.
        function: Points (n, source.dim) to points (n, dim).
        dim: Dimension of the image, that of the source when left out.
    """

    source: Source
    function: Callable[[Tensor], Tensor]
    dim: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", _checks.count("dim", self.dim or self.source.dim))

    def sample(self, n: int, *, like: Tensor, generator: Generator | None = None) -> Tensor:
        with torch.no_grad():
            return self.function(self.source.sample(n, like=like, generator=generator))

    def from_uniform(self, u: Float[Tensor, "n d"]) -> Tensor:
        with torch.no_grad():
            return self.function(self.source.from_uniform(u))  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class DiscreteMeasure:
    """The discrete measure nu = sum_i nu_i delta(y_i): a weighted cloud of target points.

    Rows keep the user's order for good, so every index the library returns refers to them. Of points that coincide the
    first carries the sum of their weights and the others weigh nothing; points of no weight are never hit.

    Args:
        points: y, shape (m, d), float32 or float64, tensor or array.
        weights: nu, shape (m,), not negative, of sum 1.
    """

    points: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        points = _checks.points("points", self.points).detach()
        weights = _checks.weights(self.weights, points.shape[0]).to(points.device)
        first = first_of_equal(points)
        repeated = int((first != torch.arange(len(first), device=first.device)).sum())
        if repeated:
            weights = torch.zeros_like(weights).index_add_(0, first, weights)
            warnings.warn(
                f"{repeated} of {len(first)} target points repeat an earlier one: the first of each keeps the sum of "
                f"their weights, and the map returns it for all of them.",
                stacklevel=3,
            )
        empty = int((weights == 0).sum()) - repeated
        if empty > 0:
            warnings.warn(f"{empty} of {len(first)} target points have weight 0 and will never be hit.", stacklevel=3)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "weights", weights)

    @classmethod
    def uniform(cls, points: Any) -> DiscreteMeasure:
        """Equal weights 1/m."""
        points = _checks.points("points", points)
        m = points.shape[0]
        return cls(points, torch.full((m,), 1 / m, dtype=_checks.precise(points.device), device=points.device))

    def __len__(self) -> int:
        return self.points.shape[0]

    @property
    def dim(self) -> int:
        return self.points.shape[1]

    @property
    def support(self) -> Int[Tensor, " s"]:
        """The indices of the points that carry weight, in increasing order."""
        return self.weights.nonzero()[:, 0]

    def to(self, *args: Any, **kwargs: Any) -> DiscreteMeasure:
        """The same measure in another dtype or on another device; weights stay in float64."""
        points = self.points.to(*args, **kwargs)
        return _unchecked(points, self.weights.to(points.device))

    def centred(self) -> DiscreteMeasure:
        """The measure moved so that its mean is the origin: solvers work there, and heights do not change."""
        y = self.points.to(self.weights.dtype)
        return _unchecked((y - self.weights @ y).to(self.points), self.weights)

    def restrict(self, index: Int[Tensor, " s"]) -> DiscreteMeasure:
        """The part of the measure on some of its points, its weights divided by their sum."""
        weights = self.weights[index]
        return _unchecked(self.points[index], weights / weights.sum())


def samples_of_light(weights: Float[Tensor, " m"]) -> float:
    """Samples until a cell that is lighter than three quarters of them should be hit."""
    return 1 / float(weights.kthvalue(math.ceil(len(weights) / 4)).values)


def _unchecked(points: Tensor, weights: Tensor) -> DiscreteMeasure:
    """A DiscreteMeasure from parts of one that has been checked, without a second warning."""
    measure = object.__new__(DiscreteMeasure)
    object.__setattr__(measure, "points", points)
    object.__setattr__(measure, "weights", weights)
    return measure


def first_of_equal(points: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
    """For every row the index of the first row equal to it.

    Rows are told apart by a 64-bit linear hash of their bits, accumulated column by column, so that memory is O(m). Equal
    rows have equal hashes; rows whose hashes collide by chance are compared and kept apart.
    """
    m = points.shape[0]
    bits = torch.int64 if points.dtype == torch.float64 else torch.int32
    hashes = torch.zeros(m, dtype=torch.int64, device=points.device)
    for k in range(points.shape[1]):
        column = (points[:, k] + 0.0).view(bits).to(torch.int64)  # -0.0 + 0.0 = 0.0
        hashes += (column ^ (column >> 29)) * (mix(k) | 1)
    _, group = torch.unique(hashes, return_inverse=True)
    here = torch.arange(m, device=points.device)
    first = torch.full_like(here, m).scatter_reduce_(0, group, here, "amin")[group]
    return torch.where((points[first] == points).all(1), first, here)


def mix(*key: int) -> int:
    """A 63-bit hash of whole numbers (the finaliser of SplitMix64, Steele et al., OOPSLA 2014)."""
    z = 0
    for k in key:
        z = (z + k + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        z ^= z >> 31
    return z >> 1


def draw_seed(generator: Generator | None) -> int:
    """A seed for a whole run, drawn from the user's generator (or torch's global one)."""
    device = generator.device if generator is not None else None
    return int(torch.randint(2**62, (), generator=generator, device=device))


class Draw:
    """Samples of a source in blocks, each keyed by (seed, step, block).

    One process, several processes and a resumed run therefore draw the same numbers. `draw(n)` yields blocks of at most
    `BLOCK` samples, n in all, less `centre`; further calls go on where the last one ended. `draw.even(n, seen)` yields the
    first n of a sequence of evenly spread points that does not depend on the step, where the source has `from_uniform`.
    `draw.count` is the number of samples so far.
    """

    def __init__(self, source: Source, like: Tensor, seed: int, step: int, centre: Tensor | None = None) -> None:
        self.source, self.like, self.key, self.centre = source, like, (seed, step), centre
        self.count = self._blocks = 0

    def __call__(self, n: int) -> Iterator[Float[Tensor, "b d"]]:
        for start in range(0, n, BLOCK):
            generator = Generator(self.like.device).manual_seed(mix(*self.key, self._blocks))
            x = sample(self.source, min(BLOCK, n - start), self.like, generator)
            self._blocks += 1
            self.count += x.shape[0]
            yield x if self.centre is None else x - self.centre

    @property
    def even_dim(self) -> int:
        """Dimension of the cube that `even` points come from; 0 where the source cannot be drawn so."""
        source = self.source
        while isinstance(source, PushForward):
            source = source.source
        return source.dim if hasattr(source, "from_uniform") else 0

    def even(self, n: int, seen: int) -> Iterator[tuple[int, Float[Tensor, "b d"]]]:
        """Blocks of n points, each with the half it belongs to: two independently scrambled Sobol sequences (Owen, 1995).

        The points are the same for every step. Those past the first `seen` count as new samples.
        """
        self.count += max(0, n - seen)
        seeds = [mix(self.key[0], EVEN, half) for half in (0, 1)]
        sequences = [SobolEngine(self.even_dim, scramble=True, seed=seed) for seed in seeds]  # type: ignore[no-untyped-call]
        least = torch.finfo(self.like.dtype).eps / 2
        for start in range(0, n, BLOCK):
            size = min(BLOCK, n - start)
            for half, b in enumerate((size - size // 2, size // 2)):
                # the sequence has 30 bits; half of the last keeps it off the faces of the cube
                u = (sequences[half].draw(b, dtype=torch.float64) + 2.0**-31).to(self.like).clamp_(least, 1 - least)
                x = _checked(self.source.from_uniform(u), self.source, "from_uniform", b, self.like)  # type: ignore[attr-defined]
                yield half, x if self.centre is None else x - self.centre


def sample(source: Source, n: int, like: Tensor, generator: Generator | None) -> Float[Tensor, "n d"]:
    """`source.sample`, with its answer checked: a user's sampler is where wrong shapes and dtypes come from."""
    return _checked(source.sample(n, like=like, generator=generator), source, "sample", n, like)


def _checked(x: Any, source: Source, method: str, n: int, like: Tensor) -> Float[Tensor, "n d"]:
    name = f"{type(source).__name__}.{method}"
    if not isinstance(x, Tensor) or x.shape != (n, source.dim):
        came = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ValueError(f"{name}({n}) must return a tensor of shape ({n}, {source.dim}), but {came} came.")
    _checks.same_kind(f"the result of {name}", x, "the target points", like)
    return _checks.finite(f"the result of {name}", x)


def check_same_space(source: Source, target: DiscreteMeasure) -> None:
    for name in ("dim", "sample"):
        if not hasattr(source, name):
            raise ValueError(
                f"source must have `dim` and `sample(n, *, like, generator)`, but a {type(source).__name__} came, which "
                f"has no `{name}`; sdot.Gaussian(dim=d) is one."
            )
    if source.dim != target.dim:
        raise ValueError(
            f"source and target must live in the same space: source.dim = {source.dim}, "
            f"but target.points has shape {tuple(target.points.shape)}."
        )
