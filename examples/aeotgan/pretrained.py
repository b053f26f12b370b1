"""Two small classifiers trained elsewhere, as networks for features: plain arrays from npz files, nothing is unpickled.

cifar10_resnet56.npz: akamaster/pytorch_resnet_cifar10, 93.39 % of CIFAR-10's test images right. imagenet_squeezenet10.npz:
songhan/SqueezeNet-Deep-Compression, of the accuracy of AlexNet. Both keep the names that the arrays have there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class ResNet56(nn.Module):
    """The residual network of He et al. (2016) for CIFAR-10, shortcuts of option A; RGB in [0, 1] to 64 features."""

    def __init__(self) -> None:
        super().__init__()
        widths = [16] * 9 + [32] * 9 + [64] * 9
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        for stage in range(3):
            rows = range(9 * stage, 9 * stage + 9)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*[Block(widths[max(k - 1, 0)], widths[k]) for k in rows]))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, x: Float[Tensor, "n 3 32 32"]) -> Float[Tensor, "n 64"]:
        x = functional.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride, self.more = outputs // inputs, outputs - inputs
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride=self.stride, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        short = functional.pad(x[:, :, :: self.stride, :: self.stride], [0, 0, 0, 0, self.more // 2, self.more // 2])
        return functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))) + short)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.0 (Iandola et al., 2016) of ImageNet; RGB or grey in [0, 1], of any size, to 512 features."""

    WIDTHS = ((96, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128))
    WIDTHS += ((256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256))

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        for k, (inputs, squeezed, outputs) in enumerate(self.WIDTHS, 2):
            layers = {
                "conv1x1_1": nn.Conv2d(inputs, squeezed, 1),
                "conv1x1_2": nn.Conv2d(squeezed, outputs, 1),
                "conv3x3_2": nn.Conv2d(squeezed, outputs, 3, padding=1),
            }
            self.add_module(f"fire{k}", nn.ModuleDict(layers))
        self.register_buffer("mean", torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1), persistent=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 512"]:
        x = functional.interpolate(x.expand(-1, 3, -1, -1), (227, 227), mode="bilinear", antialias=True)
        x = functional.relu(self.conv1(255 * x.flip(1) - self.mean))
        x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        for k in range(2, 10):
            fire = self.get_submodule(f"fire{k}")
            squeezed = functional.relu(fire["conv1x1_1"](x))
            x = functional.relu(torch.cat([fire["conv1x1_2"](squeezed), fire["conv3x3_2"](squeezed)], 1))
            if k in (4, 8):
                x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        return x.mean((2, 3))


def load(path: Path, shape: Sequence[int]) -> tuple[str, nn.Module, nn.Module | None]:
    """The name of the network in a file, its features, and its last layer if it knows the classes of CIFAR-10.

    ResNet-56 is for images of this shape only; of SqueezeNet, which knows the classes of ImageNet, the features alone are used.
    """
    arrays = {name.replace("/", "."): values for name, values in read(path).items()}
    if "fire2.conv1x1_1.weight" in arrays:
        return "SqueezeNet 1.0 (ImageNet)", filled(SqueezeNet(), arrays, path), None
    body = filled(ResNet56(), arrays, path)
    if tuple(shape) != (3, 32, 32):
        raise ValueError(
            f"{path} is a network for CIFAR-10, but the images are {tuple(shape)}; take imagenet_squeezenet10.npz."
        )
    last = {name.removeprefix("linear."): values for name, values in arrays.items() if name.startswith("linear.")}
    return "ResNet-56 (CIFAR-10)", body, filled(nn.Linear(64, 10), last, path)


def read(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as an npz file of arrays ({error}); copy the file again.") from error


def filled(model: nn.Module, arrays: dict[str, Tensor], path: Path) -> nn.Module:
    """The model with its weights from the arrays, which may hold more."""
    own = model.state_dict()
    wrong = [name for name in own if not name.endswith("num_batches_tracked") and shape(arrays, name) != own[name].shape]
    if wrong:
        raise ValueError(f"{path} holds other weights than {type(model).__name__} has, such as {wrong[0]}; see features.py.")
    model.load_state_dict({name: arrays.get(name, values) for name, values in own.items()})
    return model.eval()


def shape(arrays: dict[str, Tensor], name: str) -> torch.Size | None:
    return arrays[name].shape if name in arrays else None
