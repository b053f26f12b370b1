"""The Triton kernels of `triton.topk`: tile maxima, candidate tiles, exact scores, selection.

A tile is a run of consecutive targets. `T[t, i]` is the largest score of sample i in tile t, as the first kernel computed it,
plus a number of the sample's own (`edge`). How far it can be from the true maximum is bounded by

    b = A_i Y_t + B_i D_t + C_i L_t + gamma |T[t, i]|

with three numbers a sample (made from STATS, shape (3, n)) and three a tile (TILE, shape (3, tiles)); `_halves` derives them.
Only tiles whose upper bound T + b reaches the k-th best lower bound T - b can hold one of the k best targets, and only those
are scored again, in the precision of the points. Padded targets have height -inf. Offsets that grow with n m or n d are 64-bit.

Decorators: `no_type_check` keeps shape checkers away from functions that are never run by Python.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from ._triton_pack import MARGIN, power

NEG_INF = tl.constexpr(float("-inf"))
NOWHERE = tl.constexpr(2**31 - 1)  # larger than every index
TINY = tl.constexpr(2.0**-24)  # above what underflow can hide in scaled units, where coordinates reach 2^13
LOWEST = tl.constexpr(-1e38)  # in the place of -inf, where infinity would make NaN


@triton.jit(do_not_specialize=["n"])
@no_type_check
def tile_maxima(
    X, STATS, Y, H, EDGE, T, gamma, n, tiles, per_program,
    K: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, W: tl.constexpr, PER: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Tile maxima by the matrix units: X (n, K) and Y (., K) in float16, sums in float32 that start at height + shift.

    Only the maximum is taken of each score; all else happens once for W of them, and once for the PER W of a tile. The second
    grid axis splits the tiles. The shift makes all scores that matter positive (`edge`): positive floats are in order as whole
    numbers, and of these the units take the maximum of three in one instruction. A tile without a positive score gets -inf.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    live = rows < n
    row = tl.minimum(rows, n - 1).to(tl.int64)
    shift = _shift(STATS, EDGE, row, n, gamma)
    first = tl.program_id(1) * per_program
    count = tl.minimum(per_program, tiles - first) * PER
    column = first.to(tl.int64) * (PER * W) + tl.arange(0, W)
    feature = tl.arange(0, BK)
    x_at = X + row[:, None] * K + feature[None, :]
    y_at = Y + column[None, :] * K + feature[:, None]
    h_at = H + column
    out = T + first.to(tl.int64) * n + row
    top = tl.full([BM], -1, tl.int32)
    if K == BK:
        x = tl.load(x_at)
    for turn in tl.range(0, count, num_stages=STAGES if K == BK else 1):
        acc = shift[:, None] + tl.load(h_at)[None, :]
        if K == BK:
            acc = tl.dot(x, tl.load(y_at), acc)
        else:
            for k in tl.range(0, K, BK, num_stages=STAGES):
                acc = tl.dot(tl.load(x_at + k), tl.load(y_at + k), acc)
        top = tl.maximum(top, tl.max(acc.to(tl.int32, bitcast=True), axis=1))
        whole = turn % PER == PER - 1
        tl.store(out, tl.where(top < 0, NEG_INF, top.to(tl.float32, bitcast=True)), mask=live & whole)
        top = tl.where(whole, -1, top)
        y_at += W * K
        h_at += W
        out += tl.where(whole, n, 0)


@triton.jit
@no_type_check
def _shift(STATS, EDGE, row, n, gamma):
    """What is added to the scores of each sample, see `edge`."""
    a, b, c = _factors(STATS, row, n, gamma)
    low = tl.load(EDGE)
    slack = a * tl.load(EDGE + 2) + b * tl.load(EDGE + 3) + c * tl.load(EDGE + 4) + gamma * tl.abs(low) + TINY
    return MARGIN * (tl.load(EDGE + 1) * b + slack) - low


@triton.jit(do_not_specialize=["m"])
@no_type_check
def tile_heights(H, G, OUT, HIGH, m, W: tl.constexpr):
    """OUT: heights scaled by 2^G, -inf beyond m. HIGH: the largest of each tile."""
    DOUBLE: tl.constexpr = H.dtype.element_ty == tl.float64
    at = tl.program_id(0).to(tl.int64) * W + tl.arange(0, W)
    h = (tl.load(H + at, mask=at < m, other=NEG_INF) * power(tl.load(G), DOUBLE)).to(tl.float32)
    tl.store(OUT + at, h)
    tl.store(HIGH + tl.program_id(0), tl.max(h, axis=0))


@triton.jit
@no_type_check
def edge(HIGH, TILE, G, EY, EDGE, FLOOR, LIMIT, tiles, padded, KK: tl.constexpr, B: tl.constexpr):
    """A lower bound on the KK-th best score of every sample.

    The highest targets of KK different tiles score at least their least height - |x| (their largest |y|). With that taken away
    and the rounding error of any tile added, the KK-th best score is at least this error: a tile whose scores are all computed
    as negative cannot hold it. Where fewer tiles have a target that is not hidden, the last of them takes its place, and
    nothing is known of the KK-th best.

    EDGE: that height, that |y|, and the largest factors Y, D, L of any tile in the bound. FLOOR: what the KK-th best score is
    known to reach. LIMIT: the largest exponent that the scale of samples may have, given those of heights and targets.
    """
    low, size, limit, after, seen = NEG_INF, 0.0, float("inf"), -1, 0
    for _ in tl.static_range(KK):
        best, where = NEG_INF, NOWHERE
        for start in range(0, tiles, B):
            t = start + tl.arange(0, B)
            high = tl.load(HIGH + t, mask=t < tiles, other=NEG_INF)
            left = ((high < limit) | ((high == limit) & (t > after))) & (t < tiles)
            top = tl.max(tl.where(left, high, NEG_INF), axis=0)
            place = tl.min(tl.where(left & (high == top), t, NOWHERE), axis=0)
            where = tl.where(top > best, place, where)
            best = tl.maximum(best, top)
        limit, after = best, where
        found = best > NEG_INF
        low = tl.where(found, best, low)
        size = tl.maximum(size, tl.load(TILE + where, mask=found, other=0.0))
        seen += found.to(tl.int32)
    tl.store(EDGE, tl.where(seen > 0, low, 0.0))
    tl.store(EDGE + 1, size)
    for term in tl.static_range(3):
        largest = 0.0
        for start in range(0, tiles, B):
            t = start + tl.arange(0, B)
            largest = tl.maximum(largest, tl.max(tl.load(TILE + term * padded + t, mask=t < tiles, other=0.0), axis=0))
        tl.store(EDGE + 2 + term, largest)
    tl.store(FLOOR, tl.where(seen == KK, 0.0, NEG_INF))
    tl.store(LIMIT, tl.minimum(tl.load(G) - tl.load(EY), 90))


@triton.jit
@no_type_check
def scale_heights(H, EDGE, EX, EY, G, OUT, EDGE_OUT, W: tl.constexpr):
    """Heights, and the height in EDGE, from their own scale 2^G to that of the products, 2^(EX + EY)."""
    factor = power(tl.load(EX) + tl.load(EY) - tl.load(G), False)
    at = tl.program_id(0).to(tl.int64) * W + tl.arange(0, W)
    tl.store(OUT + at, tl.load(H + at) * factor)
    if tl.program_id(0) == 0:
        for i in tl.static_range(5):
            value = tl.load(EDGE + i)
            tl.store(EDGE_OUT + i, value * factor if i == 0 else value)


@triton.jit
@no_type_check
def _factors(STATS, row, n, gamma):
    """A, B and C of samples; those of samples that are not finite, whose norm is NaN, are of no account."""
    step = n.to(tl.int64)
    size = tl.load(STATS + row)
    size = tl.where(size == size, size, 0.0)
    lost, low = tl.load(STATS + step + row), tl.load(STATS + 2 * step + row)
    return lost + 2 * gamma * size, size + lost, low


@triton.jit
@no_type_check
def _bound(value, a, b, c, tile_at, padded, gamma, TERMS: tl.constexpr):
    """b for a block of maxima, tiles first; the terms after the first TERMS are known to vanish."""
    bound = gamma * tl.abs(tl.maximum(value, LOWEST)) + TINY
    bound += tl.load(tile_at)[:, None] * a[None, :]
    if TERMS > 1:
        bound += tl.load(tile_at + padded)[:, None] * b[None, :]
    if TERMS > 2:
        bound += tl.load(tile_at + 2 * padded)[:, None] * c[None, :]
    return bound


@triton.jit(do_not_specialize=["n"])
@no_type_check
def threshold(
    T, STATS, TILE, FLOOR, LIMIT, COUNT, FIRST, gamma, n, tiles, padded,
    TERMS: tl.constexpr, KK: tl.constexpr, SLOTS: tl.constexpr, BR: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """LIMIT: the KK-th best lower bound of each row, and at least FLOOR. COUNT: how many tiles may reach it. FIRST (SLOTS, n):
    the first of them.

    The tiles are padded to a multiple of BT with maxima of -inf.
    Meant for one warp and 32 rows: then each thread has a row of its own, and no thread waits for another.
    """
    rows = tl.program_id(0) * BR + tl.arange(0, BR)
    live, step = rows < n, n.to(tl.int64)
    t, slots = tl.arange(0, BT), tl.arange(0, KK)
    a, b, c = _factors(STATS, tl.minimum(rows, n - 1), n, gamma)
    at, tile_at = T + t[:, None] * step + rows[None, :], TILE + t
    best = tl.zeros([KK, BR], tl.float32) + tl.load(FLOOR)
    for _ in range(0, padded, BT):
        value = tl.load(at, mask=live[None, :], other=0.0)
        low = value - _bound(value, a, b, c, tile_at, padded, gamma, TERMS)
        for q in tl.static_range(KK):
            top = tl.max(low, axis=0)
            worst = tl.min(best, axis=0)
            place = tl.min(tl.where(best == worst[None, :], slots[:, None], KK), axis=0)
            best = tl.where((slots[:, None] == place[None, :]) & (top > worst)[None, :], top[None, :], best)
            if q < KK - 1:
                first = tl.min(tl.where(low == top[None, :], t[:, None], BT), axis=0)
                low = tl.where(t[:, None] == first[None, :], NEG_INF, low)
        at += BT * step
        tile_at += BT
    limit, count = tl.min(best, axis=0), tl.zeros([BR], tl.int32)
    at, tile_at = T + t[:, None] * step + rows[None, :], TILE + t
    for _ in range(0, padded, BT):
        value = tl.load(at, mask=live[None, :], other=0.0)
        high = value + _bound(value, a, b, c, tile_at, padded, gamma, TERMS)
        # "not below" rather than "at least": a bound that is NaN must not hide its tile
        reach = ((high < limit[None, :]) == 0) & (t < tiles)[:, None]
        one = (reach & live[None, :]).to(tl.int32)
        many = tl.sum(one, axis=0)
        if tl.max(many, axis=0) > 0:
            slot = count[None, :] + tl.cumsum(one, axis=0) - one
            place = FIRST + slot * step + rows[None, :]
            tl.store(place, tl.zeros([BT, BR], tl.int32) + t[:, None], mask=(one > 0) & (slot < SLOTS))
            count += many
        at += BT * step
        tile_at += BT
        t += BT
    tl.store(LIMIT + rows, limit, mask=live)
    tl.store(COUNT + rows, count, mask=live)


@triton.jit(do_not_specialize=["n", "base", "first", "last"])
@no_type_check
def list_pairs(
    T, STATS, TILE, LIMIT, START, FIRST, PAIR_ROW, PAIR_TILE, gamma, base, n, first, last, tiles, padded,
    TERMS: tl.constexpr, SLOTS: tl.constexpr, BR: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """The candidate (row, tile) pairs of rows first to last: those of row i from START[i] - base on, by increasing tile.

    Taken from FIRST, and where some row has more than SLOTS of them, found again.
    """
    rows = first + tl.program_id(0) * BR + tl.arange(0, BR)
    live, step, t = rows < last, n.to(tl.int64), tl.arange(0, BT)
    begin = tl.load(START + rows, mask=live, other=0)
    count, place = tl.load(START + rows + 1, mask=live, other=0) - begin, begin - base
    if tl.max(count, axis=0) <= SLOTS:
        for slot in tl.static_range(SLOTS):
            inside = live & (slot < count)
            tl.store(PAIR_ROW + place + slot, rows, mask=inside)
            tl.store(PAIR_TILE + place + slot, tl.load(FIRST + slot * step + rows, mask=inside, other=0), mask=inside)
    else:
        a, b, c = _factors(STATS, tl.minimum(rows, n - 1), n, gamma)
        limit = tl.load(LIMIT + rows, mask=live, other=0.0)
        at, tile_at = T + t[:, None] * step + rows[None, :], TILE + t
        for _ in range(0, padded, BT):
            value = tl.load(at, mask=live[None, :], other=0.0)
            high = value + _bound(value, a, b, c, tile_at, padded, gamma, TERMS)
            chosen = ((high < limit[None, :]) == 0) & live[None, :] & (t < tiles)[:, None]
            one = chosen.to(tl.int32)
            many = tl.sum(one, axis=0)
            if tl.max(many, axis=0) > 0:  # few blocks hold a candidate
                to = place[None, :] + tl.cumsum(one, axis=0) - one
                tl.store(PAIR_ROW + to, tl.zeros([BT, BR], tl.int32) + rows[None, :], mask=chosen)
                tl.store(PAIR_TILE + to, tl.zeros([BT, BR], tl.int32) + t[:, None], mask=chosen)
                place += many
            at += BT * step
            tile_at += BT
            t += BT


@triton.jit
@no_type_check
def _pick(score, column, limit, after):
    """Largest score, ties to the lowest column, of the entries that come after (limit, after) in that order."""
    left = (score < limit[:, None]) | ((score == limit[:, None]) & (column > after[:, None]))
    left = left & (column < NOWHERE)
    best = tl.max(tl.where(left, score, NEG_INF), axis=1)
    where = tl.min(tl.where(left & (score == best[:, None]), column, NOWHERE), axis=1)
    return best, where


@triton.jit(do_not_specialize=["pairs"])
@no_type_check
def rescore(
    X, YT, H, ORDER, PAIR_ROW, PAIR_TILE, VALUE, INDEX, pairs, m, padded, d,
    KK: tl.constexpr, BR: tl.constexpr, W: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The KK best targets of every pair, scored from the points as they came: X (n, d), YT (d, padded), with rows of zeros up
    to a multiple of the BD coordinates that are taken at a time.

    ORDER sorts the pairs by tile, so that neighbours share the targets they read.
    """
    at = tl.program_id(0) * BR + tl.arange(0, BR)
    live = at < pairs
    pair = tl.load(ORDER + at, mask=live, other=0)
    x_at = X + tl.load(PAIR_ROW + pair, mask=live, other=0).to(tl.int64) * d
    tile = tl.load(PAIR_TILE + pair, mask=live, other=-1)
    t = tl.min(tl.where(live, tile, NOWHERE), axis=0)
    last = tl.max(tile, axis=0)
    while t <= last:
        column = t * W + tl.arange(0, W)
        known = column < m
        acc = tl.zeros([BR, W], H.dtype.element_ty)
        if BD == 1:
            y_at = YT + column.to(tl.int64)
            for k in range(d):
                acc += tl.load(x_at + k)[:, None] * tl.load(y_at)[None, :]
                y_at += padded
        else:
            feature = tl.arange(0, BD)
            y_block = YT + feature[:, None] * padded.to(tl.int64) + column[None, :]
            for k in range(0, d, BD):
                x = tl.load(x_at[:, None] + k + feature[None, :], mask=(k + feature < d)[None, :], other=0.0)
                acc = tl.dot(x, tl.load(y_block), acc, input_precision="ieee")
                y_block += BD * padded
        acc += tl.load(H + column, mask=known, other=NEG_INF)[None, :]
        acc = tl.where(acc == acc, acc, NEG_INF)  # NaN (overflow on both sides) never wins
        column2 = tl.zeros([BR, W], tl.int32) + tl.where(known, column, NOWHERE)[None, :]
        limit, after = tl.full([BR], float("inf"), H.dtype.element_ty), tl.full([BR], -1, tl.int32)
        for q in tl.static_range(KK):
            limit, after = _pick(acc, column2, limit, after)
            tl.store(VALUE + pair * KK + q, limit, mask=live & (tile == t))
            tl.store(INDEX + pair * KK + q, after, mask=live & (tile == t))
        t = tl.min(tl.where(live & (tile > t), tile, NOWHERE), axis=0)


