"""OTT-JAX's `SemidiscreteSolver` (Cuturi et al., 2022): any optax optimiser on the semi-dual, compiled by XLA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import sdot
from benchmarks.methods import Clock, Method, Outcome, Peer, filling
from benchmarks.problems import Problem


def ott(
    settings: str, batch: int, optimizer: Callable[[Peer, int], Any], *, ema: float = 0.0, eps: float = 0.0, every: int = 0
) -> Method:
    """Its solver in its published form, compiled before the clock starts.

    Args:
        settings: Their name.
        batch: Samples a step.
        optimizer: Makes the optax optimiser from the units of the problem and the number of steps.
        ema: Steps over which iterates are averaged, as a share of all; OTT's own 0.99 on the newest when 0.
        eps: First temperature in units of (spread of the cost) / m^(1 / d), falling as t^(-1/2); no temperature when 0.
        every: Steps between two of its own measurements of the error; none but at the end when 0.
    """

    def run(problem: Problem, budget: float, seed: int) -> Outcome:
        import jax
        from ott.geometry.semidiscrete_pointcloud import SemidiscretePointCloud
        from ott.problems.linear.semidiscrete_linear_problem import SemidiscreteLinearProblem
        from ott.solvers.linear import semidiscrete

        peer = Peer.of(problem)
        geom = SemidiscretePointCloud(jax_sampler(problem.source), jax.numpy.asarray(peer.points.numpy()), epsilon=0.0)
        weights = jax.numpy.asarray(peer.weights.to(peer.points).numpy())
        prob = SemidiscreteLinearProblem(geom, b=None if (peer.weights == peer.weights[0]).all() else weights)

        def solve(steps: int) -> tuple[Any, float, float]:
            options: dict[str, Any] = {"potential_ema": min(1.0, 1 / (ema * steps))} if ema else {}
            if eps:
                options["epsilon_scheduler"] = lambda t, _: eps * peer.blur * (t + 1.0) ** -0.5
            solver = semidiscrete.SemidiscreteSolver(
                num_iterations=steps,
                batch_size=batch,
                optimizer=optimizer(peer, steps),
                error_eval_every=min(every, steps) or steps,
                error_num_repeats=16 if every else 1,
                threshold=0.0,
                **options,
            )
            function = jax.jit(solver).lower(jax.random.key(0), prob).compile()
            clock = Clock()
            out = jax.block_until_ready(function(jax.random.key(seed), prob))
            return out, clock.cpu, clock.wall

        out, cpu, wall = solve(filling(budget, lambda steps: solve(steps)[1], batch * problem.cells))
        heights = peer.heights(torch.from_numpy(np.array(out.g)))
        own = out.sample(jax.random.key(2), 256)
        x, cells = torch.from_numpy(np.array(own.ot_prob.geom.x)), torch.from_numpy(np.array(own.paired_indices[1]))
        peer.check(heights, x, cells)
        return Outcome(heights, int(out.it) * batch, cpu, wall)

    return Method("OTT", settings, run)


def jax_sampler(source: sdot.Source) -> Callable[..., Any]:
    """The same source, drawn by JAX inside the compiled loop."""
    import jax

    if isinstance(source, sdot.UniformCube):
        return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, source.low, source.high)
    if isinstance(source, sdot.UniformBall):
        return lambda key, shape, dtype: source.radius * jax.random.ball(key, shape[1], shape=shape[:1], dtype=dtype)
    assert isinstance(source, sdot.Gaussian)
    assert source.mean is None
    assert source.covariance is None
    return jax.random.normal


def documented() -> Method:
    """As in its tutorial on semi-discrete transport: plain gradient steps of 0.1 with batches of 128, no temperature."""
    import optax

    return ott("as documented: sgd(0.1), batch 128", 128, lambda peer, steps: optax.sgd(0.1), every=5000)


def cosine(lr: float) -> Callable[[Peer, int], Any]:
    """Adam whose step falls from lr (spread of the cost) to zero along half a cosine over the whole budget."""
    import optax

    return lambda peer, steps: optax.adam(optax.cosine_decay_schedule(lr * peer.unit, steps))


def falling(step: float, batch: int) -> Callable[[Peer, int], Any]:
    """Gradient steps that fall as t^(-2/3), the first in units of (spread of the cost) (m batch)^(1/2)."""
    import optax

    def make(peer: Peer, steps: int) -> Any:
        first = step * peer.unit * (peer.effective * batch) ** 0.5
        return optax.sgd(lambda t: first * (t + 1.0) ** (-2 / 3))

    return make


def adam_grid() -> list[Method]:
    """Twelve settings of Adam with a cosine: the larger the batch, the fewer and the longer the steps."""
    return [
        ott(f"adam, cosine from {lr:g}, batch {batch}, eps {eps:g}", batch, cosine(lr), eps=eps)
        for batch, lr in ((64, 0.003), (256, 0.003), (256, 0.01), (256, 0.03), (1024, 0.01), (1024, 0.03))
        for eps in (0.0, 0.5)
    ]


def averaged_grid() -> list[Method]:
    """Twelve settings of averaged gradient steps."""
    settings = [(64, step, eps) for step in (0.03, 0.1, 0.3) for eps in (0.5, 2)] + [(64, 0.1, 0.1), (64, 1, 0.5), (64, 3, 0.5)]
    settings += [(256, 0.1, 0.5), (256, 0.1, 2), (256, 0.3, 0.5)]
    return [
        ott(f"sgd, step {step:g}, batch {batch}, eps {eps:g}, averaged", batch, falling(step, batch), eps=eps, ema=0.1)
        for batch, step, eps in settings
    ]
