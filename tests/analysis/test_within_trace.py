"""The block bootstrap: it covers what it should, and says so where it cannot be done."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.analysis.statistics.block_bootstrap import (
    BLOCK_TO_LONGEST_REQUEST,
    LEAST_BLOCKS,
    percentiles_of_draws,
    within_run_differences,
)
from scheduler.analysis.statistics.difference import Difference, Verdict
from scheduler.analysis.statistics.intervals import weighted_percentile


def within_trace_difference(*trace, percentile: float | None = None, seed: int = 0) -> Difference:
    return within_run_differences(*trace, [percentile], seed=seed)[0]


def correlated_trace(seed: int, effect: float, blocks: int = 40, per_block: int = 50):
    """Return arrivals over 4,000 s and paired values whose difference wanders slowly around `effect`."""
    random = np.random.default_rng(seed)
    count = blocks * per_block
    arrival = np.sort(random.uniform(0, 4_000, count))
    wander = np.repeat(random.normal(0, 1, blocks * 5), per_block // 5)  # alike within 20 s
    baseline = 10 + random.gamma(2, 2, count)
    return arrival, baseline, baseline + effect + wander + random.normal(0, 0.1, count)


def test_interval_covers_the_true_difference_of_correlated_requests():
    results = [within_trace_difference(*correlated_trace(s, -0.5), 8.0, seed=s) for s in range(200)]
    covered = sum(result.interval.contains(-0.5) for result in results)
    assert 180 <= covered <= 199  # 95 % of 200 is 190, standard deviation 3
    widths = [result.interval.half_width for result in results]
    # 200 independent values of standard deviation 1: the right half-width is 2 / sqrt(200).
    assert np.mean(widths) == pytest.approx(2.01 / np.sqrt(200), rel=0.15)


def test_treating_requests_as_independent_would_claim_too_much():
    arrival, baseline, candidate = correlated_trace(0, -0.5)
    naive = 1.96 * np.std(candidate - baseline) / np.sqrt(len(arrival))
    assert within_trace_difference(arrival, baseline, candidate, 8.0).interval.half_width > 2 * naive


def test_a_percentile_has_its_interval_too():
    results = [
        within_trace_difference(*correlated_trace(s, -2.0), 8.0, percentile=90, seed=s) for s in range(20)
    ]
    assert all(result.verdict is Verdict.FASTER for result in results)
    _, baseline, candidate = correlated_trace(0, -2.0)
    exact = np.percentile(candidate, 90) - np.percentile(baseline, 90)
    assert results[0].difference == exact


def test_blocks_much_longer_than_the_longest_request_are_needed():
    arrival, baseline, candidate = correlated_trace(0, -0.5)
    longest_s = np.ptp(arrival) / (LEAST_BLOCKS * BLOCK_TO_LONGEST_REQUEST)
    fits = within_trace_difference(arrival, baseline, candidate, longest_s * 0.999)
    assert fits.interval.samples == LEAST_BLOCKS
    refused = within_trace_difference(arrival, baseline, candidate, longest_s * 1.001)
    assert refused.interval is None
    assert refused.verdict is Verdict.NO_DIFFERENCE_SHOWN
    assert f"the longest request takes {longest_s * 1.001:.4g} s" in refused.why_no_interval


def test_a_trace_that_is_mostly_silence_is_refused():
    arrival = np.concatenate([np.linspace(0, 10, 100), [4_000.0]])
    result = within_trace_difference(arrival, np.ones(101), np.zeros(101), 1.0)
    assert result.interval is None
    assert result.why_no_interval == "only 2 of 60 blocks of time hold a request, fewer than 20"


def test_equal_variants_show_no_difference():
    arrival, baseline, _ = correlated_trace(0, 0)
    result = within_trace_difference(arrival, baseline, baseline, 8.0)
    assert (result.interval.low, result.interval.high) == (0, 0)
    assert result.verdict is Verdict.NO_DIFFERENCE_SHOWN


def test_the_same_seed_gives_the_same_interval():
    trace = correlated_trace(0, -0.5)
    first, again, other = (within_trace_difference(*trace, 8.0, seed=s).interval for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_rows_that_do_not_pair_up_are_an_error():
    with pytest.raises(ValueError, match="pair up"):
        within_trace_difference([0.0, 1.0], [1.0], [1.0], 1.0)


def sorted_anew_for_every_draw(values, block, draws, percentiles):
    """What `percentiles_of_draws` must equal: each resample counted and sorted for itself."""
    return np.array([weighted_percentile(values, times[block], percentiles) for times in draws]).T


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 900),
    blocks=st.integers(1, 60),
    distinct=st.sampled_from([1, 3, 50, 10**9]),
    percentiles=st.lists(st.floats(0, 100), min_size=1, max_size=4),
)
def test_percentiles_of_resamples_are_those_of_sorting_each_bit_for_bit(
    seed, count, blocks, distinct, percentiles
):
    random = np.random.default_rng(seed)
    values = random.integers(0, distinct, count) / 7  # ties, as step times have
    block = np.unique(random.integers(0, blocks, count), return_inverse=True)[1]
    filled = int(block.max()) + 1
    draws = random.multinomial(filled, np.full(filled, 1 / filled), size=25)
    found = percentiles_of_draws(values, block, draws, percentiles)
    assert np.array_equal(found, sorted_anew_for_every_draw(values, block, draws, percentiles))


def test_percentiles_asked_together_are_those_asked_one_by_one():
    trace = correlated_trace(0, -0.5)
    together = within_run_differences(*trace, 8.0, [None, 50, 90, 99, 99.9])
    assert together == [within_trace_difference(*trace, 8.0, percentile=q) for q in (None, 50, 90, 99, 99.9)]
    sizes = {difference.interval.half_width for difference in together}
    assert len(sizes) == 5
