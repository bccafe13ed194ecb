"""Warm-up and overload on series whose answer is known beforehand."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from scheduler.analysis.statistics.steady_state import (
    averaged_series,
    mser5,
    offered_load,
)
from scheduler.engine.records import RequestRecords, Status

SECOND = 10**9


def records(arrival_s, scheduled_s, finish_s, status=None) -> RequestRecords:
    columns = [np.round(np.asarray(c) * SECOND).astype(np.int64) for c in (arrival_s, scheduled_s, finish_s)]
    count = len(columns[0])
    ones = np.ones(count, np.int64)
    if status is None:
        status = np.full(count, Status.COMPLETED, np.int8)
    return RequestRecords(
        columns[0], columns[1], columns[1], columns[2], ones, ones, np.zeros(count, np.int32), status, {}
    )


def single_server(arrival_s, service_s) -> RequestRecords:
    """First come, first served, one at a time: Lindley's recursion."""
    starts, ends, free = [], [], 0.0
    for arrival, service in zip(arrival_s, service_s, strict=True):
        starts.append(max(arrival, free))
        free = starts[-1] + service
        ends.append(free)
    return records(arrival_s, starts, ends)


def poisson(rate_per_s, count: int, seed: int = 0):
    """Arrival times; `rate_per_s` is a number or one rate for each gap."""
    return np.cumsum(np.random.default_rng(seed).exponential(1, count) / rate_per_s)


def test_mser5_finds_the_end_of_a_transient():
    noise = np.random.default_rng(0).normal(0, 1, 2_000)
    noise[:200] += np.linspace(20, 0, 200)
    warm_up = mser5(noise)
    assert 150 <= warm_up.cut <= 260
    assert not warm_up.too_short


def test_mser5_cuts_nothing_from_a_steady_series():
    assert mser5(np.full(1_000, 3.0)).cut == 0
    cuts = [mser5(np.random.default_rng(seed).normal(0, 1, 1_000)).cut for seed in range(50)]
    assert np.median(cuts) < 100


def test_mser5_calls_a_series_that_never_settles_too_short():
    assert mser5(np.exp(np.linspace(8, 0, 1_000))).too_short
    assert mser5(np.arange(19)).too_short


def test_averaging_replications_ends_with_the_shortest():
    assert averaged_series([[1, 2, 3], [3, 4]]).tolist() == [2, 3]


def test_overload_is_named_with_capacity_and_growth():
    load = offered_load(single_server(poisson(12, 3_000), np.full(3_000, 0.1)))
    assert load.overloaded
    assert not load.steady_state
    assert load.delivered_per_s == pytest.approx(10, rel=0.01)
    assert load.growth_per_s.contains(2)
    assert load.growth_per_s.mean == pytest.approx(load.offered_per_s - load.delivered_per_s)


def test_stable_queues_are_not_called_overloaded():
    for load in (0.5, 0.8, 0.9, 0.95):
        loads = [
            offered_load(single_server(poisson(10 * load, 3_000, seed), np.full(3_000, 0.1)))
            for seed in range(40)
        ]
        assert not any(one.overloaded or one.too_short for one in loads), load


def test_a_queue_of_load_one_only_wanders():
    loads = [
        offered_load(single_server(poisson(10, 2_000, seed), np.full(2_000, 0.1))) for seed in range(100)
    ]
    assert sum(load.overloaded for load in loads) <= 8


@pytest.mark.parametrize("begins", [0.2, 0.5, 0.8])
def test_a_burst_that_ends_is_not_overload(begins):
    rates = np.full(4_000, 7.0)
    rates[int(begins * 4_000) : int((begins + 0.2) * 4_000)] = 14.0
    for seed in range(20):
        load = offered_load(single_server(poisson(rates, 4_000, seed), np.full(4_000, 0.1)))
        assert not load.overloaded, seed


def test_a_rising_rate_that_is_served_is_not_overload():
    arrival = np.cumsum(1 / np.linspace(10, 40, 4_000))
    served_at_once = records(arrival, arrival, arrival + 2.0)
    assert offered_load(served_at_once).growth_per_s.low > 0
    assert offered_load(served_at_once).steady_state


def test_a_run_shorter_than_its_answers_is_too_short_and_not_overload():
    arrival = poisson(10, 1_000)
    load = offered_load(records(arrival, arrival, arrival + 60.0))
    assert load.too_short
    assert not load.overloaded
    assert not load.steady_state


def test_a_batch_that_grows_without_waiting_is_overload_too():
    # Processor sharing beyond capacity: everyone starts at once and takes ever longer.
    arrival = poisson(12, 3_000)
    load = offered_load(records(arrival, arrival, 1.2 * arrival + 0.1))
    assert load.overloaded


def slots(arrival_s, service_s, count) -> RequestRecords:
    """First come, first served, `count` at a time, each of `service_s`."""
    free, starts = [0.0] * count, []
    for arrival in arrival_s:
        starts.append(max(arrival, heapq.heappop(free)))
        heapq.heappush(free, starts[-1] + service_s)
    return records(arrival_s, starts, np.array(starts) + service_s)


def test_a_run_shorter_than_its_answers_is_overloaded_where_ever_more_wait():
    """500 requests at 75/s on 128 slots of 5 s each: a third of a minute's arrivals, 26/s are served."""
    for seed in range(20):
        assert offered_load(slots(poisson(75, 500, seed), 5.0, 128)).overloaded
        served = offered_load(slots(poisson(20, 500, seed), 5.0, 128))
        assert not served.overloaded
        at_once = offered_load(slots(poisson(750, 500, seed), 5.0, 128))
        assert not at_once.overloaded
        assert at_once.too_short


def test_refused_and_unfinished_requests_are_told_apart():
    run = single_server(poisson(12, 3_000), np.full(3_000, 0.1))
    run.status[::2] = Status.REJECTED
    run.finish_ns[::2] = -1
    assert offered_load(run).offered_per_s == pytest.approx(6, rel=0.05)
    run.status[::2] = Status.UNFINISHED
    load = offered_load(run)
    assert load.offered_per_s == pytest.approx(12, rel=0.05)
    assert load.delivered_per_s == pytest.approx(5, rel=0.05)


def test_requests_that_all_arrive_at_once_have_no_rate():
    load = offered_load(single_server(np.zeros(500), np.full(500, 0.1)))
    assert (load.offered_per_s, load.delivered_per_s, load.growth_per_s) == (None, None, None)
    assert load.steady_state


@pytest.mark.parametrize(("count", "too_few"), [(1, True), (99, True), (100, False)])
def test_fewer_than_100_arrivals_are_called_too_few_and_claim_no_overload(count, too_few):
    load = offered_load(single_server(np.arange(count, dtype=float), np.full(count, 3.0)))
    assert load.too_few == too_few
    assert load.steady_state == too_few
