"""How long prompts and answers are: vectorised draws of whole token counts ≥ 1.

Each draw takes one random number per request, in request order, so a longer run starts with the same
requests, and two means of one distribution meet the same luck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import InputError
from scheduler.workload.requests import Int64

MAX_TOKENS = 10_000_000
_Z99 = NormalDist().inv_cdf(0.99)


def fixed(generator: np.random.Generator, count: int, value: int) -> Int64:
    """Return `count` times `value`; nothing is drawn."""
    return np.full(count, _whole(value, "value"), dtype=np.int64)


def uniform(generator: np.random.Generator, count: int, low: int, high: int) -> Int64:
    """Draw whole numbers from `low` to `high`, both included, equally likely."""
    low, high = _whole(low, "min"), _whole(high, "max")
    if low > high:
        raise InputError(f"expected min ≤ max, got min {low} and max {high}")
    return low + np.floor(generator.random(count) * (high - low + 1)).astype(np.int64)


def geometric(
    generator: np.random.Generator, count: int, mean: float, shortest: int = 1, longest: int | None = None
) -> Int64:
    """Draw 1, 2, … with P(n) = (1 − 1/mean)ⁿ⁻¹ / mean, clamped to `shortest` … `longest`.

    `mean` is that of the distribution before clamping. By inversion: n = 1 + ⌊ln(1 − u) / ln(1 − 1/mean)⌋.
    """
    _check_mean(mean)
    u = generator.random(count)
    if mean == 1:
        return _to_tokens(np.ones(count), shortest, longest)
    return _to_tokens(1 + np.floor(np.log1p(-u) / math.log1p(-1 / mean)), shortest, longest)


def lognormal(
    generator: np.random.Generator,
    count: int,
    mean: float,
    p99: float,
    shortest: int = 1,
    longest: int | None = None,
) -> Int64:
    """Draw from the log-normal distribution with this mean and 99th percentile, rounded half-even, clamped.

    Mean and percentile are those before rounding and clamping to `shortest` … `longest`.
    """
    mu, sigma = lognormal_parameters(mean, p99)
    logarithm = np.minimum(mu + sigma * generator.standard_normal(count), math.log(2.0 * MAX_TOKENS))
    return _to_tokens(np.rint(np.exp(logarithm)), shortest, longest)


def lognormal_parameters(mean: float, p99: float) -> tuple[float, float]:
    """Return (mu, sigma) of the log-normal distribution with this mean and 99th percentile.

    ln mean = mu + sigma²/2 and ln p99 = mu + z·sigma, z = 2.326…, give sigma = z − √(z² − 2 ln(p99/mean)).
    That is the smaller of the two roots: the other (sigma > z) has a median below mean/15 and the same
    p99, which no published length distribution shows. Raises InputError where p99 < mean (only the other
    root is left) or p99 > e^(z²/2)·mean ≈ 14.97·mean (no log-normal distribution has it).
    """
    _check_mean(mean)
    if not (math.isfinite(p99) and p99 >= mean):
        raise InputError(f"p99: expected a finite number of at least the mean {mean:g}, got {p99:g}")
    discriminant = _Z99**2 - 2 * math.log(p99 / mean)
    if discriminant < 0:
        most = mean * math.exp(_Z99**2 / 2)
        raise InputError(
            f"p99: no log-normal distribution with mean {mean:g} has a p99 above {most:,.0f}; got {p99:g} "
            "(use distribution: quantiles for heavier tails)"
        )
    sigma = _Z99 - math.sqrt(discriminant)
    return math.log(mean) - sigma**2 / 2, sigma


def discrete(
    generator: np.random.Generator, count: int, values: Sequence[int], weights: Sequence[float] | None = None
) -> Int64:
    """Draw from `values`, in proportion to `weights` (equally likely without)."""
    table = np.array([_whole(value, "values") for value in values], dtype=np.int64)
    weight = np.ones(len(table)) if weights is None else np.array(weights, dtype=np.float64)
    if not len(table) or len(weight) != len(table):
        raise InputError(f"weights: expected one for each of the {len(table)} values, got {len(weight)}")
    if not np.all(np.isfinite(weight)) or np.any(weight < 0) or not 0 < weight.sum() < math.inf:
        raise InputError("weights: expected finite numbers ≥ 0, at least one above 0")
    edges = np.cumsum(weight)
    last = int(np.flatnonzero(weight)[-1])  # rounding must not let a trailing zero weight be drawn
    index = np.searchsorted(edges, generator.random(count) * edges[-1], side="right")
    return np.asarray(table[np.minimum(index, last)])


def quantiles(generator: np.random.Generator, count: int, values: Sequence[float]) -> Int64:
    """Draw from the distribution whose equally spaced quantiles, 0 to 1, are `values`.

    In between, quantiles are interpolated linearly and then rounded half-even.
    """
    knots = np.array(values, dtype=np.float64)
    if len(knots) < 2 or not np.all(np.isfinite(knots)) or np.any(np.diff(knots) < 0) or knots[0] < 1:
        raise InputError("values: expected two or more ascending numbers ≥ 1: the quantiles 0 to 1")
    if knots[-1] > MAX_TOKENS:
        raise InputError(f"values: expected at most {MAX_TOKENS:,} tokens, got {knots[-1]:g}")
    u = generator.random(count)
    return _to_tokens(np.rint(np.interp(u, np.linspace(0.0, 1.0, len(knots)), knots)), 1, None)


def _to_tokens(drawn: NDArray[np.float64], shortest: int, longest: int | None) -> Int64:
    floor = _whole(shortest, "min")
    ceiling = MAX_TOKENS if longest is None else _whole(longest, "max")
    if floor > ceiling:
        raise InputError(f"expected min ≤ max, got min {floor} and max {ceiling}")
    return np.clip(drawn, floor, ceiling).astype(np.int64)


def _check_mean(mean: float) -> None:
    if not 1 <= mean <= MAX_TOKENS:
        raise InputError(f"mean: expected a number of tokens from 1 to {MAX_TOKENS:,}, got {mean:g}")


def _whole(value: int, key: str) -> int:
    if isinstance(value, bool) or int(value) != value or not 1 <= value <= MAX_TOKENS:
        raise InputError(f"{key}: expected a whole number of tokens from 1 to {MAX_TOKENS:,}, got {value!r}")
    return int(value)
