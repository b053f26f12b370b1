"""The evaluation of examples/aeotgan: metrics against closed forms, feature networks, toy sets, baselines."""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, nn

os.environ["SDOT_DEVICE"] = "cpu"
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples" / "aeotgan"))

import baselines  # noqa: E402
import data  # noqa: E402
import features  # noqa: E402
import judge  # noqa: E402
import metrics  # noqa: E402
import modes  # noqa: E402
import pretrained  # noqa: E402
import results  # noqa: E402
import run  # noqa: E402
from config import PRESETS, override  # noqa: E402
from metrics import Moments  # noqa: E402


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=Generator().manual_seed(seed), dtype=torch.float64)


def moments(mean, covariance):
    return Moments(torch.as_tensor(mean).double(), torch.as_tensor(covariance).double(), 10)


# Frechet distance


def test_frechet_of_a_gaussian_with_itself_is_zero():
    a = Moments.of(normal(500, 20) @ normal(20, 20, seed=1))
    assert metrics.frechet(a, a) == pytest.approx(0, abs=1e-9 * a.covariance.trace().item())


def test_frechet_of_shifted_and_scaled_gaussians():
    S = Moments.of(normal(500, 6)).covariance
    shift = torch.tensor([1.0, 0, 2, 0, 0, -1])
    assert metrics.frechet(moments(torch.zeros(6), S), moments(shift, S)) == pytest.approx(6.0)
    # N(0, S) and N(0, s^2 S): (s - 1)^2 tr S
    assert metrics.frechet(moments(shift, S), moments(shift, 9 * S)) == pytest.approx(4 * S.trace().item())


def test_frechet_of_covariances_that_commute_and_that_do_not():
    a, b = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([9.0, 1.0, 2.0])
    assert metrics.frechet(moments([0, 0, 0], a.diag()), moments([0, 0, 0], b.diag())) == pytest.approx(
        (a.sqrt() - b.sqrt()).square().sum().item()
    )
    # in the plane tr (AB)^1/2 = (tr AB + 2 (det AB)^1/2)^1/2
    A, B = torch.tensor([[2.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, -0.7], [-0.7, 3.0]])
    cross = math.sqrt((A @ B).trace() + 2 * math.sqrt((A @ B).det()))
    assert metrics.frechet(moments([0, 0], A), moments([0, 0], B)) == pytest.approx(float(A.trace() + B.trace()) - 2 * cross)


def test_frechet_agrees_with_scipy_and_bears_fewer_samples_than_dimensions():
    from scipy.linalg import sqrtm

    a, b = Moments.of(normal(100, 30)), Moments.of(1.5 * normal(100, 30, seed=1) + 0.3)
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()
    expected = float(expected) - 2 * np.trace(sqrtm((a.covariance @ b.covariance).numpy())).real
    assert metrics.frechet(a, b) == pytest.approx(expected, rel=1e-8)
    few = Moments.of(normal(5, 30))
    assert metrics.frechet(few, few) == pytest.approx(0, abs=1e-6)
    assert metrics.frechet(few, moments(torch.zeros(30), torch.zeros(30, 30))) == pytest.approx(
        float(few.mean.square().sum() + few.covariance.trace())
    )


def test_bias_is_what_samples_of_one_gaussian_show():
    root = normal(4, 4, seed=5)
    truth = moments(torch.zeros(4), root.T @ root)
    seen = [
        metrics.frechet(Moments.of(normal(300, 4, seed=2 * k) @ root), Moments.of(normal(150, 4, seed=2 * k + 1) @ root))
        for k in range(300)
    ]
    assert sum(seen) / len(seen) == pytest.approx(metrics.bias(truth, 300, 150), rel=0.1)


def test_moments_refuse_what_is_no_sample():
    with pytest.raises(ValueError, match="at least two features"):
        Moments.of(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="all of them finite"):
        Moments.of(torch.full((5, 3), torch.nan))


# Precision, recall, density, coverage


