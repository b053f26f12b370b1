"""
A coupling for flow matching
============================

Flow matching learns a velocity that carries noise to data along straight lines from x to its partner in the data. The
partner is usually drawn at random. Then lines cross, and the learnt paths bend where they do. With the partner T(x)
lines do not cross, paths stay nearly straight, and few steps integrate them (Pooladian et al., 2023; Mousavi-Hosseini
et al., ICLR 2026).
"""

# %%
# Noise, data, and the coupling
# -----------------------------

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.collections import LineCollection
from scipy.optimize import linear_sum_assignment
from torch import nn

import sdot

INK, LINE, ACCENT, SOFT = sdot.plot.INK, sdot.plot.LINE, sdot.plot.ACCENT, sdot.plot.SOFT
torch.manual_seed(0)


def moons(n):
    """Two half circles that reach into each other."""
    angle, lower = math.pi * torch.rand(n, 1), torch.randint(2, (n, 1))
    arc = torch.cat([angle.cos() - 0.5 + lower, angle.sin() - 0.25], 1)
    arc[:, 1:] *= 1 - 2 * lower
    return 1.7 * arc + 0.12 * torch.randn(n, 2)


data = moons(2000)
source = sdot.Gaussian(dim=2)
solution = sdot.solve(source, sdot.DiscreteMeasure.uniform(data), tol=0.01)
T = solution.map
print(solution.certificate)

# %%
# Two ways to find a partner
# --------------------------
# This is all the difference. The map is solved once, before the training; a partner costs one search among the data.


def at_random(x):
    return data[torch.randint(len(data), (len(x),))]


def train(partner, steps=1500, batch=256):
    """Regress the velocity at x_t on the straight line's, partner(x) - x."""
    torch.manual_seed(1)
    velocity = nn.Sequential(nn.Linear(3, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))
    optimizer = torch.optim.AdamW(velocity.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x0 = source.sample(batch, like=data)
        x1, t = partner(x0), torch.rand(batch, 1)
        loss = (velocity(torch.cat([torch.lerp(x0, x1, t), t], 1)) - (x1 - x0)).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return velocity


@torch.no_grad()
def flow(velocity, x, steps):
    """Euler's method: the path of every sample, shape (steps + 1, n, 2)."""
    path = [x]
    for k in range(steps):
        t = torch.full((len(x), 1), k / steps)
        path.append(path[-1] + velocity(torch.cat([path[-1], t], 1)) / steps)
    return torch.stack(path)


models = {"independent": train(at_random), "optimal": train(T)}

# %%
# Paths
# -----

x = source.sample(1000, like=data)
paths = {name: flow(velocity, x, 100) for name, velocity in models.items()}
figure, axes = plt.subplots(1, 2, figsize=(8.8, 4.0))
for ax, (name, path), colour in zip(axes, paths.items(), (ACCENT, LINE), strict=True):
    ax.scatter(*data.T, s=1.5, color=SOFT, linewidths=0, alpha=0.7)
    ax.add_collection(LineCollection(path[:, :220].transpose(0, 1), colors=colour, linewidths=0.55, alpha=0.75))
    ax.scatter(*path[0, :220].T, s=5, color=INK, linewidths=0)
    ax.set(xlim=(-3.1, 3.1), ylim=(-2.7, 2.5), aspect="equal")
    ax.set_axis_off()
    ax.set_title(f"{name} coupling")

# %%
# Measured
# --------
# *Cost* is the mean squared distance of a sample and its partner, which T makes least. *Curvature* is the variance of
# the velocity along a path, divided by the squared distance that the path covers, means of both: zero for straight
# lines at constant speed. Last, the squared Wasserstein distance from generated samples to fresh data, after so many
# steps of Euler's method.


def wasserstein2(a, b):
    """The squared distance between two clouds of the same number of points, by assignment."""
    cost = torch.cdist(a, b).square().numpy()
    return cost[linear_sum_assignment(cost)].mean()


fresh, budget = moons(1000), (1, 2, 4, 8, 32)
floor = wasserstein2(moons(1000), fresh)
distances = {}
for name, path in paths.items():
    cost = ((T(x) if name == "optimal" else at_random(x)) - x).square().sum(1).mean()
    move = path[-1] - path[0]
    speed = path.diff(dim=0) * 100
    curvature = (speed - move).square().sum(2).mean() / move.square().sum(1).mean()
    distances[name] = [wasserstein2(flow(models[name], x, steps)[-1], fresh) for steps in budget]
    values = ", ".join(f"{value:.3f}" for value in distances[name])
    print(f"{name:12s} cost {cost:.2f}, curvature {curvature:.3f}, W2^2 after {budget} steps: {values}")
print(f"fresh data against fresh data: W2^2 {floor:.3f}")

# %%

figure, ax = plt.subplots(figsize=(5.6, 3.3))
for (name, values), colour, marker in zip(distances.items(), (ACCENT, LINE), "so", strict=True):
    ax.loglog(budget, values, color=colour, marker=marker, ms=5, mfc="white", label=f"{name} coupling")
ax.axhline(floor, color=SOFT, ls=":", label="fresh data")
ax.set(xlabel="steps of Euler's method", ylabel="$W_2^2$ to fresh data")
ax.set_xticks(budget, [str(steps) for steps in budget])
ax.set_yticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
ax.minorticks_off()
ax.legend()

# %%
# The velocity is a network, hence continuous, while T jumps where neighbouring cells have targets on different moons. So some
# samples are left between the moons, by either model.
