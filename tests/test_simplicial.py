"""The Rips complex against definitions, oracles, topology and invariances."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sdot
from sdot.simplicial import cliques, neighbours, scale, size
from sdot.simplicial.complex import graph


def edges_of(K):
    return set(map(tuple, K.simplices[1].tolist()))


def pairs_within(points, eps):
    """The definition: all pairs, by differences in float64."""
    y = np.asarray(points, np.float64)
    distance = np.sqrt(((y[:, None] - y[None]) ** 2).sum(-1))
    i, j = np.nonzero(np.triu(distance <= eps, 1))
    return set(zip(i.tolist(), j.tolist(), strict=True))


def cliques_of(edges, vertices, k):
    """All sets of k + 1 vertices that are joined pairwise, in order."""
    return [list(c) for c in itertools.combinations(range(vertices), k + 1) if set(itertools.combinations(c, 2)) <= edges]


def betti(K):
    """Betti numbers over the field of two elements, in the dimensions below that of the skeleton: columns are bit masks."""
    rank = [0] * (len(K.simplices) + 1)
    for k in range(1, len(K.simplices)):
        place = {tuple(s): n for n, s in enumerate(K.simplices[k - 1].tolist())}
        pivots = {}
        for s in K.simplices[k].tolist():
            column = sum(1 << place[tuple(s[:i] + s[i + 1 :])] for i in range(k + 1))
            while column and (low := column.bit_length()) in pivots:
                column ^= pivots[low]
            if column:
                pivots[low] = column
                rank[k] += 1
    return [len(K.simplices[k]) - rank[k] - rank[k + 1] for k in range(len(K.simplices) - 1)]


def turned(x, seed=0):
    """x after a rotation."""
    g = torch.Generator().manual_seed(seed)
    return x @ torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], generator=g, dtype=x.dtype)).Q


def blobs(m, d, clusters, separation, generator, sizes=None):
    """Standard normal clusters, the centres at least so far apart as the vertices of a simplex of this side."""
    centre = separation / math.sqrt(2) * torch.eye(max(d, clusters), dtype=torch.float64)[:clusters, :d]
    if d < clusters:
        angle = 2 * math.pi * torch.arange(clusters, dtype=torch.float64) / clusters
        centre = separation / (2 * math.sin(math.pi / clusters)) * torch.stack([angle.cos(), angle.sin()], 1)
    label = torch.arange(m) % clusters
    return centre[label] + torch.randn(m, d, generator=generator, dtype=torch.float64), label


# --- the definition ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    points=st.integers(1, 4).flatmap(
        lambda d: st.lists(st.lists(st.integers(-4, 4), min_size=d, max_size=d), min_size=1, max_size=14)
    ),
    square=st.integers(0, 30),
    shift=st.sampled_from([0.0, 1e5]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_every_simplex_and_no_other(points, square, shift, dtype):
    """On a lattice, where many distances are equal to eps or to zero, and far from the origin."""
    y = torch.tensor(points, dtype=dtype) + shift
    eps = math.sqrt(square)
    K = sdot.rips_complex(y, eps, max_dim=3)
    edges = pairs_within(y, eps)
    for k in range(4):
        assert K.simplices[k].tolist() == cliques_of(edges, len(y), k)
    few = sdot.rips_complex(y, eps, max_dim=1)
    assert [len(rows) for rows in few.simplices] == [len(y), len(edges)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("m", "d"), [(1, 2), (2, 5), (63, 1), (257, 3), (2500, 2), (2500, 40)])
def test_edges_are_the_near_pairs(m, d, dtype, generator):
    """With more points than a leaf holds as well."""
    y = torch.randn(m, d, generator=generator, dtype=dtype) * torch.linspace(1, 3, d, dtype=dtype) + 7
    distance = torch.cdist(y.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
    i, j = torch.triu_indices(m, m, 1)
    eps = float(distance[i, j].quantile(0.01)) if 1 < m < 2500 else float(distance[:, :5].median() / 3)
    K = sdot.rips_complex(y, eps, max_dim=1)
    near = distance[i, j] <= eps
    assert torch.equal(K.simplices[1], torch.stack([i, j], 1)[near])


def test_near_pairs_of_clouds_far_apart(generator):
    """Spacing 1e-3 at a distance of 1e6: products of coordinates say nothing here."""
    y = 1e-3 * torch.rand(1500, 2, generator=generator, dtype=torch.float64)
    y[::3] += 1e6
    y[1::3, 1] -= 1e6
    pairs, length = neighbours.within(y, 1e-4)
    expected = pairs_within(y, 1e-4)
    assert set(map(tuple, pairs.tolist())) == expected
    assert len(expected) > 2000
    torch.testing.assert_close(length, (y[pairs[:, 0]] - y[pairs[:, 1]]).norm(dim=1), rtol=1e-12, atol=0)


def test_near_pairs_finer_than_float32(generator):
    """Differences of 1e-8 of the largest coordinate, which are lost where candidates are sought."""
    y = torch.rand(1200, 2, generator=generator, dtype=torch.float64) * 1e-6 + 0.3
    y[0] = -100.0
    pairs, _ = neighbours.within(y, 3e-8)
    assert set(map(tuple, pairs.tolist())) == pairs_within(y, 3e-8)


@pytest.mark.parametrize("d", [2, 30])
def test_gudhi_agrees(d, generator):
    gudhi = pytest.importorskip("gudhi")
    y = torch.randn(150, d, generator=generator)
    eps = float(torch.pdist(y.double()).quantile(0.08))
    tree = gudhi.RipsComplex(points=y.double().numpy(), max_edge_length=eps).create_simplex_tree(max_dimension=4)
    K = sdot.rips_complex(y, eps, max_dim=4)
    for k, rows in enumerate(K.simplices):
        assert rows.tolist() == sorted(sorted(s) for s, _ in tree.get_skeleton(k) if len(s) == k + 1)
    assert K.dim == min(4, tree.dimension())


@pytest.mark.parametrize("d", [2, 3, 24])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_nearest_neighbours(d, offset, generator):
    y = (torch.randn(700, d, generator=generator) + offset) * 3
    index, length = neighbours.nearest(y, 12)
    distance = torch.cdist(y.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    expected, order = distance.sort(dim=1, stable=True)
    torch.testing.assert_close(length, expected[:, :12], rtol=1e-12, atol=0)
    assert torch.equal(distance.gather(1, index), distance.gather(1, order[:, :12]))


def test_nearest_neighbours_where_float32_cannot_tell():
    """Two clouds, each far smaller than their distance: scores in float32 are all alike."""
    g = torch.Generator().manual_seed(0)
    y = 1e-4 * torch.rand(300, 12, generator=g, dtype=torch.float64) + (torch.arange(300)[:, None] % 2) * 10
    distance = torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    torch.testing.assert_close(neighbours.nearest(y, 5)[1], distance.sort(dim=1).values[:, :5], rtol=1e-9, atol=0)


def test_ties_go_to_the_lowest_index():
    y = torch.tensor([[0.0], [1.0], [-1.0], [1.0], [0.0], [-1.0]])
    assert neighbours.nearest(y, 4)[0].tolist()[:2] == [[4, 1, 2, 3], [3, 0, 4, 2]]


def test_many_points_in_the_plane_go_through_a_tree(monkeypatch, generator):
    y = torch.rand(3000, 2, generator=generator)
    plain = neighbours.nearest(y, 6)
    monkeypatch.setattr(neighbours, "TREE", 100)
    assert all(torch.equal(a, b) for a, b in zip(plain, neighbours.nearest(y, 6), strict=True))


# --- topology ------------------------------------------------------------------------------------------------------


def circle(g):
    t = 2 * math.pi * (torch.arange(60) + 0.6 * torch.rand(60, generator=g)).double() / 60
    return torch.stack([t.cos(), t.sin()], 1), 0.4, [1, 1]


def sphere(g):
    n = torch.arange(160).double() + 0.5
    z, t = 1 - 2 * n / 160, math.pi * (1 + 5**0.5) * n
    x = torch.stack([(1 - z**2).sqrt() * t.cos(), (1 - z**2).sqrt() * t.sin(), z], 1)
    return torch.nn.functional.normalize(x + 0.02 * torch.randn(160, 3, generator=g)), 0.5, [1, 0, 1]


def torus(g):
    n = torch.arange(14).double()
    u, v = torch.meshgrid(n, n, indexing="ij")
    u, v = (2 * math.pi * (t.ravel() + 0.2 * torch.rand(196, generator=g)) / 14 for t in (u, v))
    return torch.stack([u.cos(), u.sin(), v.cos(), v.sin()], 1), 0.8, [1, 2, 1]


def two_discs(g):
    r, t = torch.rand(240, generator=g).double().sqrt(), 2 * math.pi * torch.rand(240, generator=g)
    x = torch.stack([r * t.cos(), r * t.sin()], 1)
    x[::2, 0] += 3
    return x, 0.45, [2, 0]


@pytest.mark.parametrize("space", [circle, sphere, torus, two_discs])
def test_betti_numbers(space, generator):
    x, eps, expected = space(generator)
    K = sdot.rips_complex(turned(x), eps, max_dim=len(expected))
    assert betti(K) == expected
    assert int(K.components().max()) + 1 == expected[0]


@pytest.mark.parametrize("space", [circle, sphere, torus, two_discs])
def test_gudhi_finds_the_same_betti_numbers(space, generator):
    gudhi = pytest.importorskip("gudhi")
    x, eps, expected = space(generator)
    tree = gudhi.SimplexTree()
    for rows in sdot.rips_complex(x, eps, max_dim=len(expected)).simplices:
        for s in rows.tolist():
            tree.insert(s)
    tree.compute_persistence()
    assert tree.betti_numbers()[: len(expected)] == expected


def test_two_discs_are_held_apart_without_a_length(generator):
    x, _, _ = two_discs(generator)
    label = sdot.rips_complex(x).components()
    assert label.tolist() == (1 - torch.arange(240) % 2).tolist() or label.tolist() == (torch.arange(240) % 2).tolist()


# --- invariances ---------------------------------------------------------------------------------------------------


def settled(y, share):
    """A length in the middle of the widest gap between distances near a quantile: rounding decides nothing."""
    distance = torch.pdist(y.double()).sort().values
    n = int(share * len(distance))
    near = distance[n : n + 50]
    at = int(near.diff().argmax())
    return float((near[at] + near[at + 1]) / 2)


@pytest.mark.parametrize("length", ["given", "auto", "neighbours"])
def test_permutations_and_motions(length, generator):
    y = torch.randn(300, 5, generator=generator, dtype=torch.float64)
    options = {
        "given": {"max_edge_length": settled(y, 0.03)},
        "auto": {},
        "neighbours": {"max_edge_length": settled(y, 0.03), "max_neighbors": 4},
    }[length]
    K = sdot.rips_complex(y, **options)
    assert len(K.simplices[2]) > 50
    order = torch.randperm(300, generator=generator)
    permuted = sdot.rips_complex(y[order], **options)
    assert permuted.max_edge_length == K.max_edge_length
    for rows, expected in zip(permuted.simplices, K.restrict(order).simplices, strict=True):
        assert torch.equal(rows, expected)
    for moved in (turned(y), y + 1e5, -y, turned(y) - 1e5):
        if length == "auto":
            options = {"max_edge_length": settled(y, float((torch.pdist(y) <= K.max_edge_length).double().mean()))}
            expected = sdot.rips_complex(y, **options)
            assert sdot.rips_complex(moved).max_edge_length == pytest.approx(K.max_edge_length, rel=1e-9)
        else:
            expected = K
        found = sdot.rips_complex(moved, **options)
        assert all(torch.equal(a, b) for a, b in zip(found.simplices, expected.simplices, strict=True))


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e6, 1e18])
def test_units_do_not_matter(factor, generator):
    y = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    K, scaled = sdot.rips_complex(y), sdot.rips_complex(y * factor)
    assert scaled.max_edge_length == pytest.approx(factor * K.max_edge_length, rel=1e-9)
    assert edges_of(sdot.rips_complex(y * factor, settled(y, 0.05) * factor)) == edges_of(
        sdot.rips_complex(y, settled(y, 0.05))
    )


def test_far_float32_points_are_taken_as_they_are(generator):
    """Numbers near 1e5 have a spacing of 1/128 in float32; the complex is that of these rounded points."""
    y = torch.randn(400, 3, generator=generator) + 1e5
    assert edges_of(sdot.rips_complex(y, 0.5)) == pairs_within(y, 0.5)


# --- the corners ---------------------------------------------------------------------------------------------------


def test_points_that_coincide():
    K = sdot.rips_complex(torch.full((6, 3), 1e5), 0.0, max_dim=5)
    assert [len(rows) for rows in K.simplices] == [math.comb(6, k + 1) for k in range(6)]
    K = sdot.rips_complex(torch.ones(6, 3))
    assert (K.max_edge_length, K.reason, len(K.simplices[1])) == (0.0, "all points coincide", 15)
    y = torch.tensor([[0.0], [-0.0], [1e-20], [0.0]])
    assert edges_of(sdot.rips_complex(y, 0.0)) == {(0, 1), (0, 3), (1, 3)}


def test_one_point_and_two():
    one, two = torch.ones(1, 4), torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    for eps in ("auto", 0.0, math.inf):
        K = sdot.rips_complex(one, eps, max_neighbors=3)
        assert [len(rows) for rows in K.simplices] == [1, 0, 0]
        assert (K.dim, K.euler_characteristic(), K.components().tolist()) == (0, 1, [0])
    assert len(sdot.rips_complex(two, 5.0).simplices[1]) == 1
    assert len(sdot.rips_complex(two, np.nextafter(5.0, 0)).simplices[1]) == 0
    assert sdot.rips_complex(two).max_edge_length == 5.0
    assert len(sdot.rips_complex(two, math.inf, max_neighbors=9).simplices[1]) == 1


def test_all_and_nothing(generator):
    y = torch.randn(30, 4, generator=generator)
    assert len(sdot.rips_complex(y, 0.0).simplices[1]) == 0
    for eps in (math.inf, 1e300):
        K = sdot.rips_complex(y, eps, max_dim=3)
        assert [len(rows) for rows in K.simplices] == [math.comb(30, k + 1) for k in range(4)]
    assert K.restrict(torch.arange(4)).euler_characteristic() == 1


def test_arrays(generator):
    y = torch.randn(50, 2, generator=generator)
    K, L = sdot.rips_complex(y, 0.5), sdot.rips_complex(y.numpy(), 0.5)
    assert torch.equal(K.simplices[1], L.simplices[1])
    rows = np.array([[0, 1, 2], [3, 3, 3]])
    assert isinstance(K.contains(rows), np.ndarray)
    assert isinstance(K.joined(rows[:, 0], rows[:, 1]), np.ndarray)
    angles = sdot.dihedral_angles(y.numpy(), K.simplices[1].numpy())
    np.testing.assert_array_equal(angles, sdot.dihedral_angles(y, K.simplices[1]).numpy())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": [[0.0]]}, "points must be a torch.Tensor"),
        ({"points": torch.zeros(3)}, r"points must have shape \(n, d\)"),
        ({"points": torch.tensor([[torch.nan]])}, "points must be finite"),
        ({"points": torch.zeros(3, 2, dtype=torch.int64)}, "float32 or float64"),
        ({"max_edge_length": -1.0}, "max_edge_length must be a number of at least 0, but -1.0"),
        ({"max_edge_length": math.nan}, "max_edge_length must be a number of at least 0, but nan"),
        ({"max_edge_length": "gap"}, "must be a number or \"auto\", but 'gap'"),
        ({"max_dim": 0}, "max_dim must be a whole number of at least 1"),
        ({"max_neighbors": 0}, "max_neighbors must be a whole number of at least 1"),
    ],
)
def test_bad_input_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        sdot.rips_complex(**{"points": torch.zeros(3, 2), "max_edge_length": 1.0} | arguments)


# --- max_neighbors and angles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("eps", [0.7, math.inf])
def test_max_neighbors(k, eps, generator):
    y = torch.randn(120, 3, generator=generator)
    K = sdot.rips_complex(y, eps, max_dim=3, max_neighbors=k)
    distance = torch.cdist(y.double(), y.double()).fill_diagonal_(torch.inf)
    order = distance.argsort(dim=1)[:, :k].tolist()
    expected = {tuple(sorted((i, j))) for i in range(120) for j in order[i] if distance[i, j] <= eps}
    assert edges_of(K) == expected
    for dim in (2, 3) if k < 40 else ():
        assert K.simplices[dim].tolist() == cliques_of_few(expected, 120, dim)


def cliques_of_few(edges, vertices, k):
    """`cliques_of`, grown from cliques."""
    found = [[v] for v in range(vertices)]
    for _ in range(k):
        found = [[*c, v] for c in found for v in range(c[-1] + 1, vertices) if all((u, v) in edges for u in c)]
    return found


def test_angles_in_closed_form():
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    pairs = torch.tensor([[0, 1], [0, 2], [1, 1]])
    expected = torch.tensor([math.pi / 3, math.pi / 2, 0.0], dtype=torch.float64)
    torch.testing.assert_close(sdot.dihedral_angles(y, pairs), expected)
    torch.testing.assert_close(sdot.dihedral_angles(5 * y + 100, pairs), expected)  # standardised first


def test_angles_are_those_of_the_paper(generator):
    y = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    pairs = torch.combinations(torch.arange(40))
    a, b = y[pairs].unbind(1)
    cosine = ((a * b).sum(1) + 1) / ((1 + a.square().sum(1)) * (1 + b.square().sum(1))).sqrt()
    torch.testing.assert_close(sdot.dihedral_angles(y, pairs, standardise=False), cosine.arccos())


def test_small_angles_keep_their_digits():
    """Near the origin the angle is the distance; the arc cosine of 1 - 1e-20 is zero."""
    y = torch.tensor([[0.0], [1e-10]], dtype=torch.float64)
    assert float(sdot.dihedral_angles(y, torch.tensor([[0, 1]]), standardise=False)) == pytest.approx(1e-10, rel=1e-9)


@pytest.mark.parametrize("kind", ["uniform", "clusters", "grid", "two scales"])
@pytest.mark.parametrize("k", [1, 5, 25])
def test_lists_of_neighbours_are_completed_to_all_pairs(generator, kind, k):
    m, d = 400, 5
    y = torch.rand(m, d, generator=generator)
    if kind == "clusters":
        y = y * 0.1 + torch.randint(3, (m, 1), generator=generator)
    if kind == "grid":  # many equal distances
        y = (4 * y).round() + 1e-3 * torch.arange(m)[:, None]
    if kind == "two scales":
        y[: m // 2] *= 0.05
    index, length = neighbours.nearest(y, k)
    for radius in (0.0, *length.flatten().quantile(torch.tensor([0.01, 0.5, 0.9, 1.0]).double()).tolist(), 10.0):
        edges, found = neighbours.completed(y, index, length, radius)
        expected, distances = neighbours.within(y, radius)
        assert torch.equal(edges, expected)
        assert torch.equal(found, distances)


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("eps", ["auto", 0.4])
def test_the_same_complex_without_a_compiler(generator, d, eps, monkeypatch):
    """Loops in C and torch's operations choose the same length, to rounding, and find the same pairs."""
    y = 0.1 * torch.randn(3000, d, generator=generator) + torch.randint(2, (3000, 1), generator=generator)
    y = y / (d / 2) ** 0.5
    K = sdot.rips_complex(y, eps, max_dim=3, max_neighbors=15)
    assert neighbours.loops() is not None
    for module in (neighbours, scale, cliques):
        monkeypatch.setattr(module, "loops", lambda: None)
    monkeypatch.setenv("SDOT_BACKEND", "blocked")
    plain = sdot.rips_complex(y, eps, max_dim=3, max_neighbors=15)
    assert plain.max_edge_length == pytest.approx(K.max_edge_length, rel=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(plain.simplices, K.simplices, strict=True))
    assert min(len(rows) for rows in K.simplices) >= 3000


