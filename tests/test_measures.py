"""Sources, targets and the keyed samples between them."""

import numpy as np
import pytest
import torch

import sdot
from sdot.measures import BLOCK, Draw, first_of_equal, mix, sample

LIKE = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("source", "mean", "covariance"),
    [
        (sdot.UniformCube(3), 0.5 * torch.ones(3), torch.eye(3) / 12),
        (sdot.UniformCube(2, low=-1.0, high=3.0), torch.ones(2), torch.eye(2) * 16 / 12),
        (sdot.UniformBall(3, radius=2.0), torch.zeros(3), torch.eye(3) * 4 / 5),  # R^2 / (d + 2)
        (sdot.Gaussian(dim=3), torch.zeros(3), torch.eye(3)),
        (
            sdot.Gaussian(mean=torch.tensor([1.0, -2]), covariance=torch.tensor([[2.0, 0.5], [0.5, 1]])),
            torch.tensor([1.0, -2]),
            torch.tensor([[2.0, 0.5], [0.5, 1]]),
        ),
        (sdot.PushForward(sdot.Gaussian(dim=2), lambda x: 3 * x + 1), torch.ones(2), 9 * torch.eye(2)),
        (sdot.PushForward(sdot.Gaussian(dim=1), lambda x: x.repeat(1, 2), dim=2), torch.zeros(2), torch.ones(2, 2)),
    ],
)
def test_sources_have_their_moments(source, mean, covariance, generator):
    n = 200_000  # standard errors of a mean and a covariance are below 2 n^-1/2 times the variance; 5 of them
    x = source.sample(n, like=LIKE, generator=generator)
    assert x.shape == (n, source.dim)
    assert x.dtype == torch.float64
    tolerance = 10 * float(covariance.max()) / n**0.5
    torch.testing.assert_close(x.mean(0), mean.double(), atol=tolerance, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), covariance.double(), atol=tolerance, rtol=0)
    assert isinstance(source, sdot.Source)


def test_ball_and_cube_stay_inside(generator):
    assert sdot.UniformBall(5, radius=2.0).sample(10_000, like=LIKE, generator=generator).norm(dim=1).max() <= 2
    x = sdot.UniformCube(5, low=-1.0, high=2.0).sample(10_000, like=LIKE, generator=generator)
    assert x.min() >= -1
    assert x.max() <= 2


def test_draw_is_keyed_by_seed_step_and_block():
    source, like = sdot.Gaussian(dim=2), torch.zeros(1)
    draw = Draw(source, like, seed=3, step=5)
    blocks = [*draw(BLOCK + 10), *draw(7)]
    assert [len(b) for b in blocks] == [BLOCK, 10, 7]
    assert draw.count == BLOCK + 17
    again = list(Draw(source, like, seed=3, step=5)(BLOCK + 10))
    assert torch.equal(blocks[1], again[1])
    for other in (Draw(source, like, seed=3, step=6), Draw(source, like, seed=4, step=5)):
        assert not torch.equal(next(other(10)), blocks[0][:10])


def test_mix_has_no_collisions_on_a_grid():
    keys = {mix(s, t, b) for s in range(20) for t in range(-1, 50) for b in range(50)}
    assert len(keys) == 20 * 51 * 50
    assert all(0 <= k < 2**63 for k in keys)


def test_uniform_measure_keeps_the_users_points():
    y = np.random.default_rng(0).normal(size=(5, 3))
    target = sdot.DiscreteMeasure.uniform(y)
    assert target.points.dtype == torch.float64
    assert target.weights.tolist() == [0.2] * 5
    assert (len(target), target.dim, target.support.tolist()) == (5, 3, [0, 1, 2, 3, 4])
    assert target.to(torch.float32).points.dtype == torch.float32
    assert target.to(torch.float32).weights.dtype == torch.float64


def test_repeated_points_are_merged_and_said():
    y = torch.tensor([[0.0, 1], [2, 3], [-0.0, 1], [2, 3], [2, 3]])
    with pytest.warns(UserWarning, match="3 of 5 target points repeat an earlier one"):
        target = sdot.DiscreteMeasure(y, torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25]))
    torch.testing.assert_close(target.weights, torch.tensor([0.4, 0.6, 0, 0, 0]).double())
    assert target.support.tolist() == [0, 1]
    assert torch.equal(target.points, y)


