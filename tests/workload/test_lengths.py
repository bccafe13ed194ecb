from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from scheduler.errors import InputError
from scheduler.workload import lengths

KS_LIMIT = 1.95  # of √n times the distance; for discrete distributions the true level is below 1 in 1,000
COUNT = 100_000


def rng(seed=0):
    return np.random.default_rng(seed)


def discrete_ks(sample, cdf):
    """√n times the largest distance between the sample's and the exact distribution on whole numbers."""
    values, counts = np.unique(sample, return_counts=True)
    return math.sqrt(len(sample)) * float(np.abs(np.cumsum(counts) / len(sample) - cdf(values)).max())


def test_fixed_is_the_value():
    assert lengths.fixed(rng(), 3, 17).tolist() == [17, 17, 17]


def test_uniform_includes_both_ends_equally():
    drawn = lengths.uniform(rng(1), COUNT, 3, 8)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [3, 4, 5, 6, 7, 8]
    assert ((counts - COUNT / 6) ** 2 / (COUNT / 6)).sum() < 20.5  # 99.9 % quantile, 5 degrees of freedom


def test_uniform_of_one_value_is_that_value():
    assert set(lengths.uniform(rng(), 100, 5, 5).tolist()) == {5}


@pytest.mark.parametrize("mean", [1.5, 16, 211.0])
def test_geometric_follows_its_exact_distribution(mean):
    drawn = lengths.geometric(rng(2), COUNT, mean)
    assert drawn.min() == 1
    assert discrete_ks(drawn, lambda n: 1 - (1 - 1 / mean) ** n) < KS_LIMIT
    standard_error = math.sqrt(mean * (mean - 1) / COUNT)
    assert drawn.mean() == pytest.approx(mean, abs=4 * standard_error)


def test_geometric_of_mean_one_is_always_one():
    assert set(lengths.geometric(rng(), 100, 1).tolist()) == {1}


def test_clamps_hold_and_move_only_what_lies_outside():
    free = lengths.geometric(rng(3), COUNT, 211)
    clamped = lengths.geometric(rng(3), COUNT, 211, shortest=10, longest=1000)
    np.testing.assert_array_equal(clamped, np.clip(free, 10, 1000))
    assert free.max() > 1000


@pytest.mark.parametrize(("mean", "p99"), [(1155, 4142), (211, 601), (12_035, 85_400), (100, 101), (5, 74)])
def test_lognormal_parameters_give_back_mean_and_p99(mean, p99):
    mu, sigma = lengths.lognormal_parameters(mean, p99)
    assert math.exp(mu + sigma**2 / 2) == pytest.approx(mean, rel=1e-12)
    assert math.exp(mu + NormalDist().inv_cdf(0.99) * sigma) == pytest.approx(p99, rel=1e-12)
    assert 0 <= sigma <= NormalDist().inv_cdf(0.99)  # the smaller root


def test_lognormal_follows_its_exact_distribution():
    drawn = lengths.lognormal(rng(4), COUNT, 1155, 4142)
    mu, sigma = lengths.lognormal_parameters(1155, 4142)

    def cdf(n):
        return np.array([NormalDist(mu, sigma).cdf(math.log(value + 0.5)) for value in n])

    assert discrete_ks(drawn, cdf) < KS_LIMIT
    assert drawn.mean() == pytest.approx(1155, rel=0.01)
    assert np.percentile(drawn, 99) == pytest.approx(4142, rel=0.03)


def test_lognormal_without_spread_is_its_mean():
    assert set(lengths.lognormal(rng(), 100, 50, 50).tolist()) == {50}


def test_lognormal_is_at_least_one_and_at_most_the_clamp():
    drawn = lengths.lognormal(rng(5), COUNT, 1.2, 10, longest=12)
    assert drawn.min() == 1
    assert drawn.max() == 12


