"""How much a variant changes against another on the same requests, and how sure that is.

Over replications the differences are paired and get a t interval; within one run they are paired by
request and get theirs from a block bootstrap over time. Where the profile gives eager host time as a
range there are two differences, one for each end. Everything is computed once per pair of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.metrics import Metric, latencies_ms, measured_requests, metric_of
from scheduler.analysis.statistics.block_bootstrap import within_run_differences
from scheduler.analysis.statistics.difference import Difference, Verdict, paired_difference
from scheduler.engine.records import Run

LEAST_CHANGE = 0.01  # of the baseline; a smaller one is called none, however sure it is

# One sort and one set of draws serve all of them, and whoever asks for one soon asks for the others.
_TOGETHER = (None, 50.0, 90.0, 99.0)


def differences(comparison: Comparison, pool: Column, key: str) -> list[Difference]:
    """Return pool − eager for a summary key: none where either lacks it, two for a range of eager."""
    pairs = [(comparison.eager, pool)]
    if comparison.eager.variant.name in comparison.high:
        eager_high = comparison.high[comparison.eager.variant.name]
        pairs.append((eager_high, comparison.high.get(pool.variant.name, pool)))
    found = (column_difference(comparison, eager, column, key) for eager, column in pairs)
    return [difference for difference in found if difference is not None]


def verdict_of_range(found: Sequence[Difference]) -> Verdict:
    """Return the verdict that every end of a range agrees on.

    An end without an interval, or that changes by less than `LEAST_CHANGE`, shows no difference.
    """
    verdicts = {
        difference.verdict if _is_a_change(difference) else Verdict.NO_DIFFERENCE_SHOWN
        for difference in found
    }
    return verdicts.pop() if len(verdicts) == 1 else Verdict.NO_DIFFERENCE_SHOWN


def _is_a_change(difference: Difference) -> bool:
    relative = difference.relative
    return difference.interval is not None and (relative is None or abs(relative) >= LEAST_CHANGE)


def column_difference(
    comparison: Comparison, baseline: Column, candidate: Column, key: str
) -> Difference | None:
    """Return candidate − baseline (any two columns) of one metric; None where either lacks it."""
    before, after = baseline.values(key), candidate.values(key)
    if not len(before) or len(before) != len(after):
        return None
    metric = metric_of(key)
    known = comparison.differences.setdefault((baseline, candidate), {})
    if metric not in known:
        known |= replicated_differences(
            metric,
            before.tolist(),
            after.tolist(),
            baseline.runs,
            candidate.runs,
            comparison.warmup_requests,
        )
    return known[metric]


def replicated_differences(
    metric: Metric,
    before: Sequence[float],
    after: Sequence[float],
    baseline: Sequence[Run],
    candidate: Sequence[Run],
    warmup_requests: int,
) -> dict[Metric, Difference]:
    """Return candidate − baseline of a metric, and of its kin where the same work gives them, too.

    `before` and `after` hold the metric of each run in replication order. A single run is compared request
    by request, the first `warmup_requests` left out, where the metric is one number per request.
    """
    if len(before) == 1:
        found = _within_one_run(metric, baseline[0], candidate[0], warmup_requests)
        if found:
            return found
    paired = paired_difference(before, after, lower_is_better=metric.lower_is_better)
    if len(before) == 1 and not metric.pairs_by_request:
        paired = replace(paired, why_no_interval=f"one run has no interval of its {metric.key}")
    return {metric: paired}


def _within_one_run(
    metric: Metric, baseline: Run, candidate: Run, warmup_requests: int
) -> dict[Metric, Difference]:
    """Return the differences of one run paired by request; none where nothing pairs."""
    if metric.latency is None or not metric.pairs_by_request:
        return {}
    requests = baseline.requests
    both = measured_requests(requests, warmup_requests)
    both &= measured_requests(candidate.requests, warmup_requests)
    if metric.latency == "tpot":
        both &= requests.output_tokens > 1
    if not both.any():
        return {}
    before, after = latencies_ms(requests, both), latencies_ms(candidate.requests, both)
    percentiles = _TOGETHER if metric.percentile in _TOGETHER else (metric.percentile,)
    found = within_run_differences(
        requests.arrival_ns[both] / 1e9,
        before[metric.latency],
        after[metric.latency],
        max(float(latencies["e2el"].max()) for latencies in (before, after)) / 1e3,
        percentiles,
    )
    results: dict[Metric, Difference] = {}
    for percentile, difference in zip(percentiles, found, strict=True):
        for statistic in _names(percentile):
            results[metric_of(f"{statistic}_{metric.latency}_ms")] = difference
    return results


def _names(percentile: float | None) -> tuple[str, ...]:
    if percentile is None:
        return ("mean",)
    return ("median", "p50") if percentile == 50 else (f"p{percentile:g}",)
