from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scheduler.catalog.numbers import MOST_REQUESTS
from scheduler.errors import InputError
from scheduler.workload.arrivals import (
    ClosedLoopArrivals,
    ConstantArrivals,
    GammaArrivals,
    PoissonArrivals,
)
from scheduler.workload.rates import RateSchedule, Stage

# The Kolmogorov–Smirnov statistic times √n stays below 1.95 in 999 of 1,000 true samples.
KS_LIMIT = 1.95
NS_PER_S = 1_000_000_000


PROCESSES = {"constant": ConstantArrivals, "poisson": PoissonArrivals, "gamma": GammaArrivals}


def rng(seed=0):
    return np.random.default_rng(seed)


def ks_distance(sample, cdf):
    """√n times the largest distance between the sample's distribution and the exact one."""
    ordered = np.sort(sample)
    exact = cdf(ordered)
    n = len(ordered)
    above = np.arange(1, n + 1) / n - exact
    below = exact - np.arange(n) / n
    return math.sqrt(n) * max(above.max(), below.max())


def stage(start, end, duration_s):
    return Stage(rate_per_s=(start, end), duration_s=duration_s)


def arrivals(process, rate, burstiness=1.0):
    """An open process of one rate, or of stages."""
    keys = {"stages": tuple(rate)} if isinstance(rate, list) else {"rate_per_s": rate}
    if process == "gamma":
        keys["burstiness"] = burstiness
    return PROCESSES[process](process=process, **keys)


def gaps_s(arrival_ns):
    return np.diff(arrival_ns, prepend=0) / NS_PER_S


def test_constant_arrivals_are_evenly_spaced_from_zero():
    arrival_ns = arrivals("constant", 8).draw(rng(), requests=5)
    assert arrival_ns.tolist() == [0, 125_000_000, 250_000_000, 375_000_000, 500_000_000]
    assert arrival_ns.dtype == np.int64


def test_constant_times_are_rounded_half_even_once():
    # Thirds of a second: errors of a rounded gap would add up to 33 µs over 100,000 requests.
    arrival_ns = arrivals("constant", 3).draw(rng(), requests=100_000)
    exact = [round(k * NS_PER_S / 3) for k in range(0, 100_000, 9_999)]
    assert arrival_ns[::9_999].tolist() == exact


def test_poisson_gaps_are_exponential():
    arrival_ns = arrivals("poisson", 8).draw(rng(1), requests=100_000)
    assert ks_distance(gaps_s(arrival_ns), lambda x: -np.expm1(-8 * x)) < KS_LIMIT


def test_poisson_counts_have_variance_equal_to_mean():
    arrival_ns = arrivals("poisson", 20).draw(rng(2), duration_s=5_000)
    counts = np.bincount(arrival_ns // NS_PER_S, minlength=5_000)
    # The dispersion index of n Poisson counts has standard deviation √(2/n).
    assert counts.var() / counts.mean() == pytest.approx(1, abs=4 * math.sqrt(2 / 5_000))


@pytest.mark.parametrize(
    ("shape", "cdf"),
    [
        (0.5, lambda x: np.array([math.erf(math.sqrt(0.5 * 8 * value)) for value in x])),
        (1.0, lambda x: -np.expm1(-8 * x)),
        (2.0, lambda x: 1 - (1 + 16 * x) * np.exp(-16 * x)),
    ],
)
def test_gamma_gaps_follow_the_exact_distribution(shape, cdf):
    arrival_ns = arrivals("gamma", 8, shape).draw(rng(3), requests=50_000)
    gaps = gaps_s(arrival_ns)
    assert ks_distance(gaps, cdf) < KS_LIMIT
    assert gaps.std() / gaps.mean() == pytest.approx(1 / math.sqrt(shape), rel=0.03)
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.03)


RAMPS = [stage(2, 20, 30), stage(20, 20, 10), stage(20, 0, 20), stage(0, 0, 15)]


@pytest.mark.parametrize("process", ["poisson", "gamma"])
def test_integrated_rate_between_ramp_arrivals_is_the_unit_process(process):
    """The time change undone: what is left must be unit-rate gaps, exactly exponential for Poisson."""
    schedule = RateSchedule(RAMPS)
    arrival_ns = arrivals(process, RAMPS).draw(rng(4), requests=50_000)
    gaps = np.diff(schedule.expected_requests(arrival_ns / NS_PER_S), prepend=0)
    assert ks_distance(gaps, lambda x: -np.expm1(-x)) < KS_LIMIT