def dense(real, fake, k):
    """The definitions, with all distances at once."""
    rr, rf, ff = (np.linalg.norm(a[:, None] - b[None], axis=2) for a, b in ((real, real), (real, fake), (fake, fake)))
    real_radius, fake_radius = np.sort(rr, 1)[:, k], np.sort(ff, 1)[:, k]
    inside = rf <= real_radius[:, None]
    return {
        "precision": inside.any(0).mean(),
        "recall": (rf <= fake_radius[None]).any(1).mean(),
        "density": inside.sum() / k / len(fake),
        "coverage": inside.any(1).mean(),
    }


@pytest.mark.parametrize("rows", [7, 1000])
def test_fidelity_is_what_the_papers_define(monkeypatch, rows):
    monkeypatch.setattr(metrics, "ROWS", rows)
    real, fake = normal(90, 3), 1.4 * normal(61, 3, seed=1) + 0.4
    assert metrics.fidelity(real, fake, k=4) == pytest.approx(dense(real.numpy(), fake.numpy(), 4))


def test_fidelity_of_one_distribution_of_collapse_and_of_nonsense():
    real, fresh = normal(2000, 4), normal(2000, 4, seed=1)
    same = metrics.fidelity(real, fresh)
    assert same["density"] == pytest.approx(1, abs=0.05)
    assert same["coverage"] == pytest.approx(1 - 2**-5, abs=0.015)
    collapsed = metrics.fidelity(real, 0.1 * fresh)
    assert collapsed["precision"] > 0.99
    assert max(collapsed["recall"], collapsed["coverage"]) < 0.2
    assert set(metrics.fidelity(real, fresh + 100).values()) == {0.0}


def test_fidelity_does_not_depend_on_where_and_how_large(generator):
    real, fake = normal(200, 5), normal(150, 5, seed=1) * 1.2
    turned = torch.linalg.qr(normal(5, 5, seed=2)).Q
    assert metrics.fidelity(1e3 * real @ turned + 1e5, 1e3 * fake @ turned + 1e5) == pytest.approx(metrics.fidelity(real, fake))
    with pytest.raises(ValueError, match="more than k = 5"):
        metrics.fidelity(real[:5], fake)


# Classes and novelty


def test_classes():
    probabilities = torch.tensor([[0.95, 0.05, 0], [0.95, 0.05, 0], [0.6, 0.4, 0], [0, 1.0, 0]])
    found = metrics.classes(probabilities, torch.tensor([0.5, 0.25, 0.25]).double())
    assert found == {"class_tv": 0.25, "class_worst": 1.0, "class_least": 0.0, "mixed": 0.25}


def test_novelty_of_copies_and_of_fresh_images(monkeypatch):
    train, held_out, fresh = normal(1000, 3), normal(1000, 3, seed=1), normal(1000, 3, seed=2)
    novelty = metrics.Novelty.against(train, held_out)
    assert novelty(train) == pytest.approx({"novelty": 0, "copied": 1}, abs=1e-6)
    found = novelty(fresh)
    assert found["novelty"] == pytest.approx(1, abs=0.1)
    assert found["copied"] == pytest.approx(0.01, abs=0.015)
    monkeypatch.setattr(metrics, "VALUES", 3 * 70)
    distance, index = metrics.nearest(fresh, train)
    torch.testing.assert_close(distance, torch.cdist(fresh, train).amin(1))
    torch.testing.assert_close((fresh - train[index]).norm(dim=1), distance)


# Feature networks


