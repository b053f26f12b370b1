"""The certificate: how far the map is from optimal, measured on samples that no solver has seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from . import _checks
from .maps import BrenierMap
from .measures import DiscreteMeasure, Draw, Source, check_same_space, draw_seed, samples_of_light
from .semidual import kantorovich

QUANTILE = 2.02  # (q - k) / sqrt(2 k) for the 95 % quantile q of a chi-square law is at most this, whatever k


@dataclass(frozen=True)
class Certificate:
    """What fresh samples say of a map.

    T is the exact optimal map from the source onto the masses w of its own cells, so the distance of w from the weights nu
    is the whole error.

    Attributes:
        chi2: Unbiased estimate of sum_i (w_i - nu_i)^2 / nu_i; may be slightly negative near zero, and is infinite if a target
            without weight is hit.
        chi2_error: Its standard error; where samples are few for light cells, what may hide there.
        tv_bound: Upper 95 % confidence bound on the total variation 1/2 sum_i |w_i - nu_i| <= 1/2 sqrt(chi^2): the share of
            mass that goes to the wrong target.
        empty_cells: Cells with weight that no sample hit.
        empty_expected: How many such cells chance alone would leave, were the map exact.
        cells: Cells with weight.
        samples: Samples drawn.
        cost: Estimate of E|x - T(x)|^2, the squared Wasserstein distance from the source to the masses w.
        w2_squared: Estimate of W_2^2(mu, nu) from the dual, in units of |x|^2: never above it but for noise, and equal to it
            to second order in the error of the heights.
        w2_squared_error: Its standard error.
    """

    chi2: float
    chi2_error: float
    tv_bound: float
    empty_cells: int
    empty_expected: float
    cells: int
    samples: int
    cost: float
    w2_squared: float
    w2_squared_error: float

    def __str__(self) -> str:
        return (
            f"chi2 {self.chi2:.4f} +- {self.chi2_error:.4f}, TV <= {self.tv_bound:.3f} (95 %), "
            f"{self.empty_cells} of {self.cells} cells empty ({self.empty_expected:.1f} expected by chance), "
            f"W2^2 {self.w2_squared:.6g} +- {self.w2_squared_error:.2g}, measured on {self.samples:,} fresh samples"
        )


def most_samples(m: int) -> int:
    """The budget of a certificate of m cells, where nobody names one."""
    return max(1000 * m, 10**5)


@torch.no_grad()
def certify(
    T: BrenierMap,
    source: Source,
    target: DiscreteMeasure,
    *,
    precision: float = 1e-3,
    max_samples: int | None = None,
    generator: Generator | None = None,
) -> Certificate:
    """Measure a map on fresh samples of the source.

    Samples are drawn until the standard error of chi^2 is below `precision` or a tenth of chi^2, whichever is more, or until
    the budget ends.

    Args:
        T: The map, with the points of `target`.
        source: The measure mu that T carries.
        target: The measure nu that it should arrive at.
        precision: Wanted standard error of chi^2.
        max_samples: Budget; 1000 per cell when left out, and at least 100,000.
        generator: Randomness.

    Returns:
        A certificate. Costs one assignment a sample; about sqrt(2 m) / precision samples for m targets.
    """
    _checks.positive("precision", precision)
    check_same_space(source, target)
    if T.points.shape != target.points.shape or not torch.equal(T.points, target.points.to(T.points)):
        raise ValueError(
            f"the map and the target must have the same points in the same order, but those of shape "
            f"{tuple(T.points.shape)} and {tuple(target.points.shape)} differ; pass the target that the map was solved for."
        )
    support, nu = target.support, target.weights[target.support]
    m = len(nu)
    budget = most_samples(m) if max_samples is None else _checks.count("max_samples", max_samples)
    # per sample |x - T(x)|^2 - 2 (g_i - <nu, g>), whose mean is twice the dual value
    g = kantorovich(T.heights.to(nu.dtype), T.points)
    g = g - nu @ g[support]
    count = torch.zeros(len(target), dtype=torch.int64, device=nu.device)
    cost = dual = square = 0.0
    draw = Draw(source, T.points, draw_seed(generator), 0)
    wanted = min(budget, max(2**10, m))
    while True:
        for x in draw(wanted - draw.count):
            index = T.cell(x)
            count += torch.bincount(index, minlength=len(target))
            distance = (x - T.points[index]).to(nu.dtype).square().sum(1)
            value = distance - 2 * g[index]
            cost, dual, square = cost + float(distance.sum()), dual + float(value.sum()), square + float(value.square().sum())
        stray = 1 - float(count[support].sum()) / draw.count  # share of mass that goes where none should
        estimate, error = chi2_and_error(count[support].to(nu.dtype), nu, draw.count)
        goal = precision if stray > 0 else max(precision, abs(estimate) / 10)
        if draw.count >= budget or error <= goal:
            break
        wanted = min(budget, math.ceil(draw.count * min(2.0, 1.05 * error / goal)))
    n = draw.count
    stray_bound = stray + QUANTILE * math.sqrt(stray * (1 - stray) / n) if stray > 0 else 0.0
    # 1/2 sum |w - nu| <= 1/2 (stray + (sum_support (w - nu)^2 / nu)^1/2), where w sums to 1 - stray on the support
    tv_bound = (stray_bound + math.sqrt(max(0.0, estimate + 2 * stray_bound + QUANTILE * error))) / 2
    return Certificate(
        chi2=estimate if stray == 0 else math.inf,
        chi2_error=error if stray == 0 else math.inf,
        tv_bound=min(1.0, tv_bound),
        empty_cells=int((count[support] == 0).sum()),
        empty_expected=float(torch.exp(n * torch.log1p(-nu.clamp_max(1 - 1e-15))).sum()) if m > 1 else 0.0,
        cells=m,
        samples=n,
        cost=cost / n,
        w2_squared=dual / n,
        w2_squared_error=math.sqrt(max(0.0, square / n - (dual / n) ** 2) / (n - 1)) if n > 1 else math.inf,
    )


def chi2_and_error(count: Float[Tensor, " m"], nu: Float[Tensor, " m"], samples: int) -> tuple[float, float]:
    """`semidual.chi2` with its standard error, that of a U-statistic of order two (Hoeffding, 1948).

    The kernel is 1[i = i'] / nu_i - 1 for the cells i, i' of two samples. With r_i = w_i / nu_i the variance of its
    projection is zeta_1 = E_w r^2 - (E_w r)^2 and its own zeta_2 = sum_i r_i^2 - (sum_i w_i r_i)^2; both are estimated from
    products of falling factorials of the counts.

    Of a light cell that holds one sample's mass, far too much for it, counts hardly ever tell: it takes two hits. So the error
    is no less than what that mass adds to chi^2, (1 / n)^2 / nu, in a cell that is lighter than three quarters of them.
    """
    n = float(samples)
    if n < 4:
        return float("inf"), float("inf")
    pairs = count * (count - 1) / (n * (n - 1))
    triples = count * (count - 1) * (count - 2) / (n * (n - 1) * (n - 2))
    first, second = float((pairs / nu).sum()), float((pairs / nu**2).sum())
    zeta1 = max(0.0, float((triples / nu**2).sum()) - first**2)
    zeta2 = max(0.0, second - first**2, len(nu) - 1)
    variance = (4 * (n - 2) * zeta1 + 2 * zeta2) / (n * (n - 1))
    return first - 1, max(math.sqrt(variance), (samples_of_light(nu) - 1) / n**2)
