"""The tuner in the closed loop: the pool decides how large batches grow, the batches which pool is best.

The search (pool_search) runs on a few replications of the workload, or on the first part of a trace. The
winner is then confirmed on requests the search never met.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scheduler.analysis.choose import Load
from scheduler.analysis.metrics import summarize
from scheduler.analysis.objectives import Objective
from scheduler.analysis.pool_search import Evaluated, PoolSearch
from scheduler.analysis.pools import NamedPool, named_pool, workload_pool
from scheduler.analysis.step_loads import StepHistogram, decode_load, mixed_load, step_histogram
from scheduler.analysis.tune_budgets import Budgets, SizeRules, size_rules
from scheduler.analysis.workers import Workers, as_completed
from scheduler.catalog.pool_presets import pool_preset
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.loop import Run
from scheduler.errors import InputError
from scheduler.executors.cost_model import CostModel
from scheduler.simulate import AnyProfile, PoolCost, Variant, pool_cost, simulate
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

Progress = Callable[[str, int, int], None]
PRESETS = (
    "vllm", "sglang", "trtllm", "trtllm-nopad", "nano-vllm", "mini-sglang", "lmdeploy", "tgi", "lightllm",
    "powers_of_two",
)  # fmt: skip
WORTH_WORKERS_S = 0.4
CURVE_GRAPHS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests of one replication and the share of the first ones that statistics leave out."""

    requests: Requests
    replication: int
    warmup_share: float


@dataclass(frozen=True, slots=True)
class Detail:
    """What a pool's runs showed: the objective per sample, decode steps without a graph, the histogram."""

    values: list[float]
    without_graph_share: float
    histogram: StepHistogram


@dataclass(frozen=True, slots=True)
class _Task:
    """One pool to run on all samples; picklable."""

    workload: Workload
    profile: AnyProfile
    objective: Objective
    pool: GraphPool
    samples: Sequence[Sample]
    largest_total: int


def _detail(task: _Task) -> Detail:
    """Run a task, in this process or another one."""
    evaluator = Evaluator(task.workload, task.profile, task.objective)
    results = evaluator.run(task.pool, task.samples)
    runs = [run for run, _ in results]
    return Detail(
        [task.objective.value(summary) for _, summary in results],
        float(np.mean([_without_graph_share(run) for run in runs])),
        step_histogram(runs, task.workload.engine.max_num_seqs, task.largest_total),
    )


