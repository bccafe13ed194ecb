"""Is the tuned pool really better: on requests the search never met, and when traffic drifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scheduler.analysis.comparison.differences import replicated_differences
from scheduler.analysis.metrics import Record
from scheduler.analysis.statistics.difference import Difference, without_interval
from scheduler.analysis.tuning.closed_loop import Tuning
from scheduler.analysis.tuning.pool_runs import DrawnRequests, Evaluator, loads_of
from scheduler.analysis.tuning.samples import at_rate
from scheduler.analysis.tuning.step_loads import step_histogram
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.loop import Run

DRIFTS = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A tuned pool against another one on requests neither was chosen for.

    `difference` is tuned − other in the objective's unit; `on` says what was run. `best` and `other` hold
    the objective of every run.
    """

    on: str
    best: list[float]
    other: list[float]
    difference: Difference


@dataclass(slots=True)
class FreshRequests:
    """Requests the search never met; every pool is run on them once, every pair compared once."""

    evaluator: Evaluator
    samples: Sequence[DrawnRequests]
    on: str
    _runs: dict[GraphPool, list[tuple[Run, Record]]] = field(default_factory=dict)
    _compared: dict[tuple[GraphPool, GraphPool], Confirmation] = field(default_factory=dict)

    def run(self, pool: GraphPool) -> list[tuple[Run, Record]]:
        """Return the runs and summaries of a pool."""
        if pool not in self._runs:
            self._runs[pool] = self.evaluator.run(pool, self.samples)
        return self._runs[pool]

    def compare(self, best: GraphPool, other: GraphPool) -> Confirmation:
        """Compare two pools pairwise; a pool that leaves no KV block cannot be compared with."""
        if (best, other) not in self._compared:
            self._compared[best, other] = self._compare(best, other)
        return self._compared[best, other]

    def _compare(self, best: GraphPool, other: GraphPool) -> Confirmation:
        goal = self.evaluator.objective
        best_runs = self.run(best)
        best_values = [goal.value(summary) for _, summary in best_runs]
        if self.evaluator.cost(other) is None:
            none = without_interval(0.0, 0.0, "the other pool leaves no KV block")
            return Confirmation(self.on, best_values, best_values, none)
        other_runs = self.run(other)
        other_values = [goal.value(summary) for _, summary in other_runs]
        difference = replicated_differences(
            goal.metric,
            other_values,
            best_values,
            [run for run, _ in other_runs],
            [run for run, _ in best_runs],
            self.samples[0].warmup_requests,
        )[goal.metric]
        return Confirmation(self.on, best_values, other_values, difference)


@dataclass(frozen=True, slots=True)
class Drift:
    """The objective at another rate: the winner, the own pool, no graphs, and a pool tuned for that rate."""

    factor: float
    best: float
    own: float | None
    no_graphs: float
    retuned: float
    retuned_sizes: tuple[int, ...]


def drifts(tuning: Tuning, sample: DrawnRequests) -> list[Drift]:
    """Run the same requests at other rates; what a pool tuned for each would gain is what drift loses."""
    return [_drift(tuning, at_rate(sample, factor), factor) for factor in DRIFTS]


def _drift(tuning: Tuning, sample: DrawnRequests, factor: float) -> Drift:
    evaluator, best = tuning.evaluator, tuning.best.pool
    rules = tuning.rules_for(best)
    (run, summary) = evaluator.run(best, [sample])[0]
    value = evaluator.objective.value(summary)
    most = evaluator.workload.engine.max_num_seqs
    histogram = step_histogram([run], most, rules.candidates[-1])
    sizes = rules.best(rules.problem(loads_of(evaluator.profile, histogram, best, rules))).sizes
    retuned_pool = best.with_sizes(sizes)
    retuned = value if retuned_pool == best else _value(evaluator, retuned_pool, sample)
    score = evaluator.objective.score
    if score(value) <= score(retuned):  # one step of retuning may miss; the pool in hand is then the better
        retuned, sizes = value, best.sizes
    own = None if evaluator.cost(tuning.own.pool) is None else _value(evaluator, tuning.own.pool, sample)
    no_graphs = _value(evaluator, best.with_sizes(()), sample)
    return Drift(factor, value, own, no_graphs, retuned, sizes)


def _value(evaluator: Evaluator, pool: GraphPool, sample: DrawnRequests) -> float:
    return evaluator.values(pool, [sample])[0]
