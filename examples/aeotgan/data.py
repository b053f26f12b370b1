"""Images in [0, 1] with their labels: scikit-learn's digits, which come with it, or a data set from a folder."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import readers
import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from torch import Tensor

SIZES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "celeba": (3, 64, 64),
    "celebahq": (3, 256, 256),
}
LARGE = 2**31  # values beyond which half precision is kept, which holds all 256 levels exactly


@dataclass(frozen=True, eq=False)
class Images:
    """Training images, and test images that no stage learns from. Labels are None where a data set has none."""

    train: Float[Tensor, "n c h w"]
    train_labels: Int[Tensor, " n"] | None
    test: Float[Tensor, "k c h w"]
    test_labels: Int[Tensor, " k"] | None

    @property
    def digest(self) -> str:
        """A name for these very images, so that results made from others are told apart."""
        return f"{zlib.crc32(self.train.numpy()):08x}"


def load(data: str, root: Path | None) -> Images:
    """The images of a preset; `root` is the folder, or the file, that holds them: see readers.py for the formats."""
    if data == "digits":
        return digits()
    if root is None:
        raise ValueError(f"{data} is read from a folder; say where it is with --root FOLDER.")
    train, test = readers.read(root, SIZES[data])
    for part, (images, labels) in (("training", train), ("test", test)):
        if images.shape[1:] != SIZES[data]:
            raise ValueError(
                f"{data} has images of {SIZES[data]} (channels, height, width), but the {part} images in {root} have "
                f"{tuple(images.shape[1:])}; choose the preset that they belong to with --data."
            )
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"{root} holds {len(images)} {part} images, but {len(labels)} labels; copy the original files.")
    return Images(scaled(train[0]), train[1], scaled(test[0]), test[1])


def digits(held_out: int = 180) -> Images:
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 16  # (1797, 1, 8, 8)
    labels = torch.from_numpy(bunch.target).long()
    test, train = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tensor_split([held_out])
    return Images(images[train], labels[train], images[test], labels[test])


def scaled(images: Tensor) -> Float[Tensor, "n c h w"]:
    """Bytes to values in [0, 1]; what is no longer bytes must lie there already."""
    kind = torch.float16 if images.numel() > LARGE else torch.float32
    if images.dtype == torch.uint8:
        return torch.cat([part.to(torch.float32).div(255).to(kind) for part in images.split(1024)])
    if not (images.is_floating_point() and images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"images must be bytes, or floats in [0, 1], but {images.dtype} from {images.min().item():g} to "
            f"{images.max().item():g} came."
        )
    return images.to(kind)
