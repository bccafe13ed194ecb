"""Pools run on the same requests over the loads: what came out, which steps; side by side if need be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.analysis.comparison.loads import (
    LOADS,
    SLO_SHARE,
    Loss,
    VariantLoads,
    first_requests,
    losses,
    mean_at_load,
    variant_loads,
)
from scheduler.analysis.metrics import Record, summarize
from scheduler.analysis.statistics.steady_state import LEAST_ARRIVALS
from scheduler.analysis.tuning.budgets import SizeRules
from scheduler.analysis.tuning.choose import Load, smoothed
from scheduler.analysis.tuning.load_runs import LoadRun, LoadTask
from scheduler.analysis.tuning.objectives import Objective
from scheduler.analysis.tuning.step_loads import StepHistogram, cell_loads, decode_together
from scheduler.analysis.workers import Workers, as_completed
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import Run
from scheduler.errors import InputError
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.model.cost_model import Bound
from scheduler.simulate import PoolCost, Variant, pool_cost, simulate
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

Progress = Callable[[str, int, int], None]
WORTH_WORKERS_S = 0.1
BOUNDS: tuple[Bound, Bound] = ("low", "high")


@dataclass(frozen=True, slots=True)
class DrawnRequests:
    """Requests of one replication and the share of the first ones that statistics leave out.

    `same_time`: below the workload's own load only so many come as in the same time at it (`LEAST_ARRIVALS`
    at least), for small batches make most steps and tell least.
    """

    requests: Requests
    replication: int
    warmup_share: float
    same_time: bool = False

    @property
    def warmup_requests(self) -> int:
        """How many of the first requests no statistic counts."""
        return int(len(self.requests) * self.warmup_share)

    def at(self, factor: float) -> DrawnRequests:
        """Return what is run at a load."""
        if not self.same_time or factor >= 1:
            return self
        count = max(round(len(self.requests) * factor), LEAST_ARRIVALS)
        return replace(self, requests=first_requests(self.requests, count))

    def work(self, factors: Sequence[float]) -> float:
        """Return about how long one pool takes over the loads, in requests at the workload's own load."""
        return sum(len(self.at(factor).requests) / factor for factor in factors)


@dataclass(frozen=True, slots=True)
class Detail:
    """What a pool's runs showed.

    `values` are the objective of every sample at the workload's own load and the low end, the shares of
    steps that found no graph likewise; `most_missed` is that share where it is largest. `ends` holds the pool
    over the loads at each end of the host range (one where both are the same), `samples` the same by sample,
    `histograms` each load's steps at each end. `runs` are what all this was read off, by sample and load.
    """

    values: list[float]
    without_graph_share: float
    missed_graph_share: float
    most_missed: float
    ends: Mapping[Bound, VariantLoads]
    samples: Mapping[Bound, Sequence[VariantLoads]]
    histograms: Sequence[tuple[Bound, StepHistogram]]
    runs: Sequence[Mapping[float, LoadRun]]

    @property
    def factors(self) -> tuple[float, ...]:
        """The loads at which the pool was run."""
        return tuple(self.runs[0])

    @property
    def together(self) -> int:
        """How many requests decode together at the busiest load and end."""
        return max((decode_together(histogram) for _, histogram in self.histograms), default=0)

    def end(self, bound: Bound) -> VariantLoads:
        """Return the pool over the loads at one end."""
        return self.ends.get(bound, self.ends["low"])

    def sample_ends(self, bound: Bound) -> Sequence[VariantLoads]:
        """Return every sample over the loads at one end."""
        return self.samples.get(bound, self.samples["low"])


@dataclass(frozen=True, slots=True)
class Judged:
    """One pool against another over all loads and ends: the worst loss, the mean one, and each of them."""

    worst: Loss
    worst_bound: Bound
    mean: float
    losses: Mapping[Bound, Sequence[Loss]]


