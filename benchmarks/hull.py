"""The share of the source that lies in the hull of all centres of mass: where barycentric coordinates exist at all.

python -m benchmarks.hull        about three minutes on one core

1,000 Gaussian targets, a uniform cube, 300 samples a dimension, one linear programme a sample.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Generator

import sdot
from benchmarks import command
from benchmarks.record import Row, Table

DIMENSIONS = (2, 3, 4, 6, 8, 12, 16)


def measure(d: int, m: int, n: int) -> Row:
    g = Generator().manual_seed(d)
    y, source = torch.randn(m, d, generator=g), sdot.UniformCube(d, low=-0.5, high=0.5)
    T = sdot.solve(source, sdot.DiscreteMeasure.uniform(y), tol=0.02, generator=g).map
    cells = sdot.estimate_cells(T, source, generator=g)
    x = source.sample(n, like=y, generator=g)
    _, nearest = sdot.kernels.topk(x, cells.centroid, -cells.centroid.square().sum(1) / 2)
    equations = np.vstack([cells.centroid.T.numpy(), np.ones(m)])
    inside = [linprog(np.zeros(m), A_eq=equations, b_eq=[*p, 1.0], method="highs").status == 0 for p in x.tolist()]
    return {
        "d": d,
        "in_hull": float(np.mean(inside)),
        "nearest_is_own": float((nearest[:, 0] == T.cell(x)).double().mean()),
        "norm_of_x": float(x.norm(dim=1).mean()),
        "norm_of_centres": float(cells.centroid.norm(dim=1).mean()),
    }


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("-m", type=int, default=1000, help="targets (%(default)s)")
    parser.add_argument("-n", type=int, default=300, help="samples (%(default)s)")
    options = parser.parse_args()
    command.start(options)
    table = Table("hull", m=options.m, n=options.n)
    for d in DIMENSIONS:
        row = (table.find(d=d) or [table.add(measure(d, options.m, options.n))])[0]
        print(" ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
