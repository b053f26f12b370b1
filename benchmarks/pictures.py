"""Error against time: one panel a problem, one line a method, readable in grey."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from sdot import plot

Json = dict[str, Any]
INK, LINE, ACCENT, SOFT = plot.INK, plot.LINE, plot.ACCENT, plot.SOFT
STYLES = {  # colour, marker, line
    "sdot Newton": (ACCENT, "o", "-"),
    "sdot Averaged": (ACCENT, "s", "--"),
    "sdot Adam (AE-OT)": (ACCENT, "^", ":"),
    "POT": (LINE, "o", "-"),
    "POT, torch": (LINE, "D", "--"),
    "POT, defaults": (LINE, "x", ":"),
    "POT emd": (INK, "s", "-"),
    "POT Sinkhorn": (INK, "v", "--"),
    "POT stochastic": (INK, "P", ":"),
    "OTT-JAX": (SOFT, "o", "-"),
    "OTT-JAX, documented": (SOFT, "x", ":"),
    "GeomLoss": (SOFT, "D", "--"),
}
TOP = 30.0  # errors above are no answers, and are not drawn
GAP = 0.058  # between labels, in heights of a panel
WORDS = {"plane-1000": "uniform square → 1,000 points in the plane", "latent-64-2000": "Gaussian → 2,000 points in d = 64"}


def error_against_time(path: Path, *results: Json) -> None:
    figure = Figure(figsize=(10.4, 4.6), dpi=110, layout="constrained")
    for ax, result in zip(figure.subplots(1, len(results)), results, strict=True):
        panel(ax, result)
    figure.savefig(path, metadata={"Software": None})


def panel(ax: Any, result: Json) -> None:
    """Every method's best row at each budget."""
    ends = []
    for label, (colour, marker, line) in STYLES.items():
        curve = best(result, label)
        if len(curve):
            wide = label == "sdot Newton"
            ax.loglog(*curve.T, color=colour, marker=marker, ls=line, lw=2.2 if wide else 1.2, ms=6 if wide else 4.5,
                      mfc="white" if line != "-" else colour, zorder=3 if wide else 2)  # fmt: skip
            ends.append((label, *curve[-1], colour))
    low = min(chi2 for _, _, chi2, _ in ends)
    ax.set_ylim(low / 2, TOP)
    for wanted in {row["wanted"] for row in result["summary"]}:
        ax.axhline(wanted, color=SOFT, lw=0.7, zorder=0)
    problem = result["rows"][0]["problem"]
    ax.set_title(WORDS.get(problem, problem), fontsize=10, color=INK, loc="left")
    ax.set(xlabel="CPU seconds, one thread", ylabel="chi² on fresh samples")
    ax.xaxis.set_minor_locator(NullLocator())
    entries = {(row["budget"], row["entry"]) for row in result["rows"]}
    shared = Counter(budget for budget, _ in entries)  # others are of single methods, run once more between two of these
    budgets = sorted(budget for budget, methods in shared.items() if 2 * methods > max(shared.values()))
    ax.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
    ax.set_yticks([10.0**k for k in range(-3, 2) if low / 2 <= 10.0**k], minor=False)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(which="both", colors=INK, labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(SOFT)
    labels(ax, ends)


def best(result: Json, label: str) -> np.ndarray:
    """Seconds and least error at each budget, to the first error that is lost in its own uncertainty."""
    rows = [row for row in result["rows"] if row["entry"] == label and row["chi2"] is not None]
    least: dict[float, tuple[float, float]] = {}
    lost = min((row["budget"] for row in rows if row["chi2"] < row["chi2_error"]), default=np.inf)
    for row in sorted(rows, key=lambda row: (row["budget"], row["chi2"])):
        if row["budget"] <= lost:
            least.setdefault(row["budget"], (row["cpu"], max(row["chi2"], row["chi2_error"])))
    return np.array([point for point in least.values() if point[1] < TOP]).reshape(-1, 2)


def labels(ax: Any, ends: list[tuple[str, float, float, str]]) -> None:
    """Names at the right edge, in the order of the lines' ends and apart from each other, joined to them."""
    right = max(x for _, x, _, _ in ends)
    ax.set_xlim(right=right * 1.15)
    ends = sorted(ends, key=lambda end: end[2])
    bottom, top = np.log(ax.get_ylim())
    height = np.array([(np.log(y) - bottom) / (top - bottom) for _, _, y, _ in ends])
    place = spread(height)
    for (name, x, y, colour), at in zip(ends, place, strict=True):
        ax.annotate(
            name, (x, y), xytext=(1.05, at), textcoords="axes fraction", fontsize=8, va="center", annotation_clip=False,
            color=INK if colour == SOFT else colour, fontweight="bold" if name == "sdot Newton" else "normal",
            arrowprops={"arrowstyle": "-", "color": SOFT, "lw": 0.5, "shrinkA": 1, "shrinkB": 4},
        )  # fmt: skip


def spread(height: np.ndarray) -> np.ndarray:
    """Sorted heights moved apart as little as it takes, within the panel where they fit."""
    place = height.copy()
    for _ in range(500):
        short = GAP - np.diff(place)
        if (short <= 1e-6).all():
            break
        push = np.clip(short, 0, None) / 2
        place[1:] += push
        place[:-1] -= push
        place = np.clip(place, 0.0, 1.0)
    return place