def test_forests_are_the_same_without_a_compiler(generator, monkeypatch):
    """Also where lengths are equal, and where parts of the graph hang on nothing."""
    edges = torch.randint(500, (1500, 2), generator=generator).sort(dim=1).values.unique(dim=0)
    edges = edges[edges[:, 0] != edges[:, 1]]
    length = torch.randint(20, (len(edges),), generator=generator).double()
    found = scale._forest(edges, length, 520)
    monkeypatch.setattr(scale, "loops", lambda: None)
    expected = scale._forest(edges, length, 520)
    assert 400 < len(found[0]) < 500
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_edges_chosen_by_angle(generator):
    y = torch.randn(80, 4, generator=generator)
    K = sdot.rips_complex(y, 1.6, max_dim=3)
    keep = sdot.dihedral_angles(y, K.simplices[1]) < 0.7
    assert 0 < keep.sum() < len(keep)
    chosen = K.keep_edges(keep)
    edges = set(map(tuple, K.simplices[1][keep].tolist()))
    for k in (1, 2, 3):
        assert chosen.simplices[k].tolist() == cliques_of_few(edges, 80, k)
    with pytest.raises(ValueError, match="one boolean an edge"):
        K.keep_edges(keep[1:])
    with pytest.raises(ValueError, match="edges must refer to the 80 points"):
        sdot.dihedral_angles(y, torch.tensor([[0, 80]]))


