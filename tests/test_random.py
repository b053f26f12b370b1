"""Numbers of random.c: their laws, their independence, and that a generator says all of them."""

import math

import closed_forms as cf
import numpy as np
import pytest
import torch
from scipy import stats

import sdot
from sdot import _random

LIKE = torch.empty(0)


@pytest.fixture(autouse=True)
def _needs_a_compiler():
    if _random._library() is None:
        pytest.skip("no compiler")


def draw(law, n, d, seed=0):
    return getattr(_random, law)(n, d, like=LIKE, generator=cf.seeded(seed))


@pytest.mark.parametrize(("law", "cdf"), [("normal", stats.norm.cdf), ("uniform", stats.uniform.cdf)])
def test_laws(law, cdf):
    """In every lane, and where stretches meet; tails out to where a million numbers reach."""
    x = draw(law, 40_000, 32).double()
    assert stats.kstest(x.flatten()[:500_000].numpy(), cdf).pvalue > 1e-3
    for lane in range(0, 32, 5):
        assert stats.kstest(x[:, lane].numpy(), cdf).pvalue > 1e-4
    if law == "uniform":
        assert (x >= 0).all()
        assert (x < 1).all()
    else:
        for t in (3.0, 4.0):
            expected = x.numel() * 2 * stats.norm.sf(t)
            assert abs(int((x.abs() > t).sum()) - expected) < 4 * math.sqrt(expected)
        assert abs(int((x > 0).sum()) - x.numel() / 2) < 4 * math.sqrt(x.numel() / 4)


@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_independence(law):
    """Between coordinates, rows near and far, squares of both, stretches, and what other seeds give."""
    x = draw(law, 50_000, 64).double()
    x = torch.cat([x, draw(law, 50_000, 64, seed=1).double()], 1)
    x = (x - x.mean(0)) / x.std(0)
    z = torch.cat([x, x.square() - x.square().mean(0)], 1)
    z = z / z.std(0)
    noise = 1 / math.sqrt(len(z))
    for shift in (0, 1, 2, 512, 1024):  # 512 rows of 64 are a stretch
        correlation = z[shift:].T @ z[: len(z) - shift] / len(z)
        if shift == 0:
            for part in (correlation, correlation[:128, 128:], correlation[128:, :128]):
                part.fill_diagonal_(0)  # a number and its own square
        assert correlation.abs().max() < 6 * noise


def test_the_same_numbers_on_any_number_of_threads():
    n = 5 * _random.STRETCH + 17
    expected = draw("normal", n, 1)
    torch.set_num_threads(3)
    try:
        assert torch.equal(draw("normal", n, 1), expected)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(draw("normal", n - 100, 1), expected[:-100])
    assert not torch.equal(draw("normal", n, 1, seed=1), expected)


def test_the_global_generator_counts_too():
    a, b = (sdot.Gaussian(dim=64).sample(100, like=LIKE) for _ in range(2))
    assert not torch.equal(a, b)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        a = sdot.Gaussian(dim=64).sample(100, like=LIKE)
        torch.manual_seed(7)
        assert torch.equal(sdot.Gaussian(dim=64).sample(100, like=LIKE), a)


@pytest.mark.parametrize("n", [0, 1, 15, 33, 1024, 40_000])
def test_every_place_is_filled(n, monkeypatch):
    monkeypatch.setattr(_random, "WORTH", 0)
    monkeypatch.setattr(torch, "empty", lambda *shape, **kw: torch.full(shape, torch.nan))
    x = draw("normal", n, 1)
    assert x.shape == (n, 1)
    assert np.isfinite(x.numpy()).all()


def test_without_a_compiler_numbers_are_torchs(monkeypatch):
    monkeypatch.setattr(_random, "_library", lambda: None)
    assert torch.equal(draw("normal", 2000, 3), torch.randn(2000, 3, generator=cf.seeded(0)))