@triton.jit(do_not_specialize=["base", "first", "last"])
@no_type_check
def merge(
    STATS, START, VALUE, INDEX, OUT, WHERE, base, first, last, m, k, KK: tl.constexpr, BR: tl.constexpr, BE: tl.constexpr
):
    """OUT, WHERE (rows, k): the k best of each row's entries, from KK START[i] to KK START[i + 1], both less KK base.

    Samples that are not finite get the value NaN.
    """
    rows = first + tl.program_id(0) * BR + tl.arange(0, BR)
    live = rows < last
    begin = (tl.load(START + rows, mask=live, other=0) - base) * KK
    end = (tl.load(START + rows + 1, mask=live, other=0) - base) * KK
    size = tl.load(STATS + rows, mask=live, other=0.0)
    broken = size != size
    longest = tl.max(tl.where(live, end - begin, 0), axis=0)
    KIND: tl.constexpr = VALUE.dtype.element_ty
    limit, after = tl.full([BR], float("inf"), KIND), tl.full([BR], -1, tl.int32)
    for q in range(k):
        best, where = tl.full([BR], NEG_INF, KIND), tl.full([BR], NOWHERE, tl.int32)
        for e in range(0, longest, BE):
            at = begin[:, None] + e + tl.arange(0, BE)[None, :]
            inside = (at < end[:, None]) & live[:, None]
            score = tl.load(VALUE + at, mask=inside, other=NEG_INF)
            column = tl.load(INDEX + at, mask=inside, other=NOWHERE)
            value, index = _pick(score, column, limit, after)
            better = (value > best) | ((value == best) & (index < where))
            best, where = tl.where(better, value, best), tl.where(better, index, where)
        tl.store(OUT + rows.to(tl.int64) * k + q, tl.where(broken, float("nan"), best), mask=live)
        tl.store(WHERE + rows.to(tl.int64) * k + q, tl.minimum(where, m - 1).to(tl.int64), mask=live)
        limit, after = best, where
