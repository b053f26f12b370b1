"""Write what has been measured into the documents: every table between two marks is made from the files in results/.

python -m benchmarks.report            rewrite the tables of README.md, docs/ and examples/aeotgan/README.md, draw the picture
python -m benchmarks.report --check    only say which of them are not what the results say

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, where NAME is one of TABLES.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import pictures
from benchmarks.record import RESULTS
from benchmarks.suite import QUICK, answers

ROOT = RESULTS.parents[1]
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
MARKS = (30, 60, 100, 300, 1000, 3000)
PEERS = {"POT": "POT", "OTT-averaged": "OTT-JAX averaged", "OTT-Adam": "OTT-JAX Adam", "AE-OT": "AE-OT's Adam"}
STUDIES = ("plane-2", "moons-32", "torus-16", "clusters-32", "mnist-32", "fashion-mnist-32", "cifar10-64", "mnist-latent-32")
OTHERS = ("fresh codes", "training codes", "T", "a Gaussian", "codes + noise", "SMOTE")  # what needs no extension
RULES = ("barycentric", "pair", "softmax", "project", "affine")  # of extensions
DRAWN = ("plane-1000", "latent-64-2000")  # problems of the short table and of the picture
Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a table is out of date")
    check = parser.parse_args().check
    old = [path for path in documents() if filled(path.read_text()) != path.read_text()]
    for path in old:
        print(f"{path.relative_to(ROOT)} {'is out of date' if check else 'rewritten'}")
        if not check:
            path.write_text(filled(path.read_text()))
    if not check:
        pictures.error_against_time(ROOT / "docs" / "images" / "benchmarks.png", *map(contest, DRAWN))
    return int(check and bool(old))


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "aeotgan" / "README.md"]


def filled(text: str) -> str:
    """The text with all its tables made anew."""
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def efficiency() -> str:
    summaries = {name: result["summary"] for name, result in results("efficiency-newton-") if result.get("summary")}
    reached = {row["mark"] for summary in summaries.values() for row in summary}
    marks = [mark for mark in MARKS if mark in reached]
    rows = []
    for name, summary in summaries.items():
        by = {row["mark"]: row for row in summary}
        etas = [f"{by[mark]['eta_mean']:.2f} ({by[mark]['eta_min']:.2f})" if mark in by else "" for mark in marks]
        own = by.get(100, summary[-1])["own_over_judged"]
        rows.append([name, str(summary[0]["seeds"]), *etas, f"{own:.2f}"])
    return table(["problem", "seeds", *(f"{mark} m" for mark in marks), "own / judged"], rows)


def stopping() -> str:
    rows = []
    for name, result in results("stopping-"):
        s = result["summary"]
        rows.append(
            [name.partition("-tol")[0], f"{s['met']} of {s['seeds']}", f"{s['excess_mean']:.2f}", f"{s['excess_worst']:.2f}"]
        )
    return table(["problem", "met", "samples, mean", "samples, worst"], rows)


def hard() -> str:
    rows = [
        [line["shape"], str(line["problems"]), str(line["failed"]), str(line["false"]), f"{line['samples_per_target']:.0f}"]
        for line in read("hard")["summary"]
    ]
    return table(["targets", "problems", "failed, and said so", "failed, and did not", "samples a target"], rows)


def ablation() -> str:
    at_60 = [row for row in read("ablation")["rows"] if row["mark"] == 60]
    problems, changes = (list(dict.fromkeys(row[key] for row in at_60)) for key in ("problem", "change"))
    eta = {(row["change"], row["problem"]): f"{row['eta_mean']:.2f}" for row in at_60}
    return table(["", *problems], [[change, *(eta.get((change, p), "") for p in problems)] for change in changes])


def races() -> str:
    """CPU time to chi^2 = 0.01 relative to Newton: peers with their best settings, and with their defaults."""
    rows = []
    for name, result in results("race-"):
        own = [row["cpu"] for row in result["rows"] if row["role"].startswith("sdot")]
        entries = [standing(result["rows"], peer, role) for peer in PEERS for role in ("best", "defaults")]
        problem, _, run = name.partition("-seed")
        machine = run.partition("-")[2]
        rows.append([f"{problem} ({machine})" if machine else problem, f"{max(own):.2f}", *entries])
    return table(
        ["problem", "Newton, s", *(f"{label}, {role}" for label in PEERS.values() for role in ("best", "defaults"))], rows
    )


def standing(rows: list[Json], peer: str, role: str) -> str:
    """The least multiple of Newton's time at which a peer was there, or the largest at which it was not."""
    own = max(row["cpu"] for row in rows if row["role"].startswith("sdot"))
    tries = attempts(rows, peer, role)
    if not tries:
        return "not run"
    there = [row["cpu"] / own for row in tries if row["met"]]
    if there:
        return f"{min(there):.1f}x"
    last = max(tries, key=lambda row: row["cpu"])
    return f"not at {last['cpu'] / own:.0f}x (chi2 {last['chi2']:.2g})"


