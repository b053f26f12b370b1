"""What an extension generates: codes of every rule against held-out codes, beside what else could be done with them.

python -m benchmarks.extension --data FOLDER          everything, about twenty minutes on one core
python -m benchmarks.extension moons-32 torus-16      some of it; the synthetic sets need no folder

eps is given in units of the median distance to the 10th nearest training code. Started again, it goes on where it was stopped.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

import sdot
from benchmarks import command
from benchmarks.data import Missing
from benchmarks.fidelity import nearest
from benchmarks.manifolds import SETS, Codes
from benchmarks.record import Row, Table

EPS = (0.75, 1.0, 1.25, 1.5)
UNSURE = 0.6  # a code is between classes if no class is as likely as that


@dataclass(frozen=True, eq=False)
class Setting:
    """A solved data set."""

    codes: Codes
    source: sdot.Source
    T: sdot.BrenierMap
    cells: sdot.Cells
    unit: float
    classify: Callable[[Tensor], Tensor] | None

    @property
    def train(self) -> Tensor:
        return self.codes.reference.train

    def noise(self, seed: int) -> Tensor:
        g = Generator().manual_seed(1000 + seed)
        return self.source.sample(len(self.codes.reference.held), like=self.train, generator=g)


def prepare(codes: Codes, tol: float = 0.02) -> Setting:
    y, g = codes.reference.train, Generator().manual_seed(0)
    source = sdot.Gaussian(dim=y.shape[1])
    T = sdot.solve(source, sdot.DiscreteMeasure.uniform(y), tol=tol, generator=g).map
    cells = sdot.estimate_cells(T, source, generator=g)
    unit = float(nearest(y[:3000], y, 11)[:, -1].median())
    return Setting(codes, source, T, cells, unit, classifier(codes) if codes.labels is not None else None)


def classifier(codes: Codes) -> Callable[[Tensor], Tensor]:
    """Class probabilities, learnt from the training codes."""
    y, labels = codes.reference.train, codes.labels
    assert labels is not None
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(y.shape[1], 256), torch.nn.GELU(), torch.nn.Linear(256, 256), torch.nn.GELU(), torch.nn.Linear(256, 10)
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    for _ in range(15):
        for batch in torch.randperm(len(y)).split(128):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(y[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return lambda z: torch.softmax(net(z).detach(), 1)


def baselines(s: Setting, size: float, seed: int) -> Iterator[tuple[str, Tensor]]:
    """What needs no extension. `size` is how far the noise moves a code, in the mean square."""
    y, g, n = s.train, Generator().manual_seed(seed), len(s.codes.reference.held)
    m, d = y.shape
    yield "fresh codes", s.codes.reference.fresh
    yield "training codes", y[torch.randint(m, (n,), generator=g)]
    yield "T", s.T(s.noise(seed))
    yield "a Gaussian", sdot.Gaussian(mean=y.mean(0), covariance=torch.cov(y.T)).sample(n, like=y, generator=g)
    pick = y[torch.randint(m, (n,), generator=g)]
    yield "codes + noise", pick + size / d**0.5 * torch.randn(n, d, generator=g)
    _, near = sdot.kernels.topk(pick, y, -y.square().sum(1) / 2, 11)
    other = y[near[torch.arange(n), torch.randint(1, 11, (n,), generator=g)]]
    yield "SMOTE", pick + torch.rand(n, 1, generator=g) * (other - pick)


def rules(d: int) -> Iterator[tuple[str, float | str, dict[str, Any]]]:
    """Name, eps and settings of the extensions that are compared in d dimensions."""
    yield "affine", 1.25, {}
    for rule in ("affine", "project", "softmax", "pair", *(["barycentric"] if d <= 4 else [])):
        for eps in (*EPS, "auto"):
            if (rule, eps) != ("affine", 1.25):
                yield rule, eps, {}
        if rule != "barycentric":
            yield rule, 1.25, {"join": "clique"}
    for settings in ({"step": 0.5}, {"step": 0.65}, {"step": 0.9}, {"k": 8}, {"k": 16}):
        yield "affine", 1.25, settings
    for hardness in (0.5, 0.9):
        yield "softmax", 1.25, {"hardness": hardness}


def measure(name: str, seeds: int) -> list[Row]:
    table = Table(f"extension-{name}", seeds=seeds)
    s: Setting | None = None

    def row(method: str, draw: Callable[[Setting, int], tuple[Tensor, float | None]], **key: Any) -> Row:
        nonlocal s
        if found := table.find(method=method, **key):
            return found[0]
        s = s or prepare(SETS[name]())
        results = [results_of(s, *draw(s, seed)) for seed in range(seeds)]
        mean = {k: round(statistics.mean(r[k] for r in results), 4) for k in results[0]}
        print(line(added := table.add({"method": method, **key, **mean})), flush=True)
        return added

    def extension(rule: str, eps: float | str, settings: dict[str, Any]) -> Callable[[Setting, int], tuple[Tensor, float]]:
        made: list[sdot.PiecewiseLinearMap] = []

        def draw(s: Setting, seed: int) -> tuple[Tensor, float]:
            if not made:
                length = eps if isinstance(eps, str) else eps * s.unit
                K = sdot.rips_complex(s.train, length, max_dim=1, max_neighbors=64)
                made.append(sdot.PiecewiseLinearMap(s.T, s.cells, K, rule, **settings))
            x = s.noise(seed)
            return made[0](x), made[0].share_moved(x)

        return draw

    for rule, eps, settings in rules(int(name.rsplit("-", 1)[1])):
        text = ", ".join(f"{k} = {v}" for k, v in settings.items())
        row(rule, extension(rule, eps, settings), eps=eps, settings=text)
    size = table.find(method="affine", eps=1.25, settings="")[0]["distance"]
    for method in ("fresh codes", "training codes", "T", "a Gaussian", "codes + noise", "SMOTE"):
        row(method, lambda s, seed, method=method: (dict(baselines(s, size * s.unit, seed))[method], None), eps="", settings="")
    print(f"wrote {table.save().name}")
    return table.rows


def results_of(s: Setting, codes: Tensor, moved: float | None) -> dict[str, float]:
    row = s.codes.reference.judge(codes)
    row["moved"] = 1.0 if moved is None else moved
    row["distance"] = float(nearest(codes, s.train).square().mean().sqrt()) / s.unit
    if s.codes.strays:
        row["strays"] = s.codes.strays(codes)
    if s.classify:
        row["unsure"] = float((s.classify(codes).amax(1) < UNSURE).double().mean())
    return row


def line(row: Row) -> str:
    shown = (
        "moved",
        "precision",
        "recall",
        "density",
        "coverage",
        "new",
        "sliced",
        "two_sample",
        "variance",
        "strays",
        "unsure",
    )
    numbers = " ".join(f"{k} {row[k]:.3f}" for k in shown if k in row)
    return f"{row['method']:15s}{row['eps']!s:5s} {row['settings']:15s} {numbers}"


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET", help=f"of {', '.join(SETS)}; all of these")
    parser.add_argument("--seeds", type=int, default=2, help="draws of the noise that results are averaged over (%(default)s)")
    options = parser.parse_args()
    command.start(options)
    for name in options.sets:
        print(name)
        try:
            measure(name, options.seeds)
        except Missing as reason:
            print(f"{name}: skipped, {reason}")


if __name__ == "__main__":
    warnings.simplefilter("error", sdot.ConvergenceWarning)
    main()
