"""The training side of examples/aeotgan: its networks, readers, losses and stages, on problems of a second each."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

FOLDER = Path(__file__).parent.parent / "examples" / "aeotgan"
sys.path.insert(0, str(FOLDER))
os.environ["SDOT_DEVICE"] = "cpu"  # where there is a GPU too; it has a test of its own

import autoencoder  # noqa: E402
import baselines  # noqa: E402
import config as settings  # noqa: E402
import data  # noqa: E402
import gan  # noqa: E402
import history  # noqa: E402
import losses  # noqa: E402
import machine  # noqa: E402
import networks  # noqa: E402
import pictures  # noqa: E402
import readers  # noqa: E402
import results  # noqa: E402
import run  # noqa: E402
import transport  # noqa: E402

TINY = ["ae.epochs=6", "ae.latent=4", "ot.tol=0.5", "ot.precision=0.5", "gan.epochs=1", "gan.paired=8", "gan.views=2"]
TINY += ["evaluate.samples=200", "evaluate.classifier_epochs=2"]
DIGITS = settings.override(settings.PRESETS["digits"], TINY)
SHORT = 240  # training images of the tests


@pytest.fixture(scope="module")
def images() -> data.Images:
    whole = data.load("digits", None)
    return data.Images(whole.train[:SHORT], whole.train_labels[:SHORT], whole.test, whole.test_labels)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory) -> Path:
    """A folder in which the stages ae, ot and gan have run, as `run.py` runs them."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda name, root: images)
        run.run(DIGITS, None, out, ["ae", "ot", "gan"], force=False)
    return out


def trained(images, out, config=DIGITS, source=None, **more):
    """AE-OT-GAN in a folder, from the autoencoder and the map of another."""
    source = source or out
    model = networks.load(source / "autoencoder.safetensors", config)
    codes = torch.from_numpy(np.load(source / "codes.npy"))
    sampler = transport.generator_codes(source)
    return gan.train(config, images, sampler, model.decoder, out, codes=codes, encoder=model.encoder, **more)


# Networks


@pytest.mark.parametrize("name", networks.FAMILIES)
def test_encoder_mirrors_generator(name):
    """Shapes alone: no number is computed."""
    family, latent = networks.FAMILIES[name], 6
    with torch.device("meta"):
        model = networks.Autoencoder(family.encoder(latent), family.generator(latent), latent)
        down = networks.stages(model.encoder, torch.empty(2, *family.size))
        up = networks.stages(model.decoder, torch.empty(2, latent))
        score = family.discriminator()(torch.empty(2, *family.size))
    assert [x.shape for x in up[:-1]] == [x.shape for x in reversed(down[:-1])]
    assert down[-1].shape == (2, latent)
    assert up[-1].shape == (2, *family.size)
    assert score.shape == (2, 1)


@pytest.mark.parametrize("preset", settings.PRESETS)
def test_presets_fit_their_networks(preset):
    config = settings.PRESETS[preset]
    assert networks.FAMILIES[config.network].size == data.SIZES[config.data]


def test_a_decoder_is_a_generator():
    model, fresh = networks.autoencoder(DIGITS), networks.generator(DIGITS)
    fresh.load_state_dict(model.decoder.state_dict())
    z = torch.randn(3, DIGITS.ae.latent)
    assert torch.equal(fresh(z), model.decoder(z))
    assert 0 <= fresh(z).min() <= fresh(z).max() <= 1


# Losses


def test_adversarial_losses_are_those_of_probabilities():
    real, fake = torch.randn(7, 1).double(), torch.randn(7, 1).double()
    p, q = 1 / (1 + (-real).exp()), 1 / (1 + (-fake).exp())
    torch.testing.assert_close(losses.discriminator(real, fake), -(p.log().mean() + (1 - q).log().mean()))
    torch.testing.assert_close(losses.adversarial(fake), -q.log().mean())
    assert losses.discriminator(torch.tensor([[1e4]]), torch.tensor([[1e4]])).isfinite()


