"""Images in [0, 1] with their labels: scikit-learn's digits, which come with it, or MNIST from a folder."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Images:
    """Training images, and test images that no stage learns from."""

    train: Float[Tensor, "n c h w"]
    train_labels: Int[Tensor, " n"]
    test: Float[Tensor, "k c h w"]
    test_labels: Int[Tensor, " k"]

    @property
    def digest(self) -> str:
        """A name for these very images, so that results made from others are told apart."""
        return f"{zlib.crc32(self.train.numpy()):08x}"


def load(data: str, root: Path | None) -> Images:
    """The images of a preset; `root` is the folder of the MNIST files."""
    if data == "digits":
        return digits()
    if root is None:
        raise ValueError(f"{data} is read from its four idx files; say where they are with --root FOLDER.")
    return Images(*idx_pair(root, "train"), *idx_pair(root, "t10k"))


def digits(held_out: int = 180) -> Images:
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 16  # (1797, 1, 8, 8)
    labels = torch.from_numpy(bunch.target).long()
    test, train = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tensor_split([held_out])
    return Images(images[train], labels[train], images[test], labels[test])


def idx_pair(root: Path, part: str) -> tuple[Float[Tensor, "n 1 28 28"], Int[Tensor, " n"]]:
    images, labels = read_idx(root / f"{part}-images-idx3-ubyte"), read_idx(root / f"{part}-labels-idx1-ubyte")
    if images.shape != (len(images), 28, 28) or labels.shape != (len(images),):
        raise ValueError(
            f"the {part} files in {root} should hold n images of 28 x 28 pixels and n labels, but their shapes are "
            f"{tuple(images.shape)} and {tuple(labels.shape)}; copy the original files."
        )
    return images[:, None].float() / 255, labels.long()


def read_idx(path: Path) -> Int[Tensor, ...]:
    """An idx file of bytes, plain or with the ending .gz: the magic 0 0 8 rank, big-endian sizes, then the values."""
    path = path if path.exists() else path.with_name(f"{path.name}.gz")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}); copy the original file there, plain or gzipped.") from error
    start = 4 + 4 * raw[3] if raw[:3] == b"\0\0\x08" and len(raw) > 3 else math.inf
    shape = struct.unpack_from(f">{raw[3]}I", raw, 4) if start <= len(raw) else None
    if shape is None or len(raw) != start + math.prod(shape):
        raise ValueError(f"{path} is no idx file of bytes, or is cut short; copy the original file again.")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=int(start)).reshape(shape)
