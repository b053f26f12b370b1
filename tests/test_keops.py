"""KeOps as GPUs see it, as far as a CPU can tell: the folded formula, CUDA from wheels, the drop to the CPU."""

import ctypes.util
import re
import sys

import pytest
import torch

from sdot import kernels
from sdot.kernels import _keops_cuda, keops


@pytest.mark.parametrize("d", [4])
def test_a_height_is_one_more_coordinate(d, monkeypatch):
    monkeypatch.setattr(keops, "_folds", lambda x: True)
    g = torch.Generator().manual_seed(0)
    x, y, h = torch.randn(63, d, generator=g), torch.randn(257, d, generator=g), torch.randn(257, generator=g)
    h[::3] = -torch.inf
    value, index = kernels.topk(x, y, h, 1, backend="keops")
    expected, places = kernels.topk(x, y, h, 1, backend="reference")
    torch.testing.assert_close(value, expected)
    assert torch.equal(index, places)
    got, expected = (kernels.soft_mass(x, y, h, 0.5, backend=b) for b in ("keops", "reference"))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("d", "columns"), [(3, 4), (4, 8), (7, 8), (64, 68)])
def test_columns_come_in_fours(d, columns):
    wide = keops._widened(torch.ones(2, d), torch.tensor([5.0, 6.0]))
    assert wide.shape == (2, columns)
    assert wide[:, d].tolist() == [5, 6]
    assert wide.sum(1).tolist() == [d + 5, d + 6]
    assert not keops._folds(torch.ones(2, d))  # on a CPU the formula is as it was


class OnGPU:
    """What `keops` asks of a tensor on a GPU before it launches anything."""

    device, is_cuda = torch.device("cuda"), True


@pytest.mark.usefixtures("unchecked")
def test_a_silent_drop_to_the_cpu_is_said():
    import pykeops

    if pykeops.config.gpu_available:
        pytest.skip("KeOps has a GPU here")
    with pytest.raises(keops.Unavailable, match=r"would drop to the CPU.*CUDA_PATH.*backend='blocked'"), keops._keops(OnGPU()):
        pass


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sdot", ""),
        ("raise ValueError('no toolkit')", r"ended with 1 \(ValueError: no toolkit\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "died of signal 11"),
    ],
)
def test_a_trial_dies_alone(code, why):
    assert re.search(why, _keops_cuda.trial(code))
    assert why or not _keops_cuda.trial(code)


@pytest.mark.usefixtures("unchecked")
def test_a_crash_is_said(monkeypatch):
    import pykeops

    monkeypatch.setattr(pykeops.config, "gpu_available", True)
    monkeypatch.setattr(keops, "FIRST", "import os, signal; os.kill(os.getpid(), signal.SIGABRT)")
    with pytest.raises(keops.Unavailable, match=r"cannot run on the GPU.*signal 6.*backend='triton'"), keops._keops(OnGPU()):
        pass


def wheels(root, libraries=("nvrtc", "cudart", "cuda")):
    for name in libraries:
        for folder in ("include", "lib"):
            (root / name / folder).mkdir(parents=True, exist_ok=True)
        (root / name / "include" / f"{name}.h").write_text("")
        (root / name / "lib" / f"lib{name}.so.13").write_text("")
    return [root / name for name in libraries]


def test_wheels_are_laid_out_as_one_toolkit(tmp_path):
    roots = wheels(tmp_path / "nvidia")
    _keops_cuda.lay_out(tmp_path / "shim", roots)
    assert sorted(p.name for p in (tmp_path / "shim" / "include").iterdir()) == ["cuda.h", "cudart.h", "nvrtc.h"]
    links = tmp_path / "shim" / "lib64"
    assert (links / "libnvrtc.so").resolve() == (tmp_path / "nvidia" / "nvrtc" / "lib" / "libnvrtc.so.13").resolve()
    assert sorted(p.name for p in links.iterdir()) == ["libcuda.so", "libcudart.so", "libnvrtc.so"]


def test_libraries_are_found_during_the_import_and_only_then(tmp_path, monkeypatch):
    roots = wheels(tmp_path / "nvidia")
    for name in [m for m in sys.modules if m.split(".")[0] == "keopscore"]:
        monkeypatch.delitem(sys.modules, name)
    for key in ("CUDA_PATH", "LIBRARY_PATH"):
        monkeypatch.setenv(key, "")
    monkeypatch.setattr(_keops_cuda, "_roots", lambda: roots)
    monkeypatch.setattr(_keops_cuda, "_complete", lambda: False)
    find = ctypes.util.find_library
    with _keops_cuda.visible():
        assert ctypes.util.find_library("nvrtc").endswith("lib64/libnvrtc.so")
        assert ctypes.util.find_library("c") == find("c")
        assert (_keops_cuda.Path(_keops_cuda.os.environ["CUDA_PATH"]) / "include" / "nvrtc.h").exists()
    assert ctypes.util.find_library is find


@pytest.mark.gpu
@pytest.mark.parametrize("d", [2, 3, 64])
@pytest.mark.parametrize("k", [1, 2])
def test_answers_on_a_gpu(d, k):
    g = torch.Generator().manual_seed(0)
    x, y, h = (torch.randn(*shape, generator=g).cuda() for shape in ((63, d), (257, d), (257,)))
    value, index = kernels.topk(x, y, h, k, backend="keops")
    expected, places = kernels.topk(x, y, h, k, backend="reference")
    torch.testing.assert_close(value, expected)
    assert torch.equal(index, places)
    got, expected = (kernels.soft_mass(x, y, h, 0.5, backend=b) for b in ("keops", "reference"))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
