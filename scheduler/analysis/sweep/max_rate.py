"""The highest arrival rate that meets the SLO, by a bracketed search on the logarithm of the rate.

Per replication and variant: a rate passes when at least the asked share of the requests that count meets
every limit (a rejected request meets none) and the queue does not grow steadily. All rates and all
variants meet the same random numbers: a replication's gaps are stretched, not drawn anew, so that the
answer of one replication hardly jumps, and its spread over replications gives a t interval. Where the
share crosses the mark more than once, the search finds one of the crossings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

from scheduler.analysis.metrics import Record, summarize
from scheduler.analysis.statistics.steady_state import offered_load
from scheduler.analysis.sweep.task import Simulation, drawn
from scheduler.errors import InputError
from scheduler.simulate import Variant, high_end
from scheduler.workload.arrivals import ClosedLoopArrivals, TraceArrivals
from scheduler.workload.schema import Workload

NS_PER_S = 1e9
SLO_SHARE = 0.99  # MLPerf Server: at most 1 % of the requests may miss a limit
RATIO = 1.005  # the rate that passes and the one that fails are this close at the end
MOST_STEPS_UP, MOST_STEPS_DOWN = 10, 5
UP, DOWN = 2.0, 4.0

Reason = Literal["", "slo", "queue growth", "run too short"]


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a search, in multiples of the workload's own rate.

    `passes` is the highest scale seen to pass (None: even the lowest tried fails), `fails` the lowest
    above it seen to fail, for `reason` (None: no ceiling up to `passes`). `simulations` were run.
    """

    passes: float | None
    fails: float | None
    reason: Reason
    simulations: int


@dataclass(frozen=True, slots=True)
class RateSearch(Simulation):
    """The search of one variant in one replication, as a task of a sweep."""

    slo_share: float = SLO_SHARE

    def definition(self) -> list[Any]:
        """Return everything that decides the result."""
        rules = [self.slo_share, RATIO, UP, DOWN, MOST_STEPS_UP, MOST_STEPS_DOWN]
        return [*Simulation.definition(self), rules]

    def records(self) -> list[Record]:
        """Search, and where the profile gives a range that matters search its high end, too."""
        self.check_source()
        low, high = self._search(self.variant)
        return [low] if high is None else [low, self._search(high)[0]]

    def _search(self, variant: Variant) -> tuple[Record, Variant | None]:
        """Return the record of a search, and the variant's high end where any rate tried depends on it."""
        high: Variant | None = None
        slo_ms = self.setting.workload.slo.limits_ms if self.setting.workload.slo else {}

        def check(scale: float) -> Reason:
            nonlocal high
            workload = at_scale(self.setting.workload, scale)
            requests = drawn(workload, self.replication)
            run = self.run(workload, requests, variant)
            high = high or high_end(self.setting.profile, variant, [run])
            warmup = self.warmup_requests(requests)
            summary = summarize(run, slo_ms, warmup)
            good = summary.get("slo_attainment", 0.0) * summary["measured_requests"]
            if good < self.slo_share * (len(requests) - warmup):
                return "slo"
            load = offered_load(run.requests)
            if load.steady_state:
                return ""
            return "queue growth" if load.overloaded else "run too short"

        found = search(check)
        return self._found_record(found, variant), high

    def _found_record(self, found: Found, variant: Variant) -> Record:
        own_rate = mean_rate_per_s(self.setting.workload, self.replication)
        record: Record = {
            "variant": variant.column,
            "replication": self.replication,
            "simulations": found.simulations,
            "slo_share": self.slo_share,
        }
        if found.passes is None:
            return record | {
                "limited_by": "every rate fails",
                "lowest_rate_per_s": own_rate / DOWN**MOST_STEPS_DOWN,
            }
        if found.fails is None:
            return record | {"limited_by": "nothing", "highest_rate_per_s": own_rate * found.passes}
        return record | {"limited_by": found.reason, "max_rate_per_s": own_rate * found.passes}