def test_ramp_counts_match_the_integrated_rate_second_by_second():
    schedule = RateSchedule(RAMPS)
    cycles = 400
    arrival_ns = arrivals("poisson", RAMPS).draw(rng(5), duration_s=75.0 * cycles)
    counts = np.bincount(arrival_ns % (75 * NS_PER_S) // NS_PER_S, minlength=75)
    expected = np.diff(schedule.expected_requests(np.arange(76.0))) * cycles
    assert counts[60:].sum() == 0  # the pause
    assert expected[60:].sum() == pytest.approx(0, abs=1e-9)
    chi_square = float(((counts[:60] - expected[:60]) ** 2 / expected[:60]).sum())
    assert chi_square < 99.6  # 99.9 % quantile with 60 degrees of freedom


def test_linear_ramp_inverse_is_the_closed_form():
    # Rate 0 → 10 over 10 s: the integral is t²/2, so the k-th constant arrival comes at √(2k).
    arrival_ns = arrivals("constant", [stage(0, 10, 10)]).draw(rng(), requests=50)
    np.testing.assert_allclose(arrival_ns / NS_PER_S, np.sqrt(2 * np.arange(50)), atol=1e-9)


def test_stages_repeat_and_a_pause_is_skipped():
    process = arrivals("constant", [stage(8, 8, 60), stage(0, 0, 60)])
    arrival_ns = process.draw(rng(), requests=1_000)
    assert arrival_ns[479] == round((60 - 1 / 8) * NS_PER_S)
    assert arrival_ns[480] == 120 * NS_PER_S  # at the boundary the request waits for the pause to end
    assert arrival_ns[960] == 240 * NS_PER_S
    assert process.schedule.mean_rate_per_s == 4


rates = st.one_of(st.just(0.0), st.floats(0.01, 1_000))
stages = st.lists(st.builds(stage, rates, rates, st.floats(0.01, 1_000)), min_size=1, max_size=6).filter(
    lambda made: sum(part.expected_requests for part in made) > 0.1
)


@given(stages, st.lists(st.floats(0, 5_000), min_size=1, max_size=20))
def test_time_is_the_inverse_of_expected_requests_and_never_falls(made, points):
    schedule = RateSchedule(made)
    expected = np.sort(np.array(points))
    time = schedule.time_s(expected)
    assert np.all(np.diff(time) >= -1e-9 * (1 + time[1:]))
    np.testing.assert_allclose(schedule.expected_requests(time), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("process", ["constant", "poisson", "gamma"])
@pytest.mark.parametrize("rate", [8, RAMPS])
def test_a_longer_run_starts_with_the_same_requests(process, rate):
    def draw(**how):
        return arrivals(process, rate, 0.5).draw(rng(6), **how)

    long = draw(requests=5_000)
    np.testing.assert_array_equal(draw(requests=700), long[:700])
    for duration_s in (20.0, 200.0):
        timed = draw(duration_s=duration_s)
        assert timed[-1] < duration_s * NS_PER_S <= long[len(timed)]
        np.testing.assert_array_equal(timed, long[: len(timed)])


def test_duration_of_constant_arrivals_gives_rate_times_duration():
    for rate, duration_s in ((8, 60), (0.1, 30), (3, 7)):
        arrival_ns = arrivals("constant", rate).draw(rng(), duration_s=float(duration_s))
        assert len(arrival_ns) == round(rate * duration_s)


def test_arrivals_never_fall_even_in_very_bursty_traffic():
    arrival_ns = arrivals("gamma", RAMPS, 0.01).draw(rng(7), requests=20_000)
    assert np.all(np.diff(arrival_ns) >= 0)
    assert arrival_ns[0] >= 0


def test_closed_loop_releases_every_request_at_zero():
    process = ClosedLoopArrivals(process="closed_loop", concurrency=2)
    assert process.draw(rng(), requests=3).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: arrivals("poisson", 0), "a number above 0"),
        (lambda: arrivals("poisson", math.inf), "a number of at most"),
        (lambda: arrivals("poisson", [stage(1, -2, 5)]), "a number of at least 0"),
        (lambda: arrivals("poisson", [stage(1, 2, 0)]), "a number above 0"),
        (lambda: arrivals("poisson", [stage(0, 0, 5)]), "a rate above 0"),
        (lambda: arrivals("poisson", []), "at least 1 item"),
        (lambda: arrivals("gamma", 8, 0.0), "a number above 0"),
        (lambda: ClosedLoopArrivals(process="closed_loop", concurrency=0), "at least 1"),
    ],
)
def test_impossible_processes_are_refused(make, said):
    with pytest.raises(ValidationError, match=said):
        make()


@pytest.mark.parametrize(
    ("process", "how", "said"),
    [
        (arrivals("poisson", 8), {"requests": 0}, "at least 1"),
        (arrivals("poisson", 8), {"requests": MOST_REQUESTS + 1}, "at most 10,000,000"),
        (arrivals("poisson", 8), {"duration_s": 1e9}, "at most 10,000,000"),
        (arrivals("poisson", 8), {"duration_s": 1e-6}, "no request arrives within 1e-06 s"),
        (arrivals("poisson", 1e-12), {"requests": 5}, "years"),
        (
            ClosedLoopArrivals(process="closed_loop", concurrency=2),
            {"duration_s": 5.0},
            "a number of requests",
        ),
    ],
)
def test_impossible_draws_are_one_clear_line(process, how, said):
    with pytest.raises(InputError) as caught:
        process.draw(rng(), **how)
    assert len(caught.value.lines) == 1
    assert said in caught.value.lines[0]
