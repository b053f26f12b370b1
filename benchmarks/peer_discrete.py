"""Discrete solvers between a sample of the source and the targets: POT's `ot.emd`, Sinkhorn and `ot.stochastic`, GeomLoss.

What the budget buys is the size n of the sample. Drawing it and the matrix of costs count. The potential on the targets gives
heights for the whole source, the semi-discrete problem's answer by a sample of n.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from benchmarks.methods import Clock, Method, Outcome, Peer, filling
from benchmarks.problems import Problem

MOST = 4 * 10**7  # costs in one matrix, n m
CHECKED = 256  # samples whose assignment is looked at
Solved = tuple[Tensor, Tensor]  # potential for |x - y|^2 on the targets; the peer's own cells of the first samples
Solve = Callable[[Peer, Tensor, int], Solved]  # of a sample and a seed


def sampled(name: str, settings: str, solve: Solve, *, work: float, power: float = 1.0) -> Method:
    """A discrete solver as a method.

    Args:
        name: Its name.
        settings: In words.
        solve: The solver.
        work: What a pair of a sample and a target costs, roughly, in units of 5 ns.
        power: Seconds grow as this power of n.
    """

    def run(problem: Problem, budget: float, seed: int) -> Outcome:
        peer, g = Peer.of(problem), Generator().manual_seed(seed)

        def spend(n: int) -> tuple[Tensor, Solved, Clock, float]:
            clock = Clock()
            x = problem.source.sample(n, like=peer.points, generator=g)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                solved = solve(peer, x, seed)
            return x, solved, clock, clock.cpu

        most = MOST // len(peer.points)

        def seconds(n: int) -> float:
            return spend(n)[-1] if n < most else math.inf

        spend(10)  # imports, first calls
        n = min(most, filling(budget, seconds, math.ceil(work * len(peer.points)), power)) or most  # 0: the trial was too large
        x, (potential, cells), clock, cpu = spend(n)
        wall = clock.wall
        heights = peer.heights(potential)
        peer.check(heights, x[: len(cells)], cells)
        return Outcome(heights, n, cpu, wall)

    return Method(name, settings, run)


def emd() -> Method:
    """The exact plan by network simplex, in double precision."""

    def solve(peer: Peer, x: Tensor, seed: int) -> Solved:
        import ot

        cost = ot.dist(x.double().numpy(), peer.points.double().numpy())
        plan, log = ot.emd(uniform(x).numpy(), peer.weights.numpy(), cost, numItermax=10**8, log=True)
        return torch.from_numpy(log["v"]), torch.from_numpy(plan[:CHECKED].argmax(1))

    return sampled("POT, emd", "n by budget", solve, work=20, power=1.5)


def sinkhorn(eps: float, iterations: int, form: str) -> Method:
    """The entropic plan on tensors in double precision, by scaling ("sinkhorn") or by logarithms ("sinkhorn_log")."""

    def solve(peer: Peer, x: Tensor, seed: int) -> Solved:
        import ot

        cost, reg = ot.dist(x.double(), peer.points.double()), eps * peer.blur
        plan, log = ot.sinkhorn(
            uniform(x), peer.weights, cost, reg, method=form, numItermax=iterations, stopThr=0, log=True, warn=False
        )
        v = log["v"].log() if form == "sinkhorn" else log["log_v"]
        return reg * v, plan[:CHECKED].argmax(1)

    work = iterations * (0.4 if form == "sinkhorn" else 3)
    return sampled("POT, Sinkhorn", f"{form}, eps {eps:g}, {iterations} iterations, n by budget", solve, work=work)


def stochastic(step: float, eps: float, passes: int) -> Method:
    """Averaged stochastic gradient of Genevay et al. (2016), one sample a step.

    Args:
        step: First step in units of (spread of the cost) m^(1/2); POT's own n eps when 0.
        eps: Temperature in units of (spread of the cost) / m^(1 / d).
        passes: Steps for each sample.
    """

    def solve(peer: Peer, x: Tensor, seed: int) -> Solved:
        import ot
        from ot import stochastic

        nu, reg = peer.weights.numpy(), eps * peer.blur
        cost = ot.dist(x.double().numpy(), peer.points.double().numpy())
        cost -= cost.min(1, keepdims=True)  # changes nothing but what underflows
        beta = stochastic.averaged_sgd_entropic_transport(
            uniform(x).numpy(), nu, cost, reg, passes * len(x), step * peer.unit * peer.effective**0.5 or None, seed
        )
        rows = [stochastic.coordinate_grad_semi_dual(nu, cost, reg, beta, i) for i in range(min(CHECKED, len(x)))]
        cells = torch.tensor([int((nu - row).argmax()) for row in rows])
        return torch.from_numpy(beta) + reg * peer.weights.log(), cells

    rule = f"step {step:g}" if step else "step of its own"
    words = f"{rule}, eps {eps:g}, {passes} steps a sample, n by budget"
    return sampled("POT, stochastic", words, solve, work=2 + 4 * passes)


def geomloss(eps: float, scaling: float) -> Method:
    """`SamplesLoss("sinkhorn")` without its debiasing, whose potentials are those of the transport itself.

    Args:
        eps: Temperature blur^2 in units of (spread of the cost) / m^(1 / d).
        scaling: Factor between two of its temperatures.
    """

    def solve(peer: Peer, x: Tensor, seed: int) -> Solved:
        from geomloss import SamplesLoss

        reg, nu, y = eps * peer.blur / 2, peer.weights.to(x), peer.points  # its cost is |x - y|^2 / 2
        loss = SamplesLoss("sinkhorn", p=2, blur=reg**0.5, scaling=scaling, debias=False, potentials=True, backend="tensorized")
        f, g = loss(uniform(x).to(x), x, nu, y)
        cost = torch.cdist(x[:CHECKED].double(), y.double()).square() / 2
        plan = nu * torch.exp((f.view(-1)[:CHECKED, None] + g.view(-1) - cost) / reg)  # of its documentation
        return 2 * (g.view(-1).double() + reg * peer.weights.log()), plan.argmax(1)

    work = 3 * math.log(1000 / eps) / math.log(1 / scaling)
    return sampled("GeomLoss", f"eps {eps:g}, scaling {scaling:g}, n by budget", solve, work=work)


def uniform(x: Tensor) -> Tensor:
    return torch.full((len(x),), 1 / len(x), dtype=torch.float64)


def sinkhorn_grid() -> list[Method]:
    """Nine settings: the colder, the less biased and the slower."""
    by_scaling = [(eps, iterations, "sinkhorn") for eps in (0.1, 0.3, 1) for iterations in (30, 100)]
    return [sinkhorn(*setting) for setting in (*by_scaling, *((eps, 100, "sinkhorn_log") for eps in (0.01, 0.03, 0.1)))]


def stochastic_grid() -> list[Method]:
    """Eight settings."""
    settings = [(0.3, 0.3), (0.3, 1.0), (0.1, 0.3), (0.1, 1.0), (1.0, 1.0), (0.0, 1.0)]
    return [stochastic(*setting, 1) for setting in settings] + [stochastic(0.1, 1, 10), stochastic(0.3, 0.3, 10)]


def geomloss_grid() -> list[Method]:
    """Six settings, its default scaling first."""
    return [geomloss(eps, scaling) for scaling in (0.5, 0.9) for eps in (0.03, 0.1, 0.3)]
