"""What the host's work takes on an average host, from runs whose host drifted.

A host is faster or slower for seconds at a time, and a newly started engine meets another one. Costs seen
at unlike times are made comparable, and the best guess for an engine not seen is the mean over time and
engines, not over steps: generalised least squares on the logarithm of measured / fitted by stretches of
time. What deviates is common to all of the host's work or one kind's own, for a whole run or some seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.engine_steps.robust import robust_sd

Float = NDArray[np.float64]
_STRETCH_MS = 2_000.0
_MOST_STRETCHES = 400  # of all runs together; longer recordings have longer ones
_FORGETS_MS = 6_000.0
_TRAFFIC_MS = 40_000.0  # what a traffic lasts whose host is foretold
# Standard deviations of the logarithm, by restricted maximum likelihood over thirteen recorded engines of
# one host (docs/fidelity.md); they weigh runs and stretches against each other, and no level comes from them.
_RUN, _RUN_OWN = 0.06, 0.04
_SECONDS, _SECONDS_OWN = 0.11, 0.065
_STEP = 0.22
_LARGEST = 0.7  # of a logarithm: what lies beyond is a hiccup
_FEWEST = 3  # steps of a stretch
_SECOND_MS = 1_000.0
_HUBER_ROUNDS = 8
_RIDGE = 1e-9  # of columns scaled to length 1
_LEAST_SCALE = 1e-6  # a column that hardly varies within seconds says nothing


@dataclass(frozen=True, slots=True)
class Shown:
    """Steps of one run that show a cost: when (ms), measured / fitted, and the share of time of each."""

    at: Float
    ratio: Float
    share: Float


@dataclass(frozen=True, slots=True)
class Levels:
    """`factor`: by kind of work, what it takes on the average host relative to the fit.

    `within`: standard deviation of stretches of time within a run, of the logarithm; `between`: of runs.
    """

    factor: dict[int, float]
    within: float
    between: float
    runs: int = 1

    @property
    def of_a_traffic(self) -> float:
        """Return how far the host's mean over a traffic of another engine is from the profile's.

        A standard deviation of the logarithm. What few runs say of others is held towards `_RUN`.
        """
        between = ((self.runs - 1) * self.between**2 + _RUN**2) / self.runs
        return float(np.sqrt(between + self.within**2 * 2 * _FORGETS_MS / _TRAFFIC_MS))


def levels(kinds: Mapping[int, Sequence[Shown]]) -> Levels:
    """Return the level of every kind of work; `kinds` holds what each run shows of it, runs in one order."""
    spans = [float(np.ptp(shown.at)) for series in kinds.values() for shown in series if len(shown.at)]
    stretch_ms = max(_STRETCH_MS, sum(spans) / max(len(kinds), 1) / _MOST_STRETCHES)
    rows = [
        (kind, run, *found)
        for kind, series in kinds.items()
        for run, shown in enumerate(series)
        for found in _stretches(shown, stretch_ms)
    ]
    factor = dict.fromkeys(kinds, 1.0)
    if not rows:
        return Levels(factor, 0.0, 0.0)
    kind, run, at, value, steps = (np.array(column) for column in zip(*rows, strict=True))
    same_run, same_kind = run[:, None] == run, kind[:, None] == kind
    near = np.exp(-np.abs(at[:, None] - at) / _FORGETS_MS)
    covariance = same_run * (
        _RUN**2 + _RUN_OWN**2 * same_kind + near * (_SECONDS**2 + _SECONDS_OWN**2 * same_kind)
    )
    covariance[np.diag_indices(len(rows))] += _STEP**2 / steps
    seen = np.unique(kind)
    design = (kind[:, None] == seen).astype(np.float64)
    weighed = np.linalg.solve(covariance, np.column_stack([design, value]))
    level = np.linalg.solve(design.T @ weighed[:, :-1], design.T @ weighed[:, -1])
    residual = value - level[np.searchsorted(seen, kind)]
    for index, number in enumerate(seen.tolist()):
        here = kind == number
        deviation = residual[here] - _run_means(run[here], residual[here], steps[here])
        # Logarithms have the geometric mean; a server's users meet the arithmetic one.
        swing = float(np.log(np.average(np.exp(deviation), weights=steps[here])))
        factor[int(number)] = float(np.exp(level[index] + swing))
    of_run = _run_means(run, residual, steps)
    each = of_run[np.unique(run, return_index=True)[1]]
    between = float(each.std(ddof=1)) if len(each) > 1 else 0.0
    within = float(np.sqrt(np.average((residual - of_run) ** 2, weights=steps)))
    return Levels(factor, within, between, len(each))


def shares_within(at: Float, run: NDArray[np.int64], ms: Float, columns: Float) -> Float:
    """Return by what share of its local mean a cost rises with each column, 0 where that may be chance.

    Only steps of one second of one run are held against each other, for the next second has another host.
    """
    second = run * (int(at.max(initial=0.0) // _SECOND_MS) + 1) + (at // _SECOND_MS).astype(np.int64)
    _, place, count = np.unique(second, return_inverse=True, return_counts=True)
    relative = ms / (np.bincount(place, ms) / count)[place] - 1
    inner = columns - np.column_stack([np.bincount(place, column) / count for column in columns.T])[place]
    return _significant(inner, relative)


def _significant(columns: Float, target: Float) -> Float:
    """Return Huber's coefficients, those within three standard errors of 0 or negative as 0."""
    weight = np.ones(len(target))
    scale = np.maximum(np.sqrt((columns**2).sum(0)), 1e-12)
    x = np.zeros(columns.shape[1])
    for _ in range(_HUBER_ROUNDS):
        rows = columns / scale * weight[:, None]
        gram = np.einsum("ij,ik->jk", rows, rows) + _RIDGE * np.eye(len(x))
        x = np.linalg.solve(gram, np.einsum("ij,i->j", rows, target * weight))
        residual = target - columns / scale @ x
        spread = robust_sd(residual) + 1e-9
        weight = np.sqrt(np.minimum(1.0, 2 * spread / np.maximum(np.abs(residual), 1e-12)))
    error = np.sqrt(np.diag(np.linalg.inv(gram))) * float(np.std(residual))
    found: Float = np.where((x > 3 * error) & (scale > _LEAST_SCALE), x / scale, 0.0)
    return found


def _stretches(shown: Shown, stretch_ms: float) -> list[tuple[float, float, int]]:
    """Return middle, logarithm of the mean over time, and number of steps of every stretch with enough."""
    if not len(shown.at):
        return []
    middle = float(np.median(shown.ratio))
    ratio = np.clip(shown.ratio, middle * np.exp(-_LARGEST), middle * np.exp(_LARGEST))
    number, place = np.unique((shown.at // stretch_ms).astype(np.int64), return_inverse=True)
    steps = np.bincount(place)
    mean = np.bincount(place, ratio * shown.share) / np.bincount(place, shown.share)
    return [
        ((float(number[index]) + 0.5) * stretch_ms, float(np.log(mean[index])), int(steps[index]))
        for index in np.flatnonzero(steps >= min(_FEWEST, int(steps.max())))
    ]


def _run_means(run: NDArray[np.int64], values: Float, steps: NDArray[np.int64]) -> Float:
    """Return for every entry the mean over its run."""
    sums, weights = np.bincount(run, values * steps), np.bincount(run, steps)
    means: Float = sums[run] / weights[run]
    return means