def attempts(rows: list[Json], peer: str, role: str) -> list[Json]:
    """The runs of a peer with its defaults; or with its best settings, those of the search that met the target among them."""
    own = [row for row in rows if row.get("peer") == peer]
    return [row for row in own if row["role"] == role or (role == "best" and row["role"] == "search" and row["met"])]


def race_latent_16() -> str:
    """One race in full: the best settings of every peer, and their defaults."""
    rows = []
    found = read("race-latent-16-4000-seed0")["rows"]
    own = [row for row in found if row["role"].startswith("sdot")]
    rows.append(
        [
            "**sdot, `Newton` (default, no settings)**",
            *numbers(own[0], f"{min(r['cpu'] for r in own):.2f} to {max(r['cpu'] for r in own):.2f}"),
        ]
    )
    for role in ("best", "defaults"):
        for peer, label in PEERS.items():
            tries = attempts(found, peer, role)
            tries = [row for row in tries if row["met"]] or tries
            if tries:
                best = min(tries, key=lambda row: row["cpu"] if row["met"] else row["chi2"])
                prefix = "best: " if role == "best" else ""
                rows.append([f"{label}, {prefix}{best['settings']}", *numbers(best, f"{best['cpu']:.3g}")])
    return table(["method", "CPU s", "samples per target", "chi2", "eta"], rows)


def contest(problem: str) -> Json:
    """What the suite found on one problem, whether it came to its end or not."""
    found = read(f"solvers-{problem}")
    return {**found, "summary": answers(found["rows"])}


def solvers(problem: str) -> str:
    """The suite on one problem: time to every wanted chi^2, and the row of the largest budget."""
    found = contest(problem)
    wanted = sorted({row["wanted"] for row in found["summary"]}, reverse=True)
    rows = []
    for label in dict.fromkeys(row["entry"] for row in found["summary"]):
        own = [row for row in found["rows"] if row["entry"] == label and row["chi2"] is not None]
        longest = max(row["budget"] for row in own)
        last = min((row for row in own if row["budget"] == longest), key=lambda row: row["chi2"])
        rows.append(
            [
                label,
                *(time_to(found, label, chi2) for chi2 in wanted),
                last["settings"],
                f"{last['cpu']:.2g}",
                error_of(last),
                f"{last['samples_per_target']:,.1f}",
                f"{last['eta']:.2f}",
                f"{last['memory_mb']:.0f}",
            ]
        )
    columns = ["with", "CPU s", "chi2", "samples per target", "eta", "memory, MB"]
    return table(["method", *(f"s to {chi2:g}" for chi2 in wanted), *columns], rows)


def error_of(row: Json) -> str:
    """chi^2 with its error, or a bound where it is lost in that error."""
    error = row["chi2_error"]
    return f"{row['chi2']:.2g} ± {error:.1g}" if row["chi2"] > 2 * error else f"below {max(row['chi2'], 0) + 2 * error:.1g}"


def solvers_short() -> str:
    found = [contest(problem) for problem in DRAWN]
    labels = dict.fromkeys(row["entry"] for result in found for row in result["summary"])
    rows = [[f"**{label}**" if label == "sdot Newton" else label,
             *(time_to(result, label, chi2) for result in found for chi2 in QUICK.wanted)] for label in labels]  # fmt: skip
    return table(["method", *(f"{problem}, s to {chi2:g}" for problem in DRAWN for chi2 in QUICK.wanted)], rows)


