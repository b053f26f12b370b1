"""
For users of POT
================

`POT <https://pythonot.github.io>`_ has a semi-discrete solver of its own, on NumPy arrays. This page runs both on one
problem, says how potentials are converted, and shows that they agree.
"""

# %%
# Arrays in, arrays out
# ---------------------
# Points and weights may be arrays. A map takes arrays and returns arrays. Only sources speak torch, since the solver
# draws from them where it computes.

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch

import sdot

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other libraries that POT looks for
    import ot
    import ot.semidiscrete

LINE, ACCENT, SOFT = sdot.plot.LINE, sdot.plot.ACCENT, sdot.plot.SOFT
random = np.random.default_rng(0)
m, d = 200, 3
y = random.normal(size=(m, d)) * [1.0, 0.6, 0.3]  # float64
nu = random.uniform(0.5, 1.5, m)
nu /= nu.sum()

source, target = sdot.UniformBall(dim=d), sdot.DiscreteMeasure(y, nu)
start = time.process_time()
solution = sdot.solve(source, target, tol=0.001, generator=torch.Generator().manual_seed(0))
cpu = time.process_time() - start
T = solution.map
print(type(T(random.normal(size=(5, d)))).__name__, "|", solution.certificate)

# %%
# Potentials
# ----------
# POT's cost is :math:`|x - y|^2`, and its potential g defines the same cells through :math:`\min_i |x - y_i|^2 -
# g_i`. Expanding the square, :math:`|x - y_i|^2 - g_i = |x|^2 - 2\,(\langle x, y_i\rangle + h_i)` with
#
# .. math:: h_i = \tfrac12 g_i - \tfrac12 |y_i|^2, \qquad g_i = 2 h_i + |y_i|^2 .
#
# Either is defined up to a constant; ours has weighted mean zero.


def heights(g):
    h = g / 2 - (y**2).sum(1) / 2
    return h - nu @ h


def potential(h):
    return 2 * h + (y**2).sum(1)


# %%
# The same map
# ------------
# Our heights, handed to POT as a potential, give the same images, point by point:

x = source.sample(20_000, like=target.points, generator=torch.Generator().manual_seed(1)).numpy()
theirs = ot.semidiscrete.semidiscrete_ot_map(y, x, potential(T.heights.numpy()))
print("images that differ:", int((theirs != T(x)).any(1).sum()), "of", len(x))

# %%
# POT's own solver
# ----------------
# It takes a sampler of arrays. Its potential becomes a map of ours, which `sdot.certify` judges like any other. Its step is
# the default one; others suit some problems better.

generator = torch.Generator().manual_seed(2)


def sampler(n):
    return source.sample(n, like=target.points, generator=generator).numpy()


start = time.process_time()
g = ot.semidiscrete.solve_semidiscrete(y, sampler, nu, max_iter=5000, batch_size=64)
print(f"CPU time: POT {time.process_time() - start:.1f} s, sdot {cpu:.1f} s with its certificate")
other = sdot.BrenierMap(y, heights(g))
judged = sdot.certify(other, source, target, generator=torch.Generator().manual_seed(3))
print("POT: ", judged)
print("sdot:", solution.certificate)

# %%
# The squared Wasserstein distances agree to their errors, and so do the potentials, up to the noise of POT's samples:

ours = potential(T.heights.numpy())
difference = g - ours - nu @ (g - ours)
print(f"potentials span {np.ptp(ours):.2f} and differ by {np.sqrt(nu @ difference**2):.4f}, root mean square")

figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.5))
left.axhline(0, color=SOFT, lw=0.9)
left.scatter(ours, difference, s=8, color=LINE, alpha=0.8, linewidths=0)
left.set(xlabel="potential $2 h_i + |y_i|^2$", ylim=np.array([-1.15, 1.15]) * np.abs(difference).max())
left.set_title("potential of POT, less that of sdot")
count = {
    name: np.bincount(S.cell(source.sample(400_000, like=target.points, generator=generator).numpy()), minlength=m)
    for name, S in (("POT", other), ("sdot", T))
}
for (name, hits), colour, style in zip(count.items(), (ACCENT, LINE), ("--", "-"), strict=True):
    right.plot(np.sort(hits / 400_000 / nu), color=colour, ls=style, label=name)
right.axhline(1, color=SOFT, lw=0.9)
right.set(xlabel="cells, sorted")
right.set_title("mass of the cells / wanted")
right.legend()

# %%
# Discrete problems
# -----------------
# From points to points of moderate size POT is the tool. A sample of the source makes one, and its value is near that
# of the semi-discrete problem, but for the noise of the sample:

z = x[:1500]
value = ot.emd2(np.full(len(z), 1 / len(z)), nu, ot.dist(z, y), numItermax=10**6)
print(f"W2^2: {value:.4f} from 1,500 samples, {solution.certificate.w2_squared:.4f} semi-discrete")
