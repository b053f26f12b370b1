"""The evaluation of examples/aeotgan: metrics against closed forms, feature networks, toy sets, baselines."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples" / "aeotgan"))

import features  # noqa: E402
import metrics  # noqa: E402
import modes  # noqa: E402
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


def test_novelty_of_copies_and_of_fresh_images():
    train, held_out, fresh = normal(1000, 3), normal(1000, 3, seed=1), normal(1000, 3, seed=2)
    novelty = metrics.Novelty.against(train, held_out)
    assert novelty(train) == pytest.approx({"novelty": 0, "copied": 1}, abs=1e-6)
    found = novelty(fresh)
    assert found["novelty"] == pytest.approx(1, abs=0.1)
    assert found["copied"] == pytest.approx(0.01, abs=0.015)
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


def resnet_arrays(seed=0):
    torch.manual_seed(seed)
    state = {**features.ResNet56().state_dict(), **{f"linear.{k}": v for k, v in nn.Linear(64, 10).state_dict().items()}}
    return {name: values.numpy() for name, values in state.items() if not name.endswith("num_batches_tracked")}


def test_resnet56_is_read_from_an_npz_file(tmp_path):
    path = tmp_path / "cifar10_resnet56.npz"
    arrays = resnet_arrays()
    np.savez(path, **arrays)
    network = features.resnet56(path)
    assert sum(p.numel() for p in network.body.parameters()) + 650 == 853_018  # He et al. (2016), Table 6: 0.85 M
    x = torch.rand(3, 3, 32, 32)
    found = network.features(x)
    torch.testing.assert_close(found, network.features(x, batch=1), atol=1e-4, rtol=1e-4)
    assert network.probabilities(found).sum(1) == pytest.approx(torch.ones(3))
    del arrays["layer2.3.conv1.weight"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"other weights than ResNet56 has, such as layer2\.3\.conv1\.weight"):
        features.resnet56(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be read as an npz file"):
        features.resnet56(path)
    with pytest.raises(ValueError, match="cannot be read as an npz file"):
        features.resnet56(tmp_path / "missing.npz")


def test_squeezenet_sees_colours_in_the_order_it_was_trained_with():
    network = features.SqueezeNet().eval()
    for p in network.parameters():
        nn.init.zeros_(p)
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
