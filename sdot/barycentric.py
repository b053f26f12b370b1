"""Coordinates of points in simplices: barycentric coordinates, and the nearest point of a simplex."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import _checks

MOST = 16  # vertices of a simplex that is projected onto


def barycentric_coordinates(x: Float[Tensor, "n d"], simplex: Float[Tensor, "#n k d"]) -> Float[Tensor, "n k"]:
    """The weights lambda, summing to one, with x = sum_j lambda_j p_j, for the k = d + 1 vertices p_j of each simplex.

    Negative where x lies outside; not finite where the simplex is flat. Differentiable.

    Args:
        x: Points.
        simplex: The vertices of a simplex for each point; one simplex, shape (1, k, d), serves all points.
    """
    if simplex.dim() != 3 or simplex.shape[1] != x.shape[1] + 1 or simplex.shape[2] != x.shape[1]:
        raise ValueError(
            f"a simplex of R^{x.shape[1]} has {x.shape[1] + 1} vertices, but the shape {tuple(simplex.shape)} came."
        )
    base = simplex[:, 0]
    edges = (simplex[:, 1:] - base[:, None]).mT.expand(x.shape[0], -1, -1)
    rest, _ = torch.linalg.solve_ex(edges, x - base)
    return torch.cat([1 - rest.sum(1, keepdim=True), rest], 1)


def project_to_simplex(
    x: Float[Tensor, "n d"], points: Float[Tensor, "n k d"], mask: Bool[Tensor, "n k"] | None = None
) -> Float[Tensor, "n k"]:
    """The weights of the point nearest to x in the convex hull of k <= 16 points, one hull for each x.

    argmin |x - sum_j lambda_j p_j| over lambda >= 0 with sum 1, exact but for rounding: Wolfe's active-set method, run on
    all rows at once. It keeps a set of affinely independent points throughout, so hulls may be flat, points may coincide and
    x may be anywhere. The weights are unique where the points are affinely independent. Differentiable where the set of
    points in use does not change.

    Args:
        x: Points to project.
        points: p, the points that span each hull.
        mask: Which of them take part, at least one in each row; the others get weight 0. All of them when left out.

    Source: P. Wolfe, "Finding the nearest point in a polytope", Mathematical Programming 11, 1976.
    """
    _checks.count("the number of points", points.shape[1], MOST)
    if mask is None:
        mask = torch.ones(points.shape[:2], dtype=torch.bool, device=x.device)
    elif not mask.any(1).all():
        raise ValueError("mask must leave at least one point in every row.")
    return nearest_weights(*distance_form(x, points, mask), mask).to(x.dtype)


def distance_form(
    x: Float[Tensor, "n d"], points: Float[Tensor, "n k d"], mask: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "n k k"], Float[Tensor, "n k"]]:
    """A and b with |sum_j lambda_j p_j - x|^2 = lambda' A lambda - 2 b' lambda + constant, where lambda sums to one."""
    kind = _checks.precise(x.device)
    base = points[torch.arange(len(x), device=x.device), _first(mask)]
    edges = torch.where(mask[..., None], points - base[:, None], 0.0).to(kind)
    return edges @ edges.mT, (edges @ (x.to(kind) - base.to(kind))[..., None])[..., 0]


def nearest_weights(A: Float[Tensor, "n k k"], b: Float[Tensor, "n k"], mask: Bool[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """The minimum of a `distance_form` over all weights that vanish outside the mask."""
    with torch.no_grad():
        weights, used = _active_set(A, b, mask, _first(mask))
    differentiable = torch.is_grad_enabled() and (A.requires_grad or b.requires_grad)
    return _affine_minimum(A, b, weights, used) if differentiable else weights


def _first(mask: Bool[Tensor, "n k"]) -> Int[Tensor, " n"]:
    return mask.to(torch.int64).argmax(1)


def _active_set(A: Tensor, b: Tensor, mask: Tensor, first: Tensor) -> tuple[Float[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """The weights of the nearest point of each hull, and the points on which it rests."""
    n, k = b.shape
    used = torch.zeros_like(mask).scatter_(1, first[:, None], True)
    weights = used.to(A.dtype)
    scale = A.diagonal(dim1=1, dim2=2).amax(1) + b.abs().amax(1)
    tolerance = 64 * torch.finfo(A.dtype).eps * scale
    rows = torch.arange(n, device=A.device)  # those that are not finished
    u, w, blocked = used.clone(), weights.clone(), torch.zeros(n, dtype=torch.bool, device=A.device)
    for _ in range(8 * k):
        slope = (A @ w[..., None])[..., 0] - b
        lead, enter = torch.where(mask & ~u, slope, torch.inf).min(1)
        better = lead < (slope * w).sum(1) - tolerance
        finished = ~blocked & ~better
        if finished.any():
            used[rows[finished]], weights[rows[finished]] = u[finished], w[finished]
            keep = ~finished
            rows, A, b, mask, tolerance = rows[keep], A[keep], b[keep], mask[keep], tolerance[keep]
            u, w, blocked, enter = u[keep], w[keep], blocked[keep], enter[keep]
        if len(rows) == 0:
            break
        u = u.scatter(1, enter[:, None], u.gather(1, enter[:, None]) | ~blocked[:, None])
        v = _affine_minimum(A, b, w, u)
        outside = u & (v <= 0)
        step = torch.where(outside, w / (w - v).clamp_min(torch.finfo(w.dtype).tiny), torch.inf)
        length, leave = step.min(1)
        blocked = outside.any(1)
        w = torch.where(blocked[:, None], (w + length.clamp_max(1.0)[:, None] * (v - w)).clamp_min(0), v)
        u = u & ~(blocked[:, None] & (torch.arange(k, device=A.device) == leave[:, None]))
        w = torch.where(u, w, 0.0)
    used[rows], weights[rows] = u, w
    return weights, used


def _affine_minimum(A: Tensor, b: Tensor, w: Tensor, used: Tensor) -> Float[Tensor, "n k"]:
    """argmin v' A v - 2 b' v over v with sum 1 that vanish outside `used`, found as w + (a change of sum 0).

    At the solution all slopes are equal; only their differences enter here, so that points far away from a small hull cost no
    digits. A + c 11' has an inverse on affinely independent points, and its c does not matter.
    """
    slope = (A @ w[..., None])[..., 0] - b
    slope = (slope * w).sum(1, keepdim=True) - slope
    largest = A.diagonal(dim1=1, dim2=2).amax(1)
    c = torch.where(largest > 0, largest, 1.0)
    on = used.to(A.dtype)
    matrix = (A + c[:, None, None]) * (on[:, :, None] * on[:, None, :])
    matrix = matrix + torch.diag_embed(torch.where(used, 0.0, c[:, None]))  # the identity where nothing is used
    change, constant = _solve(matrix, torch.stack([slope * on, on], 2)).unbind(2)
    change = change - (change.sum(1) / constant.sum(1))[:, None] * constant
    v: Tensor = torch.where(used, w + change, 0.0)
    return v


def _solve(matrix: Float[Tensor, "n k k"], right: Float[Tensor, "n k r"]) -> Float[Tensor, "n k r"]:
    """Small positive definite systems. Gauss-Jordan with the rows in the last dimension: half the time of LAPACK's calls."""
    if matrix.requires_grad or right.requires_grad:
        solution: Tensor = torch.linalg.solve_ex(matrix, right)[0]
        return solution
    k = matrix.shape[1]
    system = torch.cat([matrix, right], 2).permute(1, 2, 0).contiguous()
    for j in range(k):
        system[j, j + 1 :] /= system[j, j]
        column = system[:, j].clone()
        column[j] = 0
        system[:, j + 1 :].addcmul_(column[:, None], system[j, None, j + 1 :].clone(), value=-1)
    return system[:, k:].permute(2, 0, 1)
