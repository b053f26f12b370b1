"""Real data: files of a folder that is no part of the repository, and codes of the autoencoders in examples/aeotgan.

The folder comes by the option --data or the environment variable SDOT_DATA; codes are trained once and kept in runs/codes/.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

ROOT = Path(__file__).parent.parent
DIMENSIONS = {"digits": 16, "mnist": 32}  # of codes


class Missing(Exception):
    """The data of a problem is not on this machine."""


def folder() -> Path:
    path = os.environ.get("SDOT_DATA")
    if not path:
        raise Missing("this problem reads a file: say where with --data FOLDER or SDOT_DATA.")
    return Path(path)


def file(*parts: str) -> Path:
    path = folder().joinpath(*parts)
    if not path.exists():
        raise Missing(f"{path} is not there.")
    return path


def bunny() -> Tensor:
    """The 35,947 vertices of the Stanford bunny, centred, the farthest at distance 1."""
    y = torch.from_numpy(np.load(file("toy", "bunny_points.npy")))
    y = y - y.mean(0)
    return y / y.norm(dim=1).max()


def resnet() -> Tensor:
    """Features of 20,000 photographs before the last layer of a ResNet, d = 64: ten clusters, no entry negative."""
    return torch.from_numpy(np.load(file("vectors", "cifar10_resnet56_feat64.npy")).astype(np.float32))


def letter() -> Tensor:
    """20,000 rows of 16 whole numbers from 0 to 15, of which 1,332 repeat an earlier one."""
    return torch.from_numpy(np.load(file("vectors", "letter16.npz"))["x"].astype(np.float32))


def photograph(side: int, seed: int) -> Tensor:
    """Grey values of a square window of a photograph, (side, side), each at least 1 of 256. The seed places the window."""
    from PIL import Image

    grey = torch.from_numpy(np.asarray(Image.open(file("toy", "camera.png"))).astype(np.float32)) + 1
    window = max(side, 384)
    row, column = torch.randint(grey.shape[0] - window + 1, (2,), generator=Generator().manual_seed(seed)).tolist()
    part = grey[row : row + window, column : column + window]
    return torch.nn.functional.adaptive_avg_pool2d(part[None], side)[0]


def codes(name: str) -> Tensor:
    """Codes of the training images, "digits" (1,617 in d = 16) or "mnist" (60,000 in d = 32; trains for some minutes)."""
    out = ROOT / "runs" / "codes" / name
    if not (out / "ae.json").exists():
        source = ["--root", str(file("mnist"))] if name == "mnist" else []
        script = ROOT / "examples" / "aeotgan" / "run.py"
        size = ["--set", f"ae.latent={DIMENSIONS[name]}"]
        command = [sys.executable, str(script), "--data", name, "--out", str(out), "--stages", "ae", *source, *size]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the autoencoder of {name} could not be trained: {done.stderr.strip().splitlines()[-1]}")
    return torch.from_numpy(np.load(out / "codes.npy"))
