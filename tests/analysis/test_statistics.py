"""Intervals, verdicts and weighted percentiles against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scheduler.analysis.statistics.difference import (
    Verdict,
    paired_difference,
    replications_to_resolve,
    verdict_of,
)
from scheduler.analysis.statistics.intervals import (
    Interval,
    may_state,
    mean_interval,
    student_t_quantile,
    weighted_percentile,
)

# Quantiles of Student's t at 0.9, 0.975, 0.995, 0.9995, as printed in any statistical table.
T_TABLE = {
    1: (3.077683537, 12.70620474, 63.65674116, 636.6192488),
    2: (1.885618083, 4.30265273, 9.924843201, 31.59905458),
    4: (1.533206274, 2.776445105, 4.604094871, 8.610301581),
    9: (1.383028739, 2.262157163, 3.249835542, 4.780912586),
    19: (1.327728209, 2.093024054, 2.860934606, 3.883405853),
    30: (1.310415025, 2.042272456, 2.749995654, 3.645958635),
}


@pytest.mark.parametrize("degrees_of_freedom", T_TABLE)
def test_t_quantiles_equal_the_printed_table(degrees_of_freedom):
    quantiles = [student_t_quantile(p, degrees_of_freedom) for p in (0.9, 0.975, 0.995, 0.9995)]
    assert quantiles == pytest.approx(T_TABLE[degrees_of_freedom], rel=1e-9)


def test_t_quantiles_are_symmetric_and_tend_to_the_normal_ones():
    assert student_t_quantile(0.5, 7) == 0
    assert student_t_quantile(0.025, 7) == -student_t_quantile(0.975, 7)
    assert student_t_quantile(0.975, 10**6) == pytest.approx(1.959963985, abs=3e-6)
    with pytest.raises(ValueError, match="no t quantile"):
        student_t_quantile(1.0, 7)


def test_interval_of_known_values():
    interval = mean_interval([1, 2, 3, 4, 5])
    # mean 3, s = sqrt(2.5), t(4) = 2.776445
    assert interval.mean == 3
    assert interval.half_width == pytest.approx(2.776445105 * math.sqrt(2.5 / 5))
    assert mean_interval([1.0]) is None
    assert mean_interval([]) is None


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=(4000, 5))
    covered = sum(mean_interval(row.tolist()).contains(3.0) for row in values)
    # 95 % of 4,000 with a standard deviation of 14.
    assert abs(covered - 3800) < 4 * 14


def test_common_random_numbers_show_what_the_separate_intervals_hide():
    noise = [0.0, 10.0, -7.0, 4.0, -3.0]
    baseline = [100 + n for n in noise]
    candidate = [99 + n + e for n, e in zip(noise, (0.1, -0.1, 0.0, 0.1, -0.1), strict=True)]
    paired = paired_difference(baseline, candidate)
    assert paired.verdict is Verdict.FASTER
    assert paired.difference == pytest.approx(-1)
    assert paired.relative == pytest.approx(-1 / 100.8)
    separate = [mean_interval(values) for values in (baseline, candidate)]
    assert separate[0].low < separate[1].high


def test_verdict_needs_an_interval_that_excludes_zero():
    below, above, across = Interval(-2, -3, -1, 5), Interval(2, 1, 3, 5), Interval(1, 0, 2, 5)
    assert [verdict_of(i) for i in (below, above, across)] == ["FASTER", "SLOWER", "NO DIFFERENCE SHOWN"]
    assert verdict_of(above, lower_is_better=False) is Verdict.FASTER
    assert verdict_of(below, lower_is_better=False) is Verdict.SLOWER


def test_one_replication_claims_nothing():
    paired = paired_difference([10.0], [5.0])
    assert paired.interval is None
    assert paired.verdict is Verdict.NO_DIFFERENCE_SHOWN
    assert paired.more_replications is None
    with pytest.raises(ValueError, match="do not pair up"):
        paired_difference([1.0, 2.0], [1.0])


def test_equal_variants_show_no_difference_and_need_no_more_replications():
    paired = paired_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert paired.verdict is Verdict.NO_DIFFERENCE_SHOWN
    assert (paired.difference, paired.more_replications) == (0, 0)


@given(spread=st.floats(0.01, 10), half_width=st.floats(0.01, 10))
def test_replications_to_resolve_is_the_least_number_that_does(spread, half_width):
    needed = replications_to_resolve(spread, half_width)
    assume(needed is not None)

    def width(n: int) -> float:
        return math.inf if n < 2 else student_t_quantile(0.975, n - 1) * spread / math.sqrt(n)

    assert width(needed) <= half_width < width(needed - 1)


def test_replications_for_one_per_cent_follow_from_the_spread():
    # s = 3 % of the mean, so t² · 9 ≤ n: t(36)² · 9 = 37.02 is too much for 37, t(37)² · 9 = 36.95 fits 38.
    rng = np.random.default_rng(0).normal(size=10)
    rng = (rng - rng.mean()) / rng.std(ddof=1)
    baseline = np.full(10, 100.0)
    paired = paired_difference(baseline, baseline + 3 * rng)
    assert paired.more_replications == 38 - 10
    assert replications_to_resolve(1.0, 0.0) is None
    assert replications_to_resolve(1e9, 1e-9) is None


def test_tail_percentiles_need_ten_samples_above_them():
    assert [may_state(99, n) for n in (999, 1_000)] == [False, True]
    assert [may_state(99.9, n) for n in (9_999, 10_000)] == [False, True]
    assert may_state(50, 1)


@given(
    pairs=st.lists(
        st.tuples(st.one_of(st.integers(0, 5), st.floats(-1e9, 1e9)), st.integers(0, 9)),
        min_size=1,
        max_size=40,
    ),
    percentiles=st.lists(st.floats(0, 100), min_size=1, max_size=5),
)
def test_weighted_percentiles_equal_numpy_on_the_expanded_values_exactly(pairs, percentiles):
    values, counts = (np.array(column) for column in zip(*pairs, strict=True))
    assume(counts.sum() > 0)
    percentiles = [*percentiles, 0, 50, 99, 99.9, 100]
    expected = np.percentile(np.repeat(values.astype(float), counts), percentiles)
    np.testing.assert_array_equal(weighted_percentile(values, counts, percentiles), expected)


def test_percentiles_of_nothing_are_an_error():
    for values, counts in (([], []), ([1.0], [0])):
        with pytest.raises(ValueError, match="no values"):
            weighted_percentile(values, counts, [50])
    with pytest.raises(ValueError, match="pair up"):
        weighted_percentile([1.0], [-1], [50])
    with pytest.raises(ValueError, match="within 0"):
        weighted_percentile([1.0], [1], [101])