def linear_encoder() -> nn.Sequential:
    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), nn.Sequential(nn.Linear(5, 3)))


def test_feature_loss_by_hand_and_a_frozen_encoder():
    encoder, x, made = linear_encoder(), torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8, requires_grad=True)
    first, last = encoder[0][1], encoder[1][0]
    difference = (made - x).flatten(1).detach() @ first.weight.T  # the bias cancels
    feature, latent = losses.Features(encoder)(x, made)
    torch.testing.assert_close(feature.detach(), difference.square().mean())
    torch.testing.assert_close(latent.detach(), (difference @ last.weight.T).square().mean())
    (feature + latent).backward()
    assert made.grad.abs().sum() > 0
    assert all(p.grad is None for p in encoder.parameters())


def test_a_step_of_the_generator_minimises_the_stated_sum():
    """One step of `play` moves the generator along the gradient of the loss written out by hand."""
    torch.manual_seed(0)
    g = settings.GanConfig(epochs=1, paired=2, ratio=1, image=3.0, feature=0.5, latent=0.25)
    G, D, encoder = networks.generator(DIGITS), networks.discriminator(DIGITS), linear_encoder()
    batch = gan.Batch(torch.randn(4, DIGITS.ae.latent), torch.rand(4, 1, 8, 8), 2)
    before = [p.detach().clone() for p in G.parameters()]
    fake = G(batch.codes)
    a, b = fake[:2], batch.real[:2]
    expected = nn.functional.softplus(-D(fake)).mean() + 3.0 * (a - b).square().mean()
    expected = expected + 0.5 * (encoder[0](a) - encoder[0](b)).square().mean()
    expected = expected + 0.25 * (encoder(a) - encoder(b)).square().mean()
    slope = torch.autograd.grad(expected, list(G.parameters()))
    descent = torch.optim.SGD(G.parameters(), lr=1.0)
    players = gan.Players(
        generator=G, discriminator=D, critic=D, weights=D, features=losses.Features(encoder), adam=descent, adam_d=descent
    )
    values = gan.play(g, batch, players, learns=False)
    for p, old, d in zip(G.parameters(), before, slope, strict=True):
        torch.testing.assert_close(old - p.detach(), d, rtol=1e-3, atol=1e-6)
    assert set(values) == {"adversarial", "fake", "image", "feature", "latent"}
    assert all(p.grad is None for p in [*D.parameters(), *encoder.parameters()])


