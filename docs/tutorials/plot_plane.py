"""
The plane, with pictures
========================

The uniform measure on the unit square is carried onto three hundred points. In the plane everything can be seen:
whose part of the square is whose, what the solver changes, and what the map does to a sample.
"""

# %%
# Two measures
# ------------
# The source is anything that can be sampled. The target is a cloud of points, here on a ring of eight clusters, with
# weights. The upper clusters get twice the mass of the lower ones.

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap

import sdot

INK, LINE, ACCENT, SOFT = sdot.plot.INK, sdot.plot.LINE, sdot.plot.ACCENT, sdot.plot.SOFT
generator = torch.Generator().manual_seed(0)

angle = torch.arange(300) % 8 * (math.pi / 4)
y = 0.5 + 0.36 * torch.stack([angle.cos(), angle.sin()], 1) + 0.035 * torch.randn(300, 2, generator=generator)
weights = torch.where(y[:, 1] > 0.5, 2.0, 1.0)

source = sdot.UniformCube(dim=2)
target = sdot.DiscreteMeasure(y, weights / weights.sum())

# %%
# Heights decide
# --------------
# Every target has a height, and x belongs to the target with the largest score :math:`\langle x, y_i\rangle + h_i`. With
# :math:`h_i = -|y_i|^2/2` that is the *nearest* target, and the cells are Voronoi's: they tile the square with no regard to
# mass. The solver changes the heights, nothing else, until every cell has the mass it should have.

solution = sdot.solve(source, target, tol=0.001, generator=generator)
T = solution.map
print(solution.certificate)

# %%

before = sdot.BrenierMap(y, -y.double().square().sum(1) / 2)
x = source.sample(400_000, like=y, generator=generator)
DIVERGING = LinearSegmentedColormap.from_list("mass", [LINE, "#8fb3cf", "#f4f2ee", "#e5a796", ACCENT])


def draw_masses(S, ax):
    """Every cell in the colour of its mass over the mass it should have, on a logarithmic scale."""
    side = (torch.arange(700) + 0.5) / 700
    cell = S.cell(torch.cartesian_prod(side, side)).view(700, 700).T
    mass = torch.bincount(S.cell(x), minlength=len(y)) / len(x)
    ratio = (mass / target.weights).log2().clamp(-2, 2)
    image = ax.imshow(ratio[cell], cmap=DIVERGING, vmin=-2, vmax=2, origin="lower", extent=(0, 1, 0, 1))
    border = (cell != cell.roll(1, 0)) | (cell != cell.roll(1, 1))
    ax.imshow(torch.where(border, 1.0, torch.nan), cmap="gray", vmin=0, vmax=2.2, origin="lower", extent=(0, 1, 0, 1))
    ax.scatter(*y.T, s=3, color=INK, linewidths=0)
    ax.set_axis_off()
    return image


figure, axes = plt.subplots(1, 2, figsize=(8.6, 4.2))
for ax, S, title in zip(axes, (before, T), ("nearest target", "optimal heights"), strict=True):
    image = draw_masses(S, ax)
    ax.set_title(title)
bar = figure.colorbar(image, ax=axes, shrink=0.72, aspect=24, ticks=[-2, -1, 0, 1, 2])
bar.ax.set_yticklabels(["1/4", "1/2", "1", "2", "4"])
bar.outline.set_visible(False)
bar.set_label("mass of the cell / wanted")
# sphinx_gallery_thumbnail_number = 3

# %%
# Far too heavy cells are red, far too light ones blue; on the right there is nothing to see, which is the point.
# Cells of the right mass need not contain their target.
#
# Mass moves along straight lines
# -------------------------------
# T is the gradient of a convex function, so paths :math:`(1 - t)\,x + t\,T(x)` of different samples do not cross. A colour
# follows its sample.

few = source.sample(6000, like=y, generator=generator)
images = T(few)
around = torch.atan2(images[:, 1] - 0.5, images[:, 0] - 0.5) / (2 * math.pi) % 1
wheel = LinearSegmentedColormap.from_list("wheel", [LINE, "#6aa39a", "#dcb873", ACCENT, "#6f4e63", LINE])

figure, axes = plt.subplots(1, 4, figsize=(10, 2.8))
for ax, t in zip(axes, (0, 1 / 3, 2 / 3, 1), strict=True):
    ax.scatter(*torch.lerp(few, images, t).T, s=2.2, c=wheel(around), linewidths=0)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set_axis_off()
    ax.set_title(f"t = {t:.2g}")

# %%
# The cells
# ---------
# `sdot.plot.cells` draws them, with a line from the centre of mass of each cell to its target. The lines are
# displacements, and the mean of their squared lengths over all of the mass is what no other map with these cell
# masses can undercut:

figure, ax = plt.subplots(figsize=(5, 5))
sdot.plot.cells(T, ax=ax)
print(f"mean squared displacement {solution.certificate.cost:.5f}, from the dual {solution.certificate.w2_squared:.5f}")

# %%
# How it got there
# ----------------
# `solution.history` has a record a step. The dotted line is what *independent* samples allow; in the plane the solver draws
# evenly spread points and passes below it.

figure, ax = plt.subplots(figsize=(6, 3.4))
sdot.plot.convergence(solution, tol=0.001, ax=ax)
ax.set_xticks([3000, 10_000, 30_000], ["3,000", "10,000", "30,000"])
ax.set_yticks([0.1, 0.01, 0.001], ["0.1", "0.01", "0.001"])
ax.minorticks_off()

# %%
# Blends
# ------
# The entropic map `T.soft(x, eps)` blends targets whose scores are within about eps of the best one. It is
# continuous, and tends to T as eps falls.

figure, axes = plt.subplots(1, 3, figsize=(8.6, 3.3))
for ax, eps in zip(axes, (0.03, 0.005, 0.0005), strict=True):
    soft = T.soft(few, eps)
    ax.add_collection(LineCollection(torch.stack([T(few), soft], 1)[:400], colors=SOFT, linewidths=0.3))
    ax.scatter(*soft.T, s=2.2, color=LINE, alpha=0.5, linewidths=0)
    ax.scatter(*y.T, s=3, color=ACCENT, linewidths=0)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set_axis_off()
    ax.set_title(f"eps = {eps:g}")
