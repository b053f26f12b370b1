"""The angle between neighbouring planes of the Brenier potential: AE-OT's test for its singular set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import _checks
from .neighbours import SPAN, slices


def dihedral_angles(points: Any, edges: Any, *, standardise: bool = True) -> Any:
    """The angle between the supporting planes of the Brenier potential at the ends of each edge, in radians.

    cos theta_ij = (<y_i, y_j> + 1) / sqrt((1 + |y_i|^2) (1 + |y_j|^2)). Where theta is large, u_h has a ridge between the
    cells of i and j, and blending y_i with y_j leaves the data: `K.keep_edges(dihedral_angles(y, K.simplices[1]) < 0.7)`.

    The angle depends on origin and scale of the points, so they are first moved to mean zero and scaled to mean square norm
    one. Then orthogonal codes of norm one have the angle 60 degrees, opposite ones 90.

    Args:
        points: y, shape (m, d), float32 or float64, tensor or array.
        edges: Pairs of indices, int64, shape (e, 2).
        standardise: False takes the points as they are.

    Returns:
        Angles in [0, pi], float64, shape (e,).

    Source: An et al., "AE-OT", ICLR 2020, the singular set of Algorithm 2.
    """
    y, pairs = _checks.points("points", points).detach(), _checks.tensor("edges", edges)
    if pairs.dtype != torch.int64 or pairs.dim() != 2 or pairs.shape[1] != 2:
        raise ValueError(f"edges must be int64 of shape (e, 2), but {pairs.dtype} of shape {tuple(pairs.shape)} came.")
    if pairs.numel() and (pairs.min() < 0 or pairs.max() >= len(y)):
        raise ValueError(f"edges must refer to the {len(y)} points, but entries from {pairs.min()} to {pairs.max()} came.")
    z = y.to(_checks.precise(y.device))
    if standardise:
        z = z - z.mean(0)
        z = z / (z.square().sum(1).mean().sqrt().item() or 1.0)
    normal = torch.nn.functional.normalize(torch.cat([z, torch.ones_like(z[:, :1])], 1), dim=1)
    angle = normal.new_empty(len(pairs))
    for s in slices(len(pairs), max(1, SPAN // z.shape[1])):
        u, v = normal[pairs[s, 0]], normal[pairs[s, 1]]
        # exact for small angles too, where the arc cosine loses half of the digits (Kahan, 2006)
        angle[s] = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))
    return angle.cpu().numpy() if isinstance(points, np.ndarray) else angle
