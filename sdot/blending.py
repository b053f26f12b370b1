"""Rules that blend the targets around a sample: which vertices, and with which weights.

A rule is a module with buffers only. `rule(T, x, cell)` returns vertices and weights, both of shape (n, k), the vertex of x's
own cell first. Weights sum to one; what is not used has weight 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.spatial import Delaunay
from torch import Tensor, nn

from . import _checks, kernels
from .barycentric import barycentric_coordinates, project_to_simplex
from .cells import Cells
from .maps import BrenierMap
from .simplicial import SimplicialComplex

DELAUNAY_DIM = 4
Blend = tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]


class Rule(nn.Module):
    """Buffers by name, and settings that are plain numbers."""

    names: tuple[str, ...] = ("star", "size")  # of the buffers
    star: Tensor
    size: Tensor

    def __init__(self, buffers: dict[str, Tensor], settings: dict[str, Any]) -> None:
        super().__init__()
        for name in self.names:
            self.register_buffer(name, buffers[name])
        self.settings = settings

    @property
    def width(self) -> int:
        """Points that are gathered for a sample."""
        return self.star.shape[1]

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        raise NotImplementedError

    def image(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """What the vertices and weights make: y_i, exactly, where nothing else has weight."""
        vertices, weight = self(T, x, cell)
        own = T.points[cell]
        moved: Tensor = own + (weight[:, None, 1:] @ (T.points[vertices[:, 1:]] - own[:, None]))[:, 0]
        return moved


class Affine(Rule):
    """An affine map on each cell: the targets around y_i, weighed by where x lies to the centre c_i.

    With the star of y_i (itself and its nearest joined targets: r points y_j of mean m and differences e_j = y_j - m):

        T~(x) = y_i + a (m - y_i) + g_i / r sum_j <e_j, x - c_i> e_j.

    The last term is J (x - c_i) where J is g_i times the covariance of the star, symmetric and positive, so that T~ is the
    gradient of a convex quadratic on each cell. It is the entropic map restricted to the star at temperature 1 / g_i, to
    first order around the centre. g_i is such that its variance over the cell is step^2 times that of the star, in the
    trace. The pull a towards the mean of the star takes as much variance away as the last term adds, over all cells together,
    so that images vary as targets do (an idea of West, 1993, for kernel estimates).

    Weights may be negative. An image farther from y_i than the star reaches is drawn back along the segment to y_i, so that
    |T~(x) - y_i| never exceeds the longest edge of the star.
    """

    names = ("star", "size", "centroid", "gain", "reach")
    centroid: Tensor
    gain: Tensor
    reach: Tensor

    @classmethod
    def of(cls, T: BrenierMap, cells: Cells, star: Tensor, size: Tensor, *, step: float) -> Affine:
        gain, reach = (torch.zeros_like(T.points[:, 0]) for _ in range(2))
        buffers = {"star": star, "size": size, "centroid": cells.centroid, "gain": gain, "reach": reach}
        rule = cls(buffers, {"step": step, "pull": 0.0})
        variance = rule._measure_stars(T, cells.mass)
        gain *= torch.where(cells.spread > 0, math.sqrt(T.dim) / cells.spread, 0.0).to(gain)
        gain *= step / rule._dispersion(T, cells, variance)
        return rule

    def _measure_stars(self, T: BrenierMap, mass: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Fill reaches, gains in units of 1 / (spread of the cell) as if cells were round, and the pull. Returns variances."""
        y, middle = T.points, mass @ T.points.to(mass)
        variance, drift = torch.zeros_like(mass), torch.zeros_like(middle)
        along = square = 0.0
        for i in self._all(T):
            e = self._differences(T, i)
            gram = e @ e.mT
            variance[i] = (gram.diagonal(dim1=1, dim2=2).sum(1) / self.size[i]).to(mass)
            strength = gram.square().sum((1, 2)).sqrt() / self.size[i]  # root of the trace of the squared covariance
            self.gain[i] = torch.where(strength > 0, variance[i].sqrt().to(y) / strength, 0.0)
            self.reach[i] = (y[self.star[i]] - y[i][:, None]).norm(dim=2).amax(1)  # padding repeats y_i
            back = e[:, 0].to(mass)  # y_i - m
            drift += mass[i] @ back
            along += float(mass[i] @ (back * (y[i].to(mass) - middle)).sum(1))
            square += float(mass[i] @ back.square().sum(1))
        # Var(y + a (m - y)) + step^2 E variance = Var(y)
        added = self.settings["step"] ** 2 * float(mass @ variance)
        self.settings["pull"] = _least_root(square - float(drift.square().sum()), along, added)
        return variance

    def _dispersion(self, T: BrenierMap, cells: Cells, variance: Float[Tensor, " m"]) -> float:
        """How far J (x - c_i) spreads, against what it would if cells were round: they are narrow along their own edges.

        One sample of each cell tells, all of them together.
        """
        image = torch.cat([self._images(T, cells.sample[i], i).square().sum(1) for i in self._all(T)]).to(variance)
        n = cells.count.to(variance)
        mass = torch.where(n > 1, cells.mass, 0.0)
        found, expected = mass @ (image * n / (n - 1).clamp_min(1)), mass @ variance
        return math.sqrt(float(found / expected)) if found > 0 and expected > 0 else 1.0

    def _all(self, T: BrenierMap) -> tuple[Tensor, ...]:
        """All cells, in blocks."""
        return torch.split(torch.arange(len(self.star), device=self.star.device), rows_at_once(T.points, self.width))

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        weight, _, short = self._piece(T, x, cell)
        size, a = self.size[cell][:, None], self.settings["pull"]
        weight = torch.where(_within(size, weight), short * (weight + a / size), 0.0)
        return self.star[cell], torch.cat([weight[:, :1] + 1 - short * a, weight[:, 1:]], 1)

    def image(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        _, move, short = self._piece(T, x, cell)
        return T.points[cell] + short * move

    def _piece(self, T: BrenierMap, x: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of e_j in J (x - c_i), the way from y_i, and what it has to be shortened by."""
        e = self._differences(T, cell)
        weight = self._weights(e, x, cell)
        move = (weight[:, None] @ e)[:, 0] - self.settings["pull"] * e[:, 0]  # e_0 = y_i - m
        length, reach = move.norm(dim=1, keepdim=True), self.reach[cell][:, None]
        return weight, move, torch.where(length > reach, reach / length, 1.0)

    def _differences(self, T: BrenierMap, cell: Tensor) -> Float[Tensor, "n k d"]:
        """e_j, zero past the end of a star."""
        y, size = T.points[self.star[cell]], self.size[cell][:, None]
        inside = _within(size, y[..., 0])[..., None]
        mean = torch.where(inside, y, 0.0).sum(1) / size
        return torch.where(inside, y - mean[:, None], 0.0)

    def _weights(self, e: Tensor, x: Tensor, cell: Tensor) -> Float[Tensor, "n k"]:
        return (e @ (x - self.centroid[cell])[..., None])[..., 0] * (self.gain[cell] / self.size[cell])[:, None]

    def _images(self, T: BrenierMap, x: Tensor, cell: Tensor) -> Float[Tensor, "n d"]:
        """J (x - c_i)."""
        e = self._differences(T, cell)
        return (self._weights(e, x, cell)[:, None] @ e)[:, 0]


class Projected(Rule):
    """Barycentric coordinates of the nearest point to x in the simplex of the centres of its k foremost cells."""

    names = ("star", "size", "centroid")
    centroid: Tensor

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        vertices, present, _ = _foremost(T, x, cell, self.star, self.size, self.settings["k"])
        return vertices, project_to_simplex(x, self.centroid[vertices], present)


class Softmax(Rule):
    """softmax_j((h_j + <x, y_j>) / temperature) over the k foremost cells: the entropic map restricted to the star."""

    @classmethod
    def of(cls, T: BrenierMap, cells: Cells, star: Tensor, size: Tensor, *, k: int, hardness: float) -> Softmax:
        """The temperature at which the foremost vertex weighs `hardness` in the mean, by bisection on a logarithmic scale."""
        rule = cls({"star": star, "size": size}, {"k": k, "temperature": 1.0})
        i = ((cells.count > 0) & (size > 1)).nonzero()[:, 0]
        if len(i) == 0:
            return rule
        blocks = torch.split(i, rows_at_once(T.points, star.shape[1]))
        scores = torch.cat([_foremost(T, cells.sample[b], b, star, size, k)[2] for b in blocks]).to(cells.mass)
        mass = cells.mass[i] / cells.mass[i].sum()
        high = 10 * float(-torch.where(torch.isfinite(scores), scores, 0.0).min()) or 1.0
        low = 1e-9 * high
        while high > 1.0001 * low:
            middle = math.sqrt(low * high)
            harder = float(mass @ torch.softmax(scores / middle, 1)[:, 0]) > hardness
            low, high = (middle, high) if harder else (low, middle)
        rule.settings["temperature"] = middle
        return rule

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        vertices, _, scores = _foremost(T, x, cell, self.star, self.size, self.settings["k"])
        return vertices, torch.softmax(scores / self.settings["temperature"], 1).to(x)


class Pair(Rule):
    """The own vertex and the foremost one joined to it, with a weight that is uniform on (0, 1) and a hash of x.

    The program of the AE-OT authors draws this weight at random; here equal x have equal images.
    """

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        vertices, present, _ = _foremost(T, x, cell, self.star, self.size, 2)
        u = torch.where(present[:, 1:], _hash(x)[:, None], 0.0) if present.shape[1] > 1 else x.new_zeros(len(x), 0)
        return vertices, torch.cat([1 - u.sum(1, keepdim=True), u], 1)


class Barycentric(Rule):
    """The papers' definition, on the Delaunay triangulation of the centres.

    The Delaunay simplices are the lower facets of the hull of (c, |c|^2), so the one that x lies in is that whose affine
    function is largest at x: the library's own search finds it.

    A simplex sigma blends x if sigma, together with the vertex of x's own cell, is a simplex of K. The own vertex is mostly
    one of sigma's; where it is not, it is listed with weight 0.
    """

    names = ("simplices", "slopes", "offsets", "allowed", "centroid", "edges")
    simplices: Tensor
    slopes: Tensor
    offsets: Tensor
    allowed: Tensor
    centroid: Tensor
    edges: Tensor

    @classmethod
    def of(cls, T: BrenierMap, centroid: Tensor, known: Tensor, K: SimplicialComplex) -> Barycentric:
        if T.dim > DELAUNAY_DIM:
            raise ValueError(
                f"weights='barycentric' triangulates the centres, which is possible in up to {DELAUNAY_DIM} dimensions "
                f"(beyond, hardly any x lies in their hull), but the map lives in R^{T.dim}; take another rule."
            )
        shown = known.nonzero()[:, 0]
        c = centroid[shown].to("cpu", torch.float64)
        simplices, slopes, offsets = _delaunay(c)
        vertices = shown[simplices.to(shown.device)]
        K = K.to(shown.device)
        return cls(
            {
                "simplices": vertices,
                "slopes": slopes.to(centroid.device, _checks.precise(centroid.device)),
                "offsets": offsets.to(centroid.device, _checks.precise(centroid.device)),
                "allowed": K.contains(vertices),
                "centroid": centroid,
                "edges": torch.nn.functional.pad(K.edge_keys, (1, 0), value=-1),  # never empty
            },
            {},
        )

    @property
    def width(self) -> int:
        return self.simplices.shape[1] * 2

    def forward(self, T: BrenierMap, x: Float[Tensor, "n d"], cell: Int[Tensor, " n"]) -> Blend:
        kind = _checks.precise(x.device)
        z = x.to(kind)
        _, facet = kernels.topk(z.detach(), self.slopes.to(kind), self.offsets)
        vertices = self.simplices[facet[:, 0]]
        weight = barycentric_coordinates(z, self.centroid[vertices].to(kind))
        inside = (weight >= -1e-6).all(1) & self.allowed[facet[:, 0]]  # false where a flat simplex gives NaN
        own = vertices == cell[:, None]
        i, j = torch.minimum(cell[:, None], vertices), torch.maximum(cell[:, None], vertices)
        key = i * len(T.points) + j
        place = torch.searchsorted(self.edges, key).clamp_max(len(self.edges) - 1)
        inside &= (own | (self.edges[place] == key)).all(1)
        weight = weight.clamp_min(0)
        weight = weight / weight.sum(1, keepdim=True)
        first = torch.where(inside, (weight * own).sum(1), 1.0)
        rest = torch.where(inside[:, None] & ~own, weight, 0.0)
        return torch.cat([cell[:, None], vertices], 1), torch.cat([first[:, None], rest], 1).to(x)


RULES: dict[str, type[Rule]] = {
    "affine": Affine, "project": Projected, "softmax": Softmax, "pair": Pair, "barycentric": Barycentric,
}  # fmt: skip


def rows_at_once(points: Tensor, width: int) -> int:
    """Rows whose gathered points fill one tile: 4 MB in float32 on a CPU, 512 MB on a GPU."""
    size = 2**20 if points.device.type == "cpu" else 2**27
    return max(1, size // (width * points.shape[1]))


def _delaunay(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Delaunay simplices of points, and the affine function of each whose maximum they share out.

    Qhull joggles the points in their last digits, always alike: where many lie on one sphere, as in a grid, their simplices
    would have one and the same function.
    """
    if c.shape[1] == 1:
        order = c[:, 0].argsort()
        low, high = c[order[:-1], 0], c[order[1:], 0]
        return torch.stack([order[:-1], order[1:]], 1), (low + high)[:, None], -low * high
    middle = c.mean(0)
    if len(c) <= c.shape[1] or torch.linalg.matrix_rank(c - middle, rtol=1e-10) < c.shape[1]:
        raise ValueError(f"{len(c)} centres that do not span R^{c.shape[1]} cannot be triangulated; take another rule.")
    mesh = Delaunay((c - middle).numpy(), qhull_options="QJ Qbb Pp")
    plane = torch.from_numpy(mesh.equations)  # <plane, (x, z, 1)> = 0 on a facet of the lifted points
    slopes, offsets = -plane[:, :-2] / plane[:, -2:-1], -plane[:, -1] / plane[:, -2]
    return torch.from_numpy(mesh.simplices).long(), slopes, offsets - slopes @ middle


def _least_root(a: float, b: float, c: float) -> float:
    """The least t in [0, 1] with a t^2 - 2 b t + c = 0, or that which comes nearest to it; a and c are not negative."""
    if a <= 0 or b <= 0:
        return 0.0
    return min(1.0, (b - math.sqrt(max(0.0, b * b - a * c))) / a)


def _within(size: Int[Tensor, "n 1"], like: Tensor) -> Tensor:
    """Which entries of a row belong to its star."""
    return torch.arange(like.shape[1], device=like.device) < size


def _foremost(T: BrenierMap, x: Tensor, cell: Tensor, star: Tensor, size: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k targets of a cell's star that score highest at x, its own first; which are there; scores less the own one."""
    y = kernels.precise(T.points)
    near = star[cell]
    scores = ((y[near] - y[cell][:, None]) @ x.to(y)[..., None])[..., 0] + (T.heights[near] - T.heights[cell][:, None]).to(y)
    scores = torch.where(_within(size[cell][:, None], near), scores, -torch.inf)
    _, order = scores[:, 1:].topk(min(k, near.shape[1]) - 1, dim=1)
    order = torch.nn.functional.pad(order + 1, (1, 0))
    scores = scores.gather(1, order)
    return near.gather(1, order), torch.isfinite(scores), scores


def _hash(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """A number in (0, 1) for each row, as good as random and the same for equal rows."""
    bits = x.detach().to(_checks.precise(x.device)).view(torch.int64 if x.device.type != "mps" else torch.int32)
    z = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for column in bits.to(torch.int64).unbind(1):
        z = (z ^ column) * 0x2545F4914F6CDD1D
        z = z ^ (z >> 29)
    return ((z & 0xFFFFFF).to(torch.float64) + 0.5).div(2**24).to(x)
