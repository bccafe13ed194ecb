"""A pair of columns is compared once, whoever asks; metric names are read in one place."""

from __future__ import annotations

import pytest
from small_comparison import small_comparison

from scheduler.analysis.comparison import differences as module
from scheduler.analysis.comparison.differences import column_difference, differences
from scheduler.analysis.metrics import Metric, metric_of
from scheduler.report.card import card_text


def test_a_card_compares_each_pair_once_per_latency_however_often_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    inner = module.within_run_differences
    monkeypatch.setattr(module, "within_run_differences", lambda *a: calls.append(a[3:]) or inner(*a))
    comparison = small_comparison(replications=1)
    first = card_text(comparison, full=True)
    pairs, latencies = len(comparison.pools), 3  # TTFT, TPOT and E2EL are one number per request
    assert len(calls) == pairs * latencies
    assert card_text(comparison, full=True) == first
    for key in ("mean_e2el_ms", "p50_e2el_ms", "median_e2el_ms", "p90_e2el_ms", "p99_e2el_ms"):
        for pool in comparison.pools:
            differences(comparison, pool, key)
    assert len(calls) == pairs * latencies


def test_median_and_p50_are_the_same_and_a_percentile_is_its_own() -> None:
    comparison = small_comparison(replications=1)
    eager, pool = comparison.eager, comparison.pools[0]
    found = {
        key: column_difference(comparison, eager, pool, f"{key}_e2el_ms")
        for key in ("mean", "median", "p50", "p90")
    }
    assert found["median"] == found["p50"] != found["p90"]
    for key, difference in found.items():
        assert difference is not None
        before, after = eager.values(f"{key}_e2el_ms")[0], pool.values(f"{key}_e2el_ms")[0]
        assert difference.difference == pytest.approx(after - before)
    assert column_difference(comparison, eager, eager, "mean_e2el_ms").difference == 0


def test_one_run_says_nothing_of_how_sure_a_throughput_is() -> None:
    comparison = small_comparison(replications=1)
    (found,) = differences(comparison, comparison.pools[0], "output_throughput")
    assert found.interval is None
    assert found.why_no_interval == "one run has no interval of its output_throughput"


@pytest.mark.parametrize(
    ("key", "latency", "statistic", "percentile", "pairs"),
    [
        ("mean_tpot_ms", "tpot", "mean", None, True),
        ("median_queue_ms", "queue", "median", 50.0, True),
        ("p99.9_ttft_ms", "ttft", "p99.9", 99.9, True),
        ("p99_itl_ms", "itl", "p99", 99.0, False),
        ("std_e2el_ms", "e2el", "std", None, False),
        ("request_goodput", None, None, None, False),
    ],
)
def test_a_key_is_read_once_and_for_all(key, latency, statistic, percentile, pairs) -> None:
    metric = metric_of(key)
    assert metric == Metric(key, metric.unit, metric.lower_is_better, latency, statistic)
    assert (metric.percentile, metric.pairs_by_request) == (percentile, pairs)
    assert (metric.unit == "ms") is metric.lower_is_better is (latency is not None)


@pytest.mark.parametrize("key", ["speed", "p_ttft_ms", "mean_speed_ms", "tpot_ms", ""])
def test_a_key_that_names_no_metric_is_an_error(key: str) -> None:
    with pytest.raises(KeyError):
        metric_of(key)