# --- questions to a complex ----------------------------------------------------------------------------------------


@pytest.fixture
def K(generator):  # noqa: N802
    return sdot.rips_complex(torch.randn(60, 2, generator=generator), 0.4, max_dim=3)


def test_joined_and_contains(K):
    edges = edges_of(K)
    i, j = torch.meshgrid(torch.arange(60), torch.arange(60), indexing="ij")
    expected = torch.tensor([[a == b or (min(a, b), max(a, b)) in edges for b in range(60)] for a in range(60)])
    assert torch.equal(K.joined(i, j), expected)
    assert torch.equal(K.joined(torch.arange(60), j), expected)
    assert torch.equal(K.joined(torch.tensor([3]), torch.arange(60)), expected[3])
    for k, rows in enumerate(K.simplices):
        assert K.contains(rows.flip(1)).all()
        assert K.contains(torch.cat([rows, rows], 1)).all()
        some = torch.randint(60, (500, k + 1), generator=torch.Generator().manual_seed(k))
        pairs = expected[some[:, :, None], some[:, None]].all(2).all(1)
        assert torch.equal(K.contains(some), pairs)
    assert K.contains(torch.empty(0, 3, dtype=torch.int64)).shape == (0,)
    assert not sdot.rips_complex(torch.randn(2, 2), 0.0).joined(torch.tensor([0]), torch.tensor([1])).any()


