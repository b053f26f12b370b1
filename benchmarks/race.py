"""CPU time to a stated error: this library against every peer, one after the other, before the same judge.

python -m benchmarks.race latent-16-4000              to chi2 = 0.01
python -m benchmarks.race plane full-64 --seed 1      several problems

First this library, to the moment at which chi2 <= target is first certified on fresh samples: that time is the unit. Each peer
then has its settings searched, all with 2 units each and the best three with 6; the best of these gets 12 units (--ratio), and
when it meets the target the time it needs is closed in on to 30 %. Defaults get 100 units, --max-seconds at most. This library
once more at the end, and the slower of its two runs counts. Started again, it goes on where it was stopped.

It takes 200 to 500 units a problem, and ten minutes for OTT's compiler: half an hour to two hours on one core for a unit of
2 to 10 s.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

import sdot
from benchmarks import command, methods, record
from benchmarks.data import Missing
from benchmarks.judge import first_to_meet
from benchmarks.measure import bracket, measure, row_of, said
from benchmarks.methods import Method, Outcome
from benchmarks.problems import USUAL, Problem, make
from benchmarks.record import Row, Table

FIRST, SECOND, KEPT = 2.0, 6.0, 3  # units of the two rounds of a search, and how many settings see the second
CLOSINGS = 5  # runs of the best setting at most: to the target, then closing in on the time that it needs


class Unreached(Exception):
    """This library itself did not come to the target."""


@dataclass(frozen=True)
class Rules:
    target: float = 0.01
    ratio: float = 12.0
    default_ratio: float = 100.0
    max_seconds: float = 300.0


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("problems", nargs="+", metavar="PROBLEM", help=f"of {', '.join(USUAL)}, with -M after it for M targets")
    parser.add_argument("--target-chi2", type=float, default=Rules.target, help="error to reach (%(default)s)")
    parser.add_argument("--ratio", type=float, default=Rules.ratio, help="units for the best settings (%(default)s)")
    parser.add_argument("--default-ratio", type=float, default=Rules.default_ratio, help="units for defaults (%(default)s)")
    parser.add_argument("--max-seconds", type=float, default=Rules.max_seconds, help="limit of one default run (%(default)s)")
    parser.add_argument("--peers", nargs="*", help="some of the peers: POT, OTT-Adam, OTT-averaged, AE-OT (all installed)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    command.start(options)
    rules = Rules(options.target_chi2, options.ratio, options.default_ratio, options.max_seconds)
    peers = {k: v for k, v in installed().items() if options.peers is None or k in options.peers}
    for name in options.problems:
        try:
            print(f"wrote {race(make(name, options.seed), rules, peers).save().name}")
        except (Missing, Unreached) as reason:
            print(f"{name}: skipped, {reason}")


Peers = dict[str, tuple[list[Method], list[Method]]]


def installed() -> Peers:
    """Peers by name: their defaults, one or none, and the settings to search. The two kinds of OTT share their defaults."""
    peers: Peers = {"AE-OT": ([methods.iterated("AE-OT Adam", sdot.Adam())], methods.adam_grid())}
    if importlib.util.find_spec("ot"):
        from benchmarks import peer_pot

        peers["POT"] = ([peer_pot.pot()], peer_pot.grid())
    if importlib.util.find_spec("ott") and importlib.util.find_spec("jax"):
        from benchmarks import peer_ott

        peers["OTT-Adam"] = ([peer_ott.documented()], peer_ott.adam_grid())
        peers["OTT-averaged"] = ([], peer_ott.averaged_grid())
    return peers


def race(problem: Problem, rules: Rules, peers: Peers) -> Table:
    """All rows of one problem."""
    settings = {"target": rules.target, "ratio": rules.ratio, "default_ratio": rules.default_ratio, "cap": rules.max_seconds}
    table = Table(f"race-{problem.name}-seed{problem.seed}", **settings)
    unit = ours(problem, rules, table, "sdot")["cpu"]
    heats = {name: Heat(problem, rules, table, name, unit) for name in peers}
    for name, (_, grid) in peers.items():
        heats[name].search(grid)
    for name, (defaults, _) in peers.items():
        for method in defaults:
            heats[name].run(method, min(rules.default_ratio * unit, rules.max_seconds), "defaults")
    again = ours(problem, rules, table, "sdot again")["cpu"]
    for name, heat in heats.items():
        print(f"{name:12s} {heat.result(max(unit, again))}")
    return table


def ours(problem: Problem, rules: Rules, table: Table, role: str) -> Row:
    """The first certified moment of `Newton`, its start included, judging not."""
    for row in table.find(role=role):
        return row
    methods.warm_up(problem)
    before, trace, goal = record.forget_peak_memory(), [], 0.7 * rules.target
    for now in methods.moments(problem, sdot.Newton(), problem.seed, thin=1.02):
        if now.own <= 5 * rules.target:
            trace.append(now)
        if now.own <= goal or now.cpu > rules.max_seconds:
            memory, goal = round(record.peak_memory_mb() - before, 1), goal / 2
            found = first_to_meet(problem, trace, rules.target, seed=problem.seed)
            if found:
                now, verdict = found
                outcome = Outcome(now.heights, now.samples, now.cpu, now.wall)
                row = row_of(problem, methods.iterated("sdot", sdot.Newton()), outcome, verdict)
                return table.add(said({"role": role, **row, "met": True, "memory_mb": memory}))
            if now.cpu > rules.max_seconds:
                break
    raise Unreached(f"this library did not reach chi2 = {rules.target} in {rules.max_seconds:g} s.")


@dataclass
class Heat:
    """One peer against the unit."""

    problem: Problem
    rules: Rules
    table: Table
    peer: str
    unit: float

    def search(self, grid: list[Method]) -> None:
        """Two rounds for the best setting, its full time, then closing in on the time it needs."""
        for method in grid:
            self.run(method, FIRST * self.unit, "search")
        for method in self.best(grid, FIRST)[:KEPT]:
            self.run(method, SECOND * self.unit, "search")
        best = self.best(grid, SECOND)[0]
        if not any(row["met"] for row in self.tried(best)):
            self.run(best, self.rules.ratio * self.unit, "best")
        while (known := bracket(self.tried(best), self.rules.target)) and known[1] > 1.3 * known[0]:
            if len(self.table.find(peer=self.peer, settings=best.settings, role="best")) == CLOSINGS:
                break
            if not self.run(best, math.sqrt(known[0] * known[1]), "best"):
                break

    def run(self, method: Method, budget: float, role: str) -> bool:
        """Measure, unless it has been: then False."""
        budget = float(f"{budget:.3g}")
        key = {"peer": self.peer, "settings": method.settings, "role": role, "budget": budget}
        if self.table.find(**key):
            return False
        exact = role != "search"
        precision, relative = (self.rules.target / 20, 0.03) if exact else (self.rules.target / 10, 0.1)
        row = measure(self.problem, method, budget, precision=precision, relative=relative, fill=exact)
        met, ratio = row["chi2"] <= self.rules.target, round(row["cpu"] / self.unit, 2)
        self.table.add(said({**key, **row, "met": met, "ratio": ratio}))
        return True

    def tried(self, method: Method) -> list[Row]:
        return [row for row in self.table.find(peer=self.peer, settings=method.settings) if row["role"] != "defaults"]

    def best(self, grid: list[Method], units: float) -> list[Method]:
        """The settings that saw this round, the one with the least error first."""
        budget = float(f"{units * self.unit:.3g}")
        error = {m.settings: row["chi2"] for m in grid for row in self.tried(m) if row["budget"] == budget}
        return sorted((m for m in grid if m.settings in error), key=lambda m: error[m.settings])

    def result(self, unit: float) -> str:
        """What goes into a table: how many times the unit it took, or the error that it had reached after so many."""
        parts = []
        for title, defaults in (("best settings", False), ("defaults", True)):
            rows = [row for row in self.table.find(peer=self.peer) if (row["role"] == "defaults") == defaults]
            if not rows:
                continue
            met = [row for row in rows if row["met"]]
            row = min(met, key=lambda row: row["cpu"]) if met else max(rows, key=lambda row: row["cpu"])
            sign = ("<=" if defaults else "") if met else ">"
            parts.append(f"{title} ({row['settings']}): {sign} {row['cpu'] / unit:.1f}x, chi2 {row['chi2']:.4f}")
        return "; ".join(parts)


if __name__ == "__main__":
    main()