def search(check: Callable[[float], Reason]) -> Found:
    """Return the scale at which `check` turns from passing ("") to failing (why), within `RATIO`.

    At most 1 + 10 steps up or 5 down to bracket it, then bisection; the lower end, which has passed, is
    the answer.
    """
    passes: float | None = None
    fails: float | None = None
    reason: Reason = ""
    scale, count = 1.0, 0
    while passes is None or fails is None or fails / passes > RATIO:
        answer = check(scale)
        count += 1
        if answer:
            fails, reason = scale, answer
        else:
            passes = scale
        if passes is None:
            if count > MOST_STEPS_DOWN:
                break
            scale /= DOWN
        elif fails is None:
            if count > MOST_STEPS_UP:
                break
            scale *= UP
        else:
            scale = sqrt(passes * fails)
    return Found(passes, fails, reason, count)


def require_searchable(workload: Workload) -> None:
    """Raise InputError where there is no SLO to meet or no arrival rate to raise."""
    if workload.slo is None:
        raise InputError(
            "--find-max-rate: expected an slo in the workload file,"
            " or --set 'slo={ttft_ms: 500, tpot_ms: 50}'"
        )
    if isinstance(workload.arrivals, ClosedLoopArrivals):
        raise InputError("--find-max-rate: expected arrivals with a rate, got the process closed_loop")


def at_scale(workload: Workload, scale: float) -> Workload:
    """Return the workload with its arrival rate multiplied.

    A rate is multiplied; so is every rate of stages, whose durations stay, for as long a time as at scale
    1 (with more requests, or the stages a longer run would reach would be cut off); a trace's gaps shrink.
    """
    arrivals = workload.arrivals
    if isinstance(arrivals, ClosedLoopArrivals):
        raise InputError("expected arrivals with a rate to scale, got the process closed_loop")
    changes: dict[str, object] = {}
    if isinstance(arrivals, TraceArrivals):
        changes["arrivals"] = arrivals.model_copy(update={"time_scale": arrivals.time_scale / scale})
    elif arrivals.rate_per_s is not None:
        changes["arrivals"] = arrivals.model_copy(update={"rate_per_s": arrivals.rate_per_s * scale})
    else:
        stages = tuple(
            stage.model_copy(
                update={
                    "rate_per_s": (
                        (stage.rate_per_s[0] * scale, stage.rate_per_s[1] * scale)
                        if isinstance(stage.rate_per_s, tuple)
                        else stage.rate_per_s * scale
                    )
                }
            )
            for stage in arrivals.stages or ()
        )
        changes["arrivals"] = arrivals.model_copy(update={"stages": stages})
        if workload.requests is not None:
            changes |= {"requests": None, "duration_s": workload.requests / mean_rate_per_s(workload)}
    return workload.model_copy(update=changes)


def mean_rate_per_s(workload: Workload, replication: int = 0) -> float:
    """Return the arrival rate asked for, over whole cycles of stages; of a trace the rate that came."""
    arrivals = workload.arrivals
    if isinstance(arrivals, ClosedLoopArrivals):
        raise InputError("expected arrivals with a rate, got the process closed_loop")
    if isinstance(arrivals, TraceArrivals):
        arrival_ns = drawn(workload, replication).arrival_ns
        span_s = (int(arrival_ns[-1]) - int(arrival_ns[0])) / NS_PER_S if len(arrival_ns) else 0.0
        if span_s == 0:
            raise InputError("arrivals: expected a trace of requests at different times to scale its rate")
        return (len(arrival_ns) - 1) / span_s
    if arrivals.rate_per_s is not None:
        return arrivals.rate_per_s
    stages = arrivals.stages or ()
    requests = sum(sum(stage.rates_per_s) / 2 * stage.duration_s for stage in stages)
    return requests / sum(stage.duration_s for stage in stages)