def judged(own: Detail, other: Detail, *, with_rate: bool) -> Judged:
    """Return what `other` loses against `own`, `with_rate` of the highest rate that meets the SLO, too.

    Where `other` was not run at all loads of `own`, it is judged at those at which it was.
    """
    bounds = BOUNDS if "high" in own.ends or "high" in other.ends else BOUNDS[:1]
    found = {}
    for bound in bounds:
        mine, theirs = own.end(bound), other.end(bound)
        if own.factors != other.factors:
            mine = replace(mine, at=tuple(load for load in mine.at if load.factor in other.factors))
        every = losses(mine, theirs)
        found[bound] = [loss for loss in every if with_rate or loss.of != "highest rate"]
    pairs = [(loss, bound) for bound, several in found.items() for loss in several]
    if not pairs:  # nothing could be compared: answers of one token, say
        return Judged(Loss(0.0, 1.0, "mean TPOT"), "low", 0.0, found)
    worst, bound = max(pairs, key=lambda pair: pair[0].share)
    at_loads = [loss.share for loss, _ in pairs if loss.of != "highest rate"]
    return Judged(worst, bound, float(np.mean(at_loads)) if at_loads else 0.0, found)


@dataclass(slots=True)
class Plan:
    """How much work there is in all, stage by stage: what was done of past ones, what is expected of others.

    In requests at the workload's own load; a stage is named as people read it.
    """

    expected: dict[str, float] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    stage: str = ""

    def enter(self, stage: str) -> None:
        """Begin a stage: what the one before was expected to take beyond what it took is struck."""
        if self.stage:
            self.expected[self.stage] = self.done.get(self.stage, 0.0)
        self.stage = stage

    def count(self, work: float) -> None:
        """Add what was done in this stage."""
        self.done[self.stage] = self.done.get(self.stage, 0.0) + work

    @property
    def so_far(self) -> tuple[int, int]:
        """What is done and what there is in all, which is more where a stage took more than expected."""
        stages = {*self.expected, *self.done}
        total = sum(max(self.expected.get(each, 0.0), self.done.get(each, 0.0)) for each in stages)
        return round(sum(self.done.values())), round(total)