def test_shifted_moves_by_whole_pixels():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    torch.manual_seed(0)
    moved = features.shifted(image.expand(200, -1, -1, -1), 2)
    where = moved[:, 0].flatten(1).argmax(1)
    assert (moved.sum((1, 2, 3)) == 1).all()
    assert {(int(i) // 9, int(i) % 9) for i in where} == {(r, c) for r in range(2, 7) for c in range(2, 7)}


def test_layers_end_in_the_features_before_the_last_layer():
    torch.manual_seed(0)
    body, head = features.classifier((1, 28, 28), 10)
    network = features.FeatureNetwork("a network", features.Layers(body.eval()), head, head.in_features)
    x = torch.rand(5, 1, 28, 28)
    z = network.features(x)
    assert z.shape == (5, 32 + 64 + 64 + 96 + 64)
    torch.testing.assert_close(z[:, :32], body[:3](x).mean((2, 3)))
    torch.testing.assert_close(network.final(z), body(x))
    torch.testing.assert_close(network.probabilities(z), head(body(x)).softmax(1))


def test_features_of_layers_are_scaled_and_constant_ones_do_no_harm():
    z, new = normal(300, 4), normal(200, 4, seed=1)
    by = torch.tensor([1.0, 10.0, 100.0, 0.0])
    scaled = judge.Layers.of(z * by + 5)
    torch.testing.assert_close(scaled.truth.covariance.diagonal(), torch.tensor([1.0, 1, 1, 0]).double())
    z[:, 3], new[:, 3] = 0, 0
    assert scaled.frechet(new * by + 5) == pytest.approx(judge.Layers.of(z).frechet(new))


def resnet_arrays(seed=0):
    torch.manual_seed(seed)
    state = {**pretrained.ResNet56().state_dict(), **{f"linear.{k}": v for k, v in nn.Linear(64, 10).state_dict().items()}}
    return {name: values.numpy() for name, values in state.items() if not name.endswith("num_batches_tracked")}


def test_resnet56_is_read_from_an_npz_file(tmp_path):
    path = tmp_path / "weights.npz"
    arrays = resnet_arrays()
    np.savez(path, **arrays)
    network = features.FeatureNetwork(*pretrained.load(path, (3, 32, 32)))
    assert sum(p.numel() for part in (network.body, network.head) for p in part.parameters()) == 853_018  # 0.85 M, He et al.
    assert torch.equal(network.body.get_parameter("layer2.3.conv1.weight"), torch.from_numpy(arrays["layer2.3.conv1.weight"]))
    x = torch.rand(3, 3, 32, 32)
    found = network.features(x)
    torch.testing.assert_close(found[1:2], network.features(x[1:2]), atol=1e-4, rtol=1e-4)
    assert network.probabilities(found).sum(1) == pytest.approx(torch.ones(3))
    del arrays["layer2.3.conv1.weight"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"other weights than ResNet56 has, such as layer2\.3\.conv1\.weight"):
        pretrained.load(path, (3, 32, 32))
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read as an npz file"):
        pretrained.load(path, (3, 32, 32))
    with pytest.raises(ValueError, match="cannot be read as an npz file"):
        pretrained.load(tmp_path / "missing.npz", (3, 32, 32))


def test_squeezenet_sees_colours_in_the_order_it_was_trained_with(tmp_path):
    network = pretrained.SqueezeNet().eval()
    names = {name: name.replace(".conv", "/conv") for name in network.state_dict()}
    np.savez(tmp_path / "weights.npz", **{names[name]: values.numpy() for name, values in network.state_dict().items()})
    name, body, head = pretrained.load(tmp_path / "weights.npz", (1, 28, 28))
    assert name.startswith("SqueezeNet")
    assert head is None
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(body(x), network(x))
    seen = []
    network.conv1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    red = torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1).expand(2, 3, 64, 64)
    assert network(red).shape == (2, 512)
    torch.testing.assert_close(seen[0][0, :, 100, 100], torch.tensor([127.5 - 104, -117.0, 255.0 - 123]))
    assert sum(p.numel() for p in network.parameters()) + 513_000 == 1_248_424  # Iandola et al. (2016): 1.25 M


def test_published_fid_says_what_it_needs_and_gives_bytes(monkeypatch):
    x = torch.rand(4, 1, 8, 8)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match="pip install"):
        features.published_fid(x, x)

    class Fake:
        @staticmethod
        def calculate_metrics(input1, input2, **settings):
            assert settings["fid"]
            assert len(input1) == 4
            assert input1[0].dtype == torch.uint8
            assert input1[0].shape == (3, 8, 8)
            return {"frechet_inception_distance": 12.5}

    monkeypatch.setitem(sys.modules, "torch_fidelity", Fake)
    assert features.published_fid(x, x) == 12.5


# Toy sets


