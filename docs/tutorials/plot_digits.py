"""
Latents of digits to new digits
===============================

Noise is carried onto the codes of 1,797 handwritten digits by the optimal map, the map is extended to what lies
between neighbouring codes, and a decoder draws the results: AE-OT (An et al., ICLR 2020) in a hundred lines. The
whole thing, with a GAN on top and measures of quality, is `examples/aeotgan` in the repository.
"""

# %%
# Codes
# -----
# A small autoencoder, trained for some seconds. Nothing here is special to it: any encoder and decoder will do.

from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import sdot

torch.manual_seed(0)
generator = torch.Generator().manual_seed(0)
images = torch.from_numpy(load_digits().data).float() / 16  # (1797, 64)
DIM = 10


def network(*widths):
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers[:-1])


encoder, decoder = network(64, 256, DIM), network(DIM, 256, 64)
parameters = [*encoder.parameters(), *decoder.parameters()]
steps = 1200
optimizer = torch.optim.AdamW(parameters, lr=4e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
for _ in range(steps):
    batch = images[torch.randint(len(images), (128,))]
    loss = (decoder(encoder(batch)) - batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
with torch.no_grad():
    codes = encoder(images)
    codes = (codes - codes.mean(0)) / codes.std(0).mean()
print(f"mean square error of a pixel {loss.item():.4f}, variance {images.var(0).mean():.4f}")


def decode(z):
    """Images from standardised codes."""
    with torch.no_grad():
        raw = encoder(images)
        return decoder(z * raw.std(0).mean() + raw.mean(0)).clamp(0, 1).view(-1, 8, 8)


# %%
# The map
# -------
# A Gaussian is carried onto the codes. Every code gets its share of the noise, so no digit can be forgotten: this is
# what is meant by *no mode collapse*. The certificate says how far that is true.

source = sdot.Gaussian(dim=DIM)
target = sdot.DiscreteMeasure.uniform(codes)
solution = sdot.solve(source, target, tol=0.02, generator=generator)
T = solution.map
print(solution.certificate)

# %%
# But T only returns codes of the training set. To draw new digits one has to know which codes may be blended.
#
# Neighbours
# ----------
# The complex joins codes that are close, and never across a gap. On each cell the extension S is an affine map that spreads
# the noise of that cell over the neighbourhood of its code.

cells = sdot.estimate_cells(T, source, generator=generator)
K = sdot.rips_complex(codes, max_dim=1)
S = sdot.PiecewiseLinearMap(T, cells, K)
print(K)
print(K.reason)

# %%
# New digits
# ----------

x = source.sample(16 * 8, like=codes, generator=generator)
new = decode(S(x))
figure, ax = plt.subplots(figsize=(8.6, 4.4))
sdot.plot.sheet(1 - new, columns=16, ax=ax)
ax.set_title("S(x), decoded")
# sphinx_gallery_thumbnail_number = 1

# %%
# Are they new? Below each digit stands the training image that is nearest to it.

with torch.no_grad():
    nearest = images[torch.cdist(new[:32].flatten(1), images).argmin(1)].view(-1, 8, 8)
rows = torch.stack([new[:32].view(2, 16, 8, 8), nearest.view(2, 16, 8, 8)], 1)
figure, ax = plt.subplots(figsize=(8.6, 2.5))
sdot.plot.sheet(1 - rows.reshape(-1, 8, 8), columns=16, ax=ax)
ax.set_title("new digits, and below each the nearest training image")

fresh = source.sample(5000, like=codes, generator=generator)
distance = torch.cdist(S(fresh), codes).min(1).values.median()
apart = torch.cdist(codes, codes).fill_diagonal_(torch.inf).min(1).values.median()
print(f"{100 * S.share_moved(fresh):.0f} % of the noise moves off the codes")
print(f"a new code is {distance / apart:.2f} times as far from the nearest code as codes are from each other (medians)")

# %%
# A walk
# ------
# A straight path through the noise crosses a cell after another. T jumps from code to code; S moves on within each cell.

start, end = source.sample(2, like=codes, generator=generator)
path = torch.lerp(start, end, torch.linspace(0, 1, 16)[:, None])
walk = torch.cat([decode(T(path)), decode(S(path))])
figure, ax = plt.subplots(figsize=(8.6, 1.4))
sdot.plot.sheet(1 - walk, columns=16, ax=ax)
ax.set_title("along a straight path through the noise: T above, S below")
