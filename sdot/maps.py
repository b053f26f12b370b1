"""Maps from points to points: `nn.Module`s with buffers only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from . import _checks, kernels

FAR = 8.0  # spreads from the origin at which scores would lose a digit


class BrenierMap(nn.Module):
    """The optimal map T = grad u_h, with u_h(x) = max_i <x, y_i> + h_i (Brenier, 1991).

    Piecewise constant: T(x) = y_i on the power cell of i. For any heights T is the exact optimal map from the source onto
    the masses of its cells. Points and heights are buffers: `.to`, `state_dict`, `deepcopy`, pickle and `torch.compile`
    work as for any module. Arrays in, arrays out.

    Args:
        points: Targets y, shape (m, d), float32 or float64.
        heights: h, shape (m,), in the units of <x, y>; -inf hides a target, which is then never hit.
        backend: Kernel, see `sdot.kernels`.
    """

    points: Float[Tensor, "m d"]
    heights: Float[Tensor, " m"]
    origin: Float[Tensor, " d"] | None  # where scores are taken from, so that they keep their digits

    def __init__(self, points: Any, heights: Any, *, backend: str = "auto") -> None:
        super().__init__()
        points = _checks.points("points", points).detach()
        heights = _checks.heights(_checks.floating("heights", _checks.tensor("heights", heights)), points.shape[0])
        heights = heights.detach().to(points.device)
        if torch.isnan(heights).any() or (heights == torch.inf).any() or torch.isneginf(heights).all():
            raise ValueError("heights must be numbers or -inf, at least one of them finite; look at what computed them.")
        self.register_buffer("points", points)
        self.register_buffer("heights", heights)
        self.register_buffer("origin", _far_centre(points), persistent=False)
        self.backend = backend

    @property
    def dim(self) -> int:
        return self.points.shape[1]

    def forward(self, x: Any) -> Any:
        """T(x): the target point of each row of x, shape (n, d)."""
        z = self._queries(x)
        return _checks.as_given(x, self.points[self._top(z)[1]])

    def cell(self, x: Any) -> Any:
        """The index of the power cell that each row of x lies in, shape (n,)."""
        return _checks.as_given(x, self._top(self._queries(x))[1])

    def potential(self, x: Any) -> Any:
        """The Brenier potential u_h(x), shape (n,), in the units of <x, y>. Differentiable, with gradient T."""
        z = self._queries(x)
        return _checks.as_given(x, self._top(z)[0].to(z))

    def soft(self, x: Any, eps: float) -> Any:
        """The entropic map: sum_i softmax_i((<x, y_i> + h_i) / eps) y_i, shape (n, d). Tends to T as eps -> 0.

        Args:
            x: Points, shape (n, d).
            eps: Temperature, in the units of <x, y>.
        """
        z = self._queries(x)
        y, origin = self._scored()
        average = kernels.soft_average(z.to(y), y, self.heights, eps, backend=self.backend)
        return _checks.as_given(x, (average if origin is None else average + origin).to(z))

    def extra_repr(self) -> str:
        return f"{self.points.shape[0]} points in R^{self.dim}"

    def _queries(self, x: Any) -> Float[Tensor, "n d"]:
        if isinstance(x, np.ndarray):  # arrays come in numpy's dtype and from the CPU; tensors say what they mean
            return _checks.points("x", x, self.dim, empty=True).to(self.points)
        z = _checks.points("x", x, self.dim, empty=True)
        return _checks.same_kind("x", z, "the map", self.points)

    def _top(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
        y, origin = self._scored()
        x = x.to(y)
        value, index = kernels.topk(x, y, self.heights, backend=self.backend)
        return value[:, 0] if origin is None else value[:, 0] + x @ origin, index[:, 0]

    def _scored(self) -> tuple[Float[Tensor, "m d"], Float[Tensor, " d"] | None]:
        """The points less the origin, in the dtype in which they are scored, and the origin."""
        y = kernels.precise(self.points)
        origin = None if self.origin is None else self.origin.to(y)
        return (y if origin is None else y - origin), origin


def _far_centre(points: Float[Tensor, "m d"]) -> Float[Tensor, " d"] | None:
    """The mean of points that are far from the origin, measured by their spread."""
    y = points.to(_checks.precise(points.device))
    mean = y.mean(0)
    spread = (y - mean).square().sum(1).mean().sqrt()
    return mean.to(points) if mean.norm() > FAR * spread else None