def test_the_discriminator_learns_every_inner_step_at_its_own_rate(finished, images, tmp_path, monkeypatch):
    config = settings.override(DIGITS, ["gan.inner=4", "gan.lr=1e-3", "gan.lr_ratio=5"])
    learnt, rates, play = [], [], gan.play

    def watched(g, batch, players, *, learns):
        learnt.append(learns)
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in (players.adam, players.adam_d)])
        return play(g, batch, players, learns=learns)

    monkeypatch.setattr(gan, "play", watched)
    trained(images, tmp_path, config, finished)
    assert learnt == [(k + 1) % 4 == 0 for k in range(SHORT // 8)]
    assert rates[0] == pytest.approx([1e-3, 2e-4])


def test_batches_are_one_reconstructed_to_three_generated(images):
    g = settings.GanConfig(epochs=1, paired=8)
    codes = torch.arange(SHORT).float()[:, None]  # a code that tells its image
    seen = []
    constant = transport.Sampler(lambda n, generator: torch.full((n, 1), -1.0))
    for batch in gan.batches(g, images.train, constant, codes, range(SHORT // 8), 0, 0):
        assert batch.pairs == 8
        assert len(batch.codes) == len(batch.real) == 32
        rows = batch.codes[:8, 0].long()
        assert torch.equal(batch.real[:8], images.train[rows])
        assert (batch.codes[8:] == -1).all()
        seen += rows.tolist()
    assert sorted(seen) == list(range(SHORT))  # in an epoch each image is reconstructed once
    plain = next(gan.batches(g, images.train, constant, None, range(1), 0, 0))
    assert (len(plain.codes), len(plain.real), plain.pairs) == (32, 32, 0)


def test_blend_averages_weights():
    a, b = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    b.weight.data.fill_(3.0)
    b(torch.randn(4, 2))
    gan.blend(a, b, 0.75)
    assert torch.equal(a.weight, torch.full((2,), 1.5))
    assert a.num_batches_tracked == 1
    gan.blend(a, b, 0.0)
    assert torch.equal(a.running_mean, b.running_mean)


# Stages


def test_a_run_leaves_what_it_says(finished, images):
    model = networks.load(finished / "autoencoder.safetensors", DIGITS)
    codes = np.load(finished / "codes.npy")
    assert codes.shape == (SHORT, 4)
    np.testing.assert_allclose(codes, autoencoder.apply(model.encoder, images.train).numpy())
    G = networks.load_generator(finished / "gan.safetensors", DIGITS)
    assert not torch.equal(G[0][0].weight, model.decoder[0][0].weight)  # it began as the decoder and moved on
    torch.testing.assert_close(G[0][0].weight, model.decoder[0][0].weight, atol=0.05, rtol=0)
    report = json.loads((finished / "report.json").read_text())
    assert 0 < report["ot"]["moved"] <= 1
    assert sum(report["ot"]["class_shares_of_map"]) == pytest.approx(1)
    records = json.loads((finished / "gan.history.json").read_text())
    assert records[-1]["step"] == report["gan"]["steps"] == SHORT // 8
    drawn = {path.stem for path in finished.glob("*.png") if readers.picture(path).shape[1] > 500}
    assert drawn == {"reconstructions", "generated", "nearest", "walks", "codes", "convergence"} | {
        f"gan-{name}" for name in ("epochs", "curves", "generated", "nearest", "walks", "codes")
    }
    assert not [path for path in finished.iterdir() if path.suffix == ".checkpoint" or path.name.startswith("part-")]


def test_new_codes_follow_the_generator_alone(finished):
    sampler = transport.generator_codes(finished)
    a, b = (sampler(9, machine.keyed(1)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.shape == (9, 4)
    assert not torch.equal(a, sampler(9, machine.keyed(2)))


class Killed(Exception):
    pass


@contextlib.contextmanager
def killed_at(step, module, name):
    """Let a training save before every step, and die in this one."""
    real, count = getattr(module, name), [0]

    def dying(*args, **more):
        count[0] += 1
        if count[0] > step:
            raise Killed
        return real(*args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, dying)
        patch.setattr(results, "EVERY", 0.0)
        with pytest.raises(Killed):
            yield


def test_a_killed_autoencoder_ends_with_the_same_bits(finished, images, tmp_path):
    with killed_at(3, autoencoder, "epoch_rows"):
        autoencoder.main(DIGITS, images, tmp_path)
    assert results.load_tensors(tmp_path / "ae.checkpoint")[1]["state"]["step"] == 3
    autoencoder.main(DIGITS, images, tmp_path)
    for name in ("autoencoder.safetensors", "codes.npy"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_a_killed_gan_ends_with_the_same_bits(finished, images, tmp_path, monkeypatch):
    monkeypatch.setattr(history, "POINTS", 7)  # records of more than a step
    config = settings.override(DIGITS, ["gan.inner=2"])
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for folder in (straight, resumed):
        folder.mkdir()
    trained(images, straight, config, finished)
    with killed_at(17, gan, "play"):
        trained(images, resumed, config, finished)
    assert results.load_tensors(resumed / "gan.checkpoint")[1]["state"]["step"] == 17
    trained(images, resumed, config, finished)
    for name in ("gan.safetensors", "gan.history.json", "gan-epochs.png", "gan-curves.png"):
        assert (resumed / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.gpu
def test_a_gpu_run_that_is_killed_ends_with_the_same_bits(finished, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SDOT_DEVICE", "cuda")
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for folder in (straight, resumed):
        folder.mkdir()
    autoencoder.main(DIGITS, images, straight)
    trained(images, straight, DIGITS, finished)
    with killed_at(17, results, "check_finite"):
        trained(images, resumed, DIGITS, finished)
    trained(images, resumed, DIGITS, finished)
    for name in ("gan.safetensors", "gan.history.json"):
        assert (resumed / name).read_bytes() == (straight / name).read_bytes()
    assert "not recorded" not in capsys.readouterr().err  # the steps were replayed
    on_gpu, on_cpu = (results.load_tensors(folder / "gan.safetensors")[0] for folder in (straight, finished))
    for name, value in on_cpu.items():
        torch.testing.assert_close(on_gpu[name], value, rtol=0.05, atol=0.01)


def test_a_plain_gan_and_a_watch(images, tmp_path):
    noticed = []
    G = networks.generator(DIGITS)
    result = gan.train(
        DIGITS, images, baselines.noise(DIGITS), G, tmp_path, name="noise",
        watch=lambda step, network: noticed.append(step) or {"frechet": 1.0},
    )  # fmt: skip
    assert noticed == [0, SHORT // 8]
    records = json.loads((tmp_path / "noise.history.json").read_text())
    assert [record["step"] for record in records if "frechet" in record] == noticed
    assert "image" not in result["last"]
    assert networks.load_generator(tmp_path / "noise.safetensors", DIGITS)(torch.zeros(1, 4)).shape == (1, 1, 8, 8)


def test_two_processes_agree_with_one(finished, tmp_path):
    """The same global batches: as the digits' networks have no batch statistics, the weights agree up to rounding.

    The autoencoder ends in batch statistics, each process's own on CPUs, and trains in a folder of its own.
    """
    fresh, copied = tmp_path / "fresh", tmp_path / "copied"
    shutil.copytree(finished, copied, ignore=shutil.ignore_patterns("gan*"))
    program = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n"
        "from pathlib import Path\n"
        "import config, data, machine, run\n"
        f"c = config.override(config.PRESETS['digits'], {TINY!r})\n"
        f"w, n = data.load('digits', None), {SHORT}\n"
        "small = data.Images(w.train[:n], w.train_labels[:n], w.test, w.test_labels)\n"
        "run.data.load = lambda name, root: small\n"
        "with machine.processes():\n"
        f"    run.run(c, None, Path({str(fresh)!r}), ['ae', 'ot'], False)\n"
        f"    run.run(c, None, Path({str(copied)!r}), ['gan'], False)\n"
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "error::FutureWarning", "-c", program],
            env=shared | {"RANK": str(k)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(2)
    ]
    for process in both:
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 0, error
    together, alone = (results.load_tensors(folder / "gan.safetensors")[0] for folder in (copied, finished))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4)
    a, b = (json.loads((folder / "gan.history.json").read_text()) for folder in (copied, finished))
    for early, other in zip(a[1:6], b[1:6], strict=True):
        assert early == pytest.approx(other, rel=1e-5)
    assert a[-1] == pytest.approx(b[-1], rel=0.02)  # training multiplies what rounding did
    assert 0 < json.loads((fresh / "report.json").read_text())["ot"]["moved"] <= 1


# When something is wrong


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert run.main(["--data", "mnist", "--out", str(tmp_path)]) == 2
    assert "run.py: mnist is read from a folder; say where it is with --root FOLDER." in capsys.readouterr().err


def test_batches_that_processes_cannot_share_are_refused():
    one = machine.Machine(torch.device("cpu"), rank=1, world=3)
    assert one.share(torch.arange(6)).tolist() == [1, 4]
    with pytest.raises(ValueError, match="a batch of 7 cannot be shared by 3 processes"):
        one.share(torch.arange(7))


def test_another_configuration_is_refused_and_named(finished, images, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda name, root: images)
    changed = settings.override(DIGITS, ["gan.image=7"])
    with pytest.raises(ValueError, match=r"gan.json was made with other settings \(gan.image was .* and is 7.0\)"):
        run.run(changed, None, finished, ["ae", "ot", "gan"], force=False)
    with pytest.raises(ValueError, match="data was digits and is mnist"):
        run.run(settings.PRESETS["mnist"], None, finished, ["ae"], force=False)
    with killed_at(2, gan, "play"):
        trained(images, tmp_path, DIGITS, finished)
    with pytest.raises(ValueError, match=r"gan.checkpoint was made with other settings \(gan.lr was .* and is 0.5"):
        trained(images, tmp_path, settings.override(DIGITS, ["gan.lr=0.5"]), finished)


def test_losses_that_are_no_numbers_stop_at_once_and_keep_the_checkpoint(finished, images, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "EVERY", 0.0)
    adversarial, count = losses.adversarial, [0]

    def spoilt(fake):
        count[0] += 1
        return adversarial(fake) * (float("nan") if count[0] == 6 else 1.0)

    monkeypatch.setattr(losses, "adversarial", spoilt)
    with pytest.raises(FloatingPointError, match=r"gan: adversarial = nan at step 5\. The last good checkpoint is kept"):
        trained(images, tmp_path, DIGITS, finished)
    tensors, info = results.load_tensors(tmp_path / "gan.checkpoint")
    assert info["state"]["step"] == 5
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())


def test_a_checkpoint_never_holds_what_is_not_finite(tmp_path):
    layer = nn.Linear(1, 1)
    checkpoint = results.Checkpoint(tmp_path / "x.checkpoint", {"layer": layer}, {})
    checkpoint.write({}, {"step": 1})
    layer.weight.data.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="weights"):
        checkpoint.write({}, {"step": 2})
    assert checkpoint.read()[1]["step"] == 1


def test_no_room_on_the_gpu_names_the_batch_to_try(finished, images, tmp_path, monkeypatch):
    def full(*args, **more):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(autoencoder, "epoch_rows", full)
    with pytest.raises(ValueError, match=r"ae.batch_size = 256 does not fit .* try --set ae.batch_size=128"):
        autoencoder.main(DIGITS, images, tmp_path)
    with pytest.raises(ValueError, match=r"gan.paired = 8 does not fit .* try --set gan.paired=4"):
        trained(images, tmp_path, DIGITS, finished)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.json", lambda path: results.write(path, {"a": 1})),
        ("x.png", lambda path: pictures.sheet(path, torch.rand(16, 1, 8, 8))),
    ],
)
def test_no_space_left_is_said_and_leaves_nothing(name, write, tmp_path):
    (tmp_path / f"part-{name}").symlink_to("/dev/full")
    with pytest.raises(ValueError, match=rf"{name} cannot be written .*No space left.* free some space"):
        write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path):
    resource = pytest.importorskip("resource")
    results.save_tensors(tmp_path / "x", {"a": torch.zeros(10)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(ValueError, match=r"x cannot be written .* free some space"):
            results.save_tensors(tmp_path / "x", {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert len(results.load_tensors(tmp_path / "x")[0]["a"]) == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gan.epochs", "NAME=VALUE"),
        ("gan.speed=3", "none of epochs, paired"),
        ("gan=3", "does not name a single setting"),
        ("gan.epochs=soon", "of the kind of"),
    ],
)
def test_settings_that_do_not_exist_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        settings.override(DIGITS, [text])


def test_settings_keep_their_kind():
    config = settings.override(DIGITS, ["gan.epochs=7", "gan.lr=1e-3", "seed=4", "threads=2"])
    assert (config.gan.epochs, config.gan.lr, config.seed, config.threads) == (7, 1e-3, 4, 2)


# Readers


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(root: Path, zipped: bool, n: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    for part, k in (("t10k", 2), ("train", n)):
        x, y = rng.integers(0, 256, (k, 28, 28), dtype=np.uint8), rng.integers(0, 10, k, dtype=np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", y)):
            (root / f"{name}{'.gz' if zipped else ''}").write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return x, y


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files(tmp_path, zipped):
    x, y = write_mnist(tmp_path, zipped)
    images = data.load("mnist", tmp_path)
    np.testing.assert_allclose(images.train.numpy()[:, 0], x / np.float32(255), rtol=1e-6)
    assert images.train_labels.tolist() == y.tolist()
    assert images.test.shape == (2, 1, 28, 28)
    path = tmp_path / f"train-images-idx3-ubyte{'.gz' if zipped else ''}"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.*(cut short|cannot be read)"):
        data.load("mnist", tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="copy the original file"):
        data.load("mnist", tmp_path)


def write_cifar(root: Path) -> np.ndarray:
    records = np.random.default_rng(0).integers(0, 10, (6, 2, 3073), dtype=np.uint8)
    for k, name in enumerate([*[f"data_batch_{k}.bin" for k in range(1, 6)], "test_batch.bin"]):
        records[k].tofile(root / name)
    return records


def test_cifar_binary(tmp_path):
    records = write_cifar(tmp_path)
    images = data.load("cifar10", tmp_path)
    assert images.train.shape == (10, 3, 32, 32)
    assert images.train_labels.tolist() == records[:5].reshape(10, -1)[:, 0].tolist()
    torch.testing.assert_close(images.test[1, 2, 3, 4].item(), records[5, 1, 1 + 2 * 1024 + 3 * 32 + 4] / 255)
    with (tmp_path / "data_batch_3.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"data_batch_3.bin is cut short"):
        data.load("cifar10", tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(ValueError, match=r"data_batch_3.bin cannot be read"):
        data.load("cifar10", tmp_path)


def test_pickled_cifar_is_refused(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"pickled .* binary version"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("layout", ["nhwc", "nchw", "npy"])
def test_arrays(tmp_path, layout):
    x = np.random.default_rng(0).random((5, 3, 32, 32), dtype=np.float32)
    parts = {"x_train": x, "x_test": x[:2], "y_train": np.arange(5)[:, None]}
    if layout == "nhwc":
        parts |= {name: np.moveaxis(parts[name], 1, 3) for name in ("x_train", "x_test")}
    if layout == "npy":
        for name, value in parts.items():
            np.save(tmp_path / f"{name}.npy", value)
    else:
        np.savez(tmp_path / "any.npz", **parts)
    images = data.load("cifar10", tmp_path)
    np.testing.assert_array_equal(images.train.numpy(), x)
    assert images.train_labels.tolist() == [0, 1, 2, 3, 4]
    assert images.test_labels is None


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"x_train": np.zeros((2, 3, 32, 32), np.uint8)}, "x_test is missing"),
        ({"x_train": np.full((2, 3, 32, 32), 7.0), "x_test": np.zeros((2, 3, 32, 32))}, r"floats in \[0, 1\]"),
        ({"x_train": np.zeros((2, 8, 8)), "x_test": np.zeros((2, 8, 8))}, "choose the preset"),
        ({"x_train": np.zeros((2, 8)), "x_test": np.zeros((2, 8))}, r"has shape \(2, 8\)"),
        ({"x_train": np.array([{}], object), "x_test": np.zeros((2, 8))}, "without pickled objects"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, parts, message):
    np.savez(tmp_path / "any.npz", allow_pickle=True, **parts)
    with pytest.raises(ValueError, match=message):
        data.load("cifar10", tmp_path)


def test_sheets(tmp_path):
    tiles = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    page = tiles.reshape(2, 3, 32, 32, 3).swapaxes(1, 2).reshape(64, 96, 3)
    for name in ("toy_train_0", "toy_train_1", "toy_test"):
        Image.fromarray(page).save(tmp_path / f"{name}.webp", lossless=True)
    np.savez(tmp_path / "toy_labels.npz", y_train=np.arange(12), y_test=np.arange(6))
    images = data.load("cifar10", tmp_path)
    np.testing.assert_allclose(images.train[6:].permute(0, 2, 3, 1).numpy(), tiles / np.float32(255), rtol=1e-6)
    assert images.train_labels.tolist() == list(range(12))
    np.savez(tmp_path / "toy_labels.npz", y_train=np.arange(11))
    with pytest.raises(ValueError, match="12 training images, but 11 labels"):
        data.load("cifar10", tmp_path)
    Image.fromarray(page[:50]).save(tmp_path / "toy_test.webp", lossless=True)
    with pytest.raises(ValueError, match="no sheet of tiles of 32 x 32"):
        data.load("cifar10", tmp_path)


def test_a_tree_of_pictures(tmp_path):
    page = np.zeros((218, 178, 3), np.uint8)
    page[39:179, 19:159] = 200  # what is cut out of CelebA's pictures, and nothing else
    for k in range(20):
        Image.fromarray(page).save(tmp_path / f"{k:06d}.png")
    images = data.load("celeba", tmp_path)
    assert images.train.shape == (18, 3, 64, 64)
    assert images.test.shape == (2, 3, 64, 64)
    assert images.train_labels is None
    assert torch.equal(images.train, torch.full_like(images.train, 200 / 255))
    Image.fromarray(page[:100]).save(tmp_path / "000007.png")
    with pytest.raises(ValueError, match=r"one size, but .*000000.png has 178 x 218 pixels and .*000007.png has 178 x 100"):
        data.load("celeba", tmp_path)
    (tmp_path / "000007.png").write_bytes((tmp_path / "000006.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"000007.png cannot be read as a picture"):
        data.load("celeba", tmp_path)


def test_folders_of_a_tree_are_classes_and_parts(tmp_path):
    for part, n in (("train", 3), ("test", 2)):
        for label, value in (("bird", 10), ("cat", 90)):
            (tmp_path / part / label).mkdir(parents=True)
            for k in range(n):
                Image.fromarray(np.full((28, 28), value, np.uint8)).save(tmp_path / part / label / f"{k}.png")
    images = data.load("mnist", tmp_path)
    assert images.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.test.shape == (4, 1, 28, 28)
    torch.testing.assert_close(images.test[:, 0, 0, 0] * 255, torch.tensor([10.0, 10.0, 90.0, 90.0]))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds 0 pictures and none of the files that are known"):
        data.load("celeba", tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        data.load("celeba", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="--root FOLDER"):
        data.load("celeba", None)


# Pictures


@pytest.mark.parametrize("channels", [1, 3])
def test_nearest_images_are_the_nearest(channels):
    training = torch.rand(50, channels, 4, 4)
    rows = torch.tensor([7, 31, 2])
    assert torch.equal(pictures.nearest(training[rows] + 0.01, training), training[rows])


@pytest.mark.parametrize(("dim", "width"), [(1, 675), (2, 675), (3, 675), (8, 1350)])
def test_codes_of_any_dimension_are_drawn(dim, width, tmp_path):
    pictures.embedding(tmp_path / "codes.png", torch.randn(50, dim), torch.randn(20, dim))
    with Image.open(tmp_path / "codes.png") as drawn:
        assert drawn.width == width


@pytest.mark.parametrize(("channels", "paper"), [(1, 0.0), (3, 1.0)])
def test_rows_that_lack_images_end_in_empty_paper(channels, paper, tmp_path):
    """Who has few pictures holds out fewer than a row of them."""
    few = torch.rand(8, channels, 9, 9)
    rows = pictures.whole_rows(few)
    assert rows.shape == (1, 16, channels, 9, 9)
    assert torch.equal(rows[0, :8], few)
    assert (rows[0, 8:] == paper).all()
    pictures.pairs(tmp_path / "pairs.png", few, few, ("above", "below"))
    with Image.open(tmp_path / "pairs.png") as drawn:
        shown = np.asarray(drawn.convert("RGB"))
    assert (shown[:, -200:] == 255).all()  # white, whatever stands for paper
    assert (shown[:, :700] < 255).any()
