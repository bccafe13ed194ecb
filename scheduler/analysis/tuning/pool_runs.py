"""Pools run on the same requests: values of the objective, histograms of steps, side by side if need be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.analysis.metrics import Record, missed_graph_share, summarize, without_graph_share
from scheduler.analysis.tuning.budgets import SizeRules
from scheduler.analysis.tuning.choose import Load
from scheduler.analysis.tuning.objectives import Objective
from scheduler.analysis.tuning.step_loads import StepHistogram, decode_load, mixed_load, step_histogram
from scheduler.analysis.workers import Workers, as_completed
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.graph_pool import GraphPool, full_limit
from scheduler.engine.loop import Run
from scheduler.errors import InputError
from scheduler.executors.model.by_profile import cost_model
from scheduler.simulate import PoolCost, Variant, pool_cost, simulate
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

Progress = Callable[[str, int, int], None]
WORTH_WORKERS_S = 0.4


@dataclass(frozen=True, slots=True)
class DrawnRequests:
    """Requests of one replication and the share of the first ones that statistics leave out."""

    requests: Requests
    replication: int
    warmup_share: float

    @property
    def warmup_requests(self) -> int:
        """How many of the first requests no statistic counts."""
        return int(len(self.requests) * self.warmup_share)


@dataclass(frozen=True, slots=True)
class Detail:
    """What a pool's runs showed: the objective per sample, steps that found no graph, the histogram."""

    values: list[float]
    without_graph_share: float
    missed_graph_share: float
    histogram: StepHistogram


@dataclass(frozen=True, slots=True)
class _Task:
    """One pool to run on all samples; picklable."""

    workload: Workload
    profile: Profile
    objective: Objective
    pool: GraphPool
    samples: Sequence[DrawnRequests]
    largest_total: int


def _detail(task: _Task) -> Detail:
    """Run a task, in this process or another one."""
    evaluator = Evaluator(task.workload, task.profile, task.objective)
    results = evaluator.run(task.pool, task.samples)
    runs = [run for run, _ in results]
    return Detail(
        [task.objective.value(summary) for _, summary in results],
        float(np.mean([without_graph_share(run) for run in runs])),
        float(np.mean([missed_graph_share(run, task.pool) for run in runs])),
        step_histogram(runs, task.workload.engine.max_num_seqs, task.largest_total),
    )


@dataclass(slots=True)
class Evaluator:
    """Runs pools on the same requests and keeps count of the simulations.

    With `workers` several pools run side by side once a simulation has turned out to take long.
    """

    workload: Workload
    profile: Profile
    objective: Objective
    progress: Progress | None = None
    workers: Workers | None = None
    simulations: int = 0
    longest_s: float = 0.0

    def values(self, pool: GraphPool, samples: Sequence[DrawnRequests]) -> list[float]:
        """Return the objective of a pool on every sample."""
        return [self.objective.value(summary) for _, summary in self.run(pool, samples)]

    def run(self, pool: GraphPool, samples: Sequence[DrawnRequests]) -> list[tuple[Run, Record]]:
        """Return the run and the flat summary of every sample; steps without a graph use the fallback."""
        variant = Variant("candidate", pool, "fallback")
        slo_ms = self.workload.slo.limits_ms if self.workload.slo else {}
        results = []
        for sample in samples:
            run = simulate(
                self.workload, sample.requests, self.profile, variant, replication=sample.replication
            )
            if run.failure == "interrupted":
                raise KeyboardInterrupt
            self._count(1)
            results.append((run, summarize(run, slo_ms, sample.warmup_requests)))
        return results

    def details(
        self, pools: Sequence[GraphPool], samples: Sequence[DrawnRequests], rules: Mapping[bool, SizeRules]
    ) -> list[Detail]:
        """Return what the runs of several pools show, in their order."""
        tasks = [
            _Task(
                self.workload,
                self.profile,
                self.objective,
                pool,
                samples,
                rules[pool.piecewise].candidates[-1],
            )
            for pool in pools
        ]
        if self.workers is not None and len(tasks) > 1 and self.longest_s > WORTH_WORKERS_S:
            found: dict[int, Detail] = {}
            for index, detail in as_completed(_detail, tasks, self.workers):
                found[index] = detail
                self._count(len(samples))
            return [found[index] for index in range(len(tasks))]
        details = []
        for task in tasks:
            started = time.monotonic()
            details.append(_detail(task))
            self.longest_s = max(self.longest_s, time.monotonic() - started)
            self._count(len(samples))
        return details

    def _count(self, simulations: int) -> None:
        self.simulations += simulations
        if self.progress is not None:
            self.progress(f"{self.simulations} simulations", self.simulations, 0)

    def cost(self, pool: GraphPool) -> PoolCost | None:
        """Return start-up seconds, memory and KV blocks of a pool, or None where it leaves no KV block."""
        try:
            return pool_cost(self.workload.engine, self.profile, pool)
        except InputError:
            pool_cost(self.workload.engine, self.profile, GraphPool())  # not the pool's fault: raise
            return None


def loads_of(profile: Profile, histogram: StepHistogram, pool: GraphPool, rules: SizeRules) -> list[Load]:
    """Return the loads of a histogram: decode steps, and those with prompts where the list serves them."""
    model = cost_model(profile, "fallback")
    most = len(histogram.decode_count) - 1
    loads = [decode_load(histogram, model, rules.candidates, full_limit(pool, most))]
    if pool.piecewise:
        loads.append(mixed_load(histogram, model, rules.candidates))
    return loads