@dataclass(slots=True)
class Evaluator:
    """Runs pools on the same requests at every load and keeps count of the simulations.

    With `workers` pools run side by side once a simulation has turned out to take long. `plan` is what is to
    be done in all, so that people see how long it will take.
    """

    workload: Workload
    profile: Profile
    objective: Objective
    progress: Progress | None = None
    workers: Workers | None = None
    factors: tuple[float, ...] = LOADS
    simulations: int = 0
    longest_s: float = 0.0
    plan: Plan = field(default_factory=Plan)
    _costs: dict[GraphPool, PoolCost | None] = field(default_factory=dict)

    def run(self, pool: GraphPool, samples: Sequence[DrawnRequests]) -> list[tuple[Run, Record]]:
        """Return the run and the flat summary of every sample at its own rate; without a graph: fallback."""
        variant = Variant("candidate", pool, "fallback")
        slo_ms = self.workload.slo.limits_ms if self.workload.slo else {}
        results = []
        for sample in samples:
            run = simulate(
                self.workload, sample.requests, self.profile, variant, replication=sample.replication
            )
            if run.failure == "interrupted":
                raise KeyboardInterrupt
            self._count(1, len(sample.requests))
            results.append((run, summarize(run, slo_ms, sample.warmup_requests)))
        return results

    def values(self, pool: GraphPool, samples: Sequence[DrawnRequests]) -> list[float]:
        """Return the objective of a pool on every sample at its own rate."""
        return [self.objective.value(summary) for _, summary in self.run(pool, samples)]

    def details(
        self,
        pools: Sequence[GraphPool],
        samples: Sequence[DrawnRequests],
        largest_total: int,
        *,
        factors: Sequence[float] | None = None,
        begun: Mapping[GraphPool, Detail] | None = None,
        keeps_runs: bool = False,
    ) -> list[Detail]:
        """Return what the runs of several pools show, in their order; each distinct pool is run once.

        At `factors` (None: all loads). What the `begun` hold of the same samples is not run again.
        """
        factors = self.factors if factors is None else factors
        runs: dict[GraphPool, list[dict[float, LoadRun]]] = {}
        tasks, places = [], []
        for pool in dict.fromkeys(pools):
            known = begun[pool].runs if begun is not None and pool in begun else [{}] * len(samples)
            runs[pool] = [dict(of_sample) for of_sample in known]
            for sample, of_sample in zip(samples, runs[pool], strict=True):
                for factor in factors:
                    if factor in of_sample:
                        continue
                    part = sample.at(factor)
                    places.append((of_sample, factor))
                    tasks.append(
                        LoadTask(
                            self.workload,
                            self.profile,
                            Variant("candidate", pool, "fallback"),
                            part.requests,
                            part.replication,
                            part.warmup_requests,
                            factor,
                            largest_total,
                            self.objective,
                            keeps_runs and factor == 1.0,
                        )
                    )
        for index, result in self._results(tasks).items():
            of_sample, factor = places[index]
            of_sample[factor] = result
        details = {pool: self._detail(by_sample) for pool, by_sample in runs.items()}
        return [details[pool] for pool in pools]

    def _results(self, tasks: Sequence[LoadTask]) -> dict[int, LoadRun]:
        found: dict[int, LoadRun] = {}
        if self.workers is not None and len(tasks) > 1 and self.longest_s > WORTH_WORKERS_S:
            for index, result in as_completed(LoadTask.result, tasks, self.workers):
                found[index] = result
                self._count(len(result.at), len(tasks[index].requests) / tasks[index].factor)
            return found
        for index, task in enumerate(tasks):
            started = time.monotonic()
            found[index] = task.result()
            self.longest_s = max(self.longest_s, time.monotonic() - started)
            self._count(len(found[index].at), len(task.requests) / task.factor)
        return found

    def _detail(self, by_sample: Sequence[Mapping[float, LoadRun]]) -> Detail:
        """Gather one pool's runs, sample by sample and load by load."""
        by_sample = [{factor: several[factor] for factor in sorted(several)} for several in by_sample]
        runs = [run for several in by_sample for run in several.values()]
        share = SLO_SHARE if self.workload.slo else None
        bounds = BOUNDS if any("high" in run.at for run in runs) else BOUNDS[:1]
        here = [several[1.0] for several in by_sample]
        return Detail(
            values=[run.value for run in here if run.value is not None],
            without_graph_share=float(np.mean([run.without_graph_share for run in here])),
            missed_graph_share=float(np.mean([run.missed_graph_share for run in here])),
            most_missed=max(run.missed_graph_share for run in runs),
            ends={
                bound: variant_loads(
                    bound,
                    [mean_at_load([several[at].end(bound) for several in by_sample]) for at in by_sample[0]],
                    share,
                )
                for bound in bounds
            },
            samples={
                bound: [
                    variant_loads(bound, [run.end(bound) for run in several.values()], share)
                    for several in by_sample
                ]
                for bound in bounds
            },
            histograms=[pair for run in runs for pair in run.histogram.items()],
            runs=by_sample,
        )

    def work(self, samples: Sequence[DrawnRequests]) -> float:
        """Return about how long one pool takes on samples over the loads, as the plan counts it."""
        return sum(sample.work(self.factors) for sample in samples)

    def _count(self, simulations: int, work: float) -> None:
        self.simulations += simulations
        self.plan.count(work)
        if self.progress is not None:
            self.progress(self.plan.stage or "simulations", *self.plan.so_far)

    def cost(self, pool: GraphPool) -> PoolCost | None:
        """Return start-up seconds, memory and KV blocks of a pool, or None where it leaves no KV block."""
        if pool not in self._costs:
            try:
                self._costs[pool] = pool_cost(self.workload.engine, self.profile, pool)
            except InputError:
                pool_cost(self.workload.engine, self.profile, GraphPool())  # not the pool's fault: raise
                self._costs[pool] = None
        return self._costs[pool]


def loads_of(profile: Profile, detail: Detail, pool: GraphPool, rules: SizeRules) -> list[Load]:
    """Return the steps of every load and end as loads to choose sizes for, each load counting the same."""
    models = {bound: cost_model(profile, "fallback", bound) for bound in BOUNDS}
    found = []
    places = range(1, len(rules.candidates) + 1)
    for bound, histogram in detail.histograms:
        loads = cell_loads(histogram, models[bound], rules.candidates, pool)
        whole = sum(float(load.weights @ load.eager_ns[: len(load.weights)]) for load in loads)
        found += [
            smoothed(replace(load, weights=load.weights / whole), places) for load in loads if whole > 0
        ]
    return found
