"""Mode collapse in the open: a GAN fed with Gaussian noise, and AE-OT-GAN, on eight Gaussians in a ring and 25 in a grid.

    python examples/aeotgan/modes.py        about three minutes on one core; writes runs/modes/modes.json and modes.png

The points are their own codes: an optimal map carries Gaussian noise onto them, its extension blends neighbours, and the
generator is trained on that. Both generators are the same network, start at random, and meet the same discriminator, batches,
learning rate and number of steps. A continuous generator has to send some of the noise between the modes, or to leave modes
out; the map of transport is discontinuous just there.

The sets are those of VEEGAN (Srivastava et al., NeurIPS 2017): radius 2 and deviation 0.02; spacing 2 and deviation 0.05.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import results
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from pictures import ACCENT, INK, LINE, SOFT
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus
from tqdm import tqdm

import sdot

PAIRED = 1000  # samples whose Wasserstein distance is computed; the time grows with their cube
Sampler = Callable[[int, Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class ModesConfig:
    points: int = 100  # training points of a mode
    steps: int = 5000
    batch_size: int = 128
    noise: int = 2  # dimensions of the noise of the plain GAN
    width: int = 128  # of the hidden layers
    lr: float = 2e-4  # of 2e-4 and 1e-3, with noise in 2 and in 16 dimensions, the best for the plain GAN
    content: float = 10.0  # weight of the content loss of AE-OT-GAN
    seeds: int = 3
    samples: int = 2500  # that are judged
    far: float = 4.0  # in standard deviations from the nearest mode: a bad sample


@dataclass(frozen=True, eq=False)
class Mixture:
    """Round Gaussians of equal weight in the plane."""

    centres: Float[Tensor, "m 2"]
    std: float

    def sample(self, n: int, generator: Generator) -> Float[Tensor, "n 2"]:
        return self.around(torch.randint(len(self.centres), (n,), generator=generator), generator)

    def around(self, mode: Int[Tensor, " n"], generator: Generator) -> Float[Tensor, "n 2"]:
        return self.centres[mode] + self.std * torch.randn(len(mode), 2, generator=generator)


def ring() -> Mixture:
    angle = torch.arange(8) * math.tau / 8
    return Mixture(2 * torch.stack([angle.cos(), angle.sin()], 1), 0.02)


def grid() -> Mixture:
    return Mixture(torch.cartesian_prod(torch.arange(-4.0, 5, 2), torch.arange(-4.0, 5, 2)), 0.05)


SETS = {"ring of 8": ring, "grid of 25": grid}


def perceptron(inputs: int, outputs: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.LeakyReLU(0.1), nn.Linear(width, width), nn.LeakyReLU(0.1), nn.Linear(width, outputs)
    )


def extension(y: Float[Tensor, "m 2"], generator: Generator) -> Sampler:
    """Gaussian noise, carried onto the points and between neighbouring ones."""
    source = sdot.Gaussian(dim=2)
    T = sdot.solve(source, sdot.DiscreteMeasure.uniform(y), generator=generator).map
    S = sdot.PiecewiseLinearMap(T, sdot.estimate_cells(T, source, generator=generator), sdot.rips_complex(y))
    return lambda n, g: S(source.sample(n, like=y, generator=g))


def adversaries(
    G: nn.Module, codes: Sampler, y: Float[Tensor, "m 2"], config: ModesConfig, seed: int, paired: bool, name: str
) -> None:
    """The non-saturating GAN. Where points are their own codes, `paired`, G is held to them by the content loss, too."""
    D, g = perceptron(2, 1, config.width), Generator().manual_seed(seed)
    for_G, for_D = (torch.optim.Adam(net.parameters(), lr=config.lr, betas=(0.5, 0.999), fused=True) for net in (G, D))
    for _ in tqdm(range(config.steps), desc=name, unit="step", leave=False):
        real, again = (y[torch.randint(len(y), (config.batch_size,), generator=g)] for _ in range(2))
        fake = G(codes(config.batch_size, g))
        loss = softplus(-D(real)).mean() + softplus(D(fake.detach())).mean()
        for_D.zero_grad()
        loss.backward()
        for_D.step()
        loss = softplus(-D(fake)).mean()
        if paired:
            loss = loss + config.content * (G(again) - again).square().sum(1).mean()
        for_G.zero_grad()
        loss.backward()
        for_G.step()


def judge(x: Float[Tensor, "n 2"], mixture: Mixture, far: float, seed: int) -> dict[str, float]:
    """modes: those that receive at least a tenth of their share of good samples. bad: samples farther than `far` standard
    deviations from every mode. shares: total-variation distance of the modes' shares among good samples. wasserstein: mean
    distance to fresh samples, paired optimally (W_1), of the first PAIRED."""
    distance, mode = torch.cdist(x, mixture.centres).min(1)
    good = distance <= far * mixture.std
    share = torch.bincount(mode[good], minlength=len(mixture.centres)) * len(mixture.centres) / max(int(good.sum()), 1)
    x = x[:PAIRED]
    fresh = mixture.sample(len(x), Generator().manual_seed(10_000 + seed))
    cost = cdist(x.numpy(), fresh.numpy())
    return {
        "modes": int((share >= 0.1).sum()),
        "bad": (~good).double().mean().item(),
        "shares": ((share - 1).abs().mean() / 2).item(),
        "wasserstein": float(cost[linear_sum_assignment(cost)].mean()),
    }


METHODS = ("fresh samples", "GAN, Gaussian noise", "transport", "AE-OT-GAN")


@torch.no_grad()
def drawn(G: nn.Module, codes: Sampler, n: int, seed: int) -> Float[Tensor, "n 2"]:
    return G(codes(n, Generator().manual_seed(20_000 + seed)))


def compare(mixture: Mixture, config: ModesConfig, seed: int, name: str) -> dict[str, Float[Tensor, "n 2"]]:
    """Samples of every method."""
    g = Generator().manual_seed(seed)
    y = mixture.around(torch.arange(len(mixture.centres)).repeat(config.points), g)
    torch.manual_seed(seed)
    noise: Sampler = lambda n, g: torch.randn(n, config.noise, generator=g)  # noqa: E731
    codes = extension(y, g)
    plain, ours = (perceptron(inputs, 2, config.width) for inputs in (config.noise, 2))
    adversaries(plain, noise, y, config, seed, paired=False, name=f"{name}, GAN")
    adversaries(ours, codes, y, config, seed, paired=True, name=f"{name}, AE-OT-GAN")
    n = config.samples
    made = [drawn(G, sampler, n, seed) for G, sampler in ((plain, noise), (nn.Identity(), codes), (ours, codes))]
    return dict(zip(METHODS, (mixture.sample(n, g), *made), strict=True))


def draw(
    path: Path, mixtures: dict[str, Mixture], samples: dict[str, dict[str, Tensor]], table: dict[str, Any], far: float
) -> None:
    """The first seed: a row for a set, a column for a method; bad samples in another colour."""
    figure = Figure(figsize=(2.6 * len(METHODS), 2.9 * len(mixtures)), dpi=150, layout="constrained")
    axes = figure.subplots(len(mixtures), len(METHODS), squeeze=False)
    for k, (name, mixture) in enumerate(mixtures.items()):
        reach = 1.35 * mixture.centres.abs().max().item()
        for ax, method in zip(axes[k], METHODS, strict=True):
            x = samples[name][method]
            good = torch.cdist(x, mixture.centres).amin(1) <= far * mixture.std
            ax.scatter(*mixture.centres.T, s=70, facecolors="none", edgecolors=SOFT, linewidths=0.6)
            ax.scatter(*x[~good].T, s=1.5, color=ACCENT, linewidths=0, alpha=0.7)
            ax.scatter(*x[good].T, s=1.5, color=LINE, linewidths=0, alpha=0.7)
            ax.set(xticks=[], yticks=[], aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
            ax.spines[:].set_color(SOFT)
            if k == 0:
                ax.set_title(method, fontsize=10, color=INK, loc="left")
            found = table[name][method][0]
            said = f"{found['modes']} of {len(mixture.centres)} modes, {100 * found['bad']:.0f} % bad"
            ax.text(0.5, -0.02, said, transform=ax.transAxes, fontsize=8.5, color=INK, ha="center", va="top")
    with results.replacing(path) as part:
        figure.savefig(part)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/modes"), help="folder of the results (%(default)s)")
    parser.add_argument("--seeds", type=int, default=ModesConfig.seeds, help="runs to average over (%(default)s)")
    parser.add_argument("--steps", type=int, default=ModesConfig.steps, help="of training (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = ModesConfig(seeds=options.seeds, steps=options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    mixtures = {name: make() for name, make in SETS.items()}
    table: dict[str, Any] = {}
    shown: dict[str, dict[str, Tensor]] = {}
    started = time.process_time()
    for name, mixture in mixtures.items():
        rows: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
        for seed in range(config.seeds):
            samples = compare(mixture, config, seed, name)
            shown.setdefault(name, samples)
            for method, x in samples.items():
                rows[method].append(judge(x, mixture, config.far, seed))
        table[name] = rows
        print(text(name, rows))
    draw(options.out / "modes.png", mixtures, shown, table, config.far)
    seconds = time.process_time() - started
    results.write(options.out / "modes.json", {"config": asdict(config), "sets": table, "cpu_seconds": seconds})
    print(f"\nwrote {options.out / 'modes.json'} and modes.png")
    return 0


def text(name: str, rows: dict[str, list[dict[str, float]]]) -> str:
    lines = [f"\n{name:20s} {'modes':>12s} {'bad':>8s} {'shares':>8s} {'W1':>8s}"]
    for method, found in rows.items():
        mean = {key: sum(row[key] for row in found) / len(found) for key in found[0]}
        each = "/".join(f"{row['modes']:.0f}" for row in found)
        lines.append(f"{method:20s} {each:>12s} {mean['bad']:8.1%} {mean['shares']:8.3f} {mean['wasserstein']:8.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