def test_points_of_no_weight_are_said():
    with pytest.warns(UserWarning, match="1 of 3 target points have weight 0"):
        target = sdot.DiscreteMeasure(torch.eye(3), torch.tensor([0.5, 0, 0.5]))
    assert target.support.tolist() == [0, 2]
    assert target.restrict(target.support).weights.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_of_equal(dtype, generator):
    y = torch.randn(3000, 4, dtype=dtype, generator=generator)
    assert torch.equal(first_of_equal(y), torch.arange(3000))
    chosen = torch.randint(3000, (5000,), generator=generator)
    first = first_of_equal(y[chosen])
    assert torch.equal(y[chosen][first], y[chosen])
    assert len(first.unique()) == len(chosen.unique())
    assert (first <= torch.arange(5000)).all()
    almost = torch.stack([y[0], torch.nextafter(y[0], y[0] + 1)])
    assert first_of_equal(almost).tolist() == [0, 1]
    grid = torch.cartesian_prod(*[torch.arange(8, dtype=dtype)] * 4)  # structured bits
    assert torch.equal(first_of_equal(grid), torch.arange(len(grid)))


class Sampler:
    """A user's sampler that answers whatever it is told to."""

    dim = 2

    def __init__(self, answer):
        self.answer = answer

    def sample(self, n, *, like, generator=None):
        return self.answer(n)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda n: torch.zeros(n, 3), r"Sampler.sample\(7\) must return a tensor of shape \(7, 2\), but shape \(7, 3\) came"),
        (lambda n: torch.zeros(n - 1, 2), r"but shape \(6, 2\) came"),
        (lambda n: np.zeros((n, 2)), "but a ndarray came"),
        (lambda n: torch.zeros(n, 2).double(), "must share dtype and device.*torch.float64 on cpu"),
        (lambda n: torch.zeros(n, 2, device="meta"), "must share dtype and device.*on meta"),
        (lambda n: torch.full((n, 2), float("nan")), "must be finite, but 14 of its 14 entries"),
    ],
)
def test_sampler_that_misbehaves(answer, message):
    with pytest.raises(ValueError, match=message):
        sample(Sampler(answer), 7, torch.zeros(1), None)


@pytest.mark.usefixtures("unchecked")
class TestBadInput:
    @pytest.mark.parametrize(
        ("points", "message"),
        [
            (torch.tensor([[0.0, float("nan")]]), "points must be finite, but 1 of its 2 entries"),
            (torch.tensor([[0.0, float("inf")]]), "points must be finite"),
            (torch.zeros(0, 3), r"with n >= 1 and d >= 1.*shape is \(0, 3\)"),
            (torch.zeros(3, 0), r"d >= 1"),
            (torch.zeros(3), r"shape \(n, d\).*x\[None, :\]"),
            (torch.zeros(3, 2, dtype=torch.int64), r"float32 or float64.*points.float\(\)"),
            (np.zeros((3, 2), dtype=int), "astype"),
            (torch.zeros(3, 2).half(), "float32 or float64"),
            ([[0.0, 1.0]], "must be a torch.Tensor or a numpy.ndarray, but a list came"),
        ],
    )
    def test_points(self, points, message):
        with pytest.raises(ValueError, match=message):
            sdot.DiscreteMeasure.uniform(points)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (torch.tensor([0.5, float("nan"), 0.5]), "weights must be finite"),
            (torch.tensor([0.5, -0.5, 1.0]), r"weights must not be negative, but 1 of 3 are \(least -0.5\)"),
            (torch.tensor([0.5, 0.5, 0.5]), r"sum to 1, but they sum to 1.5; pass weights / weights.sum\(\)"),
            (torch.tensor([0.5, 0.5]), r"shape \(3,\), but their shape is \(2,\)"),
            (torch.tensor([1, 0, 0]), "float32 or float64"),
            (0.5, "a float came"),
        ],
    )
    def test_weights(self, weights, message):
        with pytest.raises(ValueError, match=message):
            sdot.DiscreteMeasure(torch.eye(3), weights)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: sdot.UniformCube(0), "dim must be a whole number of at least 1"),
            (lambda: sdot.UniformCube(2, low=1.0, high=0.0), "low must be less than high"),
            (lambda: sdot.UniformBall(2, radius=-1.0), "radius must be a positive number"),
            (lambda: sdot.Gaussian(), "dim must be a whole number"),
            (lambda: sdot.Gaussian(dim=3, mean=torch.zeros(2)), r"mean must have shape \(3,\)"),
            (lambda: sdot.Gaussian(covariance=torch.zeros(2, 3)), r"covariance must have shape \(2, 2\)"),
            (lambda: sdot.Gaussian(covariance=-torch.eye(2)), "symmetric and positive definite"),
            (lambda: sdot.Gaussian(covariance=torch.tensor([[1.0, 0.5], [0, 1]])), "symmetric and positive definite"),
        ],
    )
    def test_sources(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()
