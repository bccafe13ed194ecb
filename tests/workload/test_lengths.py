from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from scheduler.errors import InputError
from scheduler.workload.lengths import LARGEST_LOGNORMAL_RATIO, Length, LognormalLength, TraceLength

KS_LIMIT = 1.95  # of √n times the distance; for discrete distributions the true level is below 1 in 1,000
COUNT = 100_000


def rng(seed=0):
    return np.random.default_rng(seed)


def length(distribution, **keys):
    return TypeAdapter(Length).validate_python({"distribution": distribution, **keys})


def discrete_ks(sample, cdf):
    """√n times the largest distance between the sample's and the exact distribution on whole numbers."""
    values, counts = np.unique(sample, return_counts=True)
    return math.sqrt(len(sample)) * float(np.abs(np.cumsum(counts) / len(sample) - cdf(values)).max())


def test_fixed_is_the_value():
    assert length("fixed", value=17).draw(rng(), 3).tolist() == [17, 17, 17]


def test_uniform_includes_both_ends_equally():
    drawn = length("uniform", min=3, max=8).draw(rng(1), COUNT)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [3, 4, 5, 6, 7, 8]
    assert ((counts - COUNT / 6) ** 2 / (COUNT / 6)).sum() < 20.5  # 99.9 % quantile, 5 degrees of freedom


def test_uniform_of_one_value_is_that_value():
    assert set(length("uniform", min=5, max=5).draw(rng(), 100).tolist()) == {5}


@pytest.mark.parametrize("mean", [1.5, 16, 211.0])
def test_geometric_follows_its_exact_distribution(mean):
    drawn = length("geometric", mean=mean).draw(rng(2), COUNT)
    assert drawn.min() == 1
    assert discrete_ks(drawn, lambda n: 1 - (1 - 1 / mean) ** n) < KS_LIMIT
    standard_error = math.sqrt(mean * (mean - 1) / COUNT)
    assert drawn.mean() == pytest.approx(mean, abs=4 * standard_error)


def test_geometric_of_mean_one_is_always_one():
    assert set(length("geometric", mean=1).draw(rng(), 100).tolist()) == {1}


def test_clamps_hold_and_move_only_what_lies_outside():
    free = length("geometric", mean=211).draw(rng(3), COUNT)
    clamped = length("geometric", mean=211, min=10, max=1000).draw(rng(3), COUNT)
    np.testing.assert_array_equal(clamped, np.clip(free, 10, 1000))
    assert free.max() > 1000


@pytest.mark.parametrize(("mean", "p99"), [(1155, 4142), (211, 601), (12_035, 85_400), (100, 101), (5, 74)])
def test_lognormal_parameters_give_back_mean_and_p99(mean, p99):
    mu, sigma = length("lognormal", mean=mean, p99=p99).mu_and_sigma
    assert math.exp(mu + sigma**2 / 2) == pytest.approx(mean, rel=1e-12)
    assert math.exp(mu + NormalDist().inv_cdf(0.99) * sigma) == pytest.approx(p99, rel=1e-12)
    assert 0 <= sigma <= NormalDist().inv_cdf(0.99)  # the smaller root


def test_lognormal_follows_its_exact_distribution():
    drawn = length("lognormal", mean=1155, p99=4142).draw(rng(4), COUNT)
    mu, sigma = length("lognormal", mean=1155, p99=4142).mu_and_sigma

    def cdf(n):
        return np.array([NormalDist(mu, sigma).cdf(math.log(value + 0.5)) for value in n])

    assert discrete_ks(drawn, cdf) < KS_LIMIT
    assert drawn.mean() == pytest.approx(1155, rel=0.01)
    assert np.percentile(drawn, 99) == pytest.approx(4142, rel=0.03)


def test_lognormal_without_spread_is_its_mean():
    assert set(length("lognormal", mean=50, p99=50).draw(rng(), 100).tolist()) == {50}


def test_lognormal_is_at_least_one_and_at_most_the_clamp():
    drawn = length("lognormal", mean=1.2, p99=10, max=12).draw(rng(5), COUNT)
    assert drawn.min() == 1
    assert drawn.max() == 12


