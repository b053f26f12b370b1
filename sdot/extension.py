"""The extension of a Brenier map across a simplicial complex: new points between neighbouring targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from . import _checks
from .affine import Affine
from .barycentric import MOST
from .blending import Pair, Projected, Rule, Softmax
from .cells import Cells
from .maps import BrenierMap
from .simplicial import SimplicialComplex
from .stars import joined_stars, rows_at_once
from .triangulation import Barycentric

REACH = 32  # nearest joined targets among which the candidates of a sample are sought
RULES: dict[str, type[Rule]] = {
    "affine": Affine,
    "project": Projected,
    "softmax": Softmax,
    "pair": Pair,
    "barycentric": Barycentric,
}
JOINS = ("star", "clique")


@dataclass(frozen=True, eq=False)
class Parts:
    """What an image is made of: T~(x) = sum_j weights_j y_{vertices_j}.

    Attributes:
        vertices: (n, k), indices of targets, that of x's own cell first. What fills a row up has weight 0.
        weights: (n, k), summing to one; not negative except with "affine", where they are affine coordinates.
        moved: (n,), whether anything but the own vertex has weight.
    """

    vertices: Any
    weights: Any
    moved: Any


class PiecewiseLinearMap(nn.Module):
    """T~(x) = sum_j lambda_j(x) y_j: blends of the target of x's own cell with targets joined to it in a complex.

    T sends every x to a target; T~ sends it to a point near that target, and only ever between targets that K joins. For
    every rule |T~(x) - T(x)| is at most the longest edge of K in use, so that T~ carries the source within W_2 distance
    `max_edge_length` of what T carries it to (An et al., AE-OT-GAN, ECCV 2020, Theorem 1).

    Arrays in, arrays out. Differentiable in x inside the pieces, but for "pair"; constant in x where x does not move.

    Args:
        T: The map.
        cells: Its power cells, from `estimate_cells`; or only their centres of mass, shape (m, d), with which "affine" and
            "softmax" cannot be had.
        K: Which targets may be blended.
        weights: The rule.
            "affine": an affine map on each cell, the derivative of which is the covariance of the targets around its own
            (`sdot.affine.Affine`); what generates best (docs/extension.md), and the default.
            "project": barycentric coordinates of the nearest point to x in the simplex of the centres; the default where
            only centres are given.
            "softmax": the entropic map among joined targets.
            "pair": one neighbour, and a weight as good as random, as in the program of the AE-OT authors.
            "barycentric": the papers' definition, on the Delaunay triangulation of the centres; up to 4 dimensions.
        k: How many vertices are blended at most, the own one included: 32 for "affine", 8 for "project" and "softmax".
        join: "star": every vertex is joined to the own one. "clique": they are joined to each other too, so that an image
            lies in one simplex of K; chosen greedily, the nearest first.
        step: For "affine": how far images spread around their target, as a share of the spread of its neighbours, below 1.
        hardness: For "softmax": the mean weight of the foremost vertex, which sets the temperature.

    Raises:
        ValueError: Parts that do not belong together, bad settings.
    """

    def __init__(
        self,
        T: BrenierMap,
        cells: Cells | Any,
        K: SimplicialComplex,
        weights: str | None = None,
        *,
        k: int | None = None,
        join: str = "star",
        step: float = 0.8,
        hardness: float = 0.7,
    ) -> None:
        super().__init__()
        m = T.points.shape[0]
        if K.num_vertices != m:
            raise ValueError(f"the map has {m} targets, but the complex has {K.num_vertices} vertices; build it on T.points.")
        centroid = cells.centroid if isinstance(cells, Cells) else _checks.points("cells", cells, T.dim)
        if centroid.shape != T.points.shape:
            raise ValueError(
                f"cells must have one centre a target, shape {tuple(T.points.shape)}, but {tuple(centroid.shape)} came."
            )
        weights = weights or ("affine" if isinstance(cells, Cells) else "project")
        if weights not in RULES:
            raise ValueError(f"weights must be one of {', '.join(map(repr, RULES))}, but {weights!r} came.")
        if weights in ("affine", "softmax") and not isinstance(cells, Cells):
            raise ValueError(
                f"weights={weights!r} needs the cells themselves, not only their centres; pass sdot.estimate_cells(...)."
            )
        if join not in JOINS:
            raise ValueError(f"join must be 'star' or 'clique', but {join!r} came.")
        for name, value in (("step", step), ("hardness", hardness)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must lie between 0 and 1, but {value!r} came.")
        self._assemble(
            T, _rule(T, cells, centroid.to(T.points), K, weights, k, join, step, hardness), weights, K.max_edge_length
        )

    def _assemble(self, T: BrenierMap, rule: Rule, weights: str, max_edge_length: float) -> None:
        self.map, self.rule, self.weights, self.max_edge_length = T, rule, weights, float(max_edge_length)

    @classmethod
    def restored(
        cls, T: BrenierMap, weights: str, buffers: dict[str, Tensor], settings: dict[str, Any], max_edge_length: float
    ) -> PiecewiseLinearMap:
        """A map from the parts that `serialization` writes."""
        S = cls.__new__(cls)
        nn.Module.__init__(S)
        S._assemble(T, RULES[weights](buffers, settings), weights, max_edge_length)
        return S

    @property
    def dim(self) -> int:
        return self.map.dim

    @property
    def points(self) -> Float[Tensor, "m d"]:
        return self.map.points

    def forward(self, x: Any) -> Any:
        """T~(x), shape (n, d)."""
        z = self.map._queries(x)
        return _checks.as_given(x, torch.cat([self.rule.image(self.map, b, cell) for b, cell in self._blocks(z)]))

    def parts(self, x: Any) -> Parts:
        """Vertices and weights of T~(x), and whether x moved."""
        found = [self.rule(self.map, b, cell) for b, cell in self._blocks(self.map._queries(x))]
        vertices, weight = (torch.cat(values) for values in zip(*found, strict=True))
        return Parts(
            _checks.as_given(x, vertices), _checks.as_given(x, weight), _checks.as_given(x, (weight[:, 1:] != 0).any(1))
        )

    def share_moved(self, x: Any) -> float:
        """The share of the points that T~ does not send to a target."""
        moved = self.parts(x).moved
        return float(torch.as_tensor(moved).double().mean())

    def extra_repr(self) -> str:
        settings = "".join(f", {name}={value:.4g}" for name, value in self.rule.settings.items())
        return f"weights={self.weights!r}{settings}, max_edge_length={self.max_edge_length:.4g}"

    def _blocks(self, x: Float[Tensor, "n d"]) -> Iterator[tuple[Tensor, Tensor]]:
        """Samples and their cells, as many at once as one tile of memory holds."""
        with torch.no_grad():
            cells = self.map.cell(x)
        rows = rows_at_once(self.points, self.rule.width)
        return zip(torch.split(x, rows), torch.split(cells, rows), strict=True)


def _rule(
    T: BrenierMap, cells: Any, centroid: Tensor, K: SimplicialComplex, weights: str,
    k: int | None, join: str, step: float, hardness: float,
) -> Rule:  # fmt: skip
    if weights == "barycentric":
        known = torch.isfinite(T.heights) & (cells.count > 0 if isinstance(cells, Cells) else True)
        return Barycentric.of(T, centroid, known, K)
    k = _checks.count(
        "k", {"affine": 32, "pair": 2}.get(weights, 8) if k is None else k, MOST if weights == "project" else None
    )
    width = k if weights == "affine" else max(k, REACH)
    star, size = joined_stars(T, K, width, clique=join == "clique")
    if weights == "affine":
        return Affine.of(T, cells, star, size, step=step)
    if weights == "softmax":
        return Softmax.of(T, cells, star, size, k=k, hardness=hardness)
    return RULES[weights]({"star": star, "size": size, "centroid": centroid}, {"k": k})
