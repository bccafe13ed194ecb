"""Is the tuned pool really better: on requests the search never met, and when traffic drifts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scheduler.analysis.metrics import latencies_ms
from scheduler.analysis.statistics.block_bootstrap import within_trace_difference
from scheduler.analysis.statistics.intervals import Verdict, paired_difference
from scheduler.analysis.tuning.closed_loop import Tuning
from scheduler.analysis.tuning.objectives import Objective
from scheduler.analysis.tuning.pool_runs import Evaluator, Sample, loads_of
from scheduler.analysis.tuning.samples import at_rate
from scheduler.analysis.tuning.step_loads import step_histogram
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.loop import Run
from scheduler.engine.records import Status

DRIFTS = (0.5, 1.0, 2.0)
_PERCENTILE = {"mean": None, "median": 50.0}


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A tuned pool against another one on requests neither was chosen for.

    `difference` is tuned − other in the objective's unit, with its 95 % interval where there is one; `on`
    says what was run, `note` why there is no interval.
    """

    on: str
    best: list[float]
    other: list[float]
    difference: float
    low: float | None
    high: float | None
    verdict: Verdict
    note: str | None = None

    @property
    def relative(self) -> float | None:
        """The difference relative to the other pool's mean."""
        other = float(np.mean(self.other))
        return self.difference / abs(other) if other else None


@dataclass(slots=True)
class FreshRequests:
    """Requests the search never met; every pool is run on them once."""

    evaluator: Evaluator
    samples: Sequence[Sample]
    on: str
    _runs: dict[GraphPool, list[tuple[Run, dict[str, Any]]]] = field(default_factory=dict)

    def run(self, pool: GraphPool) -> list[tuple[Run, dict[str, Any]]]:
        """Return the runs and summaries of a pool."""
        if pool not in self._runs:
            self._runs[pool] = self.evaluator.run(pool, self.samples)
        return self._runs[pool]

    def compare(self, best: GraphPool, other: GraphPool) -> Confirmation:
        """Compare two pools pairwise; a pool that leaves no KV block cannot be compared with."""
        goal = self.evaluator.objective
        best_runs = self.run(best)
        best_values = [goal.value(summary) for _, summary in best_runs]
        if self.evaluator.cost(other) is None:
            note = "the other pool leaves no KV block"
            shown = Verdict.NO_DIFFERENCE_SHOWN
            return Confirmation(self.on, best_values, best_values, 0.0, None, None, shown, note)
        other_runs = self.run(other)
        other_values = [goal.value(summary) for _, summary in other_runs]
        if len(self.samples) == 1:
            return _within_one(goal, other_runs[0][0], best_runs[0][0], other_values, best_values, self.on)
        paired = paired_difference(other_values, best_values, lower_is_better=goal.lower_is_better)
        low, high = (None, None) if paired.interval is None else (paired.interval.low, paired.interval.high)
        return Confirmation(self.on, best_values, other_values, paired.difference, low, high, paired.verdict)


@dataclass(frozen=True, slots=True)
class Drift:
    """The objective at another rate: the winner, the own pool, no graphs, and a pool tuned for that rate."""

    factor: float
    best: float
    own: float | None
    no_graphs: float
    retuned: float
    retuned_sizes: tuple[int, ...]


def _within_one(
    goal: Objective, own_run: Run, best_run: Run, own: list[float], best: list[float], on: str
) -> Confirmation:
    """Compare within a single run, request by request, where the objective is one of requests."""
    difference = best[0] - own[0]
    found = re.fullmatch(r"(mean|median|p[0-9.]+)_(ttft|tpot|e2el)", goal.name)
    if found is None:
        note = f"one run has no interval of its {goal.name}"
        return Confirmation(on, best, own, difference, None, None, Verdict.NO_DIFFERENCE_SHOWN, note)
    both = (own_run.requests.status == Status.COMPLETED) & (best_run.requests.status == Status.COMPLETED)
    if found[2] == "tpot":
        both &= own_run.requests.output_tokens > 1
    first, second = (latencies_ms(run.requests, both) for run in (own_run, best_run))
    longest_ms = max(first["e2el"].max(), second["e2el"].max())
    within = within_trace_difference(
        own_run.requests.arrival_ns[both] / 1e9,
        first[found[2]],
        second[found[2]],
        longest_ms / 1e3,
        percentile=_PERCENTILE[found[1]] if found[1] in _PERCENTILE else float(found[1][1:]),
    )
    low, high = (None, None) if within.interval is None else (within.interval.low, within.interval.high)
    return Confirmation(on, best, own, within.difference, low, high, within.verdict, within.reason)


def drifts(tuning: Tuning, sample: Sample) -> list[Drift]:
    """Run the same requests at other rates; what a pool tuned for each would gain is what drift loses."""
    return [_drift(tuning, at_rate(sample, factor), factor) for factor in DRIFTS]


def _drift(tuning: Tuning, sample: Sample, factor: float) -> Drift:
    evaluator, best = tuning.evaluator, tuning.best.pool
    rules = tuning.rules_for(best)
    (run, summary) = evaluator.run(best, [sample])[0]
    value = evaluator.objective.value(summary)
    most = evaluator.workload.engine.max_num_seqs
    histogram = step_histogram([run], most, rules.candidates[-1])
    sizes = rules.best(rules.problem(loads_of(evaluator.profile, histogram, best, rules))).sizes
    retuned_pool = GraphPool(sizes, padding=True, piecewise=best.piecewise)
    retuned = value if retuned_pool == best else _value(evaluator, retuned_pool, sample)
    score = evaluator.objective.score
    if score(value) <= score(retuned):  # one step of retuning may miss; the pool in hand is then the better
        retuned, sizes = value, best.sizes
    own = None if evaluator.cost(tuning.own.pool) is None else _value(evaluator, tuning.own.pool, sample)
    no_graphs = _value(evaluator, GraphPool(piecewise=best.piecewise), sample)
    return Drift(factor, value, own, no_graphs, retuned, sizes)


def _value(evaluator: Evaluator, pool: GraphPool, sample: Sample) -> float:
    return evaluator.values(pool, [sample])[0]