def test_discrete_follows_its_weights_and_never_draws_a_zero_weight():
    values, weights = [5, 7, 9, 11, 13], [0, 1, 0, 3, 0]
    drawn, counts = np.unique(lengths.discrete(rng(6), COUNT, values, weights), return_counts=True)
    assert drawn.tolist() == [7, 11]
    assert counts[0] == pytest.approx(COUNT / 4, abs=4 * math.sqrt(COUNT * 3 / 16))


def test_discrete_without_weights_is_equally_likely():
    _, counts = np.unique(lengths.discrete(rng(7), COUNT, [1, 2, 4, 8]), return_counts=True)
    assert ((counts - COUNT / 4) ** 2 / (COUNT / 4)).sum() < 16.3  # 99.9 % quantile, 3 degrees of freedom


def test_quantiles_are_given_back():
    knots = [1, 10, 100, 500, 501, 4000]
    drawn = lengths.quantiles(rng(8), COUNT, knots)
    assert drawn.min() >= 1
    assert drawn.max() <= 4000

    def cdf(n):
        return np.interp(n + 0.5, knots, np.linspace(0, 1, len(knots)))

    assert discrete_ks(drawn, cdf) < KS_LIMIT


DRAWS = {
    "uniform": lambda generator, count: lengths.uniform(generator, count, 1, 100),
    "geometric": lambda generator, count: lengths.geometric(generator, count, 20),
    "lognormal": lambda generator, count: lengths.lognormal(generator, count, 20, 90),
    "discrete": lambda generator, count: lengths.discrete(generator, count, [1, 2, 3], [1, 2, 3]),
    "quantiles": lambda generator, count: lengths.quantiles(generator, count, [1, 5, 50]),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_longer_run_starts_with_the_same_lengths(name):
    long = DRAWS[name](rng(9), 5_000)
    assert long.dtype == np.int64
    np.testing.assert_array_equal(DRAWS[name](rng(9), 800), long[:800])


def test_a_larger_mean_lengthens_every_request_with_the_same_luck():
    assert np.all(lengths.geometric(rng(10), 5_000, 30) >= lengths.geometric(rng(10), 5_000, 20))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lengths.lognormal(rng(), 5, 100, 1_600), "no log-normal distribution with mean 100"),
        (lambda: lengths.lognormal(rng(), 5, 100, 99), "p99: expected"),
        (lambda: lengths.lognormal(rng(), 5, 100, math.inf), "p99: expected"),
        (lambda: lengths.lognormal(rng(), 5, 0.5, 9), "mean: expected"),
        (lambda: lengths.lognormal(rng(), 5, 10, 20, shortest=5, longest=4), "min ≤ max"),
        (lambda: lengths.geometric(rng(), 5, math.nan), "mean: expected"),
        (lambda: lengths.geometric(rng(), 5, 5, longest=0), "max: expected"),
        (lambda: lengths.uniform(rng(), 5, 8, 3), "min ≤ max"),
        (lambda: lengths.fixed(rng(), 5, 0), "value: expected"),
        (lambda: lengths.fixed(rng(), 5, 10**18), "value: expected"),
        (lambda: lengths.discrete(rng(), 5, [1, 2], [1]), "one for each of the 2 values"),
        (lambda: lengths.discrete(rng(), 5, [1, 2], [0, 0]), "at least one above 0"),
        (lambda: lengths.discrete(rng(), 5, [], None), "one for each of the 0 values"),
        (lambda: lengths.quantiles(rng(), 5, [1, 9, 8]), "ascending"),
        (lambda: lengths.quantiles(rng(), 5, [0, 9]), "ascending numbers ≥ 1"),
        (lambda: lengths.quantiles(rng(), 5, [1, 1e18]), "at most 10,000,000"),
    ],
)
def test_impossible_lengths_are_one_clear_line(call, said):
    with pytest.raises(InputError) as caught:
        call()
    assert len(caught.value.lines) == 1
    assert said in caught.value.lines[0]
