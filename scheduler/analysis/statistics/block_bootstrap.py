"""How sure a paired difference is within one trace: a bootstrap over blocks of time.

A trace happened once, so nothing can be said about other traces. Its requests are not independent either:
neighbours share queues. Whole blocks of time are therefore drawn again, each so much longer than the
longest request that blocks hardly touch each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scheduler.analysis.statistics.intervals import (
    CONFIDENCE,
    Interval,
    Verdict,
    student_t_quantile,
    verdict_of,
    weighted_percentile,
)

LEAST_BLOCKS = 20
MOST_BLOCKS = 60
BLOCK_TO_LONGEST_REQUEST = 5
_DRAWS = 1_000


@dataclass(frozen=True, slots=True)
class WithinTrace:
    """A paired difference (candidate − baseline) within this trace; `reason` says why it has no interval."""

    difference: float
    interval: Interval | None
    verdict: Verdict
    blocks: int
    block_s: float
    reason: str | None = None


def within_trace_difference(
    arrival_s: ArrayLike,
    baseline: ArrayLike,
    candidate: ArrayLike,
    longest_request_s: float,
    *,
    percentile: float | None = None,
    lower_is_better: bool = True,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> WithinTrace:
    """Return the difference of means, or of percentiles, with its interval from a block bootstrap.

    Row i of the three arrays is one request that completed in both variants; `longest_request_s` is the
    longest E2EL of either. The trace is cut into 20 to 60 equal blocks of arrival time of at least five
    times that length, which are drawn with replacement; the interval is the difference ± t · (standard
    error over draws), with one degree of freedom fewer than there are blocks (Carlstein 1986 for the blocks;
    t because few blocks understate the spread). Where 20 such blocks do not fit, there is no interval.
    Raises ValueError where the arrays do not pair up or are empty.
    """
    arrival, first, second = (np.asarray(array, float) for array in (arrival_s, baseline, candidate))
    if not len(arrival) == len(first) == len(second) or not len(arrival):
        raise ValueError("arrivals, baseline and candidate must pair up and not be empty")
    difference = _difference(first, second, percentile)
    span = float(arrival.max() - arrival.min())
    fitting = (
        int(span / (BLOCK_TO_LONGEST_REQUEST * longest_request_s)) if longest_request_s > 0 else MOST_BLOCKS
    )
    blocks = min(fitting, MOST_BLOCKS)
    if blocks < LEAST_BLOCKS:
        return WithinTrace(
            difference,
            None,
            Verdict.NO_DIFFERENCE_SHOWN,
            blocks,
            span / max(blocks, 1),
            f"the arrivals span {span:.4g} s and the longest request takes {longest_request_s:.4g} s: "
            f"{LEAST_BLOCKS} blocks of {BLOCK_TO_LONGEST_REQUEST} times that need "
            f"{LEAST_BLOCKS * BLOCK_TO_LONGEST_REQUEST * longest_request_s:.4g} s",
        )
    block = np.minimum(((arrival - arrival.min()) / span * blocks).astype(np.int64), blocks - 1)
    filled, block = np.unique(block, return_inverse=True)
    if len(filled) < LEAST_BLOCKS:
        reason = f"only {len(filled)} of {blocks} blocks of time hold a request, fewer than {LEAST_BLOCKS}"
        return WithinTrace(difference, None, Verdict.NO_DIFFERENCE_SHOWN, len(filled), span / blocks, reason)
    draws = _draw_blocks(len(filled), seed)
    if percentile is None:
        estimates = _mean_differences(second - first, block, draws)
    else:
        estimates = _percentile_differences(first, second, block, draws, percentile)
    # A bootstrap over n blocks spreads by (n - 1)/n of the variance of n independent blocks.
    error = float(estimates.std(ddof=1)) * (len(filled) / (len(filled) - 1)) ** 0.5
    half = student_t_quantile((1 + confidence) / 2, len(filled) - 1) * error
    interval = Interval(difference, difference - half, difference + half, len(filled))
    verdict = verdict_of(interval, lower_is_better)
    return WithinTrace(difference, interval, verdict, len(filled), span / blocks)


def _difference(first: NDArray[np.float64], second: NDArray[np.float64], percentile: float | None) -> float:
    if percentile is None:
        return float(np.mean(second - first))
    return float(np.percentile(second, percentile) - np.percentile(first, percentile))


def _draw_blocks(blocks: int, seed: int) -> NDArray[np.int64]:
    """Return how often each block is drawn, shape (draws, blocks)."""
    random = np.random.default_rng(np.random.SeedSequence(seed))
    return random.multinomial(blocks, np.full(blocks, 1 / blocks), size=_DRAWS)


def _mean_differences(
    differences: NDArray[np.float64], block: NDArray[np.int64], draws: NDArray[np.int64]
) -> NDArray[np.float64]:
    sums = np.bincount(block, weights=differences)
    counts = np.bincount(block)
    result: NDArray[np.float64] = (draws @ sums) / (draws @ counts)
    return result


def _percentile_differences(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    block: NDArray[np.int64],
    draws: NDArray[np.int64],
    percentile: float,
) -> NDArray[np.float64]:
    estimates = np.zeros(len(draws))
    for values, sign in ((first, -1), (second, 1)):
        order = np.argsort(values, kind="stable")
        ascending, owner = values[order], block[order]
        for draw, times in enumerate(draws):
            estimates[draw] += sign * weighted_percentile(ascending, times[owner], [percentile])[0]
    return estimates
