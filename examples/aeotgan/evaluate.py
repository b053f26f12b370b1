"""Stage `evaluate`: every method by every measure, beside real images that say what is possible.

Frechet distances to the training and to the held-out images; precision, recall, density and coverage of the held-out ones;
shares of the classes, images between classes, copies. What depends on the number of images is measured on as many as are held
out, so that all rows bear comparison, in several draws where `samples` allows, with the standard error of their mean; the rest,
and the Frechet distance once more, on all draws together.

Reads what the earlier stages have written; the baselines if they are there. Writes classifier.safetensors, evaluate.json,
evaluate.txt, evaluate.png, methods.png and copies.png.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import autoencoder
import baselines
import evaluation_pictures
import features
import machine
import metrics
import networks
import numpy as np
import results
import torch
import transport
from config import Config
from data import Images
from jaxtyping import Float
from judge import KEY, PROBED, Judge
from torch import Generator, Tensor, nn
from tqdm import tqdm
from transport import Sampler

HELD_OUT, TRAINING, RECONSTRUCTED = "held-out images", "training images", "reconstructions"
ONCE = (HELD_OUT, RECONSTRUCTED)  # of which there are no more
OURS = "AE-OT-GAN"
POOLED = ("frechet", "frechet_layers")
Method = Callable[[int, Generator], Float[Tensor, "n c h w"]]
COLUMNS = {  # header and digits
    "frechet": ("Frechet", 3),
    "frechet_layers": ("all layers", 3),
    "frechet_drawn": ("a draw", 3),
    "frechet_held_out": ("held-out", 3),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "density": ("density", 3),
    "coverage": ("coverage", 3),
    "class_tv": ("class TV", 3),
    "class_worst": ("worst", 2),
    "mixed": ("mixed", 3),
    "novelty": ("novelty", 2),
    "copied": ("copied", 3),
}


def main(config: Config, images: Images, out: Path) -> dict[str, Any]:
    if not machine.current().leads:
        return {}  # one process judges, the others wait
    started, judge = time.monotonic(), Judge(config, images, out)
    table, errors, shown = dict[str, dict[str, float]](), dict[str, dict[str, float]](), dict[str, Tensor]()
    everything = methods(config, images, out)
    draws = max(1, config.evaluate.samples // judge.size)
    for name, method in tqdm(everything.items(), desc="evaluate", unit="method"):
        rows, z = list[dict[str, float]](), list[Tensor]()
        for k in range(1 if name in ONCE else draws):
            new = method(judge.size, machine.keyed(config.seed, KEY, k))  # the same noise for all
            z.append(judge.network.features(new))
            rows.append(judge.one(new, z[-1], held_out=name == HELD_OUT))
            if k == 0:
                shown[name] = new[: evaluation_pictures.SHOWN]
            if k == 0 and name == OURS:
                evaluation_pictures.copies(out / "copies.png", new[:PROBED], images)
        table[name] = {key: statistics.mean(row[key] for row in rows) for key in rows[0]} | judge.all(torch.cat(z))
        if len(rows) > 1:
            errors[name] = {key: statistics.stdev(row[key] for row in rows) / len(rows) ** 0.5 for key in rows[0]}
        elif draws > 1:
            table[name] = {key: value for key, value in table[name].items() if key not in POOLED}  # fewer than of the others
    result = {
        "network": judge.network.name,
        "accuracy": judge.network.accuracy(images.test, images.test_labels) if judge.shares is not None else None,
        "samples": judge.size,
        "draws": draws,
        "frechet_bias": {"drawn": judge.bias(judge.size), "all": judge.bias(draws * judge.size)},
        "table": table,
        "errors": errors,
        "published_fid": published(config, images, everything),
        "seconds": time.monotonic() - started,
    }
    evaluation_pictures.methods(out / "methods.png", shown)
    evaluation_pictures.dots(out / "evaluate.png", table, errors)
    with results.replacing(out / "evaluate.txt") as part:
        part.write_text(text(result) + "\n")
    return result


def methods(config: Config, images: Images, out: Path) -> dict[str, Method]:
    """What makes n images, by name."""
    device = machine.current().device
    model = networks.load(out / "autoencoder.safetensors", config).to(device)
    codes, (source, S) = torch.from_numpy(np.load(out / "codes.npy")), transport.extension(out)

    def decoded(network: nn.Module, sampler: Sampler) -> Method:
        return lambda n, g: autoencoder.apply(network, sampler(n, g))

    def trained(name: str) -> nn.Module:
        return networks.load_generator(out / f"{name}.safetensors", config).to(device)

    found: dict[str, Method] = {
        HELD_OUT: lambda n, g: images.test[:n].float(),
        TRAINING: lambda n, g: images.train[torch.randperm(len(images.train), generator=g)[:n]].float(),
        RECONSTRUCTED: lambda n, g: autoencoder.apply(model, images.test[:n]),
        "AE-OT, vertices": decoded(model.decoder, transport.carried(source, S.map)),
        "AE-OT": decoded(model.decoder, transport.carried(source, S)),
        OURS: decoded(trained("gan"), transport.carried(source, S)),
        "Gaussian of codes": decoded(model.decoder, baselines.fitted(codes)),
    }
    if (out / "baselines.json").exists():
        found["GAN, noise"] = decoded(trained("baselines-gan"), baselines.noise(config))
        found["VAE"] = decoded(trained("baselines-vae"), baselines.noise(config))
    return found


def published(config: Config, images: Images, everything: dict[str, Method]) -> dict[str, float] | None:
    """The FID of the literature, of `evaluate.fid` images against the training images."""
    n = config.evaluate.fid
    if not n:
        return None
    names = [name for name in everything if name not in (HELD_OUT, TRAINING, RECONSTRUCTED)]
    draw = machine.keyed(config.seed, KEY, metrics.K)
    return {name: features.published_fid(images.train, everything[name](n, draw)) for name in names}


def text(result: dict[str, Any]) -> str:
    """The table as lines of text."""
    table, n, draws, bias = result["table"], result["samples"], result["draws"], result["frechet_bias"]
    known = [key for key in COLUMNS if any(key in row for row in table.values()) and (key != "frechet_drawn" or draws > 1)]

    def line(name: str, cells: list[str]) -> str:
        return f"{name:18s}" + "".join(f"{cell:>11s}" for cell in cells)

    lines = [line("", [COLUMNS[key][0] for key in known])]
    for name, row in table.items():
        lines.append(line(name, [f"{row[key]:.{COLUMNS[key][1]}f}" if key in row else "-" for key in known]))
    accuracy = f", {100 * result['accuracy']:.2f} % of the held-out images right" if result["accuracy"] else ""
    return "\n".join(
        [
            *lines,
            f"{f'{draws} draws of ' if draws > 1 else ''}{n:,} images. Features: {result['network']}{accuracy}.",
            f"Frechet distance, squared, of as many fresh images, were features Gaussian: {bias['all']:.3f}"
            + (f", of one draw {bias['drawn']:.3f}." if draws > 1 else "."),
            "Precision, recall, density and coverage are of the held-out images, in a draw; classes are of all draws.",
        ]
    )
