"""AE-OT-GAN: an autoencoder, optimal transport from noise onto its codes, a GAN on what lies between them; baselines, measures.

On the command line:
    python examples/aeotgan/run.py                              scikit-learn's digits, in a few minutes
    python examples/aeotgan/run.py --data mnist --root FOLDER   MNIST, from the folder with its four idx files
    torchrun --nproc-per-node 4 examples/aeotgan/run.py ...     the same on several GPUs

A run that is killed goes on where it was when it is started again. See README.md for the other data sets.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import autoencoder
import baselines
import data
import evaluate
import features
import gan
import machine
import numpy as np
import results
import torch
import transport
from config import PRESETS, Config, override

import sdot


class Stage(NamedTuple):
    """A function of (config, images, out), what must have run before, and what else has a say in its results."""

    main: Callable[[Config, data.Images, Path], dict[str, Any]]
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()


STAGES = {
    "ae": Stage(autoencoder.main),
    "ot": Stage(transport.main, ("ae",)),
    "gan": Stage(gan.main, ("ae", "ot")),
    "baselines": Stage(baselines.main, ("ae",), ("gan",)),  # the same batches and epochs
    "evaluate": Stage(evaluate.main, ("ae", "ot", "gan"), ("baselines",)),  # if they are there
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=PRESETS, default="digits", help="preset (%(default)s)")
    parser.add_argument("--root", type=Path, help="folder with the images")
    parser.add_argument("--out", type=Path, help="folder of the results (runs/DATA)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="what to run (everything)")
    parser.add_argument("--force", action="store_true", help="run the stages again even if their results are there")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change settings, such as gan.epochs=5")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs", options.data)
    try:
        config = override(PRESETS[options.data], options.set)
        with machine.processes() as here:
            said = run(config, options.root, out, options.stages, options.force)
        if here.leads:
            print(said)
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    return 0


def run(config: Config, root: Path | None, out: Path, stages: list[str], force: bool) -> str:
    """Run the stages whose results are missing, in their order; say what came of them."""
    if config.threads:
        torch.set_num_threads(config.threads)
    here, images = machine.current(), data.load(config.data, root)
    out.mkdir(parents=True, exist_ok=True)
    if "evaluate" in stages:
        features.check(config, images)
    found = dict[str, Any]()
    for stage, (make, needs, uses) in STAGES.items():
        settings = results.settings(config, images.digest, [*needs, *uses, stage])
        made_from_it = [name for name, other in STAGES.items() if stage in (*other.needs, *other.uses)]
        if force and stage in stages and here.leads:
            results.discard(out, [stage, *made_from_it])
        machine.wait()
        result = results.read(out, stage, settings)
        machine.wait()
        if result is None and stage in stages:
            if missing := [name for name in needs if name not in found]:
                raise ValueError(f"stage {stage} needs the results of stage {missing[0]}; run that first, or both.")
            if here.leads:
                results.discard(out, made_from_it)  # as they were made from something else
            result = {"settings": settings, **make(config, images, out)}
            if here.leads:
                results.write(out / f"{stage}.json", result)
                (out / f"{stage}.checkpoint").unlink(missing_ok=True)
        if result is not None:
            found[stage] = result
    if here.leads:
        versions = {"sdot": sdot.__version__, "torch": torch.__version__, "numpy": np.__version__}
        results.write(out / "report.json", {"config": asdict(config), "versions": versions, **found})
    return "\n".join(summary(found, out)) if here.leads else ""


def summary(found: dict[str, Any], out: Path) -> list[str]:
    lines = []
    if ae := found.get("ae"):
        test = f"{ae['test_error']:.4f} on {ae['test_images']:,} held-out images"
        lines += [
            f"autoencoder  {ae['images']:,} images to codes in R^{ae['latent']}, learnt in {ae['seconds']:.0f} s",
            f"its error    {ae['train_error']:.4f} a pixel (mean square), {test}",
        ]
    if ot := found.get("ot"):
        wrong, moved = 100 * ot["certificate"]["tv_bound"], 100 * ot["moved"]
        kept = ""
        if ot["class_shares"]:
            worst = 100 * max(abs(a - b) for a, b in zip(ot["class_shares"], ot["class_shares_of_map"], strict=True))
            kept = f"; every class keeps its share of the data within {worst:.1f} %"
        lines += [
            f"transport    noise onto the codes in {ot['seconds']:.1f} s; at most {wrong:.1f} % of it goes to a wrong code",
            f"certificate  {ot['summary']}",
            f"new codes    {moved:.0f} % lie between codes of images{kept}",
        ]
    if trained := found.get("gan"):
        last = trained["last"]
        lines.append(
            f"gan          {trained['steps']:,} steps of {trained['batch']} images in {trained['seconds']:.0f} s; mean D "
            f"{last['real']:.2f} on real images and {last['fake']:.2f} on fake ones, content loss {last['image']:.4f}"
        )
    if judged := found.get("evaluate"):
        lines += ["", evaluate.text(judged), ""]
    return [*lines, f"pictures     {', '.join(sorted(path.name for path in out.glob('*.png')))}", f"folder       {out}"]


if __name__ == "__main__":
    sys.exit(main())
