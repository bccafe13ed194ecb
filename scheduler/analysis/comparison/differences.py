"""How much a pool changes against eager on the same requests, and how sure that is.

Over replications the differences are paired and get a t interval; within one trace they are paired by
request and get theirs from a block bootstrap over time. Where the profile gives eager host time as a
range there are two differences, one for each end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.metrics import latencies_ms, measured_requests
from scheduler.analysis.statistics.block_bootstrap import within_trace_difference
from scheduler.analysis.statistics.intervals import Interval, Verdict, paired_difference
from scheduler.engine.loop import Run


@dataclass(frozen=True, slots=True)
class Difference:
    """Pool − eager of one metric, in its unit; `relative` to eager (None where eager is 0).

    `within_trace` says that the interval holds for this trace's traffic alone. `why_no_interval` is the
    reason where there is none, `more_replications` about how many more would resolve 1 %.
    """

    difference: float
    relative: float | None
    interval: Interval | None
    verdict: Verdict
    within_trace: bool = False
    more_replications: int | None = None
    why_no_interval: str | None = None

    @property
    def relative_half_width(self) -> float | None:
        """Half the interval's length relative to eager."""
        if self.interval is None or not self.difference or self.relative is None:
            return None
        return abs(self.relative / self.difference) * self.interval.half_width


def differences(comparison: Comparison, pool: Column, key: str) -> list[Difference]:
    """Return pool − eager for a summary key: none where either lacks it, two for a range of eager."""
    pairs = [(comparison.eager, pool)]
    if comparison.eager.variant.name in comparison.high:
        eager_high = comparison.high[comparison.eager.variant.name]
        pairs.append((eager_high, comparison.high.get(pool.variant.name, pool)))
    found = (column_difference(eager, column, key, comparison.warmup_requests) for eager, column in pairs)
    return [difference for difference in found if difference is not None]


def verdict_of_range(found: Sequence[Difference]) -> Verdict:
    """Return the verdict that the ends of a range agree on, as far as they have an interval."""
    verdicts = {difference.verdict for difference in found if difference.interval is not None}
    return verdicts.pop() if len(verdicts) == 1 else Verdict.NO_DIFFERENCE_SHOWN


def column_difference(eager: Column, pool: Column, key: str, warmup_requests: int) -> Difference | None:
    """Return pool − eager (any two columns) of one metric; None where either lacks it."""
    before, after = eager.values(key), pool.values(key)
    if not len(before) or len(before) != len(after):
        return None
    paired = paired_difference(before.tolist(), after.tolist(), lower_is_better=key.endswith("_ms"))
    if len(before) > 1:
        return Difference(
            paired.difference,
            paired.relative,
            paired.interval,
            paired.verdict,
            more_replications=paired.more_replications,
        )
    within = _within_run(eager.runs[0], pool.runs[0], key, warmup_requests)
    if within is not None:
        return within
    reason = "one replication"
    return Difference(paired.difference, paired.relative, None, paired.verdict, why_no_interval=reason)


def _within_run(eager: Run, pool: Run, key: str, warmup_requests: int) -> Difference | None:
    """Return the difference within one run, where the metric is one number per request."""
    statistic, _, rest = key.partition("_")
    metric = rest.removesuffix("_ms")
    if metric not in ("ttft", "tpot", "e2el", "queue") or not key.endswith("_ms"):
        return None
    percentile = {"mean": None, "median": 50.0}.get(statistic, -1.0)
    if percentile == -1.0:
        percentile = float(statistic[1:])
    both = measured_requests(eager.requests, warmup_requests) & measured_requests(
        pool.requests, warmup_requests
    )
    if metric == "tpot":
        both &= eager.requests.output_tokens > 1
    if not both.any():
        return None
    before, after = latencies_ms(eager.requests, both), latencies_ms(pool.requests, both)
    longest_s = max(float(latencies["e2el"].max()) for latencies in (before, after)) / 1e3
    within = within_trace_difference(
        _arrival_s(eager, both), before[metric], after[metric], longest_s, percentile=percentile
    )
    scale = float(before[metric].mean() if percentile is None else np.percentile(before[metric], percentile))
    return Difference(
        within.difference,
        within.difference / scale if scale else None,
        within.interval,
        within.verdict,
        within_trace=True,
        why_no_interval=within.reason,
    )


def _arrival_s(run: Run, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    return run.requests.arrival_ns[chosen] / 1e9