def test_neighbours_and_rows(K):
    offsets, indices = K.adjacency
    assert offsets.tolist()[0] == 0
    assert offsets[-1] == len(indices) == 2 * len(K.simplices[1])
    for v in range(60):
        expected = sorted({a + b - v for a, b in edges_of(K) if v in (a, b)})
        assert K.neighbors(v).tolist() == indices[offsets[v] : offsets[v + 1]].tolist() == expected
    index = K.edge_index(K.simplices[1][:, 1], K.simplices[1][:, 0])
    assert torch.equal(index, torch.arange(len(index)))


def test_components_are_in_order(K):
    label, expected, names = K.components().tolist(), [None] * 60, itertools.count()
    for v in range(60):
        if expected[v] is None:
            reached, name = [v], next(names)
            while reached:
                u = reached.pop()
                if expected[u] is None:
                    expected[u] = name
                    reached += K.neighbors(u).tolist()
    assert label == expected


def test_restrict(K, generator):
    chosen = torch.randperm(60, generator=generator)[:35]
    part = K.restrict(chosen)
    edges = edges_of(K)
    kept = {(a, b) for a, b in itertools.combinations(range(35), 2) if tuple(sorted((int(chosen[a]), int(chosen[b])))) in edges}
    for k in range(4):
        assert part.simplices[k].tolist() == cliques_of_few(kept, 35, k)
    assert (part.max_edge_length, part.reason) == (K.max_edge_length, K.reason)


