"""Image files: whichever of these formats lies in a folder. Nothing is unpickled, and torchvision is not needed.

idx      train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-..., plain or .gz (MNIST, Fashion-MNIST)
CIFAR    data_batch_1.bin ... data_batch_5.bin, test_batch.bin, the "binary version"
arrays   x_train, y_train, x_test, y_test: keys of one .npz file, or files x_train.npy ...; labels may be missing.
         Images are (n, h, w), (n, h, w, c) or (n, c, h, w), bytes or floats in [0, 1]
sheets   NAME_train_*.webp (or .png), NAME_test*.webp: pictures made of tiles, row after row; NAME_labels.npz with
         y_train and y_test may lie beside them
a tree   of png, jpg, webp or bmp pictures, all of one size. In folders `train` and `test`, or a tenth is held out. The
         middle square is cut out (of CelebA's 178 x 218 the middle 140 x 140) and scaled to the size of the preset.
         Folders in it are classes
"""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
CROP = {(178, 218): 140}  # by width and height; other pictures keep their shorter side
Part = tuple[Tensor, Tensor | None]  # images (n, c, h, w), labels (n,)


def read(root: Path, size: tuple[int, int, int]) -> tuple[Part, Part]:
    """Training and test images of a data set whose images have this size."""
    if root.suffix == ".npz" and root.exists():
        return arrays(root)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; pass the one with the images.")
    names = {path.name for path in root.iterdir()}
    if any("idx3-ubyte" in name for name in names):
        return idx_pair(root, "train"), idx_pair(root, "t10k")
    if any(name.startswith("data_batch_") and name.endswith(".bin") for name in names):
        return cifar(root)
    if "data_batch_1" in names:
        raise ValueError(
            f"{root} holds the python version of CIFAR, which is pickled and could run anything when read; take the binary "
            f"version (cifar-10-binary.tar.gz, files data_batch_1.bin ...), or arrays in a .npz file."
        )
    for name in sorted(names):
        if name == "x_train.npy" or (name.endswith(".npz") and "labels" not in name and "_id" not in name):
            return arrays(root / name)
    if any("_train" in name and Path(name).suffix in (".webp", ".png") for name in names):
        return sheets(root, size)
    return tree(root, size)


def idx_pair(root: Path, part: str) -> Part:
    images, labels = read_idx(root / f"{part}-images-idx3-ubyte"), read_idx(root / f"{part}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.shape != (len(images),):
        raise ValueError(
            f"the {part} files in {root} should hold n images and n labels, but their shapes are "
            f"{tuple(images.shape)} and {tuple(labels.shape)}; copy the original files."
        )
    return images[:, None], labels.long()


def read_idx(path: Path) -> Tensor:
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


def cifar(root: Path) -> tuple[Part, Part]:
    """Records of a label and 3 x 32 x 32 bytes."""

    def batch(name: str) -> Tensor:
        try:
            raw = np.fromfile(root / name, np.uint8)
        except OSError as error:
            raise ValueError(f"{root / name} cannot be read ({error}); copy the original file there.") from error
        if not len(raw) or len(raw) % 3073:
            raise ValueError(f"{root / name} is cut short: {len(raw)} bytes are no number of records of 3073; copy it again.")
        return torch.from_numpy(raw).view(-1, 3073)

    def part(records: Tensor) -> Part:
        return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()

    return part(torch.cat([batch(f"data_batch_{k}.bin") for k in range(1, 6)])), part(batch("test_batch.bin"))


def arrays(path: Path) -> tuple[Part, Part]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                content = {name: file[name] for name in file.files}
        else:
            content = {file.stem: np.load(file, allow_pickle=False) for file in path.parent.glob("[xy]_*.npy")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}); save plain arrays again, without pickled objects.") from error
    missing = {"x_train", "x_test"} - set(content)
    if missing:
        raise ValueError(f"{path} should hold arrays x_train and x_test, but {', '.join(sorted(missing))} is missing.")

    def part(name: str) -> Part:
        x, y = content[f"x_{name}"], content.get(f"y_{name}")
        if x.ndim == 3:
            x = x[:, None]
        elif x.ndim == 4 and x.shape[3] in (1, 3):
            x = np.moveaxis(x, 3, 1)
        if x.ndim != 4 or not len(x):
            raise ValueError(f"x_{name} in {path} has shape {x.shape}, but (n, h, w), (n, h, w, c) or (n, c, h, w) is needed.")
        return torch.from_numpy(np.ascontiguousarray(x)), None if y is None else torch.from_numpy(y.ravel().astype(np.int64))

    return part("train"), part("test")


