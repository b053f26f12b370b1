"""Networks whose features images are compared by: a classifier trained here, and two trained elsewhere, read from npz files.

Features are those before the last layer. None of the three is the Inception network of the published FID: distances of their
features compare runs with each other, never with the literature. For that there is `published_fid`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from data import Images
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """Features of images in [0, 1], and class probabilities where the network knows the classes of the data."""

    name: str
    body: nn.Module  # images (n, c, h, w) to features (n, d)
    head: nn.Module | None  # features to logits (n, classes)

    @torch.no_grad()
    def features(self, images: Float[Tensor, "n c h w"], batch: int = 512) -> Float[Tensor, "n d"]:
        device = next(self.body.parameters()).device
        return torch.cat([self.body(part.to(device)).cpu() for part in images.split(batch)])

    @torch.no_grad()
    def probabilities(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        if self.head is None:
            raise ValueError(f"{self.name} does not know the classes of these images.")
        device = next(self.head.parameters()).device
        return self.head(features.to(device)).softmax(1).cpu()

    def accuracy(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> float:
        return (self.probabilities(self.features(images)).argmax(1) == labels).double().mean().item()


def classifier(shape: tuple[int, int, int], classes: int) -> tuple[nn.Module, nn.Module]:
    """A small convolutional network: features and last layer, for any size of image from 8 x 8."""
    channels, height, width = shape
    large = min(height, width) >= 16

    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    if large:
        body = nn.Sequential(
            *layer(channels, 32, 2), *layer(32, 64, 1), *layer(64, 64, 2), *layer(64, 96, 1), nn.MaxPool2d(2), nn.Flatten()
        )
        size, d = 96 * (((height + 1) // 2 + 1) // 2 // 2) * (((width + 1) // 2 + 1) // 2 // 2), 64
    else:
        body = nn.Sequential(*layer(channels, 32, 1), *layer(32, 64, 2), *layer(64, 64, 1), nn.Flatten())
        size, d = 64 * ((height + 1) // 2) * ((width + 1) // 2), 32
    body.extend([nn.Dropout(0.25), nn.Linear(size, d), nn.ReLU()])
    return body, nn.Linear(d, classes)


def shifted(images: Float[Tensor, "n c h w"], reach: int) -> Float[Tensor, "n c h w"]:
    """Every image moved by up to `reach` pixels; what comes in is the colour of the border."""
    n, c, h, w = images.shape
    wide = functional.pad(images, [reach] * 4, mode="replicate")
    top, left = torch.randint(2 * reach + 1, (2, n, 1), device=images.device)
    rows, columns = top + torch.arange(h, device=images.device), left + torch.arange(w, device=images.device)
    return wide[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train(images: Images, epochs: int, seed: int, mirror: bool = False, device: str | torch.device = "cpu") -> FeatureNetwork:
    """A classifier of the training images: Adam on a cosine, shifted images, weights averaged along the last half."""
    assert images.train_labels is not None
    torch.manual_seed(seed)
    x, labels = images.train, images.train_labels
    body, head = classifier(tuple(x.shape[1:]), int(labels.max()) + 1)  # type: ignore[arg-type]
    model = nn.Sequential(body, head).to(device)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True)
    batch = 128 if len(x) > 5000 else 64
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    with tqdm(total=steps, desc="classifier", unit="step") as bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(x))[: len(x) // batch * batch].view(-1, batch):
                seen = shifted(x[rows].to(device), max(1, x.shape[3] // 14))
                if mirror:
                    seen = torch.where(torch.rand(batch, 1, 1, 1, device=device) < 0.5, seen.flip(3), seen)
                loss = functional.cross_entropy(model(seen), labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                average.update_parameters(model)
                bar.set_postfix_str(f"loss {loss.item():.4f}", refresh=False)
                bar.update()
    body, head = average.module.eval()
    return FeatureNetwork("classifier trained here", body, head)


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


def resnet56(path: Path) -> FeatureNetwork:
    """From cifar10_resnet56.npz, 93.39 % of the test images right."""
    arrays, body, head = read(path), ResNet56(), nn.Linear(64, 10)
    return FeatureNetwork("CIFAR-10 ResNet-56", filled(body, arrays, path), filled(head, part(arrays, "linear."), path))


def squeezenet(path: Path) -> FeatureNetwork:
    """From imagenet_squeezenet10.npz. It knows other classes, and is used for features alone."""
    arrays = {name.replace("/", "."): values for name, values in read(path).items()}
    return FeatureNetwork("ImageNet SqueezeNet 1.0", filled(SqueezeNet(), arrays, path), None)


def read(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as an npz file of arrays ({error}); copy the file again.") from error


def part(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


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


def published_fid(real: Float[Tensor, "n c h w"], fake: Float[Tensor, "m c h w"]) -> float:
    """The FID of the literature, by torch-fidelity, which fetches the Inception network. Give it 50,000 images or 10,000."""
    try:
        import torch_fidelity
    except ImportError as error:
        raise ValueError("the published FID needs torch-fidelity; install it with pip install 'sdot[fid]'.") from error
    found = torch_fidelity.calculate_metrics(
        input1=Bytes(real), input2=Bytes(fake), fid=True, cuda=torch.cuda.is_available(), verbose=False
    )
    return float(found["frechet_inception_distance"])


class Bytes(torch.utils.data.Dataset[Tensor]):
    """Images as torch-fidelity wants them: bytes in three colours."""

    def __init__(self, images: Float[Tensor, "n c h w"]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> Tensor:
        return (255 * self.images[k].clamp(0, 1)).round().byte().expand(3, -1, -1)
