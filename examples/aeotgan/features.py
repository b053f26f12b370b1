"""Networks whose features images are compared by: a classifier trained here, or one from a file (see pretrained.py).

The features are those before the last layer, as in the published FID. A small classifier's tell classes apart and little else,
so that of one trained here there is also what every layer sees: the means over the picture of its activations, which tell sharp
strokes from blurred ones. None of these is the Inception network: distances of their features compare runs with each other,
never with the literature. For that there is `published_fid`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import autoencoder
import machine
import pretrained
import results
import torch
from config import Config
from data import Images
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

WRITTEN = ("digits", "mnist")  # whose mirror images are something else
BATCH = 512  # images whose features are made at once
PEAK = 3e-3  # highest learning rate of the classifier


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """Features of images in [0, 1], and class probabilities where the network knows the classes of the data."""

    name: str
    body: nn.Module  # images (n, c, h, w) to features (n, d)
    head: nn.Module | None  # the last of the features to logits (n, classes)
    last: int | None = None  # so many of the features, the final ones, are those before the last layer; all when None

    def features(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return autoencoder.apply(self.body, images, BATCH)

    def probabilities(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        if self.head is None:
            raise ValueError(f"{self.name} does not know the classes of these images.")
        return autoencoder.apply(self.head, self.final(features), BATCH).softmax(1)

    def final(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n l"]:
        """Those before the last layer."""
        return features if self.last is None else features[:, -self.last :]

    def accuracy(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> float:
        return (self.probabilities(self.features(images)).argmax(1) == labels).double().mean().item()


def wanting(config: Config, images: Images) -> bool:
    """Whether there are neither labels to train a classifier with nor weights of another network."""
    return not config.evaluate.weights and images.train_labels is None


def check(config: Config, images: Images) -> None:
    """Say at once, not after hours of training, that images cannot be judged."""
    if wanting(config, images):
        raise ValueError(
            f"{config.data} has no labels to train a classifier with; name a file of weights for features with --set "
            f"evaluate.weights=FILE, such as imagenet_squeezenet10.npz, or leave evaluate out of --stages."
        )
    if config.evaluate.weights:
        pretrained.load(Path(config.evaluate.weights), images.train.shape[1:])


def choose(config: Config, images: Images, out: Path) -> FeatureNetwork:
    """The network that the configuration names, or a classifier of its own for the data, kept in classifier.safetensors."""
    check(config, images)
    device = machine.current().device
    if config.evaluate.weights:
        name, body, head = pretrained.load(Path(config.evaluate.weights), images.train.shape[1:])
        return FeatureNetwork(name, body.to(device), head.to(device) if head is not None else None)
    path, epochs = out / "classifier.safetensors", config.evaluate.classifier_epochs
    made_from = {"data": config.data, "images": images.digest, "seed": config.seed, "epochs": epochs}
    tensors, before = results.load_tensors(path) if path.exists() else ({}, None)
    with torch.random.fork_rng():  # what is trained next draws as if nothing had been trained here
        body, head = classifier(*kind(images))
        if before != made_from:
            tensors = train(images, epochs, config.seed, mirror=config.data not in WRITTEN)
            results.save_tensors(path, tensors, made_from)
    nn.Sequential(body, head).to(device).eval().load_state_dict(tensors)
    return FeatureNetwork("a classifier trained here", Layers(body), head, head.in_features)


def kind(images: Images) -> tuple[tuple[int, ...], int]:
    """Shape of an image and number of classes."""
    assert images.train_labels is not None
    return tuple(images.train.shape[1:]), int(images.train_labels.max()) + 1


def classifier(shape: tuple[int, ...], classes: int) -> tuple[nn.Sequential, nn.Linear]:
    """A small convolutional network: features and last layer, for any size of image from 8 x 8."""
    channels, height, width = shape

    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    if min(height, width) >= 16:
        body = nn.Sequential(
            *layer(channels, 32, 2), *layer(32, 64, 1), *layer(64, 64, 2), *layer(64, 96, 1), nn.MaxPool2d(2), nn.Flatten()
        )
        size, d = 96 * (((height + 1) // 2 + 1) // 2 // 2) * (((width + 1) // 2 + 1) // 2 // 2), 64
    else:
        body = nn.Sequential(*layer(channels, 32, 1), *layer(32, 64, 2), *layer(64, 64, 1), nn.Flatten())
        size, d = 64 * ((height + 1) // 2) * ((width + 1) // 2), 32
    body.extend([nn.Dropout(0.25), nn.Linear(size, d), nn.ReLU()])
    return body, nn.Linear(d, classes)


class Layers(nn.Module):
    """Images to the means of all layers' activations and to what the last of them gives out."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        seen = []
        for layer in self.body:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                seen.append(x.mean((2, 3)) if x.dim() == 4 else x)
        return torch.cat(seen, 1)


def shifted(images: Float[Tensor, "n c h w"], reach: int) -> Float[Tensor, "n c h w"]:
    """Every image moved by up to `reach` pixels; what comes in is the colour of the border."""
    n, _, h, w = images.shape
    wide = functional.pad(images, [reach] * 4, mode="replicate")
    top, left = torch.randint(2 * reach + 1, (2, n, 1), device=images.device)
    rows, columns = top + torch.arange(h, device=images.device), left + torch.arange(w, device=images.device)
    return wide[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train(images: Images, epochs: int, seed: int, mirror: bool = False) -> dict[str, Tensor]:
    """Weights of a classifier: Adam, one cycle of the learning rate, shifted images, an average over about 100 steps."""
    assert images.train_labels is not None
    x, labels, device = images.train, images.train_labels, machine.current().device
    torch.manual_seed(seed)
    model = nn.Sequential(*classifier(*kind(images))).to(device)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    batch = 128 if len(x) > 5000 else 64
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=steps)
    with tqdm(total=steps, desc="classifier", unit="step") as bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(x))[: len(x) // batch * batch].view(-1, batch):
                seen = shifted(x[rows].to(device).float(), max(1, x.shape[3] // 14))
                if mirror:
                    seen = torch.where(torch.rand(batch, 1, 1, 1, device=device) < 0.5, seen.flip(3), seen)
                loss = functional.cross_entropy(model(seen), labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                if bar.n >= steps // 2:
                    average.update_parameters(model)
                bar.set_postfix_str(f"loss {loss.item():.4f}", refresh=False)
                bar.update()
    return average.module.state_dict()


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