@dataclass(slots=True)
class Evaluator:
    """Runs pools on the same requests and keeps count of the simulations.

    With `workers` several pools run side by side once a simulation has turned out to take long.
    """

    workload: Workload
    profile: AnyProfile
    objective: Objective
    progress: Progress | None = None
    workers: Workers | None = None
    simulations: int = 0
    longest_s: float = 0.0

    def values(self, pool: GraphPool, samples: Sequence[Sample], eager: bool = False) -> list[float]:
        """Return the objective of a pool on every sample."""
        return [self.objective.value(summary) for _, summary in self.run(pool, samples, eager)]

    def run(
        self, pool: GraphPool, samples: Sequence[Sample], eager: bool = False
    ) -> list[tuple[Run, dict[str, Any]]]:
        """Return the run and the flat summary of every sample; steps without a graph use the fallback."""
        variant = Variant("candidate", pool, "eager" if eager else "fallback")
        slo_ms = self.workload.slo.limits_ms if self.workload.slo else {}
        results = []
        for sample in samples:
            run = simulate(
                self.workload, sample.requests, self.profile, variant, replication=sample.replication
            )
            if run.failure == "interrupted":
                raise KeyboardInterrupt
            self._count(1)
            warmup = int(len(sample.requests) * sample.warmup_share)
            results.append((run, summarize(run, slo_ms, warmup)))
        return results

    def details(
        self, pools: Sequence[GraphPool], samples: Sequence[Sample], rules: dict[bool, SizeRules]
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


@dataclass(slots=True)
class Tuning:
    """What the search found: every pool tried, the winner, the workload's own pool, the curve's pools."""

    evaluator: Evaluator
    budgets: Budgets
    rules: SizeRules
    samples: list[Sample]
    search: PoolSearch
    best: Evaluated
    own: NamedPool
    presets: list[NamedPool]
    curve: list[Evaluated] = field(default_factory=list)

    def rules_for(self, pool: GraphPool) -> SizeRules:
        """Return the rules of the pool's mode."""
        if pool.piecewise == self.own.pool.piecewise:
            return self.rules
        engine = self.evaluator.workload.engine
        return size_rules(self.budgets, engine, self.evaluator.profile, pool.piecewise)


def tune(evaluator: Evaluator, samples: list[Sample], budgets: Budgets) -> Tuning:
    """Search the best pool for the samples within the budgets; see pool_search for how.

    Where the workload's list also serves mixed steps, both modes compete: one list for all steps, and
    graphs for decode steps alone. Raises InputError for budgets that cannot be kept.
    """
    workload, profile = evaluator.workload, evaluator.profile
    engine = workload.engine
    own = workload_pool(workload.pool, engine, profile, "own")
    modes = [own.pool.piecewise, False] if own.pool.piecewise else [False]
    rules = {piecewise: size_rules(budgets, engine, profile, piecewise) for piecewise in modes}
    search = PoolSearch(lambda pools: _evaluate(evaluator, pools, samples, rules))
    for piecewise in modes:
        chooser = rules[piecewise].chooser()
        label = "one list for decode and mixed steps" if piecewise else "decode steps alone"
        for start, name in ((GraphPool(piecewise=piecewise), "from no graphs"), (own.pool, "from own pool")):
            if start.piecewise == piecewise and evaluator.cost(start) is not None:
                search.iterate(start, chooser, f"{label}, {name}" if len(modes) > 1 else name)

    def allowed(pool: GraphPool) -> bool:
        return pool.padding and rules[pool.piecewise].allows(pool)

    presets = _presets(workload, profile, own)
    search.values([(named.pool, named.name) for named in presets])
    best = search.best(allowed)
    if best is None or not np.isfinite(best.score):
        raise InputError("no pool within the budgets leaves room for the KV cache; allow fewer graphs")
    search.try_neighbours(best, rules[best.pool.piecewise].chooser())
    best = search.best(allowed) or best
    curve = _curve(search, best, rules[best.pool.piecewise])
    best = search.best(allowed) or best
    return Tuning(evaluator, budgets, rules[own.pool.piecewise], samples, search, best, own, presets, curve)


def _evaluate(
    evaluator: Evaluator, pools: Sequence[GraphPool], samples: Sequence[Sample], rules: dict[bool, SizeRules]
) -> list[Evaluated]:
    """Run the pools that leave room for the KV cache, side by side where that is worth it."""
    fitting = [pool for pool in pools if evaluator.cost(pool) is not None]
    details = dict(zip(fitting, evaluator.details(fitting, samples, rules), strict=True))
    return [_evaluated(evaluator, pool, details.get(pool), rules[pool.piecewise]) for pool in pools]


def _evaluated(evaluator: Evaluator, pool: GraphPool, detail: Detail | None, rules: SizeRules) -> Evaluated:
    if detail is None:
        return Evaluated(pool, np.inf, list)
    score = evaluator.objective.score(float(np.mean(detail.values)))
    histogram = detail.histogram
    return Evaluated(pool, score, lambda: loads_of(evaluator.profile, histogram, pool, rules), detail)


def loads_of(profile: AnyProfile, histogram: StepHistogram, pool: GraphPool, rules: SizeRules) -> list[Load]:
    """Return the loads of a histogram: decode steps, and those with prompts where the list serves them."""
    model = CostModel(profile, "fallback")
    loads = [decode_load(histogram, model, rules.candidates)]
    if pool.piecewise:
        loads.append(mixed_load(histogram, model, rules.candidates))
    return loads


def _without_graph_share(run: Run) -> float:
    """Return the share of decode steps without a graph."""
    decode = run.steps.kind == 0
    return float((run.steps.capture_size[decode] == 0).mean()) if decode.any() else 0.0


def _presets(workload: Workload, profile: AnyProfile, own: NamedPool) -> list[NamedPool]:
    """Return the workload's own pool and the engines', each distinct pool once."""
    found = {own.pool: own}
    for name in PRESETS:
        named = named_pool(name, workload.engine, profile)
        pool = replace(named.pool, piecewise=own.pool.piecewise)
        found.setdefault(pool, NamedPool(name, pool, named.origin))
    return list(found.values())


def _curve(search: PoolSearch, best: Evaluated, rules: SizeRules) -> list[Evaluated]:
    """Evaluate the best choice of every number of graphs by the winner's own batches, fewest first."""
    unlimited = replace(rules, most_by_largest=None, max_capture_s=None)
    problem = unlimited.problem(best.loads())
    most = min(max(CURVE_GRAPHS[-1], rules.graphs), len(problem.candidates))
    pools = [(GraphPool(piecewise=best.pool.piecewise), "no graphs")]
    powers = len(pool_preset("powers_of_two", rules.max_num_seqs, rules.max_num_seqs).sizes)
    for graphs in sorted({*CURVE_GRAPHS, rules.graphs, powers}):
        if max(len(rules.forced), 1) <= graphs <= most:
            choice = unlimited.best(problem, graphs)
            pool = GraphPool(choice.sizes, padding=True, piecewise=best.pool.piecewise)
            pools.append((pool, f"best {graphs} for the winner's batches"))
    return search.values(pools)
