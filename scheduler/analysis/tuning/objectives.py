"""What a tuned pool is the best at: one number of a run's summary, lower or higher the better."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.errors import InputError

_LATENCY = re.compile(r"(mean|median|p90|p95|p99|p99\.9)_(ttft|tpot|itl|e2el)")
_HIGHER = {"goodput": ("request_goodput", "requests/s"), "throughput": ("output_throughput", "tokens/s")}


@dataclass(frozen=True, slots=True)
class Objective:
    """A key of the flat summary, its unit, and which direction is better."""

    name: str
    key: str
    unit: str
    lower_is_better: bool = True

    def value(self, summary: Mapping[str, Any]) -> float:
        """Return the number of one run; raises InputError where the run has none."""
        if self.key not in summary:
            needs = {
                "request_goodput": "an slo: section in the workload",
                "p99": "1,000 completed requests per replication",
                "p99.9": "10,000 completed requests per replication",
            }
            need = (
                needs.get(self.key) or needs.get(self.name.split("_")[0]) or "answers of two tokens or more"
            )
            raise InputError(f"--objective {self.name}: a run has no {self.key}; it needs {need}")
        return float(summary[self.key])

    def score(self, value: float) -> float:
        """Return the value with its sign such that lower is better."""
        return value if self.lower_is_better else -value


def objective(name: str) -> Objective:
    """Return an objective by name: mean_tpot, p99_itl, mean_e2el, …, goodput or throughput."""
    if name in _HIGHER:
        key, unit = _HIGHER[name]
        return Objective(name, key, unit, lower_is_better=False)
    if _LATENCY.fullmatch(name):
        return Objective(name, f"{name}_ms", "ms")
    raise InputError(
        f"--objective {name}: expected mean_, median_, p90_, p95_, p99_ or p99.9_ with ttft, tpot, itl or "
        "e2el (as mean_tpot), goodput or throughput"
    )
