"""Eager against graph pools on the same requests, replication by replication."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.analysis.comparison.drafting import DraftStudy
from scheduler.analysis.comparison.kept_runs import Kept, KeptRuns, Scratch, in_memory
from scheduler.analysis.comparison.loads import LoadStudy
from scheduler.analysis.comparison.pools import NamedPool
from scheduler.analysis.metrics import Metric, Record, summarize
from scheduler.analysis.statistics.difference import Difference
from scheduler.analysis.statistics.steady_state import OfferedLoad
from scheduler.analysis.workers import Workers, work_beside
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.executor import Executor
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import Run
from scheduler.executors.execution import Execution
from scheduler.simulate import PoolCost, Variant, high_end, pool_cost, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

Progress = Callable[[str, int, int], None]
Result = tuple[Run, Record]
# Fewer requests than these, over all simulations, are served before another process has started.
WORTH_WORKERS = 10_000


@dataclass(slots=True, eq=False)
class Column:
    """One variant over all replications: its runs and their flat summaries, in replication order.

    A column is equal to itself alone.
    """

    variant: Variant
    origin: str
    cost: PoolCost
    runs: KeptRuns = field(default_factory=KeptRuns)
    summaries: list[Record] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name in files and on the card; the high end of a range has a suffix."""
        return self.variant.column

    @property
    def title(self) -> str:
        """The name in sentences and tables for people."""
        return self.variant.name + (", slow host" if self.variant.bound == "high" else "")

    def values(self, key: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return one metric over the replications; empty where a replication lacks it."""
        values = [summary[key] for summary in self.summaries if key in summary]
        return np.array(values if len(values) == len(self.summaries) else [], np.float64)

    def mean(self, key: str) -> float | None:
        """Return a metric's mean over the replications, or None where it does not exist."""
        values = self.values(key)
        return float(values.mean()) if len(values) else None


@dataclass(frozen=True, slots=True)
class SmallerPool:
    """A pool of some of `own`'s sizes, and how it served the same requests."""

    own: Column
    column: Column


@dataclass(slots=True)
class Comparison:
    """Everything a card, a plot or a report needs to know about one invocation."""

    workload: Workload
    profile: Profile
    requests: list[Requests]
    warmup_requests: int
    pools: list[Column]
    eager: Column
    high: dict[str, Column]  # the columns at the high end of the profile's range, by variant name
    execution: Execution | None = None  # None: the cost model
    smaller: SmallerPool | None = None
    load_study: LoadStudy | None = None  # the variants from half to twice the load
    draft_study: DraftStudy | None = None  # what drafting changes over the loads
    failure: str | None = None
    scratch: Scratch | None = None  # where runs go that memory has no room for
    # What `differences.py` has computed, by (baseline, candidate): no pair is compared twice.
    differences: dict[tuple[Column, Column], dict[Metric, Difference]] = field(
        default_factory=dict, repr=False
    )
    loads: dict[Column, list[OfferedLoad]] = field(default_factory=dict, repr=False)  # of `steadiness.py`

    @property
    def columns(self) -> list[Column]:
        """Every column: pools in the order given, then eager, then the high ends."""
        return [*self.pools, self.eager, *self.high.values()]

    @property
    def replications(self) -> int:
        """How many replications were run."""
        return len(self.requests)


def compare(
    workload: Workload,
    profile: Profile,
    pools: Sequence[NamedPool],
    *,
    replications: int = 1,
    warmup_share: float = 0.0,
    open_execution: Callable[[list[Requests]], Execution] | None = None,
    progress: Progress | None = None,
    workers: Workers | None = None,
    scratch: Scratch | None = None,
) -> Comparison:
    """Run every pool and pure eager on the same requests.

    `open_execution` opens real execution or a step log for the drawn requests; without it the profile's
    cost model runs. Where the profile gives eager host time as a range, eager and each pool with other
    steps than decode steps in a graph are run at both ends. A failure ends the comparison with what there is.
    `workers` take part where the cost model has many requests to serve, and large runs go to `scratch`; the
    results are the same.
    """
    requests = [draw_requests(workload, replication) for replication in range(replications)]
    warmup_requests = int(len(requests[0]) * warmup_share)
    columns = [
        Column(
            Variant(named.name, named.pool, "fallback"),
            named.origin,
            pool_cost(workload.engine, profile, named.pool, named.name),
        )
        for named in pools
    ]
    eager = Column(
        Variant("eager", GraphPool(), "eager"), "no graphs", pool_cost(workload.engine, profile, GraphPool())
    )
    comparison = Comparison(workload, profile, requests, warmup_requests, columns, eager, {}, scratch=scratch)
    if open_execution is not None:
        comparison.execution = open_execution(requests)
        _without_failed_captures(columns, comparison.execution)
    run_columns(comparison, (*columns, eager), progress, workers)
    if not comparison.columns[0].runs:
        raise KeyboardInterrupt  # before there was anything to show
    if comparison.failure is None and comparison.execution is None:
        for column in (*columns, eager):
            high = high_end(profile, column.variant, column.runs)
            if high is not None:
                comparison.high[high.name] = Column(high, column.origin, column.cost)
        run_columns(comparison, [*comparison.high.values()], progress, workers)
    return comparison


def _without_failed_captures(columns: Sequence[Column], execution: Execution) -> None:
    """Let no step be routed to a graph that the device could not capture."""
    for column in columns:
        pool = column.variant.pool
        failed = tuple(size for size in pool.sizes if size in execution.failed_sizes)
        if failed:
            column.variant = replace(column.variant, pool=replace(pool, failed=failed))


@dataclass(frozen=True, slots=True)
class _Simulation:
    """One variant on one replication's requests, with all that another process needs to run it."""

    workload: Workload
    profile: Profile
    variant: Variant
    requests: Requests
    replication: int
    warmup_requests: int

    def result(
        self, executor: Executor | None = None, progress: Callable[[int], None] | None = None
    ) -> Result:
        """Run it and summarize."""
        run = simulate(
            self.workload,
            self.requests,
            self.profile,
            self.variant,
            replication=self.replication,
            executor=executor,
            progress=progress,
        )
        slo_ms = self.workload.slo.limits_ms if self.workload.slo else {}
        return run, summarize(run, slo_ms, self.warmup_requests)


def run_columns(
    comparison: Comparison,
    columns: Sequence[Column],
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> None:
    """Run columns over all replications, in order, up to the first failure; Ctrl-C is one."""
    of, execution = comparison, comparison.execution
    todo = [(column, replication) for column in columns for replication in range(of.replications)]
    simulations = [
        _Simulation(of.workload, of.profile, column.variant, of.requests[number], number, of.warmup_requests)
        for column, number in todo
    ]

    def here(index: int) -> Result:
        column, replication = todo[index]
        label = f"{column.name}, replication {replication + 1} of {of.replications}"
        total = len(of.requests[replication])
        return simulations[index].result(
            None if execution is None else execution.executor(column.name, replication),
            None if progress is None else lambda done: progress(label, done, total),
        )

    served = sum(len(simulation.requests) for simulation in simulations)
    results: Iterator[tuple[int, Result]]
    if workers is None or execution is not None or served < WORTH_WORKERS:
        results = ((index, here(index)) for index in range(len(todo)))
    else:
        results = work_beside(_Simulation.result, simulations, workers, here)
    keep = in_memory if comparison.scratch is None else comparison.scratch.keep
    found: dict[int, tuple[Kept, Record]] = {}
    try:
        for index, (run, summary) in results:
            found[index] = keep(run), summary
            comparison.failure = run.failure
            if comparison.failure is not None:
                break
    except KeyboardInterrupt:
        comparison.failure = "interrupted"
    if comparison.failure is not None and workers is not None:
        workers.stop()
    for index, (column, _) in enumerate(todo):
        if index not in found:
            break
        kept, summary = found[index]
        column.runs.append(kept)
        column.summaries.append(summary)


def decoded_without_graph(run: Run) -> bool:
    """Return whether any step with decodes ran without a graph."""
    return bool(((run.steps.batch_size > 0) & (run.steps.capture_size == 0)).any())
