"""What the library asks of a solver, a source and a kernel. Call these on one of your own; docs/extending.md does."""

import itertools
from types import ModuleType

import torch
from torch import Generator

import sdot
from sdot import kernels
from sdot.measures import Draw


def check_solver(solver: sdot.Solver, *, m: int = 200, d: int = 4, tol: float = 0.1, most_steps: int = 4000) -> int:
    """Run a solver on a Gaussian cloud: it arrives, counts its samples, can be repeated, and knows how well it did.

    Returns:
        Steps to the tolerance.
    """
    y = 2 * torch.randn(m, d, generator=Generator().manual_seed(0)) + 1
    source, target = sdot.Gaussian(dim=d), sdot.DiscreteMeasure.uniform(y)
    states = []
    for state in sdot.iterate(source, target, solver, generator=Generator().manual_seed(0)):
        states.append(state)
        if state.chi2 < tol or state.step >= most_steps:
            break
    assert states[-1].chi2 < tol, f"chi2 = {states[-1].chi2} after {most_steps} steps"
    assert [s.step for s in states] == list(range(1, len(states) + 1))
    assert all(a.samples < b.samples for a, b in itertools.pairwise(states)), "every step draws samples"
    h = states[-1].heights
    assert h.dtype == torch.float64
    assert abs(float(target.weights @ h)) < 1e-9, "heights have weighted mean zero"
    again = sdot.iterate(source, target, solver, generator=Generator().manual_seed(0))
    assert torch.equal(next(again).heights, states[0].heights), "the same seed gives the same heights"
    judged = sdot.certify(sdot.BrenierMap(y, h), source, target, generator=Generator().manual_seed(1))
    assert judged.chi2 < 2 * tol, f"the solver's own estimate is {states[-1].chi2}, fresh samples say {judged.chi2}"
    return len(states)


def check_source(source: sdot.Source, *, n: int = 20_000) -> None:
    """Draw from a source: shape, dtype, repeatability, and that both ways to draw, where there are two, agree in the mean."""
    for dtype in (torch.float32, torch.float64):
        like = torch.zeros(1, source.dim, dtype=dtype)
        x = source.sample(n, like=like, generator=Generator().manual_seed(0))
        assert x.shape == (n, source.dim)
        assert x.dtype == dtype
        assert torch.isfinite(x).all()
        again = source.sample(n, like=like, generator=Generator().manual_seed(0))
        assert torch.equal(x, again), "all randomness comes from the generator"
        if cube := Draw(source, like, 0, 0).even_dim:
            u = torch.rand(n, cube, dtype=dtype, generator=Generator().manual_seed(1))
            even = source.from_uniform(u)
            assert even.shape == x.shape
            assert even.dtype == dtype
            error = ((x.var(0) + even.var(0)) / n).sqrt()
            assert ((x.mean(0) - even.mean(0)).abs() < 6 * error + 1e-6).all(), "from_uniform carries to another measure"


def check_kernel(backend: str | ModuleType) -> None:
    """Hold `topk` of a backend equal to the definition, on awkward sizes and in both dtypes. Ties are legal."""
    topk = kernels.BACKENDS[backend].topk if isinstance(backend, str) else backend.topk
    for (n, m), d, dtype in itertools.product(
        [(1, 1), (1, 63), (63, 257), (257, 63)], (1, 3, 64), (torch.float32, torch.float64)
    ):
        g = Generator().manual_seed(0)
        x, y, h = (torch.randn(shape, generator=g, dtype=dtype) for shape in ((n, d), (m, d), (m,)))
        h[: m // 3] = -torch.inf
        for k in {1, min(2, m), min(5, m)}:
            value, index = topk(x, y, h, k)
            expected, _ = kernels.topk(x, y, h, k, backend="reference")
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close((x[:, None] * y[index]).sum(-1) + h[index], expected)