def test_discrete_follows_its_weights_and_never_draws_a_zero_weight():
    values, weights = [5, 7, 9, 11, 13], [0, 1, 0, 3, 0]
    drawn, counts = np.unique(
        length("discrete", values=values, weights=weights).draw(rng(6), COUNT), return_counts=True
    )
    assert drawn.tolist() == [7, 11]
    assert counts[0] == pytest.approx(COUNT / 4, abs=4 * math.sqrt(COUNT * 3 / 16))


def test_discrete_without_weights_is_equally_likely():
    _, counts = np.unique(length("discrete", values=[1, 2, 4, 8]).draw(rng(7), COUNT), return_counts=True)
    assert ((counts - COUNT / 4) ** 2 / (COUNT / 4)).sum() < 16.3  # 99.9 % quantile, 3 degrees of freedom


def test_quantiles_are_given_back():
    knots = [1, 10, 100, 500, 501, 4000]
    drawn = length("quantiles", values=knots).draw(rng(8), COUNT)
    assert drawn.min() >= 1
    assert drawn.max() <= 4000

    def cdf(n):
        return np.interp(n + 0.5, knots, np.linspace(0, 1, len(knots)))

    assert discrete_ks(drawn, cdf) < KS_LIMIT


DRAWS = {
    "uniform": length("uniform", min=1, max=100),
    "geometric": length("geometric", mean=20),
    "lognormal": length("lognormal", mean=20, p99=90),
    "discrete": length("discrete", values=[1, 2, 3], weights=[1, 2, 3]),
    "quantiles": length("quantiles", values=[1, 5, 50]),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_longer_run_starts_with_the_same_lengths(name):
    long = DRAWS[name].draw(rng(9), 5_000)
    assert long.dtype == np.int64
    np.testing.assert_array_equal(DRAWS[name].draw(rng(9), 800), long[:800])


def test_a_larger_mean_lengthens_every_request_with_the_same_luck():
    long, short = (length("geometric", mean=mean).draw(rng(10), 5_000) for mean in (30, 20))
    assert np.all(long >= short)


@pytest.mark.parametrize(
    ("distribution", "keys", "said"),
    [
        ("lognormal", {"mean": 100, "p99": 1_600}, "14.97 times the mean 100"),
        ("lognormal", {"mean": 100, "p99": 99}, "p99 from 1 to"),
        ("lognormal", {"mean": 100, "p99": math.inf}, "at most"),
        ("lognormal", {"mean": 0.5, "p99": 9}, "at least 1"),
        ("lognormal", {"mean": 10, "p99": 20, "min": 5, "max": 4}, "at least the minimum"),
        ("geometric", {"mean": math.nan}, "at least 1"),
        ("geometric", {"mean": 5, "max": 0}, "at least 1"),
        ("uniform", {"min": 8, "max": 3}, "at least the minimum"),
        ("fixed", {"value": 0}, "at least 1"),
        ("fixed", {"value": 10**18}, "at most 10,000,000"),
        ("discrete", {"values": [1, 2], "weights": [1]}, "one for each value"),
        ("discrete", {"values": [1, 2], "weights": [0, 0]}, "at least one weight above 0"),
        ("discrete", {"values": []}, "at least 1 item"),
        ("quantiles", {"values": [1, 9, 8]}, "ascending"),
        ("quantiles", {"values": [0, 9]}, "at least 1"),
        ("quantiles", {"values": [1, 1e18]}, "at most 10,000,000"),
    ],
)
def test_impossible_lengths_are_refused(distribution, keys, said):
    with pytest.raises(ValidationError, match=said):
        length(distribution, **keys)


def test_the_steepest_lognormal_has_a_root():
    steepest = LognormalLength(distribution="lognormal", mean=7.0, p99=7.0 * LARGEST_LOGNORMAL_RATIO)
    assert steepest.mu_and_sigma[1] == pytest.approx(NormalDist().inv_cdf(0.99), abs=1e-6)


def test_lengths_of_a_trace_are_not_drawn():
    with pytest.raises(InputError, match="got trace"):
        TraceLength(distribution="trace").draw(rng(), 5)