@pytest.mark.parametrize("name", modes.SETS)
def test_judge_knows_good_from_bad(name):
    mixture = modes.SETS[name]()
    m = len(mixture.centres)
    fresh = modes.judge(mixture.sample(1000, Generator().manual_seed(1)), mixture, 4.0, 0)
    assert fresh["modes"] == m
    assert fresh["bad"] < 0.005
    one = modes.judge(mixture.centres[:1].repeat(200, 1), mixture, 4.0, 0)
    assert (one["modes"], one["bad"]) == (1, 0)
    assert one["shares"] == pytest.approx(1 - 1 / m)
    assert one["wasserstein"] > 5 * fresh["wasserstein"]
    between = modes.judge((mixture.centres[:1] + mixture.centres[1:2]).repeat(200, 1) / 2, mixture, 4.0, 0)
    assert (between["modes"], between["bad"]) == (0, 1)


def test_wasserstein_of_shifted_samples():
    mixture = modes.Mixture(torch.zeros(1, 2), 1e-6)
    assert modes.judge(torch.tensor([3.0, 4.0]).repeat(50, 1), mixture, 4.0, 0)["wasserstein"] == pytest.approx(5, rel=1e-4)


def test_transport_keeps_modes_apart():
    mixture, g = modes.ring(), Generator().manual_seed(0)
    found = modes.judge(modes.extension(mixture.sample(160, g), g)(1000, g), mixture, 4.0, 0)
    assert found["modes"] == 8
    assert found["bad"] < 0.02


def test_modes_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(modes, "SETS", {"ring of 8": modes.ring})
    monkeypatch.setattr(sys, "argv", ["modes.py", "--out", str(tmp_path), "--seeds", "1", "--steps", "20"])
    assert modes.main() == 0
    written = json.loads((tmp_path / "modes.json").read_text())
    assert written["sets"]["ring of 8"]["fresh samples"][0]["modes"] == 8
    assert (tmp_path / "modes.png").exists()
    assert "AE-OT-GAN" in capsys.readouterr().out


# The stages, on digits


