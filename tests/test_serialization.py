"""Maps on disk."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sdot
from sdot import _files

CERTIFICATE = sdot.Certificate(0.01, 0.001, 0.06, 0, 0.1, 20, 1000, 1.0, 0.9, 0.01)


@pytest.fixture
def T(generator):  # noqa: N802
    heights = torch.randn(20, generator=generator, dtype=torch.float64)
    heights[3] = -torch.inf
    return sdot.BrenierMap(torch.randn(20, 2, generator=generator), heights)


@pytest.mark.parametrize(
    "source",
    [
        None,
        sdot.UniformCube(2, low=-1.0),
        sdot.UniformBall(2, radius=3.0),
        sdot.Gaussian(dim=2),
        sdot.Gaussian(mean=torch.ones(2), covariance=2 * torch.eye(2)),
    ],
    ids=repr,
)
def test_round_trip(T, source, tmp_path, generator):
    path = tmp_path / "new" / "map.safetensors"
    sdot.save(T, path, source=source, certificate=CERTIFICATE)
    back = sdot.load(path)
    assert torch.equal(back.points, T.points)
    assert torch.equal(back.heights, T.heights)
    assert back.heights.dtype == torch.float64
    about = sdot.info(path)
    assert (about.map, about.points, about.dim, about.dtype) == ("BrenierMap", 20, 2, "float32")
    assert about.certificate == CERTIFICATE
    if source is None:
        assert about.source is None
    else:
        x, z = (s.sample(5, like=T.points, generator=torch.Generator().manual_seed(1)) for s in (source, about.source))
        assert torch.equal(x, z)
    assert os.listdir(path.parent) == ["map.safetensors"]  # no part is left behind
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("eps", [0.7, np.inf, "auto"])
def test_a_complex_round_trip(eps, tmp_path, generator):
    K = sdot.rips_complex(torch.randn(40, 3, generator=generator), eps, max_dim=3)
    sdot.save(K, tmp_path / "K")
    back = sdot.load(tmp_path / "K")
    assert isinstance(back, sdot.SimplicialComplex)
    assert (back.max_edge_length, back.reason) == (K.max_edge_length, K.reason)
    assert len(back.simplices) == 4
    assert all(torch.equal(a, b) for a, b in zip(back.simplices, K.simplices, strict=True))
    with pytest.raises(ValueError, match="holds a SimplicialComplex, but a map was expected"):
        sdot.info(tmp_path / "K")


def test_a_sampler_of_ones_own_is_left_out(T, tmp_path):
    sdot.save(T, tmp_path / "map", source=sdot.PushForward(sdot.Gaussian(dim=2), torch.tanh))
    assert sdot.info(tmp_path / "map").source is None


def test_a_failed_write_leaves_the_old_file(T, tmp_path, monkeypatch):
    path = tmp_path / "map.safetensors"
    sdot.save(T, path)
    before = path.read_bytes()

    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files, "save_file", no_space)
    with pytest.raises(ValueError, match=r"cannot be written.*No space left"):
        sdot.save(T, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["map.safetensors"]


def damaged(path, tmp_path):
    foreign, checkpoint, later = (tmp_path / name for name in ("foreign", "checkpoint", "later"))
    save_file({"a": torch.zeros(2)}, foreign)
    _files.write(checkpoint, {}, {"kind": "checkpoint"})
    _files.write(later, {}, {"kind": "map", "version": 99, "map": "BrenierMap"})
    short, empty, text, hollow = (tmp_path / name for name in ("short", "empty", "text", "hollow"))
    short.write_bytes(path.read_bytes()[:-8])
    empty.touch()
    text.write_text("not a map at all, but long enough to hold a header")
    _files.write(hollow, {"points": torch.zeros(2, 2)}, {"kind": "map", "version": 1, "map": "BrenierMap"})
    return {
        tmp_path / "missing": "cannot be read as a map",
        tmp_path: "cannot be read as a map",
        short: "cannot be read as a map.*cut short",
        empty: "cannot be read as a map",
        text: "cannot be read as a map",
        foreign: "is a foreign safetensors file",
        checkpoint: "is a checkpoint safetensors file, but a map was expected",
        later: "update sdot",
        hollow: "is damaged: it lacks heights",
    }


def test_files_that_are_no_maps(T, tmp_path):
    sdot.save(T, tmp_path / "map")
    for path, message in damaged(tmp_path / "map", tmp_path).items():
        for read in (sdot.load, sdot.info):
            with pytest.raises(ValueError, match=message):
                read(path)


def test_save_refuses_what_is_no_map(tmp_path):
    with pytest.raises(ValueError, match="save writes maps of this library"):
        sdot.save(torch.nn.Linear(2, 2), tmp_path / "map")


def test_a_folder_that_cannot_be_written(T, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="choose a folder"):
        sdot.save(T, tmp_path / "file" / "map")
    with pytest.raises(ValueError, match="choose a folder"):
        _files.write_array(tmp_path / "file" / "x.npy", np.zeros(2))


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=np.zeros(2))
    (tmp_path / "text.npy").write_text("1 2 3")
    for name in ("objects.npy", "text.npy", "missing.npy"):
        with pytest.raises(ValueError, match=r"cannot be read as a .npy array"):
            _files.read_array(tmp_path / name)
    with pytest.raises(ValueError, match="several arrays"):
        _files.read_array(tmp_path / "several.npz")


def test_the_file_is_plain(T, tmp_path):
    """Any safetensors reader sees two tensors and one JSON string."""
    from safetensors import safe_open

    sdot.save(T, tmp_path / "map", source=sdot.UniformCube(2), certificate=CERTIFICATE)
    with safe_open(tmp_path / "map", framework="np") as file:
        assert set(file.keys()) == {"points", "heights"}
        about = json.loads(file.metadata()["sdot"])
    assert about["kind"] == "map"
    assert about["source"] == {"class": "UniformCube", "dim": 2, "low": 0.0, "high": 1.0}


@pytest.mark.parametrize("weights", ["affine", "project", "softmax", "pair", "barycentric"])
def test_an_extension_round_trip(weights, tmp_path, generator):
    """Bit for bit, with all that it needs and no more."""
    y = torch.randn(60, 2, generator=generator)
    T, source = sdot.BrenierMap(y, -y.double().square().sum(1) / 2), sdot.Gaussian(dim=2)
    cells = sdot.estimate_cells(T, source, precision=0.2, generator=generator)
    S = sdot.PiecewiseLinearMap(T, cells, sdot.rips_complex(y, 1.0), weights)
    sdot.save(S, tmp_path / "map", source=source, certificate=CERTIFICATE)
    back = sdot.load(tmp_path / "map")
    x = source.sample(500, like=y, generator=generator)
    assert torch.equal(back(x), S(x))
    assert repr(back) == repr(S)
    assert back.state_dict().keys() == S.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), S.state_dict().values(), strict=True))
    about = sdot.info(tmp_path / "map")
    assert (about.map, about.weights, about.max_edge_length) == ("PiecewiseLinearMap", weights, 1.0)
    assert about.moved == pytest.approx(S.share_moved(source.sample(10_000, like=y, generator=generator)), abs=0.03)
    assert about.certificate == CERTIFICATE
    again = tmp_path / "again"
    sdot.save(back, again, source=source, certificate=CERTIFICATE)
    assert again.read_bytes() == (tmp_path / "map").read_bytes()
    sdot.save(S, tmp_path / "map")
    assert sdot.info(tmp_path / "map").moved is None


def test_an_extension_that_lacks_a_part(tmp_path):
    about = {"kind": "map", "version": 1, "map": "PiecewiseLinearMap", "extension": {"weights": "pair"}}
    tensors = {"points": torch.eye(2), "heights": torch.zeros(2), "max_edge_length": torch.zeros(())}
    _files.write(tmp_path / "map", {**tensors, "rule.star": torch.zeros(2, 1)}, about)
    with pytest.raises(ValueError, match=r"is damaged: it lacks rule.size"):
        sdot.load(tmp_path / "map")
