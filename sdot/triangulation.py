"""The papers' rule: barycentric coordinates in the Delaunay triangulation of the centres of mass."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from scipy.spatial import Delaunay
from torch import Tensor

from . import _checks, kernels
from .barycentric import barycentric_coordinates
from .blending import Blend, Rule
from .maps import BrenierMap
from .simplicial import SimplicialComplex
from .simplicial.complex import find_edges

DELAUNAY_DIM = 4


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
        inside &= (own | (find_edges(self.edges, len(T.points), cell[:, None], vertices) >= 0)).all(1)
        weight = weight.clamp_min(0)
        weight = weight / weight.sum(1, keepdim=True)
        first = torch.where(inside, (weight * own).sum(1), 1.0)
        rest = torch.where(inside[:, None] & ~own, weight, 0.0)
        return torch.cat([cell[:, None], vertices], 1), torch.cat([first[:, None], rest], 1).to(x)


def _delaunay(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Delaunay simplices of points, and the affine function of each whose maximum they share out.

    Qhull joggles the points in their last digits, always alike: where many lie on one sphere, as in a grid, their simplices
    would have one and the same function.
    """
    (m, d), middle = c.shape, c.mean(0)
    if m <= d or torch.linalg.matrix_rank(c - middle, rtol=1e-10) < d:
        raise ValueError(f"{m} centres that do not span R^{d} cannot be triangulated; take another rule.")
    if d == 1:
        order = c[:, 0].argsort()
        low, high = c[order[:-1], 0], c[order[1:], 0]
        return torch.stack([order[:-1], order[1:]], 1), (low + high)[:, None], -low * high
    if m == d + 1:  # which Qhull refuses
        return torch.arange(m)[None], c.new_zeros(1, d), c.new_zeros(1)
    mesh = Delaunay((c - middle).numpy(), qhull_options="QJ Qbb Pp")
    plane = torch.from_numpy(mesh.equations)  # <plane, (x, z, 1)> = 0 on a facet of the lifted points
    slopes, offsets = -plane[:, :-2] / plane[:, -2:-1], -plane[:, -1] / plane[:, -2]
    return torch.from_numpy(mesh.simplices).long(), slopes, offsets - slopes @ middle
