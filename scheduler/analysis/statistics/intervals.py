"""How sure a number is: t intervals over replications, weighted percentiles, the t quantile.

A replication is one simulation with its own seed. Nothing here draws random numbers or needs scipy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
# Ten samples above the percentile; fewer, and one slow request more or less decides it.
LEAST_COMPLETED = {99.0: 1_000, 99.9: 10_000}


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its two-sided confidence interval, from `samples` independent values."""

    mean: float
    low: float
    high: float
    samples: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval, in the estimate's unit."""
        return (self.high - self.low) / 2

    def contains(self, value: float) -> bool:
        """Tell whether `value` lies inside the closed interval."""
        return self.low <= value <= self.high


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Return the t interval of the mean of independent values, or None for fewer than two.

    mean ± t · s / √n with n − 1 degrees of freedom; for a percentile, pass one per replication. When k
    intervals must hold together, pass confidence 1 − 0.05 / k (Bonferroni).
    """
    samples = np.asarray(values, float)
    if len(samples) < 2:
        return None
    mean = float(samples.mean())
    half = half_width_of(float(samples.std(ddof=1)), len(samples), confidence)
    return Interval(mean, mean - half, mean + half, len(samples))


def may_state(percentile: float, completed: int) -> bool:
    """Tell whether a percentile may be stated from `completed` requests of one replication."""
    return completed >= LEAST_COMPLETED.get(percentile, 1)


def weighted_percentile(
    values: ArrayLike, counts: ArrayLike, percentiles: Sequence[float]
) -> NDArray[np.float64]:
    """Return percentiles (0-100) of values that occur `counts` times each, by numpy's `linear` rule.

    Equal, bit for bit, to np.percentile(np.repeat(values, counts), percentiles) without building that
    array. Raises ValueError where nothing is counted.
    """
    points, weights = np.asarray(values, float), np.asarray(counts, np.int64)
    if points.shape != weights.shape or (weights < 0).any():
        raise ValueError("values and counts must pair up, and counts must not be negative")
    order = np.argsort(points, kind="stable")
    points, ends = points[order], np.cumsum(weights[order])
    if not len(ends) or ends[-1] == 0:
        raise ValueError("no values to take percentiles of")
    return _interpolate(points, ends, np.asarray(percentiles, float))


def _interpolate(
    points: NDArray[np.float64], ends: NDArray[np.int64], percentiles: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return percentiles of ascending points, the i-th filling positions ends[i−1] … ends[i] − 1."""
    if ((percentiles < 0) | (percentiles > 100)).any():
        raise ValueError("percentiles must lie within 0 … 100")
    position = np.true_divide(percentiles, 100) * (ends[-1] - 1)
    below = np.floor(position)
    share = position - below
    lower = points[np.searchsorted(ends, below, side="right")]
    upper = points[np.searchsorted(ends, np.minimum(below + 1, ends[-1] - 1), side="right")]
    # numpy interpolates from the nearer end, which decides the last bit.
    step = upper - lower
    result: NDArray[np.float64] = np.where(share >= 0.5, upper - step * (1 - share), lower + step * share)
    return result


def half_width_of(spread: float, samples: int, confidence: float = CONFIDENCE) -> float:
    """Return t · s / √n, half the length of the t interval; infinite for fewer than two samples."""
    if samples < 2:
        return math.inf
    return student_t_quantile((1 + confidence) / 2, samples - 1) * spread / math.sqrt(samples)


@lru_cache(maxsize=4096)
def student_t_quantile(probability: float, degrees_of_freedom: int) -> float:
    """Return the quantile of Student's t distribution, to about nine digits up to a million degrees.

    Bisects the exact distribution function P(T ≤ t) = 1 − ½ I_x(ν/2, ½), x = ν/(ν + t²), t ≥ 0
    (Abramowitz and Stegun 26.7.1). Raises ValueError outside 0 < probability < 1 or below one degree.
    """
    if not 0 < probability < 1 or degrees_of_freedom < 1:
        raise ValueError(f"no t quantile for {probability} with {degrees_of_freedom} degrees of freedom")
    if probability < 0.5:
        return -student_t_quantile(1 - probability, degrees_of_freedom)
    tail = 1 - probability
    low, high = 0.0, 2.0
    while _t_tail(high, degrees_of_freedom) > tail:
        low, high = high, high * 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if _t_tail(middle, degrees_of_freedom) > tail:
            low = middle
        else:
            high = middle
    return (low + high) / 2 if probability != 0.5 else 0.0


def _t_tail(t: float, degrees_of_freedom: int) -> float:
    """Return P(T > t) for t ≥ 0."""
    square = t * t
    x = degrees_of_freedom / (degrees_of_freedom + square)
    y = square / (degrees_of_freedom + square)
    return 0.5 * _incomplete_beta(degrees_of_freedom / 2, 0.5, x, y)


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b); `y` is 1 − x without cancellation.

    Lentz's evaluation of the continued fraction DLMF 8.17.22, on the side where it converges fast.
    """
    if x <= 0 or y <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, y, x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y))
    numerator, denominator = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = denominator
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        denominator = 1 / (1 + even * denominator)
        numerator = 1 + even / numerator
        fraction *= numerator * denominator
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        denominator = 1 / (1 + odd * denominator)
        numerator = 1 + odd / numerator
        change = numerator * denominator
        fraction *= change
        if abs(change - 1) < 1e-15:
            break
    return front * fraction / a
