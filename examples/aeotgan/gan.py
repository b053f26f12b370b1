"""Stage `gan`: train the decoder against a discriminator, on codes and on what the extension puts between them.

Step 3 of AE-OT-GAN (An et al., ECCV 2020). A batch of fakes holds m reconstructed images G(z_i) and `ratio` times as many
generated ones G(S(x)); a batch of real images holds the m images of the z_i and as many random ones. The generator minimises

    -log D(fake)  +  image |G(z_i) - x_i|^2  +  feature sum_l |f_l(G(z_i)) - f_l(x_i)|^2  +  latent |f_L(G(z_i)) - z_i|^2

over layers f_l of the encoder, which is frozen.

Reads autoencoder.safetensors, codes.npy and map.safetensors; writes gan.safetensors, gan.history.json, pictures and gan.json.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import autoencoder
import judge
import losses
import machine
import networks
import numpy as np
import pictures
import results
import torch
import transport
from config import Config, GanConfig
from data import Images
from history import History
from jaxtyping import Float
from replay import Replay
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from tqdm import tqdm
from transport import Sampler

SHOWN = 16  # images in a row of the picture over epochs
AHEAD = 16  # steps whose new codes are made at once


def main(config: Config, images: Images, out: Path) -> dict[str, Any]:
    model = networks.load(out / "autoencoder.safetensors", config)
    codes, sampler = torch.from_numpy(np.load(out / "codes.npy")), transport.generator_codes(out)
    frechet = judge.watch(config, images, sampler, out) if machine.current().leads else None
    result = train(config, images, sampler, model.decoder, out, codes=codes, encoder=model.encoder, watch=frechet)
    if machine.current().leads:
        draw(config, images, sampler, out)
    return result


def draw(config: Config, images: Images, sampler: Sampler, out: Path) -> None:
    """The same codes as in the pictures of stage `ot`, so that the two can be compared."""
    here = machine.current()
    G = here.placed(networks.load_generator(out / "gan.safetensors", config))
    encoder = here.placed(networks.load(out / "autoencoder.safetensors", config).encoder)
    new = sampler(2000, machine.keyed(config.seed, transport.KEY, 1))
    made = autoencoder.apply(G, new)
    pictures.generated(out, "gan-", made[:160], images.train)
    path = transport.walks(out, machine.keyed(config.seed, transport.KEY, 2))
    pictures.sheet(out / "gan-walks.png", autoencoder.apply(G, path), columns=16)
    codes = torch.from_numpy(np.load(out / "codes.npy"))
    pictures.embedding(out / "gan-codes.png", codes, autoencoder.apply(encoder, made))


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step learns from. The first m codes are those of the first m images, if there are pairs."""

    codes: Float[Tensor, "n d"]
    real: Float[Tensor, "n c h w"]
    pairs: int  # m, or 0


@dataclass(frozen=True, eq=False)
class Players:
    """Networks as they are called in training, and their optimisers.

    `discriminator` is for its own steps, with gradients averaged over all processes; `critic` is the same network without
    that, for the generator's steps; `weights` holds its weights.
    """

    generator: Any
    discriminator: Any
    critic: Any
    weights: nn.Module
    features: Any
    adam: torch.optim.Optimizer
    adam_d: torch.optim.Optimizer