def sheets(root: Path, size: tuple[int, int, int]) -> tuple[Part, Part]:
    files = sorted(path for path in root.iterdir() if path.suffix in (".webp", ".png"))
    labels = sorted(root.glob("*_labels.npz"))
    try:
        named = dict(np.load(labels[0], allow_pickle=False)) if labels else {}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{labels[0]} cannot be read ({error}); copy it again.") from error

    def part(name: str) -> Part:
        found = [path for path in files if f"_{name}" in path.name]
        if not found:
            raise ValueError(f"{root} holds no sheet of {name} images, a file like NAME_{name}_0.webp; copy it there.")
        images = torch.cat([tiles(picture(path), size[1], path) for path in found])
        own = named.get(f"y_{name}")
        return images, None if own is None else torch.from_numpy(own.astype(np.int64))

    return part("train"), part("test")


def tiles(page: NDArray[np.uint8], side: int, path: Path) -> Tensor:
    """The tiles of a sheet, (n, 3, side, side)."""
    h, w, _ = page.shape
    if h % side or w % side:
        raise ValueError(f"{path} has {w} x {h} pixels, which is no sheet of tiles of {side} x {side}.")
    return torch.from_numpy(page).view(h // side, side, w // side, side, 3).permute(0, 2, 4, 1, 3).reshape(-1, 3, side, side)


def picture(path: Path, colours: int = 3) -> NDArray[np.uint8]:
    """Height, width, colours."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            array = np.array(image.convert("RGB" if colours == 3 else "L"))
            return array.reshape(*array.shape[:2], colours)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}); copy it again or remove it.") from error


def tree(root: Path, size: tuple[int, int, int]) -> tuple[Part, Part]:
    if (root / "train").is_dir() and (root / "test").is_dir():
        return pictures(root / "train", size), pictures(root / "test", size)
    images, labels = pictures(root, size)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, train = order.tensor_split([max(1, min(10_000, len(images) // 10))])
    held: list[Part] = [(images[rows], None if labels is None else labels[rows]) for rows in (train, test)]
    return held[0], held[1]


def pictures(root: Path, size: tuple[int, int, int]) -> Part:
    """All pictures below a folder, in the order of their names."""
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in PICTURES)
    if len(files) < 2:
        raise ValueError(
            f"{root} holds {len(files)} pictures and none of the files that are known here: idx files, CIFAR's binary batches, "
            f".npz or .npy arrays, sheets. See {Path(__file__).name} for their names."
        )
    images = torch.empty(len(files), *size, dtype=torch.uint8)
    shape: tuple[int, int] | None = None
    for k, path in enumerate(files):
        images[k], own = square(path, size)
        if shape is not None and own != shape:
            raise ValueError(
                f"all pictures must have one size, but {files[0]} has {shape[0]} x {shape[1]} pixels and {path} has "
                f"{own[0]} x {own[1]}; scale or sort them first."
            )
        shape = own
    classes = sorted({path.parent for path in files})
    if len(classes) < 2:
        return images, None
    number = {folder: k for k, folder in enumerate(classes)}
    return images, torch.tensor([number[path.parent] for path in files])


def square(path: Path, size: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int]]:
    """The middle square of a picture, scaled; and the picture's width and height."""
    from PIL import Image

    array = picture(path, size[0])
    h, w, _ = array.shape
    side = CROP.get((w, h), min(w, h))
    left, top = (w - side) // 2, (h - side) // 2
    middle = array[top : top + side, left : left + side]
    if side != size[1]:
        scaled = Image.fromarray(middle.squeeze()).resize((size[2], size[1]), Image.Resampling.LANCZOS)
        middle = np.array(scaled).reshape(size[1], size[2], size[0])
    return torch.from_numpy(middle).permute(2, 0, 1), (w, h)