def time_to(result: Json, label: str, chi2: float) -> str:
    """CPU seconds to a wanted chi^2, or the least error and when that was."""
    for row in result["summary"]:
        if row["entry"] == label and row["wanted"] == chi2:
            return f"{row['cpu']:.2g}" if row["met"] else f"not in {row['cpu']:.2g} ({row['chi2']:.2g})"
    return "not run"


def speeds() -> str:
    """Samples a second of every way to find the best target, and their share of the rate of matrix products."""
    found = read("kernels-peers")["rows"]
    sizes = list(dict.fromkeys((row["d"], row["m"]) for row in found))
    by = {(row["method"], row["d"], row["m"]): row for row in found}
    rows = []
    for method in dict.fromkeys(row["method"] for row in found):
        here = [by.get((method, *size)) for size in sizes]
        rows.append([method, *(f"{row['samples_per_s']:,.0f} ({row['share']:.0%})" if row else "" for row in here)])
    return table(["", *(f"d = {d}, m = {m:,}" for d, m in sizes)], rows)


def numbers(row: Json, cpu: str) -> list[str]:
    missed = "" if row["met"] else ", not met"
    return [
        cpu,
        f"{row['samples_per_target']:.0f}",
        f"{row['chi2']:.3g} ± {row['chi2_error']:.1g}{missed}",
        f"{row['eta']:.2f}",
    ]


def estimate() -> str:
    """What `sdot estimate` says of some solves, and what they took."""
    rows = []
    for row in read("estimate")["rows"]:
        said = row["estimated"]
        pairs = [(said["samples"], row["samples"]), (said["seconds"], row["cpu"]), (said["memory_mb"], row["memory_mb"])]
        cells = [f"{two_digits(low)} to {two_digits(high)} | {two_digits(taken)}" for (low, high), taken in pairs]
        rows.append([row["problem"], str(row["d"]), f"{row['tol']:g}", *cells])
    return table(["problem", "d", "tol", "samples", "drawn", "CPU s", "taken", "MB", "taken"], rows)


def scaling() -> str:
    """What a solve takes as the number of targets grows, and where its time goes."""
    rows = [
        [r["problem"], f"{r['chi2']:.3f}", f"{r['samples_per_target']:.0f}", two_digits(r["cpu"]), f"{r['ns_per_score']:.2f}",
         f"{r['kernels']:.0%}", f"{r['drawing']:.0%}", f"{r['rest']:.0%}", f"{r['memory_mb']:.0f}"]
        for r in read("scaling")["rows"]
    ]  # fmt: skip
    head = ["problem", "chi2", "samples a target", "CPU s", "ns a score", "kernels", "drawing", "the rest", "MB"]
    return table(head, rows)


def two_digits(value: float) -> str:
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def aeotgan(preset: str) -> str:
    """The table of `examples/aeotgan/run.py`."""
    columns = {"frechet": ("Frechet", 2), "frechet_layers": ("all layers", 2), "frechet_drawn": ("a draw", 1),
               "frechet_held_out": ("held-out", 1), "precision": ("precision", 2), "recall": ("recall", 2),
               "coverage": ("coverage", 2), "class_tv": ("class TV", 3), "mixed": ("mixed", 3), "novelty": ("novelty", 2),
               "copied": ("copied", 2)}  # fmt: skip
    result = read(f"aeotgan/{preset}")["evaluate"]
    found = result["table"]
    if result["draws"] == 1:
        del columns["frechet_drawn"]  # all of them are one draw
    known = {key: form for key, form in columns.items() if any(key in row for row in found.values())}
    rows = [
        [name, *(f"{row[key]:.{n}f}" if key in row else "" for key, (_, n) in known.items())] for name, row in found.items()
    ]
    return table(["", *(title for title, _ in known.values())], rows)


def modes() -> str:
    """The table of `examples/aeotgan/modes.py`, ranges over its seeds."""
    rows = []
    for name, methods in read("aeotgan/modes")["sets"].items():
        for method, runs in methods.items():
            n, bad, distance = ([run[key] for run in runs] for key in ("modes", "bad", "wasserstein"))
            rows.append([name, method, f"{min(n)} to {max(n)}", f"{100 * min(bad):.1f} to {100 * max(bad):.1f} %",
                         f"{min(distance):.2f} to {max(distance):.2f}"])  # fmt: skip
    return table(["set", "method", "modes found", "bad samples", "Wasserstein distance"], rows)


