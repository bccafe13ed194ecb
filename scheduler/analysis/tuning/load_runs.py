"""One variant on one sample at one load, at both ends of a host range: what came out, and which steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.analysis.comparison.loads import NS_PER_S, AtLoad, at_load, requests_at
from scheduler.analysis.metrics import (
    Record,
    missed_graph_share,
    request_rate,
    summarize,
    without_graph_share,
)
from scheduler.analysis.tuning.objectives import Objective
from scheduler.analysis.tuning.step_loads import StepHistogram, step_histogram
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.records import Run
from scheduler.executors.model.cost_model import Bound
from scheduler.simulate import Variant, high_end, simulate
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

# What is aimed at as it stands, with no number of its own.
PLAIN_OBJECTIVE = "mean_tpot"


@dataclass(frozen=True, slots=True)
class LoadRun:
    """What a run at one load showed at each end of the host range (one end where both are the same).

    The shares of steps that found no graph, and the `value` of the objective, are those of the low end, and
    so is the run with its flat record where it is `kept`.
    """

    at: Mapping[Bound, AtLoad]
    histogram: Mapping[Bound, StepHistogram]
    without_graph_share: float
    missed_graph_share: float
    value: float | None = None
    kept: tuple[Run, Record] | None = None

    def end(self, bound: Bound) -> AtLoad:
        """Return what one end showed."""
        return self.at.get(bound, self.at["low"])


@dataclass(frozen=True, slots=True)
class LoadTask:
    """One variant on one sample's requests at `factor` times their rate; picklable.

    Steps are counted up to `largest_total` tokens. Without an `objective` mean TPOT is all that matters.
    `keeps_run`: the run itself is wanted, not only what it showed.
    """

    workload: Workload
    profile: Profile
    variant: Variant
    requests: Requests
    replication: int
    warmup_requests: int
    factor: float
    largest_total: int
    objective: Objective | None = None
    keeps_run: bool = False

    def result(self) -> LoadRun:
        """Run the low end and, where that gives another answer, the high end."""
        at: dict[Bound, AtLoad] = {}
        histogram: dict[Bound, StepHistogram] = {}
        share = missed = 0.0
        value: float | None = None
        kept: tuple[Run, Record] | None = None
        requests = requests_at(self.requests, self.factor)
        slo_ms = self.workload.slo.limits_ms if self.workload.slo else {}
        most = self.workload.engine.max_num_seqs
        variant: Variant | None = self.variant
        while variant is not None:
            run = simulate(self.workload, requests, self.profile, variant, replication=self.replication)
            if run.failure == "interrupted":
                raise KeyboardInterrupt
            record = summarize(run, slo_ms, self.warmup_requests)
            found = at_load(run, record, self.factor, self._rate_per_s())
            if self.objective is not None:
                reached = self.objective.value(record)
                value = reached if value is None else value
                if self.objective.name != PLAIN_OBJECTIVE:
                    found = found.with_score(self.objective.score(reached))
            at[variant.bound] = found
            histogram[variant.bound] = step_histogram([run], most, self.largest_total)
            if variant.bound == "low":
                share, missed = without_graph_share(run), missed_graph_share(run, variant.pool)
                kept = (run, record) if self.keeps_run else None
                variant = high_end(self.profile, variant, [run])
            else:
                variant = None
        return LoadRun(at, histogram, share, missed, value, kept)

    def _rate_per_s(self) -> float | None:
        """Return the arrival rate at this load: what was asked for, of a record or of stages what comes."""
        arrival_ns = self.requests.arrival_ns
        if self.requests.concurrency is not None or len(arrival_ns) < 2 or arrival_ns[-1] == arrival_ns[0]:
            return None
        came = (len(arrival_ns) - 1) / (int(arrival_ns[-1] - arrival_ns[0]) / NS_PER_S)
        rate = request_rate(self.workload, {"offered_request_rate": came})
        return self.factor * float(rate)
