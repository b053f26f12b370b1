"""The default solver's parts, each on its own: the Hessian, the linear system, the evidence of a batch, the start."""

import math
from dataclasses import replace

import pytest
import torch

import sdot
from benchmarks import problems
from sdot import kernels
from sdot.measures import Draw
from sdot.solvers import _loops, annealing, clusters, evidence, laplacian, newton


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def reals(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def uniform(m=40, d=3, seed=0):
    return sdot.DiscreteMeasure.uniform(reals(m, d, seed=seed))


def blocks(x):
    return [(0, b) for b in x.split(1000)]


# The Hessian


def test_facet_edges_are_the_hessian_of_the_softened_energy():
    """With all cells among the best, sum_x sigma_i sigma_j / delta is -d^2 / dh_i dh_j of the softened maximum."""
    m, n, delta = 6, 50, 0.7
    x, y, h = reals(n, 3, seed=1), reals(m, 3, seed=2), reals(m, seed=3)

    def energy(h):
        return delta * torch.logsumexp((x @ y.T + h) / delta, 1).sum()

    hessian = torch.autograd.functional.hessian(energy, h)
    value, index = kernels.topk(x, y, h, k=m)
    temperature = torch.full((n,), delta, dtype=torch.float64)
    (i, j), weight = laplacian.facet_edges(laplacian.soft_hits(value, temperature), index, temperature, m)
    # pairs below FAINT are left out: each of the n samples loses at most FAINT / delta
    torch.testing.assert_close(weight, -hessian[i, j], atol=n * laplacian.FAINT / delta, rtol=0)
    assert (i < j).all()
    assert ((i * m + j).diff() > 0).all()


def test_facet_edges_do_not_depend_on_the_temperature_when_it_is_small():
    """Two cells on a line: the facet's density is that of the source at the breakpoint, over the distance."""
    n, y = 400_000, torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    x, h = reals(n, 1, seed=4), torch.tensor([0.0, -1.0], dtype=torch.float64)  # breakpoint at x = 1/2
    density = math.exp(-1 / 8) / math.sqrt(2 * math.pi) / 2
    value, index = kernels.topk(x, y, h, k=2)
    for delta in (0.02, 0.1):
        temperature = torch.full((n,), delta, dtype=torch.float64)
        _, weight = laplacian.facet_edges(laplacian.soft_hits(value, temperature), index, temperature, 2)
        assert float(weight) / n == pytest.approx(density, rel=0.05)


def test_edges_are_summed_and_sorted():
    pairs = torch.tensor([[1, 0, 1, 0, 0, 1], [2, 1, 2, 3, 1, 2]])
    weight = torch.tensor([1.0, 2, 4, 8, 16, 32], dtype=torch.float64)
    edges = laplacian.sum_edges(pairs, weight, 5)
    assert edges[0].T.tolist() == [[0, 1], [0, 3], [1, 2]]
    assert edges[1].tolist() == [18, 8, 37]
    assert laplacian.sum_by_cell(*edges, 5).tolist() == [26, 55, 37, 8, 0]
    more = laplacian.add_edges(edges, (torch.tensor([[0, 3], [3, 4]]), torch.tensor([1.0, 1], dtype=torch.float64)), 5)
    assert more[0].T.tolist() == [[0, 1], [0, 3], [1, 2], [3, 4]]
    assert more[1].tolist() == [18, 9, 37, 1]
    few = laplacian.strongest(more, 3, 5)  # cell 4 keeps its only edge, though it is the weakest
    assert few[0].T.tolist() == [[0, 3], [1, 2], [3, 4]]
    assert few[1].tolist() == [9, 37, 1]


@pytest.fixture(params=["compiled", "torch"])
def loops(request, monkeypatch):
    """In C, and as on a GPU or without a compiler."""
    if request.param == "torch":
        monkeypatch.setattr(_loops, "_library", lambda: None)
    elif _loops._library() is None:
        pytest.skip("no compiler")


@pytest.mark.parametrize(("m", "n", "k", "most"), [(2, 1, 2, 9), (7, 500, 3, 4), (300, 400, 4, 900), (5000, 200, 6, 9999)])
def test_edges_gathered_in_any_way_are_the_same(m, n, k, most):
    edges = torch.empty(2, 0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
    slow = edges
    for turn in range(3):
        index = torch.rand(n, m, generator=seeded(turn)).topk(k, dim=1).indices
        value, delta = reals(n, k, seed=turn).sort(dim=1, descending=True).values, 0.1 + reals(n, seed=turn).square()
        samples = laplacian.soft_hits(value, delta), index, delta
        edges = laplacian.gather(edges, *samples, m, most)
        slow = laplacian.strongest(laplacian.add_edges(slow, laplacian.facet_edges(*samples, m), m), most, m)
        assert torch.equal(edges[0], slow[0])
        torch.testing.assert_close(edges[1], slow[1])


def test_a_solve_needs_no_compiler(monkeypatch):
    source, target = sdot.Gaussian(dim=4), sdot.DiscreteMeasure.uniform(reals(60, 4, seed=3))

    def heights():
        return sdot.solve(source, target, tol=0.05, generator=seeded(0)).map.heights

    expected = heights()
    monkeypatch.setattr(_loops, "_library", lambda: None)
    torch.testing.assert_close(heights(), expected)


@pytest.mark.usefixtures("loops")
def test_edges_are_scaled_by_values_at_both_ends():
    edges = torch.tensor([[0, 0, 2], [1, 2, 3]]), torch.tensor([1.0, 2, 3], dtype=torch.float64)
    ends, weight = laplacian.scaled(edges, torch.tensor([2.0, 3, 5, 7], dtype=torch.float64))
    assert torch.equal(ends, edges[0])
    assert weight.tolist() == [6, 20, 105]


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("rtol", [1e-2, 1e-10])
def test_newton_direction_solves_the_system(rtol):
    m = 50
    i, j = torch.triu_indices(m, m, 1)
    keep = torch.rand(len(i), generator=seeded(5)) < 0.2
    i, j = i[keep], j[keep]
    weight, ridge, b = reals(len(i), seed=6).square(), 0.1 + reals(m, seed=7).square(), reals(m, seed=8)
    dense = torch.zeros(m, m, dtype=torch.float64).index_put_((i, j), weight)
    dense = dense + dense.T
    dense = torch.diag(dense.sum(1) + ridge) - dense
    s = laplacian.newton_direction((torch.stack([i, j]), weight), ridge, b, rtol=rtol)
    assert float((dense @ s - b).norm()) <= 1.1 * rtol * float(b.norm())


@pytest.mark.usefixtures("loops")
def test_drift_is_the_mean_over_the_facets():
    edges = torch.tensor([[0, 0, 1], [1, 2, 3]]), torch.tensor([1.0, 3, 2], dtype=torch.float64)
    step = torch.tensor([0.0, 2, -4, 2, -7], dtype=torch.float64)
    expected = [(1 * 2 + 3 * 4) / 4, (1 * 2 + 2 * 0) / 3, 4, 0, 7]
    torch.testing.assert_close(laplacian.drift(edges, step), torch.tensor(expected, dtype=torch.float64))


# The evidence of a batch


@pytest.mark.usefixtures("loops")
def test_gaps_of_pairs_are_drawn_to_the_usual_one():
    index = torch.randint(40, (3000, 3), generator=seeded(1))
    gap, usual = reals(3000, seed=2).square(), reals(40, seed=3).square()
    pairs = [tuple(sorted(pair)) for pair in index[:, :2].tolist()]
    sums: dict = {}
    for pair, value in zip(pairs, gap.tolist(), strict=True):
        sums.setdefault(pair, []).append(value)
    expected = [(sum(sums[i, j]) + min(usual[i], usual[j])) / (len(sums[i, j]) + 1) for i, j in pairs]
    torch.testing.assert_close(evidence.pair_gap(index, gap, usual), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("n", [1, 2, 3, 1000])
def test_quantiles(n):
    value = reals(n, seed=4).square() * torch.logspace(-30, 30, n, dtype=torch.float64)
    weight = reals(n, seed=5).square() + 0.01
    order = value.argsort()
    for found, w in zip(evidence.quantiles(value, weight), (torch.ones_like(weight), weight), strict=True):
        share = w[order].cumsum(0) / w.sum()
        expected = [float(value[order][(share >= q - 1e-12).nonzero()[0, 0]]) for q in (0.5, 0.99)]
        assert found == pytest.approx(expected, rel=1e-6)


def test_look_counts_every_sample_and_keeps_the_last_ones():
    target, x = uniform(), reals(3500, 3, seed=9)
    h = reals(40, seed=10)
    seen = evidence.look(h, target, blocks(x), len(x), 1200, 4)
    assert torch.equal(seen.count[0], torch.bincount(kernels.topk(x, target.points, h)[1][:, 0], minlength=40))
    assert seen.count[1].sum() == 0
    assert torch.equal(seen.x, x[-1200:])
    value, index = kernels.topk(x[-1200:], target.points, h, k=4)
    torch.testing.assert_close(seen.value, value)
    assert torch.equal(seen.index, index)
    assert seen.value.shape == (1200, 4)


@pytest.mark.usefixtures("loops")
def test_hits_are_added_up_by_cell():
    index = torch.tensor([[0, 2], [2, 1], [0, 2]])
    soft = torch.tensor([[0.75, 0.25], [0.5, 0.5], [1, 0]], dtype=torch.float64)
    of_soft, of_hit = torch.tensor([[1.0, 2, 4], [10, 20, 40]], dtype=torch.float64)
    sums = evidence.add_up(index, soft, of_soft, of_hit)
    assert sums.tolist() == [[21.75, 1, 43], [10.75**2 + 11**2, 1, 1 + 42**2]]


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_smoothed_masses_vary_less_and_say_by_how_much(share):
    """Over 200 batches: the stated variance is that of the estimate, below that of hits, and the mean is near the truth.

    Also where only half of a batch is looked at closely.
    """
    m, n, smoothing = 40, 200, 4.0
    target = uniform(m, 8, seed=1)
    h = -target.points.square().sum(1) / 2
    many = reals(200_000, 8, seed=11)
    truth = torch.bincount(kernels.topk(many, target.points, h)[1][:, 0], minlength=m) / len(many)
    masses, stated = [], []
    for x in many[: 200 * n].split(n):
        seen = evidence.look(h, target, blocks(x), n, int(share * n), 4)
        gap = float((seen.value[:, 0] - seen.value[:, 1]).mean())
        soft = laplacian.soft_hits(seen.value, torch.full((len(seen.value),), 0.5 * gap, dtype=torch.float64))
        mass, noise = evidence.smoothed_mass(seen, target, soft, smoothing)
        masses.append(mass)
        stated.append(float(noise.sum()))
    masses = torch.stack(masses)
    varied = float((masses.var(0) / target.weights).sum())
    assert sum(stated) / len(stated) == pytest.approx(varied, rel=0.15)
    assert varied < (0.85 if share == 1.0 else 1.0) * float((truth * (1 - truth) / target.weights).sum()) / n
    assert float((masses.mean(0) - truth).abs().sum()) < 0.1


def test_an_overfull_cell_is_mended_in_one_step_and_others_are_left_alone():
    m, n = 50, 10_000
    nu = torch.full((m,), 1 / (m - 1), dtype=torch.float64) * (1 - 1e-4)
    nu[0] = 1e-4
    target = sdot.DiscreteMeasure(reals(m, 2, seed=12), nu)
    count = torch.zeros(2, m, dtype=torch.int64)
    count[0, 1:] = (n - 40) // (m - 1)
    count[0, 0] = n - count[0].sum()  # some 40 where one was due
    seen = evidence.Look(torch.zeros(m), count, torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 2))
    mass, gain = count.sum(0) / n, torch.full_like(nu, 0.1)
    residual = gain * (nu - mass)
    corrected = evidence.correct_overfull(residual, seen, target, gain)
    assert torch.equal(corrected[1:], residual[1:])
    w = float(mass[0])
    assert -float(corrected[0]) == pytest.approx(w * math.log(w / 1e-4), rel=0.1)


def test_soft_hits_of_light_cells_are_as_many_as_their_hits():
    """A heavy cell among 50 light ones with four hits each: it blurs into them, and they have 11 soft hits each."""
    light, hits, near, n = 50, 4, 80, 10_000
    cell = torch.arange(1, light + 1)
    own, beside = cell.repeat(hits), cell.repeat(near)
    rest = n - len(own) - len(beside)
    first = torch.cat([own, torch.zeros(len(beside) + rest, dtype=torch.int64)])
    second = torch.cat([torch.zeros_like(own), beside, torch.ones(rest, dtype=torch.int64)])
    share = torch.cat([torch.full((len(own),), 0.8), torch.full((len(beside),), 0.9), torch.ones(rest)]).double()
    count = torch.stack([torch.bincount(first), torch.zeros(light + 1, dtype=torch.int64)])
    seen = evidence.Look(torch.zeros(light + 1), count, reals(n, 2), torch.stack([first, second], 1), reals(n, 2))
    target = sdot.DiscreteMeasure(reals(light + 1, 2), count[0].double() / n)
    mass, _ = evidence.smoothed_mass(seen, target, torch.stack([share, 1 - share], 1), 4.0)
    assert n * float(mass[1:].sum()) == pytest.approx(light * hits, rel=0.05)


def test_gain_of_a_heavy_cell_is_that_of_an_average_and_a_light_cell_moves_a_little_more():
    """A batch of 1000 after 5000 samples whose chi^2 is at the limit: what has many hits is to be their mean, a sixth."""
    m, n = 10, 1000
    expected = torch.tensor([n - 9e-3, *[1e-3] * 9], dtype=torch.float64)
    gain = evidence.kalman_gain(m / 5000, expected, 4.0)
    assert float(gain[0]) == pytest.approx(1 / 6, rel=1e-2)
    assert float(gain[1]) == pytest.approx(1 / (1 + 0.7 * 5), rel=1e-2)
    assert (evidence.kalman_gain(1e9, expected, 4.0) > 0.99).all()
    assert torch.equal(evidence.kalman_gain(0.0, expected, 4.0), torch.full_like(expected, 0.01))


@pytest.mark.parametrize("delta", [None, 0.2, 0.05])
def test_a_cell_that_is_due_many_hits_rises_to_a_few_of_them(delta):
    target, x = uniform(20, 2, seed=13), reals(4000, 2, seed=14)
    h = -target.points.square().sum(1) / 2
    h[3] -= 100.0
    seen = evidence.look(h, target, blocks(x), len(x), len(x), 4)
    assert seen.count[0, 3] == 0
    missed = torch.arange(20) == 3
    step = evidence.raise_stranded(torch.zeros_like(h), missed, target, seen, delta)
    assert torch.equal(step[~missed], torch.zeros(19, dtype=torch.float64))
    scores = x @ target.points.T + h + step
    deficit = scores[:, ~missed].max(1).values - scores[:, 3]
    assert int((deficit < 0).sum()) == evidence.MOST_COUNTED - 1


@pytest.mark.parametrize("scale", [1e-3, 1.0])
@pytest.mark.parametrize("due", [0.3, 3.0])
def test_new_samples_are_won_by_the_tail_of_the_deficits(scale, due):
    """Deficits of which exp((t - 9) / scale) are below t: CAUTIOUS * due are where t = 9 + scale log(CAUTIOUS due)."""
    n = 4000
    deficit = 9 + scale * torch.arange(1, n + 1, dtype=torch.float64).log()
    value = torch.stack([deficit, deficit - 1], 1)
    zero, first = torch.zeros(2, dtype=torch.float64), torch.tensor([[1, 0]]).expand(n, 2)
    seen = evidence.Look(zero, torch.tensor([[0, n], [0, 0]]), value, first, torch.zeros(n, 2).double())
    target = sdot.DiscreteMeasure(torch.eye(2).double(), torch.tensor([due / n, 1 - due / n]).double())
    missed = torch.tensor([True, False])
    step = evidence.raise_stranded(zero, missed, target, seen, 5 * scale)
    assert float(step[0]) == pytest.approx(9 + scale * math.log(evidence.CAUTIOUS * due), abs=scale)
    delta = 0.1 * scale  # the blurred hits go further
    step = evidence.raise_stranded(zero, missed, target, seen, delta)
    assert float(((step[0] - deficit) / delta).exp().sum()) == pytest.approx(0.5 * due, rel=0.05)


def test_a_small_cell_rises_to_most_of_its_hits():
    """However far the Newton step would raise it; and along with the cells around it."""
    target, x = uniform(m=20), reals(4000, 3, seed=11)
    h = torch.zeros(20, dtype=torch.float64)
    h[3] = -100.0
    value, index = kernels.topk(x, target.points, h, 4)
    seen = evidence.Look(h, torch.bincount(index[:, 0], minlength=20).repeat(2, 1), value, index, x)
    light = target.weights.clone()
    light[3] = 10 / 4000
    target = sdot.DiscreteMeasure(target.points, light / light.sum())
    missed = torch.arange(20) == 3
    for common in (0.0, 0.7):
        step = torch.where(missed, 500.0, torch.full_like(h, common))
        step = evidence.raise_stranded(step, missed, target, seen, 0.05)
        assert torch.equal(step[~missed], torch.full((19,), common, dtype=torch.float64))
        raised = h + step
        raised[3] += 1e-9
        hits = int((kernels.topk(x, target.points, raised)[1] == 3).sum())
        assert hits == math.ceil(0.7 * 4000 * float(target.weights[3]))


def test_hidden_cells_sink_with_those_that_hide_them():
    """Light cells in a narrow clump, just below a heavy one that sinks: without a hit, no step of theirs takes them along."""
    x, centre = reals(4000, 4, seed=21), reals(30, 4, seed=22)
    y = torch.cat([centre, centre[:1] + 1e-4 * reals(5, 4, seed=23)])
    light = torch.arange(35) >= 30
    weights = torch.where(light, 1e-6, 1.0).double()
    target = sdot.DiscreteMeasure(y, weights / weights.sum())
    h = -y.square().sum(1) / 2 - torch.where(light, 1e-2, 0.0)
    value, index = kernels.topk(x, y, h, 4)
    count = torch.bincount(index[:, 0], minlength=35)
    assert not count[light].any()
    seen = evidence.Look(h, torch.stack([count, 0 * count]), value, index, x)
    step = torch.where(torch.arange(35) == 0, -0.5, torch.zeros_like(h))

    def won(step):
        return int(torch.bincount(kernels.topk(x, y, h + step)[1][:, 0], minlength=35)[light].sum())

    held = evidence.hold_hidden(step, light, target, seen)
    assert torch.equal(held[~light], step[~light])
    assert won(step) > 50
    assert won(held - 1e-9 * light) <= int(light.sum())  # one each at most


@pytest.mark.parametrize(("off", "rising"), [(0.0, [False, True, True]), (0.3, [False, False, True])])
def test_light_cells_rise_to_points_that_are_kept_where_it_helps(off, rising):
    """One hit makes a cell worse that is due less than half of it; while others are far off, less than two is not enough."""
    n, light, solver = 600, torch.arange(50) < 3, newton.Newton()
    weights = torch.full((50,), 1 / 47, dtype=torch.float64)
    weights[light] = torch.tensor([0.3, 1.2, 5], dtype=torch.float64) / n
    target = sdot.DiscreteMeasure(uniform(50, 2, seed=15).points, weights / weights.sum())
    source = sdot.UniformCube(2)
    draw, solved = Draw(source, target.points, 0, 0), sdot.solve(source, target, tol=0.01, generator=seeded(1)).map.heights
    h = torch.where(light, solved - 1, solved + off * (torch.arange(50) < 25))
    seen_often = torch.full_like(h, 100 * n)  # without a hit
    state = replace(solver.init(target, draw), eps=0.0, batch=n, points=n, heights=h, exposure=seen_often)
    after = solver._quasi(state, target, draw)
    assert ((after.trial - h)[light] > 0.5).tolist() == rising


def test_the_estimate_over_points_counts_cells_without_any():
    """Of a cell that no point is in the two halves say nothing, and it is left so: all that it is due is missing."""
    light, n = torch.arange(50) < 10, 600
    weights = torch.where(light, 0.3 / n, (1 - 3 / n) / 40).double()
    target, solver = sdot.DiscreteMeasure(uniform(50, 2, seed=15).points, weights), newton.Newton()
    source = sdot.UniformCube(2)
    draw, solved = Draw(source, target.points, 0, 0), sdot.solve(source, target, tol=0.01, generator=seeded(1)).map.heights
    h = torch.where(light, solved - 1, solved)
    state = replace(solver.init(target, draw), eps=0.0, batch=n, points=n, heights=h)
    while state.batch == n:
        state = solver._quasi(state, target, draw)
    a, b = evidence.look(state.heights, target, draw.even(n, n), n, n, 3).count.double() / n
    empty = a + b == 0
    assert empty[light].all()
    halves = float(((a - b).square() / weights).sum())
    assert state.residual <= halves < state.chi2
    assert state.chi2 == pytest.approx(halves + float(weights[empty].sum()))


def test_heights_that_new_points_find_wrong_are_not_published():
    target, solver = problems.make("mixed-2-300").target, newton.Newton()
    draw = Draw(sdot.UniformCube(2), target.points, 3, 0)
    state, grown = solver.init(target, draw), 0
    while state.points < 100 * len(target):
        before, state = state, solver.step(state, target, draw)
        if before.eps == 0 and state.points > before.points > 0:
            grown += 1
            assert state.judged == state.points
            assert state.passes == 0 or state.passes >= newton.UNSETTLED
    assert grown > 5


def test_an_empty_cell_rises_from_the_heights_that_were_looked_at():
    """Those of the last step, which are not published yet, and not those before it: or it rises by both steps together."""
    target, n, solver = uniform(50, 2, seed=15), 5000, newton.Newton()
    draw = Draw(sdot.UniformCube(2), target.points, 0, 0)
    empty = torch.arange(50) == 3
    start = solver.init(target, draw)
    before, trial = (torch.where(empty, start.heights - depth, start.heights) for depth in (100.0, 50.0))
    after = solver._quasi(replace(start, eps=0.0, batch=n, points=n, heights=before, trial=trial), target, draw)
    assert torch.equal(after.heights, trial)
    seen = evidence.look(after.trial, target, draw.even(n, n), n, n, 3)
    assert 1 <= int(seen.count.sum(0)[3]) < n / 10


def test_cells_with_too_much_are_lowered_to_what_is_due():
    m, n = 20, 4000
    target, x = uniform(m, 2, seed=13), reals(n, 2, seed=14)
    light = target.weights.clone()
    light[[3, 5]] = torch.tensor([2.0, 0.3], dtype=torch.float64) / n
    target = sdot.DiscreteMeasure(target.points, light / light.sum())
    h = -target.points.square().sum(1) / 2
    over = (torch.arange(m) == 3) | (torch.arange(m) == 5)
    before = evidence.look(h, target, blocks(x), n, n, 4)
    assert (before.count[0, over] > 50).all()
    assert evidence.lower_overfull(before.count[0] < 1, target, before) is None
    for wrong in (over, over | (before.count[0] < n / m)):  # those with too little stay
        lower = evidence.lower_overfull(wrong, target, before)
        assert torch.equal(lower[~over], h[~over])
        assert evidence.look(lower, target, blocks(x), n, n, 4).count[0, over].tolist() == [2, 0]


def test_one_sample_on_a_facet_does_not_make_the_cell_stiff():
    count = torch.full((20,), 50.0, dtype=torch.float64)
    gap = torch.full_like(count, 0.5)
    count[0], gap[0] = 1, 0  # on a facet
    gap[1] = 1e-6  # all fifty agree
    mean = evidence.mean_gap(torch.stack([count, count * gap]))
    assert mean[0] > 0.2
    assert mean[1] < 1e-5


# The start


def test_annealing_does_not_move_what_it_has_no_evidence_of():
    """A weight that no sample can speak for hardly moves, one that all speak for moves by eps log(nu / p)."""
    y = torch.tensor([[0.0], [1.0], [1000.0]], dtype=torch.float64)
    target = sdot.DiscreteMeasure(y, torch.tensor([0.5 - 5e-7, 0.5 - 5e-7, 1e-6], dtype=torch.float64))
    h = torch.tensor([0.0, 0.5, -1e6], dtype=torch.float64)
    after = annealing.anneal(h, target, [reals(2000, 1, seed=15)], 1.0)
    p = kernels.soft_mass(reals(2000, 1, seed=15), y, h, 1.0)
    moved = after.heights - h
    assert float(moved[1] - moved[0]) == pytest.approx(float((p[0] / p[1]).log()), rel=0.01)
    assert abs(float(moved[2] - target.weights @ moved)) < 0.5  # log(nu / p) is infinite there
    assert 0.5 < after.hardness < 1
    assert after.behind == 0  # of the last cell nothing is known
    assert after.missed == 0  # and the other two are hit


def scattered(m, d, spread=2.0, seed=0):
    """Weights that differ from neighbour to neighbour, by factors of hundreds."""
    return sdot.DiscreteMeasure(reals(m, d, seed=seed), (spread * reals(m, seed=seed + 1)).softmax(0))


def test_light_cells_between_heavy_ones_get_their_share():
    """They are among nobody's foremost, so sharing a sample among those alone would leave them with nothing."""
    target, x = scattered(400, 1), reals(4000, 1, seed=3)
    h = -0.5 * target.points[:, 0].square()
    for eps in (0.5, 0.25, 0.12, 0.06, 0.03, 0.015):
        after = annealing.anneal(h, target, [x[:1500], x[1500:]], eps)
        assert after.behind < 0.1
        h = after.heights
    assert 0.3 < after.missed < 1  # most that are due are still hidden: the start must go on
    mass = kernels.soft_mass(x, target.points, h, 0.015)
    assert float(((mass - target.weights).square() / target.weights).sum()) < 0.3


def test_heights_on_a_line_are_those_of_quantiles():
    """A cube's samples at the centres of n cells: the law is known, so the heights are, and every cell has its mass."""
    direction = torch.nn.functional.normalize(reals(1, 5, seed=2), dim=1)
    t, nu = reals(30, seed=4), reals(30, seed=5).softmax(0)
    target = sdot.DiscreteMeasure(3.0 + t[:, None] * direction, nu)
    s = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    x = s[torch.randperm(100_000, generator=seeded(6)), None] * direction + 0.1 * reals(1, 5, seed=7)
    h = annealing.line_heights(target, x.split(30_000))
    w = sdot.semidual.cell_mass(h, target, x)
    torch.testing.assert_close(w, nu, atol=1.1e-5, rtol=0)


def test_only_targets_on_a_line_are_taken_for_such():
    y, x = reals(30, 1, seed=4) * reals(1, 5, seed=2), [reals(1000, 5, seed=3)]
    assert annealing.line_heights(sdot.DiscreteMeasure.uniform(y), x) is not None
    assert annealing.line_heights(sdot.DiscreteMeasure.uniform(y + 1e-7 * reals(30, 5)), x) is not None
    assert annealing.line_heights(sdot.DiscreteMeasure.uniform(y + 1e-3 * reals(30, 5)), x) is None
    close = y[0] + 1e-6 * y + 1e-5 * reals(30, 5)  # nearly on the line, but off it by more than what parts these targets
    assert annealing.line_heights(sdot.DiscreteMeasure.uniform(torch.cat([y, close])), x) is None


def test_no_light_cluster_is_left_behind():
    """Where whole clusters are light, the temperature waits for them."""
    problem = problems.make("weighted-64-1000", 14)
    source, target = problem.source, problem.target
    lightest = target.weights.argsort()[:50]
    x = source.sample(100_000, like=target.points, generator=torch.Generator().manual_seed(1))

    def share(solver):
        states = sdot.iterate(source, target, solver, generator=torch.Generator().manual_seed(2))
        heights = next(state.heights for state in states if math.isfinite(state.chi2))
        mass = torch.bincount(kernels.topk(x, target.points, heights)[1][:, 0], minlength=1000)[lightest].sum() / len(x)
        return float(mass / target.weights[lightest].sum())

    assert share(sdot.Newton(stragglers=1.0)) < 0.3
    assert share(sdot.Newton()) > 0.5


def far_cluster():
    """The last 50 of 1000 targets, far from the others, with 1 % of the mass."""
    return problems.make("remote-16-1000").target


def test_a_far_cluster_is_one_of_the_clusters():
    label = clusters.clusters(far_cluster())
    assert label[:950].unique().numel() > 10
    assert not set(label[:950].tolist()) & set(label[950:].tolist())


@pytest.mark.parametrize("m", [1, 2, 15])
def test_few_targets_are_one_cluster(m):
    assert clusters.clusters(uniform(m, 3)).tolist() == [0] * m


def test_a_cluster_is_lifted_to_half_of_what_it_lacks():
    target, x = far_cluster(), reals(20_000, 16, seed=23).float()
    h, step = -target.points.double().square().sum(1) / 2, 0.01 * reals(1000, seed=24)
    h[950:] -= 20
    label = (torch.arange(1000) >= 950).long()
    seen = evidence.look(h, target, blocks(x), len(x), len(x), 4)
    assert seen.count[:, 950:].sum() == 0
    lifted = clusters.lift_clusters(step, label, seen, target)
    assert torch.equal(lifted[:950], step[:950])
    assert torch.allclose(lifted[950:] - step[950:], (lifted - step)[950].expand(50))
    won = int((kernels.topk(x, target.points, h + lifted)[1] >= 950).sum())
    assert abs(won - 0.5 * float(target.weights[950:].sum()) * len(x)) <= 1

    enough = torch.zeros_like(label)  # all of them in one cluster, which lacks nothing
    assert torch.equal(clusters.lift_clusters(step, enough, seen, target), step)


def test_a_far_cluster_has_most_of_its_mass_soon():
    target, source = far_cluster(), sdot.Gaussian(16)
    states = sdot.iterate(source, target, generator=seeded(23))
    heights = next(state.heights for state in states if state.samples > 20_000)
    x = source.sample(200_000, like=target.points, generator=seeded(24))
    mass = (kernels.topk(x, target.points, heights)[1] >= 950).double().mean()
    assert 0.5 < float(mass / target.weights[950:].sum()) < 1.5  # without lift_clusters 0.15


def test_the_start_is_exact_between_gaussians():
    """Many targets drawn from N(b, C): the start's cells are nearly right, whatever b and C."""
    a = reals(4, 4, seed=16)
    target = sdot.DiscreteMeasure.uniform(reals(2000, 4, seed=17) @ a + 3)
    x = reals(20_000, 4, seed=18) - 2
    h = annealing.gaussian_heights(target, x)
    z = target.points - target.points.mean(0)
    S, C = torch.cov((x - x.mean(0)).T, correction=0), z.T @ z / len(z)
    root = torch.linalg.cholesky(S)
    # the map's matrix A is the one positive solution of A S A = C
    e, v = torch.linalg.eigh(root.T @ C @ root)
    A = torch.linalg.inv(root).T @ (v * e.sqrt() @ v.T) @ torch.linalg.inv(root)
    expected = -0.5 * (z @ torch.linalg.inv(A) * z).sum(1) - z @ x.mean(0)
    torch.testing.assert_close(h - h.mean(), expected - expected.mean(), rtol=1e-6, atol=1e-6)


# Evenly spread points


@pytest.mark.parametrize(
    "source",
    [
        sdot.UniformCube(2, -1.0, 3.0),
        sdot.UniformBall(3, 2.0),
        sdot.UniformBall(1),
        sdot.Gaussian(mean=reals(2), covariance=torch.eye(2) * 3),
    ],
    ids=["cube", "ball", "segment", "gaussian"],
)
def test_from_uniform_has_the_law_of_sample(source):
    d, like = source.dim, torch.zeros(0, dtype=torch.float64)
    u = torch.rand(200_000, d, generator=seeded(19), dtype=torch.float64)
    x, z = source.from_uniform(u), source.sample(200_000, like=like, generator=seeded(20))
    assert x.shape == z.shape
    for power in (1, 2, 4):
        a, b = x**power, z**power
        error = (a.var(0) + b.var(0)).sqrt() / math.sqrt(200_000)
        assert ((a.mean(0) - b.mean(0)).abs() < 5 * error + 1e-12).all()
    torch.testing.assert_close(x.norm(dim=1).mean(), z.norm(dim=1).mean(), rtol=0.01, atol=0)


def test_few_evenly_spread_points_do_in_the_plane():
    """The masses of 200 cells: a twentieth of the variance of independent samples, and two halves that say so."""
    target = sdot.DiscreteMeasure.uniform(reals(200, 2, seed=21))
    states = []
    for state in sdot.iterate(sdot.Gaussian(dim=2), target, generator=seeded(22)):
        states.append(state)
        if state.chi2 < 0.002:
            break
    m, n = 200, states[-1].samples
    judged = sdot.certify(
        sdot.BrenierMap(target.points, states[-1].heights), sdot.Gaussian(dim=2), target, precision=1e-4, generator=seeded(23)
    )
    assert judged.chi2 == pytest.approx(states[-1].chi2, rel=0.5, abs=4 * judged.chi2_error)
    assert (m - 1) / (n * judged.chi2) > 2


@pytest.mark.parametrize("settings", [{}, {"quasi_dim": 0}])
def test_the_solver_reaches_the_statistical_limit(settings):
    """eta = (m - 1) / (n chi2) at n = 100 m; 1 is what independent samples allow."""
    m, d = 500, 2 if settings else 8
    target = sdot.DiscreteMeasure.uniform(reals(m, d, seed=24))
    for state in sdot.iterate(sdot.Gaussian(dim=d), target, sdot.Newton(**settings), generator=seeded(25)):
        if state.samples >= 100 * m:
            break
    T = sdot.BrenierMap(target.points, state.heights)
    judged = sdot.certify(T, sdot.Gaussian(dim=d), target, precision=2e-4, generator=seeded(26))
    assert (m - 1) / (state.samples * judged.chi2) > (0.4 if settings else 0.7)
    assert judged.empty_cells == 0


def test_a_small_problem_does_not_wait_for_its_start():
    """At 10 samples a target, of 300: near the limit already."""
    m, d = 300, 8
    target = sdot.DiscreteMeasure.uniform(reals(m, d, seed=27))
    for state in sdot.iterate(sdot.Gaussian(dim=d), target, generator=seeded(28)):
        if state.samples >= 10 * m:
            break
    assert state.samples < 20 * m
    judged = sdot.certify(
        sdot.BrenierMap(target.points, state.heights), sdot.Gaussian(dim=d), target, precision=0.01, generator=seeded(29)
    )
    assert (m - 1) / (state.samples * judged.chi2) > 0.5


def test_light_cells_want_more_samples_for_a_rough_answer():
    points = reals(1000, 2, seed=30)
    assert newton.few(sdot.DiscreteMeasure.uniform(points)) == 256
    assert newton.few(sdot.DiscreteMeasure.uniform(reals(8000, 2, seed=31))) == 1024
    weights = torch.logspace(-4, 0, 1000, dtype=torch.float64)
    assert newton.few(sdot.DiscreteMeasure(points, weights / weights.sum())) == 1024