TINY = ["ae.epochs=3", "gan.epochs=1", "gan.views=2", "evaluate.classifier_epochs=2", "evaluate.samples=360", "ot.tol=0.05"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of all stages."""
    out = tmp_path_factory.mktemp("digits")
    said = run.run(override(PRESETS["digits"], TINY), None, out, list(run.STAGES), False)
    return out, said


def test_one_table_of_all_methods(folder):
    out, said = folder
    result = json.loads((out / "evaluate.json").read_text())
    table = result["table"]
    assert list(table)[:6] == ["held-out images", "training images", "reconstructions", "AE-OT, vertices", "AE-OT", "AE-OT-GAN"]
    assert {"Gaussian of codes", "GAN, noise", "VAE"} <= set(table)
    assert all(math.isfinite(value) for row in table.values() for value in row.values())
    assert result["samples"] == 180
    assert "frechet" not in table["held-out images"]  # of fewer images
    assert result["draws"] == 2
    assert table["training images"]["copied"] == 1
    assert table["held-out images"]["novelty"] == 1
    assert table["held-out images"]["frechet_drawn"] < table["GAN, noise"]["frechet_drawn"]
    assert 0 < result["frechet_bias"]["all"] < result["frechet_bias"]["drawn"] < table["GAN, noise"]["frechet"]
    assert (out / "evaluate.txt").read_text().strip() in said
    for name in ("evaluate.png", "methods.png", "copies.png", "baselines-gan-epochs.png"):
        assert (out / name).stat().st_size > 1000
    history = json.loads((out / "gan.history.json").read_text())
    assert sum("frechet" in record for record in history) == 2


def test_a_second_run_does_nothing_and_evaluate_alone_gives_the_same(folder, monkeypatch):
    out, _ = folder
    config, before = override(PRESETS["digits"], TINY), json.loads((out / "evaluate.json").read_text())
    for stage in ("ae", "ot", "gan", "baselines"):
        monkeypatch.setitem(run.STAGES, stage, run.STAGES[stage]._replace(main=None))  # must not be called
    run.run(config, None, out, list(run.STAGES), False)
    run.run(config, None, out, ["evaluate"], True)
    assert json.loads((out / "evaluate.json").read_text())["table"] == before["table"]


def test_without_baselines(folder, tmp_path):
    out, _ = folder
    for path in out.iterdir():
        if path.is_file() and "baselines" not in path.name and path.suffix != ".png" and path.name != "evaluate.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    run.run(override(PRESETS["digits"], TINY), None, tmp_path, ["evaluate"], False)
    table = json.loads((tmp_path / "evaluate.json").read_text())["table"]
    assert "VAE" not in table
    assert table["AE-OT-GAN"] == json.loads((out / "evaluate.json").read_text())["table"]["AE-OT-GAN"]


def test_fitted_gaussian_has_the_moments_of_the_codes():
    codes = (normal(400, 3) @ normal(3, 5, seed=1) + 2).float()  # of rank 3 in R^5
    new = baselines.fitted(codes)(200_000, Generator().manual_seed(0))
    assert new.dtype == codes.dtype
    torch.testing.assert_close(new.mean(0), codes.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(new.T), torch.cov(codes.T), atol=0.2, rtol=0.02)
    assert torch.linalg.eigvalsh(torch.cov(new.double().T))[:2].abs().max() < 1e-6


def test_vae_divergence_is_that_of_gaussians():
    model = baselines.VariationalAutoencoder(PRESETS["digits"])
    x, latent = torch.rand(6, 1, 8, 8), PRESETS["digits"].ae.latent
    mean, log_variance = model.encoder(x).chunk(2, 1)
    p = torch.distributions.Normal(mean, (log_variance / 2).exp())
    q = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    made, divergence = model(x, torch.zeros(6, latent))
    torch.testing.assert_close(divergence, torch.distributions.kl_divergence(p, q).sum(1).mean())
    torch.testing.assert_close(made, model.decoder(mean))


def test_a_vae_that_is_killed_goes_on_to_the_same_end(tmp_path, monkeypatch):
    config, images = override(PRESETS["digits"], [*TINY, "ae.epochs=2"]), data.load("digits", None)
    for name in ("whole", "halved"):
        (tmp_path / name).mkdir()
    whole, _, _ = baselines.train_vae(config, images, tmp_path / "whole")
    real, calls = results.check_finite, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 9:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(results, "EVERY", 0.0)
    monkeypatch.setattr(results, "check_finite", killed)
    with pytest.raises(KeyboardInterrupt):
        baselines.train_vae(config, images, tmp_path / "halved")
    again, _, _ = baselines.train_vae(config, images, tmp_path / "halved")
    assert len(calls) == 9 + 12 - 8  # the first 8 of 12 steps are not made again
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_images_without_labels_need_a_file_of_weights(tmp_path):
    images, config = data.load("digits", None), PRESETS["digits"]
    bare = data.Images(images.train, None, images.test, None)
    with pytest.raises(ValueError, match=r"digits has no labels.*evaluate\.weights=FILE"):
        features.check(config, bare)
    path = tmp_path / "weights.npz"
    np.savez(path, **resnet_arrays())
    with pytest.raises(ValueError, match="a network for CIFAR-10, but the images are"):
        features.check(override(config, [f"evaluate.weights={path}"]), bare)


def test_the_classifier_is_kept_and_made_again_for_other_settings(tmp_path, monkeypatch):
    images, config = data.load("digits", None), override(PRESETS["digits"], ["evaluate.classifier_epochs=1"])
    state = torch.random.get_rng_state()
    first = features.choose(config, images, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)  # the trainings around it draw as if it were not there
    calls = []
    monkeypatch.setattr(features, "train", lambda *a, **k: calls.append(a) or first_state)
    first_state = nn.Sequential(first.body.body, first.head).state_dict()
    again = features.choose(config, images, tmp_path)
    assert not calls
    torch.testing.assert_close(again.features(images.test), first.features(images.test))
    features.choose(override(config, ["evaluate.classifier_epochs=2"]), images, tmp_path)
    assert len(calls) == 1
