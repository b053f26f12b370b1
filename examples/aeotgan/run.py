"""AE-OT: an autoencoder, then optimal transport from noise onto its codes (An et al., ICLR 2020).

On the command line:
    python examples/aeotgan/run.py                              scikit-learn's digits, in less than a minute
    python examples/aeotgan/run.py --data mnist --root FOLDER   MNIST, from the folder with its four idx files
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import autoencoder
import data
import numpy as np
import results
import torch
import transport
from config import PRESETS, Config

import sdot

STAGES = {"ae": autoencoder.main, "ot": transport.main}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=PRESETS, default="digits", help="preset (%(default)s)")
    parser.add_argument("--root", type=Path, help="folder with the idx files of MNIST, gzipped or plain")
    parser.add_argument("--out", type=Path, help="folder of the results (runs/DATA)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="what to run (everything)")
    parser.add_argument("--force", action="store_true", help="run the stages again even if their results are there")
    options = parser.parse_args()
    out = options.out or Path("runs", options.data)
    try:
        print(run(PRESETS[options.data], options.root, out, options.stages, options.force))
    except (OSError, ValueError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    return 0


def run(config: Config, root: Path | None, out: Path, stages: list[str], force: bool) -> str:
    """Run the stages whose results are missing, in their order; say what came of them."""
    if config.threads:
        torch.set_num_threads(config.threads)
    images = data.load(config.data, root)
    out.mkdir(parents=True, exist_ok=True)
    order, found = list(STAGES), dict[str, Any]()
    for k, stage in enumerate(order):
        settings = results.settings(config, images.digest, order[: k + 1])
        if force and stage in stages:
            results.discard(out, order[k:])
        result = results.read(out, stage, settings)
        if result is None and stage in stages:
            if k and order[k - 1] not in found:
                raise ValueError(f"stage {stage} needs the results of stage {order[k - 1]}; run that first, or both.")
            results.discard(out, order[k + 1 :])  # what follows was made from something else
            result = {"settings": settings, **STAGES[stage](config, images, out)}
            results.write(out / f"{stage}.json", result)
            (out / f"{stage}.checkpoint").unlink(missing_ok=True)
        if result is not None:
            found[stage] = result
    versions = {"sdot": sdot.__version__, "torch": torch.__version__, "numpy": np.__version__}
    results.write(out / "report.json", {"config": asdict(config), "versions": versions, **found})
    return "\n".join(summary(found, out))


def summary(found: dict[str, Any], out: Path) -> list[str]:
    lines = []
    if ae := found.get("ae"):
        test = f"{ae['test_error']:.4f} on {ae['test_images']:,} held-out images"
        lines += [
            f"autoencoder  {ae['images']:,} images to codes in R^{ae['latent']}, learnt in {ae['seconds']:.0f} s",
            f"its error    {ae['train_error']:.4f} a pixel (mean square), {test}",
        ]
    if ot := found.get("ot"):
        wrong, blends = 100 * ot["certificate"]["tv_bound"], 100 * ot["blends"]
        worst = 100 * max(abs(a - b) for a, b in zip(ot["class_shares"], ot["class_shares_of_map"], strict=True))
        lines += [
            f"transport    noise onto the codes in {ot['seconds']:.1f} s; at most {wrong:.1f} % of it goes to a wrong code",
            f"certificate  {ot['summary']}",
            f"new digits   {blends:.0f} % blend several codes; every class keeps its share of the data within {worst:.1f} %",
        ]
    return [*lines, f"pictures     {', '.join(sorted(path.name for path in out.glob('*.png')))}", f"folder       {out}"]


if __name__ == "__main__":
    sys.exit(main())
