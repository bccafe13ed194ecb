"""How the host's speed varies: a common factor that comes and goes, and what each launch adds by itself.

The logarithm of measured / fitted is a sum of Ornstein–Uhlenbeck processes in time, common to all of the
host's work, and of independent noise. Its autocovariance is Σ sd² exp(−lag / τ); the sd² are found by
non-negative least squares over a ladder of τ. Launches follow the common factor more strongly than
scheduling does (`exponent`).

What takes seconds to pass is no part of the processes: a traffic lasts tens of seconds, so it decides which
host one got. It is told as `drift_sd`. Where launches are logged, means over windows are taken away before,
and `drift.py` looks at those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.engine_steps.drift import Shown
from scheduler.catalog.importers.engine_steps.flow import FULL
from scheduler.catalog.importers.engine_steps.robust import non_negative

Float = NDArray[np.float64]
TAU_MS = (50.0, 200.0, 800.0)
WINDOW_MS = 6_400.0  # longer deviations are drift
_DRIFT_TAU_MS = 3_200.0
_EDGES_MS = (1.0, 20.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0)
_NEAR = slice(1, 6)  # lags where launches are held against scheduling
_LARGEST = 0.7  # of a logarithm: what lies beyond is a hiccup, not speed
_MOST_PAIRS = 64  # per step and lag
_FEWEST = 100


@dataclass(frozen=True, slots=True)
class Variation:
    """`components`: (sd, τ in ms) of the common factor's logarithm; `schedule_sd`: what is independent of it.

    `exponent` and `launch_sd` are by mode. `drift_sd`: of what is slower than any component.
    """

    components: tuple[tuple[float, float], ...]
    schedule_sd: float
    exponent: dict[int, float]
    launch_sd: dict[int, float]
    drift_sd: float = 0.0

    @property
    def sd(self) -> float:
        """Return the standard deviation of the common factor's logarithm."""
        return float(np.sqrt(sum(sd * sd for sd, _ in self.components)))


Series = Sequence[Shown]  # of every run


def fit_variation(schedule: Series, launches: Mapping[int, Series], window_ms: float = math.inf) -> Variation:
    """Return how the host varied in the runs that the ratios (measured / fitted) come from.

    Within windows of `window_ms`, whose means are taken away; without, within runs.
    """
    lags, covariance, weight, variance = _autocovariance(schedule, window_ms)
    if weight.sum() < _FEWEST:
        return Variation((), 0.0, dict.fromkeys(launches, 1.0), dict.fromkeys(launches, 0.0))
    tau = np.array([*TAU_MS, _DRIFT_TAU_MS])
    in_windows = math.isfinite(window_ms)
    lost = _lost(tau / window_ms) if in_windows else np.zeros(len(tau))
    decay = np.exp(-lags[:, None] / tau) - lost
    root = np.sqrt(weight / weight.max())
    seen = covariance if in_windows else np.maximum(covariance, 0.0)
    squares = non_negative(decay * root[:, None], seen * root)
    components = tuple(
        (float(np.sqrt(square)), tau) for square, tau in zip(squares, TAU_MS, strict=False) if square > 1e-5
    )
    common = float((squares * (1 - lost)).sum())  # what is seen of it within windows
    own = {mode: _autocovariance(series, window_ms) for mode, series in launches.items()}
    exponents, spreads = {}, {}
    for mode, (_, _, _, total) in own.items():
        # Launching kernels one by one is the same kind of work, however the kernels were made.
        kin = [other for other in own if (other == FULL) == (mode == FULL)]
        exponents[mode] = _exponent([own[other] for other in kin], covariance)
        if in_windows and total > 0 and common > 0:  # no more than all there is
            exponents[mode] = min(exponents[mode], float(np.sqrt(total / common)))
        spreads[mode] = float(np.sqrt(max(total - exponents[mode] ** 2 * common, 0.0)))
    own_sd = float(np.sqrt(max(variance - common, 0.0)))
    return Variation(components, own_sd, exponents, spreads, float(np.sqrt(squares[-1])))


def _lost(ratio: Float) -> Float:
    """Return what share of a process's variance its mean over a window takes away, by τ / window."""
    lost: Float = 2 * ratio * (1 - ratio * (1 - np.exp(-1 / ratio)))
    return lost


def _exponent(launches: Sequence[tuple[Float, Float, Float, float]], base: Float) -> float:
    """Return how strongly launches follow the speed that scheduling shows, from lags where both are known."""
    shown = expected = 0.0
    for _, covariance, pairs, _ in launches:
        usable = (pairs[_NEAR] >= _FEWEST) & (base[_NEAR] > 1e-5)
        weight = np.sqrt(pairs[_NEAR][usable])
        shown += float((weight * np.maximum(covariance[_NEAR][usable], 0.0)).sum())
        expected += float((weight * base[_NEAR][usable]).sum())
    return float(np.clip(np.sqrt(shown / expected), 0.5, 2.0)) if expected > 0 else 1.0


def _autocovariance(series: Series, window_ms: float) -> tuple[Float, Float, Float, float]:
    """Return mean lag, autocovariance and number of pairs by lag, and the variance, of log ratios."""
    edges = np.array(_EDGES_MS)
    products, pairs, distance = (np.zeros(len(edges) - 1) for _ in range(3))
    square, count = 0.0, 0
    for shown in series:
        if len(shown.at) < 3:
            continue
        order = np.argsort(shown.at)
        at, values = shown.at[order], np.log(np.maximum(shown.ratio[order], 1e-3))
        values = np.clip(values - np.median(values), -_LARGEST, _LARGEST)
        _, window = np.unique((at // window_ms).astype(np.int64), return_inverse=True)
        values = values - (np.bincount(window, values) / np.bincount(window))[window]
        square, count = square + float((values**2).sum()), count + len(values)
        for index in range(len(products)):
            first = np.searchsorted(at, at + edges[index])
            last = np.minimum(np.searchsorted(at, at + edges[index + 1]), first + _MOST_PAIRS)
            for step in range(int((last - first).max(initial=0))):
                here = np.flatnonzero(first + step < last)
                other = first[here] + step
                products[index] += float((values[here] * values[other]).sum())
                distance[index] += float((at[other] - at[here]).sum())
                pairs[index] += len(here)
    lags = np.where(pairs > 0, distance / np.maximum(pairs, 1), (edges[1:] + edges[:-1]) / 2)
    return lags, products / np.maximum(pairs, 1), pairs, square / max(count, 1)
