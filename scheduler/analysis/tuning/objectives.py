"""What a tuned pool is the best at: one number of a run's summary, lower or higher the better."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from scheduler.analysis.metrics import Metric, metric_of
from scheduler.errors import InputError

_RATES = {"goodput": "request_goodput", "throughput": "output_throughput"}
_STATISTICS = ("mean", "median", "p90", "p95", "p99", "p99.9")
_LATENCIES = ("ttft", "tpot", "itl", "e2el")


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric by the name it has on the command line, where a latency's unit goes without saying."""

    name: str
    metric: Metric

    def value(self, summary: Mapping[str, Any]) -> float:
        """Return the number of one run; raises InputError where the run has none."""
        key = self.metric.key
        if key not in summary:
            needs = {
                "request_goodput": "an slo: section in the workload",
                "p99": "1,000 completed requests per replication",
                "p99.9": "10,000 completed requests per replication",
            }
            need = needs.get(self.metric.statistic or key, "answers of two tokens or more")
            raise InputError(f"--objective {self.name}: a run has no {key}; it needs {need}")
        return float(summary[key])

    def score(self, value: float) -> float:
        """Return the value with its sign such that lower is better."""
        return value if self.metric.lower_is_better else -value


def objective(name: str) -> Objective:
    """Return an objective by name: mean_tpot, p99_itl, mean_e2el, …, goodput or throughput."""
    if name in _RATES:
        return Objective(name, metric_of(_RATES[name]))
    with suppress(KeyError):
        metric = metric_of(f"{name}_ms")
        if metric.statistic in _STATISTICS and metric.latency in _LATENCIES:
            return Objective(name, metric)
    raise InputError(
        f"--objective {name}: expected mean_, median_, p90_, p95_, p99_ or p99.9_ with ttft, tpot, itl or "
        "e2el (as mean_tpot), goodput or throughput"
    )