def test_euler_characteristic(K):
    full = K
    while len(full.simplices[-1]):
        full = cliques.expanded(full, len(full.simplices))
    numbers = betti(full)
    assert full.euler_characteristic() == sum((-1) ** k * b for k, b in enumerate(numbers))
    assert full.dim == len(full.simplices) - 2
    assert K.euler_characteristic() == sum((-1) ** k * len(rows) for k, rows in enumerate(K.simplices))


@pytest.mark.usefixtures("unchecked")
def test_questions_that_make_no_sense(K):
    for ask, message in (
        (lambda: K.joined(torch.tensor([0]), torch.tensor([60])), "j must hold vertices 0, ..., 59, but entries from 60"),
        (lambda: K.contains(torch.tensor([[-1, 2]])), "vertices must hold vertices 0, ..., 59"),
        (lambda: K.contains(torch.tensor([1, 2])), r"vertices must have shape \(n, k \+ 1\)"),
        (lambda: K.contains(torch.zeros(1, 2)), "int64"),
        (lambda: K.neighbors(-1), "i must be one of the vertices 0, ..., 59"),
        (lambda: K.restrict(torch.tensor([1, 1])), "must be distinct"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_complex_is_refused():
    vertices, edges = torch.arange(3)[:, None], torch.tensor([[0, 1], [1, 2]])
    assert "3 vertices, 2 edges" in repr(sdot.SimplicialComplex((vertices, edges), 1.0))
    for simplices, eps, message in (
        ((vertices,), 1.0, "at least vertices and edges"),
        ((vertices, edges), -1.0, "max_edge_length must not be negative"),
        ((vertices, edges.int()), 1.0, r"simplices\[1\] must be an int64 tensor of shape \(s, 2\), but torch.int32"),
        ((vertices, edges[:, :1]), 1.0, r"of shape \(s, 2\)"),
        ((vertices + 1, edges), 1.0, "must list the vertices"),
        ((vertices, edges + 1), 1.0, "must refer to the 3 vertices"),
        ((vertices, edges.flip(0)), 1.0, "lexicographic order"),
        ((vertices, edges.flip(1)), 1.0, "increasing rows"),
        ((vertices, edges[[0, 0]]), 1.0, "without repetition"),
    ):
        with pytest.raises(ValueError, match=message):
            sdot.SimplicialComplex(simplices, eps)


# --- size ----------------------------------------------------------------------------------------------------------


def bytes_of(K):
    return sum(8 * rows.numel() for rows in K.simplices)


@pytest.mark.parametrize("max_dim", [1, 2, 3])
@pytest.mark.parametrize("eps", [1.0, math.inf])
def test_the_largest_that_fits(eps, max_dim, generator, monkeypatch):
    """Counted exactly here, so the length in the message is sharp: nothing longer fits."""
    y = torch.randn(200, 3, generator=generator)
    monkeypatch.setattr(size, "MAX_BYTES", 12_000)
    monkeypatch.setattr(cliques, "SAMPLE", 10**9)
    with pytest.raises(ValueError, match=r"the complex would have about .* edges.*; pass max_edge_length=") as refusal:
        sdot.rips_complex(y, eps, max_dim=max_dim)
    fits = refusal.value.fits
    K = sdot.rips_complex(y, fits, max_dim=max_dim)
    said = float(str(refusal.value).split("pass max_edge_length=")[1].split(", about")[0])
    assert fits * (1 - 1e-3) <= said <= fits
    monkeypatch.setattr(size, "MAX_BYTES", 10**9)
    longer = torch.pdist(y.double())
    more = sdot.rips_complex(y, float(longer[longer > fits].min()), max_dim=max_dim)
    assert bytes_of(more) > 12_000 * (1 if max_dim > 1 and eps < 2 else size.SAFETY)
    assert bytes_of(K) <= 12_000


def test_estimates_from_a_sample(generator, monkeypatch):
    """Every t-th simplex expanded, every t-th row of distances: close to what is there."""
    y = torch.randn(1500, 2, generator=generator)
    K = sdot.rips_complex(y, 0.25, max_dim=4)
    length = neighbours.lengths(y, *K.simplices[1].T)
    exact = cliques.census(graph(1500, K.simplices[1], 0.25, ""), length, 4)
    assert [(w, len(d)) for w, d in exact] == [(1.0, len(rows)) for rows in K.simplices[1:]]
    assert all(float(d.max()) <= 0.25 for _, d in exact)
    monkeypatch.setattr(cliques, "SAMPLE", 20_000)
    for (weight, diameter), rows in zip(cliques.census(K, length, 4)[1:], K.simplices[2:], strict=True):
        assert weight > 1
        assert weight * len(diameter) == pytest.approx(len(rows), rel=0.2)
    monkeypatch.setattr(neighbours, "SAMPLE", 1500 * 200)
    weight, distance = neighbours.sampled(y, 0.25)
    assert weight * len(distance) == pytest.approx(len(K.simplices[1]), rel=0.1)
    assert torch.equal(distance, distance.sort().values)


def test_a_length_from_estimates_fits(generator, monkeypatch):
    y = torch.randn(1200, 3, generator=generator)
    monkeypatch.setattr(size, "MAX_BYTES", 2_000_000)
    monkeypatch.setattr(cliques, "SAMPLE", 50_000)
    for eps in (0.6, 1.0, math.inf):
        with pytest.raises(ValueError, match="pass max_edge_length=") as refusal:
            sdot.rips_complex(y, eps)
        assert 0.85 * 2_000_000 < bytes_of(sdot.rips_complex(y, refusal.value.fits)) < 0.95 * 2_000_000


def test_too_many_points_that_coincide(monkeypatch):
    monkeypatch.setattr(size, "MAX_BYTES", 10_000)
    with pytest.raises(ValueError, match="pass max_neighbors=25 for the nearest edges only") as refusal:
        sdot.rips_complex(torch.zeros(200, 2), 0.0, max_dim=1)
    assert refusal.value.fits is None


def test_max_neighbors_has_a_bound(monkeypatch):
    monkeypatch.setattr("sdot.simplicial.rips.MAX_BYTES", 8000)
    with pytest.raises(ValueError, match=r"max_neighbors=11 of 100 points .* pass at most 10"):
        sdot.rips_complex(torch.randn(100, 2), 1.0, max_neighbors=11)


def test_no_matrix_of_distances(tmp_path):
    """20,000 points: all distances in float32 would be 1.6 GB."""
    code = """
import torch, sdot
from benchmarks import record
y = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
sdot.rips_complex(y[:2000])
record.forget_peak_memory()
before = record.peak_memory_mb()
K = sdot.rips_complex(y, max_dim=1)
assert 100_000 < len(K.simplices[1]) < 2_000_000
print(record.peak_memory_mb() - before)
"""
    root = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert float(done.stdout) < 300


def test_a_complex_of_usual_size_fits(generator):
    """50,000 points with ten neighbours each."""
    K = sdot.rips_complex(torch.rand(50_000, 2, generator=generator), math.inf, max_neighbors=10)
    assert len(K.simplices[2]) > 400_000


# --- auto ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 16])
@pytest.mark.parametrize("outliers", [0, 3])
def test_small_clusters_stay_apart(d, outliers, generator):
    """Clusters of eight points have their 10th neighbour in another one, so the gap decides."""
    y, label = blobs(96, d, 12, 30.0, generator)
    y = torch.cat([y, 500 + 100 * torch.randn(outliers, d, generator=generator)])
    K = sdot.rips_complex(y)
    assert "12 clusters stay apart" in K.reason
    a, b = label[K.simplices[1][(K.simplices[1] < 96).all(1)]].T
    assert torch.equal(a, b)
    held = torch.stack([torch.bincount(K.components()[:96][label == c]).max() for c in range(12)])
    assert held.sum() >= 0.9 * 96  # each holds together, but for a point or two


@pytest.mark.parametrize("d", [2, 16])
def test_large_clusters_need_no_gap(d, generator):
    """The density alone holds them apart: a length at the gap would join all points of a cluster."""
    y, label = blobs(600, d, 4, 40.0, generator)
    K = sdot.rips_complex(y)
    assert "median distance" in K.reason
    assert "gap" not in K.reason
    a, b = label[K.simplices[1]].T
    assert torch.equal(a, b)
    assert len(K.simplices[1]) < 40 * 600


@pytest.mark.parametrize("d", [2, 5, 16])
@pytest.mark.parametrize("kind", ["uniform", "normal", "outlier", "repeated"])
@pytest.mark.parametrize("m", [20, 100, 400])
def test_no_gap_where_there_are_no_clusters(kind, m, d):
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        y = torch.randn(m, d, generator=g) if kind == "normal" else torch.rand(m, d, generator=g)
        if kind == "outlier":
            y[0] = 30.0
        if kind == "repeated":
            y = y[torch.randint(m, (3 * m,), generator=g)]
        assert "gap" not in sdot.rips_complex(y, max_dim=1).reason


def test_the_length_without_a_gap(generator):
    y = torch.rand(500, 2, generator=generator)
    distance = torch.cdist(y.double(), y.double()).sort(dim=1).values
    K = sdot.rips_complex(y)
    assert K.max_edge_length == pytest.approx(1.25 * float(distance[:, 10].median()))
    assert K.reason == "1.25 times the median distance to the 10th neighbour"
    y = torch.randn(500, 30, generator=generator)
    distance = torch.cdist(y.double(), y.double()).sort(dim=1).values
    K = sdot.rips_complex(y)
    assert K.max_edge_length == pytest.approx(float(distance[:, 25].median()))
    assert "25th neighbour, less than" in K.reason
    assert sdot.rips_complex(torch.cat([y, y])).max_edge_length == pytest.approx(K.max_edge_length)  # repetitions count once
    few = sdot.rips_complex(y, max_neighbors=3)
    assert few.max_edge_length == K.max_edge_length
    assert edges_of(few) == edges_of(sdot.rips_complex(y, K.max_edge_length, max_neighbors=3))


def test_the_forest_is_that_of_all_distances(generator):
    """Kruskal's algorithm on all pairs, cut at a length."""
    scipy = pytest.importorskip("scipy.sparse.csgraph")
    y = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    i, j, length = scale._forest(*neighbours.within(y, 0.9), 200)
    tree = scipy.minimum_spanning_tree(torch.cdist(y, y).numpy()).tocoo()
    expected = np.sort(tree.data[tree.data <= 0.9])
    np.testing.assert_allclose(length.numpy(), expected)
    torch.testing.assert_close((y[i] - y[j]).norm(dim=1), length)


def test_the_widest_gap_on_paper():
    """Three runs of seven points on a line, 1 apart, with gaps of 3 and 10 between them, and a point far away."""
    y = torch.cat([torch.arange(7.0), torch.arange(7.0) + 9, torch.arange(7.0) + 25, torch.tensor([1000.0])])[:, None]
    assert scale.widest_gap(*neighbours.within(y, 2000.0), torch.ones(22, dtype=torch.bool)) == scale.Gap(3.0, 10.0, 2)
    assert scale.widest_gap(*neighbours.within(y, 9.0), torch.ones(22, dtype=torch.bool)) == scale.Gap(1.0, 3.0, 3)
    assert scale.widest_gap(*neighbours.within(y, 2.0), torch.ones(22, dtype=torch.bool)) is None
    twice = neighbours.within(torch.cat([y, y]), 9.0)
    assert scale.widest_gap(*twice, torch.arange(44) < 22) == scale.Gap(1.0, 3.0, 3)
