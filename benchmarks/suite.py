"""The suite that `make bench` runs: every method on the same problems, at a ladder of budgets, before the same judge.

A method's settings compete: all of them run at the first budget, and at every further one only the best of the one before, so
that a peer stands for the best of its grid at each budget. Rows are on disk from the moment they are measured, and a longer
plan goes on from the rows of a shorter one.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import sdot
from benchmarks import methods, peer_discrete, peer_pot
from benchmarks.measure import bracket, measure, said
from benchmarks.methods import Failed, Method
from benchmarks.problems import USUAL, Problem
from benchmarks.record import Row, Table

CHEAP = 2.0  # CPU seconds of a run that is closed in on further
PRECISION = 5e-4  # of a judged chi^2, or a tenth of it if that is more


@dataclass(frozen=True)
class Entry:
    """What stands on one line of a table: the best of some settings. `grid(full)` makes them."""

    label: str
    grid: Callable[[bool], list[Method]]
    needs: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        return all(importlib.util.find_spec(name) for name in self.needs)


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        problems: By name.
        budgets: CPU seconds.
        kept: How many settings of an entry run at each budget; all when None.
        wanted: Values of chi^2 whose time is closed in on.
        closings: Runs of each entry for that, or the three of the long plan where they are cheap.
        full: Whether peers that compile for minutes show their whole grid.
        settings: The first so many settings of a grid only; all when None.
    """

    problems: tuple[str, ...]
    budgets: tuple[float, ...]
    kept: tuple[int | None, ...]
    wanted: tuple[float, ...] = (0.05, 0.01)
    closings: int = 1
    full: bool = False
    settings: int | None = None

    def methods(self, entry: Entry) -> list[Method]:
        return entry.grid(self.full)[: self.settings]


QUICK = Plan(("plane-1000", "latent-64-2000"), (0.05, 0.2, 0.8, 3.2), (None, 8, 3, 1))
FULL = Plan(tuple(USUAL), (*QUICK.budgets, 12.8, 51.2), (None, None, None, 6, 3, 1), closings=3, full=True)


def one(method: Method) -> Callable[[bool], list[Method]]:
    return lambda full: [method]


def _ott(full: bool) -> list[Method]:
    from benchmarks import peer_ott

    averaged, adam = peer_ott.averaged_grid(), peer_ott.adam_grid()
    return averaged + adam if full else [averaged[k] for k in (2, 4, 5)] + [adam[k] for k in (1, 7)]


def _ott_documented(full: bool) -> list[Method]:
    from benchmarks import peer_ott

    return [peer_ott.documented()]


SEMIDISCRETE, OTT = ("ot", "ot.semidiscrete"), ("ott", "jax", "optax")
ENTRIES = (
    Entry("sdot Newton", one(methods.iterated("sdot Newton", sdot.Newton()))),
    Entry("sdot Averaged", one(methods.iterated("sdot Averaged", sdot.Averaged()))),
    Entry("sdot Adam (AE-OT)", one(methods.iterated("sdot Adam", sdot.Adam()))),
    Entry("POT", lambda full: [peer_pot.pot(), *peer_pot.grid(), *peer_pot.warmer()], SEMIDISCRETE),
    Entry("POT, torch", lambda full: [peer_pot.pot(backend="torch"), *peer_pot.grid("torch")], SEMIDISCRETE),
    Entry("POT, defaults", one(peer_pot.pot()), SEMIDISCRETE),
    Entry("POT emd", one(peer_discrete.emd()), ("ot",)),
    Entry("POT Sinkhorn", lambda full: peer_discrete.sinkhorn_grid(), ("ot",)),
    Entry("POT stochastic", lambda full: peer_discrete.stochastic_grid(), ("ot",)),
    Entry("OTT-JAX", _ott, OTT),
    Entry("OTT-JAX, documented", _ott_documented, OTT),
    Entry("GeomLoss", lambda full: peer_discrete.geomloss_grid(), ("geomloss",)),
)


def contest(table: Table, problem: Problem, entry: Entry, plan: Plan, rung: int) -> list[Row]:
    """Rows of the settings of an entry that come to this rung of the ladder."""
    return [run(table, problem, entry, method, plan.budgets[rung]) for method in survivors(table, entry, plan, rung)]


def survivors(table: Table, entry: Entry, plan: Plan, rung: int) -> list[Method]:
    """The settings that were best one rung below."""
    offered, kept = plan.methods(entry), plan.kept[rung]
    if not rung or kept is None:
        return offered
    below = table.find(entry=entry.label, budget=plan.budgets[rung - 1])
    error = {row["settings"]: row["chi2"] for row in below if row["chi2"] is not None}
    return sorted((m for m in offered if m.settings in error), key=lambda m: error[m.settings])[:kept]


def run(table: Table, problem: Problem, entry: Entry, method: Method, budget: float) -> Row:
    """One row, found where it has been measured."""
    key = {"entry": entry.label, "settings": method.settings, "budget": float(f"{budget:.3g}")}
    for row in table.find(**key):
        return row
    for row in table.find(method=method.name, settings=key["settings"], budget=key["budget"]):  # of another entry
        return table.add({**row, **key, "role": entry.label})
    try:
        return table.add({**key, **said({"role": entry.label, **measure(problem, method, budget, precision=PRECISION)})})
    except Failed as reason:
        print(f"{entry.label} {method.settings}: failed, {reason}", flush=True)
        return table.add({**key, "method": method.name, "problem": problem.name, "chi2": None, "failed": str(reason)})


def close_in(table: Table, problem: Problem, entry: Entry, plan: Plan, wanted: float) -> Row | None:
    """The row of the least time at which chi^2 <= wanted, after a few more runs between too little and enough."""
    for turn in range(FULL.closings):
        best = answer(table.rows, entry.label, wanted)
        if best is None or not best["met"] or (turn >= plan.closings and best["cpu"] > CHEAP):
            break
        same = [row for row in answered(table.rows, entry.label) if row["settings"] == best["settings"]]
        known = bracket(same, wanted)
        if known is None or known[1] < 1.3 * known[0]:
            break
        (method,) = (m for m in plan.methods(entry) if m.settings == best["settings"])
        run(table, problem, entry, method, math.sqrt(known[0] * known[1]))
    return answer(table.rows, entry.label, wanted)


def answered(rows: list[Row], label: str) -> list[Row]:
    return [row for row in rows if row["entry"] == label and row["chi2"] is not None]


def answer(rows: list[Row], label: str, wanted: float) -> Row | None:
    """What (method, problem, wanted chi^2) takes: the cheapest row that met it, else the row of the least error."""
    known = answered(rows, label)
    there = [row for row in known if row["chi2"] <= wanted]
    best = min(there, key=lambda row: row["cpu"]) if there else min(known, key=lambda row: row["chi2"], default=None)
    return None if best is None else {"wanted": wanted, "met": bool(there), **best}


def answers(rows: list[Row], wanted: tuple[float, ...] = QUICK.wanted) -> list[Row]:
    """All rows (method, problem, wanted chi^2) of a problem."""
    found = (answer(rows, entry.label, chi2) for entry in ENTRIES for chi2 in wanted)
    return [row for row in found if row is not None]