def scores(file: str, backend: str = "fused") -> str:
    """Billions of scores a second of a backend, and its cost beside plain torch and for more than the best target."""
    sizes = (1000, 10_000, 200_000)
    speed = {(r["function"], r["k"], r["d"], r["m"]): r["speed"] for r in read(file)["rows"] if "d" in r}
    rows = []
    for d in sorted({key[2] for key in speed}):
        best, plain, two, soft = (
            [speed[f, k, d, m][name] for m in sizes]
            for f, k, name in (("topk", 1, backend), ("topk", 1, "plain"), ("topk", 2, backend), ("soft_mass", 0, backend))
        )
        times, *costs = (
            " / ".join(f"{a / b:.{digits}f}" for a, b in zip(best, other, strict=True))
            for other, digits in ((plain, 1), (two, 2), (soft, 2))
        )
        rows.append([str(d), " / ".join(f"{v:.3g}" for v in best), times, *costs])
    return table(["d", "1e9 scores a second", "times plain torch", "cost of the best two", "cost of softened masses"], rows)


def extension() -> str:
    """What every rule of `benchmarks.extension` generates at eps = 1.25 units, and what else could be done."""
    studies = studied()
    said = {name: name for name in OTHERS} | {rule: f"`{rule}`" for rule in RULES} | {"affine": "**`affine`**"}
    rows = [[text, *(cell(rows, method, eps=("", 1.25)) for rows in studies.values())] for method, text in said.items()]
    return table(["", *studies], rows)


def extension_affine() -> str:
    """How the affine rule changes with its settings."""
    settings = ("step = 0.5", "step = 0.65", "step = 0.9", "k = 8", "k = 16", "join = clique")
    studies = studied()
    said = {1.25: "as it is: eps = 1.25, step = 0.8, k = 32"}
    lines = [(said.get(eps, f"eps = {eps}"), eps, "") for eps in (0.75, 1.0, 1.25, 1.5, "auto")]
    lines += [(text, 1.25, text) for text in settings]
    rows = [[text, *(cell(rows, "affine", (eps,), change) for rows in studies.values())] for text, eps, change in lines]
    return table(["", *studies], rows)


def studied() -> dict[str, list[Json]]:
    return {name: read(f"extension-{name}")["rows"] for name in STUDIES}


def cell(rows: list[Json], method: str, eps: tuple[Any, ...], settings: str = "") -> str:
    """Precision, recall, coverage and novelty."""
    for row in rows:
        if row["method"] == method and row["eps"] in eps and row["settings"] == settings:
            return " / ".join(f"{row[k]:.2f}".replace("0.", ".", 1) for k in ("precision", "recall", "coverage", "new"))
    return ""


TABLES: dict[str, Callable[[], str]] = {
    "efficiency": efficiency,
    "stopping": stopping,
    "hard": hard,
    "ablation": ablation,
    "races": races,
    "estimate": estimate,
    "scaling": scaling,
    "race-latent-16": race_latent_16,
    "solvers-short": solvers_short,
    "solvers-plane": partial(solvers, DRAWN[0]),
    "solvers-latent-64": partial(solvers, DRAWN[1]),
    "speeds": speeds,
    "scores": partial(scores, "kernels-float32-1"),
    "scores-two": partial(scores, "kernels-float32-2"),
    "scores-blocked": partial(scores, "kernels-float32-2", "blocked"),
    "scores-amx": partial(scores, "kernels-float32-1-amx"),
    "scores-avx2": partial(scores, "kernels-float32-1-avx2"),
    "extension": extension,
    "extension-affine": extension_affine,
    "digits": partial(aeotgan, "digits"),
    "mnist": partial(aeotgan, "mnist"),
    "mnist-500": partial(aeotgan, "mnist-500-cuda"),
    "fashion-mnist": partial(aeotgan, "fashion-mnist"),
    "modes": modes,
}


def results(prefix: str) -> Iterator[tuple[str, Json]]:
    """The files whose names begin so, with the rest of their names."""
    for path in sorted(RESULTS.glob(f"{prefix}*.json")):
        yield path.stem.removeprefix(prefix), read(path.stem)


def read(name: str) -> Json:
    content: Json = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    sys.exit(main())
