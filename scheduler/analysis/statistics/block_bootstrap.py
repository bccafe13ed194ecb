"""How sure a paired difference is within one run: a bootstrap over blocks of time.

A trace happened once, so nothing can be said about other traces. Its requests are not independent either:
neighbours share queues. Whole blocks of time are therefore drawn again, each so much longer than the
longest request that blocks hardly touch each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scheduler.analysis.statistics.difference import Difference, verdict_of, without_interval
from scheduler.analysis.statistics.intervals import CONFIDENCE, Interval, student_t_quantile

LEAST_BLOCKS = 20
MOST_BLOCKS = 60
BLOCK_TO_LONGEST_REQUEST = 5
_DRAWS = 1_000

Float = NDArray[np.float64]
Integer = NDArray[np.int64]


def within_run_differences(
    arrival_s: ArrayLike,
    baseline: ArrayLike,
    candidate: ArrayLike,
    longest_request_s: float,
    percentiles: Sequence[float | None] = (None,),
    *,
    lower_is_better: bool = True,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[Difference]:
    """Return the difference of each percentile (None: of the mean), with intervals from a block bootstrap.

    Row i of the three arrays is one request that completed in both variants; `longest_request_s` is the
    longest E2EL of either. The run is cut into 20 to 60 equal blocks of arrival time of at least five
    times that length, which are drawn with replacement; the interval is the difference ± t · (standard
    error over draws), with one degree of freedom fewer than there are blocks (Carlstein 1986 for the blocks;
    t because few blocks understate the spread). Where 20 such blocks do not fit, there is no interval.
    Raises ValueError where the arrays do not pair up or are empty.
    """
    arrival, first, second = (np.asarray(array, float) for array in (arrival_s, baseline, candidate))
    if not len(arrival) == len(first) == len(second) or not len(arrival):
        raise ValueError("arrivals, baseline and candidate must pair up and not be empty")
    found = [_difference(first, second, percentile) for percentile in percentiles]
    block = _blocks_of(arrival, longest_request_s)
    if isinstance(block, str):
        return [without_interval(*numbers, block, within_run=True) for numbers in found]
    blocks = int(block.max()) + 1
    draws = _draw_blocks(blocks, seed)
    quantile = student_t_quantile((1 + confidence) / 2, blocks - 1)
    results = []
    for (difference, relative), estimates in zip(
        found, _estimates(first, second, block, draws, percentiles), strict=True
    ):
        # A bootstrap over n blocks spreads by (n - 1)/n of the variance of n independent blocks.
        error = float(estimates.std(ddof=1)) * (blocks / (blocks - 1)) ** 0.5
        half = quantile * error
        interval = Interval(difference, difference - half, difference + half, blocks)
        verdict = verdict_of(interval, lower_is_better)
        results.append(Difference(difference, relative, interval, verdict, within_run=True))
    return results


def _difference(first: Float, second: Float, percentile: float | None) -> tuple[float, float | None]:
    """Return the difference and the same relative to the first."""
    if percentile is None:
        scale, difference = float(first.mean()), float(np.mean(second - first))
    else:
        scale = float(np.percentile(first, percentile))
        difference = float(np.percentile(second, percentile) - scale)
    return difference, difference / scale if scale else None


def _blocks_of(arrival: Float, longest_request_s: float) -> Integer | str:
    """Return the block of each arrival, numbered without gaps, or why there are too few blocks."""
    start = arrival.min()
    span = float(arrival.max() - start)
    block_s = BLOCK_TO_LONGEST_REQUEST * longest_request_s
    blocks = min(int(span / block_s) if block_s > 0 else MOST_BLOCKS, MOST_BLOCKS)
    if blocks < LEAST_BLOCKS:
        return (
            f"the arrivals span {span:.4g} s and the longest request takes {longest_request_s:.4g} s: "
            f"{LEAST_BLOCKS} blocks of {BLOCK_TO_LONGEST_REQUEST} times that need "
            f"{LEAST_BLOCKS * block_s:.4g} s"
        )
    place = np.minimum(((arrival - start) / span * blocks).astype(np.int64), blocks - 1)
    filled, block = np.unique(place, return_inverse=True)
    if len(filled) < LEAST_BLOCKS:
        return f"only {len(filled)} of {blocks} blocks of time hold a request, fewer than {LEAST_BLOCKS}"
    numbered: Integer = block.astype(np.int64)
    return numbered


def _draw_blocks(blocks: int, seed: int) -> Integer:
    """Return how often each block is drawn, shape (draws, blocks)."""
    random = np.random.default_rng(np.random.SeedSequence(seed))
    return random.multinomial(blocks, np.full(blocks, 1 / blocks), size=_DRAWS)


def _estimates(
    first: Float, second: Float, block: Integer, draws: Integer, percentiles: Sequence[float | None]
) -> list[Float]:
    """Return, per percentile, the difference in every draw."""
    asked = [percentile for percentile in percentiles if percentile is not None]
    of_percentile: dict[float, Float] = {}
    if asked:
        before, after = (percentiles_of_draws(values, block, draws, asked) for values in (first, second))
        of_percentile = dict(zip(asked, after - before, strict=True))
    return [
        _mean_differences(second - first, block, draws) if percentile is None else of_percentile[percentile]
        for percentile in percentiles
    ]


def _mean_differences(differences: Float, block: Integer, draws: Integer) -> Float:
    sums = np.bincount(block, weights=differences)
    counts = np.bincount(block)
    result: Float = (draws @ sums) / (draws @ counts)
    return result


def percentiles_of_draws(
    values: Float, block: Integer, draws: Integer, percentiles: Sequence[float]
) -> Float:
    """Return percentiles (0-100, numpy's `linear` rule) of resampled blocks, shape (percentiles, draws).

    In draw d a value of block b counts `draws[d, b]` times; the result equals, bit for bit,
    `weighted_percentile(values, draws[d, block], percentiles)` for every d. The values are sorted once. How
    many of each block lie below every √n-th of them is a small matrix, whose product with the draws tells
    between which two of those a rank falls; only there are values counted one by one.
    """
    ranked = _Ranked(values, block, draws)
    results = []
    for share in np.true_divide(np.asarray(percentiles, float), 100):
        position = share * (ranked.total - 1)
        below = np.floor(position)
        fraction = position - below
        lower = ranked.at(below)
        upper = ranked.at(np.minimum(below + 1, ranked.total - 1))
        # numpy interpolates from the nearer end, which decides the last bit.
        step = upper - lower
        results.append(np.where(fraction >= 0.5, upper - step * (1 - fraction), lower + step * fraction))
    return np.array(results)


class _Ranked:
    """Values of blocks in ascending order, to be read by rank in every draw."""

    def __init__(self, values: Float, block: Integer, draws: Integer) -> None:
        order = np.argsort(values, kind="stable")
        count, blocks = len(values), draws.shape[1]
        self.ascending = values[order]
        self.draws = draws
        self.stride = max(1, isqrt(count))
        cells = -(-count // self.stride)
        owner = block[order]
        cell = np.arange(count) // self.stride
        in_cell = np.bincount(cell * blocks + owner, minlength=cells * blocks).reshape(cells, blocks)
        # Whole numbers below 2^53: the product of floats is exact, and much faster.
        until = draws.astype(np.float64) @ np.cumsum(in_cell, axis=0, dtype=np.float64).T
        self.total = until[:, -1]
        self.until = np.concatenate([np.zeros((len(draws), 1)), until], axis=1)
        # The last cell may be short; no rank falls on what fills it up.
        self.owner = np.concatenate([owner, np.zeros(cells * self.stride - count, np.int64)])

    def at(self, rank: Float) -> Float:
        """Return the value of the given rank (from 0) in each draw."""
        cell = (self.until[:, 1:] <= rank[:, None]).sum(axis=1)
        rows = cell[:, None] * self.stride + np.arange(self.stride)
        counted = np.cumsum(np.take_along_axis(self.draws, self.owner[rows], axis=1), axis=1)
        left = rank - np.take_along_axis(self.until, cell[:, None], axis=1)[:, 0]
        found: Float = self.ascending[rows[:, 0] + (counted <= left[:, None]).sum(axis=1)]
        return found