def batches(
    g: GanConfig, images: Tensor, sampler: Sampler, codes: Tensor | None, steps: range, seed: int, key: int
) -> Iterator[Batch]:
    """The batches of these steps: reconstructed : generated = paired : random images = 1 : ratio.

    Noise of AHEAD steps at a time is carried to codes; which steps these are does not depend on where one begins.
    """
    here, m = machine.current(), min(g.paired, len(images))
    n = (1 + g.ratio) * m if codes is None else g.ratio * m
    for start in range(steps.start // AHEAD * AHEAD, steps.stop, AHEAD):
        block = range(start, min(start + AHEAD, steps.stop))
        generators = [machine.keyed(seed, key, step) for step in block]
        new = sampler.image(torch.cat([sampler.draw(n, generator) for generator in generators])).split(n)
        for step, z, generator in zip(block, new, generators, strict=True):
            rows = torch.randint(len(images), (n,), generator=generator)
            if step < steps.start:
                continue
            z, x = here.share(z), here.share(images[rows.to(images.device)]).float()
            if codes is not None:
                paired = autoencoder.epoch_rows(len(images), m, step, seed, key).to(images.device)
                z, x = torch.cat([here.share(codes[paired]), z]), torch.cat([here.share(images[paired]).float(), x])
            yield Batch(z, x, 0 if codes is None else m // here.world)


def train(
    config: Config,
    images: Images,
    sampler: Sampler,
    generator: nn.Module,
    out: Path,
    name: str = "gan",
    codes: Float[Tensor, "n d"] | None = None,
    encoder: nn.Module | None = None,
    watch: Callable[[int, nn.Module], dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Train a generator against a new discriminator.

    Goes on from out/{name}.checkpoint, and ends as if it had never stopped. Writes out/{name}.safetensors (the averaged
    generator) and out/{name}.history.json.

    Args:
        sampler: New codes; a function of its generator alone.
        generator: Where to start from.
        codes: One for each training image, in their order. With these and the encoder this is AE-OT-GAN, without them a GAN.
        encoder: Frozen; its layers are compared in the feature loss.
        watch: Further values for the history at each drawing, from the step and the averaged generator. Those called
            "frechet" and "frechet_layers" are drawn.
    """
    g, here, key = config.gan, machine.current(), zlib.crc32(name.encode())
    x = here.hold(images.train)
    torch.manual_seed(config.seed)
    G, D = here.placed(generator).train(), here.placed(networks.discriminator(config))
    average = copy.deepcopy(G).eval().requires_grad_(False)
    betas = (g.beta1, 0.999)
    players = Players(
        generator=here.ready(G),
        discriminator=here.ready(D),
        critic=here.fast(D),
        weights=D,
        features=here.fast(losses.Features(here.placed(encoder))) if encoder is not None else None,
        adam=here.adam(G.parameters(), g.lr, betas=betas),
        adam_d=here.adam(D.parameters(), g.lr / g.lr_ratio, betas=betas),
    )
    checkpoint = results.Checkpoint(
        out / f"{name}.checkpoint",
        {"generator": G, "discriminator": D, "average": average, "adam": players.adam, "adam_d": players.adam_d},
        results.settings(config, images.digest, ["ae", "ot", "gan"]) | {"training": name, "processes": here.world},
        here.leads,
    )
    log = History(len(x) // min(g.paired, len(x)), g.epochs, g.views, checkpoint)
    probe = sampler(2 * SHOWN, machine.keyed(config.seed, key))
    if codes is not None:
        probe = torch.cat([codes[:SHOWN], probe[: min(SHOWN, len(codes))]])

    def show(step: int) -> None:
        """Pictures so far, from the averaged generator."""
        views = log.views
        views[f"{step}"] = autoencoder.apply(average, probe).mul(255).round().to(torch.uint8)
        if watch is not None:
            log.note(step, watch(step, average))
        if here.leads:
            truth = images.train[:SHOWN] if codes is not None else None
            pictures.epochs(out / f"{name}-epochs.png", views, log.steps_per_epoch, truth)
            pictures.curves(out / f"{name}-curves.png", log.records)

    names, pairs = dict[bool, list[str]](), min(g.paired, len(x)) // here.world if codes is not None else 0

    def turn(learns: bool, z: Tensor, real: Tensor) -> Tensor:
        values = play(g, Batch(z, real, pairs), players, learns=learns)
        blend(average, G, g.ema)
        names[learns] = list(values)
        return torch.stack([value.detach().float() for value in values.values()])

    replay, held = Replay(turn), None if codes is None else codes.to(x.device)
    feed, ahead = batches(g, x, sampler, held, range(log.step, log.total), config.seed, key), None
    bar = tqdm(total=log.total, initial=log.step, desc=name, unit="step", disable=not here.leads)
    launched: tuple[int, bool, Callable[[], list[float]]] | None = None

    def settle() -> None:
        """Take in the losses of the step that was launched last."""
        nonlocal launched
        if launched is None:
            return
        (step, learns, numbers), launched = launched, None
        values = dict(zip(names[learns], numbers(), strict=True))
        results.check_finite(values, name, step)
        log.add(step, values)
        bar.set_postfix_str(" ".join(f"{k} {values[k]:.3f}" for k in ("real", "fake", "image") if k in values), refresh=False)
        bar.update()

    for step in range(log.step, log.total):
        if step in log.shown_at and f"{step}" not in log.views:
            settle()
            show(step)
        if checkpoint.due():
            settle()
            log.save(step)
        learns = (step + 1) % g.inner == 0
        with machine.fitting("gan.paired", g.paired):
            batch = ahead or next(feed)
            numbers = replay(learns, batch.codes, batch.real)
            ahead = next(feed, None)  # while the device computes
            settle()  # the step before: the device need not wait for its losses to be told
        launched = step, learns, numbers
    settle()
    bar.close()
    here.check_agreement(G)
    if f"{log.total}" not in log.views:
        show(log.total)
    log.save(log.total)
    if here.leads:
        results.save_tensors(out / f"{name}.safetensors", average.state_dict())
        results.write(out / f"{name}.history.json", log.records)
    return {"steps": log.total, "batch": (1 + g.ratio) * g.paired, "seconds": log.seconds, "last": log.last}


def play(g: GanConfig, batch: Batch, players: Players, *, learns: bool) -> dict[str, Tensor]:
    """One step of the generator, after one of the discriminator where that `learns`; the losses by name, on the device."""
    here, p, m, values = machine.current(), players, batch.pairs, dict[str, Tensor]()
    with here.precision():
        fake = p.generator(batch.codes).float()
    if learns:
        p.weights.requires_grad_(True)
        with here.precision():
            on_real, on_fake = p.discriminator(batch.real).float(), p.discriminator(fake.detach()).float()
        values["discriminator"] = loss = losses.discriminator(on_real, on_fake)
        values["real"] = on_real.sigmoid().mean()
        _descend(p.adam_d, loss)
    p.weights.requires_grad_(False)
    with here.precision():
        on_fake = p.critic(fake).float()
    values["fake"] = on_fake.sigmoid().mean()
    values["adversarial"] = loss = losses.adversarial(on_fake)
    if p.features is not None:
        values["image"] = mse_loss(fake[:m], batch.real[:m])
        with here.precision():
            values["feature"], values["latent"] = p.features(batch.real[:m], fake[:m])
        loss = loss + g.image * values["image"] + g.feature * values["feature"] + g.latent * values["latent"]
    _descend(p.adam, loss)
    return values


def _descend(optimizer: Any, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def blend(average: nn.Module, network: nn.Module, ema: float) -> None:
    """average <- ema * average + (1 - ema) * network, statistics of batches included."""
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    old, new = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
    torch._foreach_lerp_(old, new, 1 - ema)  # all in one launch
    for a, b in pairs:
        if not a.is_floating_point():
            a.copy_(b)
