"""Is the tuned pool really better: on requests the search never met, over all loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scheduler.analysis.comparison.differences import replicated_differences
from scheduler.analysis.comparison.loads import Loss, losses
from scheduler.analysis.metrics import Record
from scheduler.analysis.statistics.difference import Difference, without_interval
from scheduler.analysis.statistics.intervals import Interval, mean_interval
from scheduler.analysis.tuning.pool_runs import Detail, DrawnRequests, Evaluator, Judged, judged
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.loop import Run
from scheduler.executors.model.cost_model import Bound


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A tuned pool against another one on requests neither was chosen for.

    `difference` is tuned − other in the objective's unit, at the workload's own load; `on` says what was run.
    `best` and `other` hold the objective of every run.
    """

    on: str
    best: list[float]
    other: list[float]
    difference: Difference


@dataclass(frozen=True, slots=True)
class OverLoads:
    """The tuned pool and another over the loads, on requests neither was chosen for."""

    best: Detail
    other: Detail
    judged: Judged

    def interval(self, bound: Bound, loss: Loss) -> Interval | None:
        """Return the 95 % interval of a loss over the samples; None for a single one."""
        shares = [
            found.share
            for own, tuned in zip(self.other.sample_ends(bound), self.best.sample_ends(bound), strict=True)
            for found in losses(own, tuned)
            if (found.factor, found.of) == (loss.factor, loss.of)
        ]
        return mean_interval(shares) if len(shares) > 1 else None

    @property
    def gain(self) -> tuple[Loss, Bound, Interval | None]:
        """The load and end at which the tuned pool gains most."""
        every = [
            (loss, bound)
            for bound, several in self.judged.losses.items()
            for loss in several
            if loss.of != "highest rate"
        ]
        loss, bound = min(every, key=lambda pair: pair[0].share, default=(self.judged.worst, "low"))
        return loss, bound, self.interval(bound, loss)


@dataclass(slots=True)
class FreshRequests:
    """Requests the search never met; every pool is run on them once, every pair compared once."""

    evaluator: Evaluator
    samples: Sequence[DrawnRequests]
    on: str
    _runs: dict[GraphPool, list[tuple[Run, Record]]] = field(default_factory=dict)
    _compared: dict[tuple[GraphPool, GraphPool], Confirmation] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """How many requests there are in all."""
        return int(np.sum([len(sample.requests) for sample in self.samples]))

    def run(self, pool: GraphPool) -> list[tuple[Run, Record]]:
        """Return the runs and summaries of a pool at the workload's own load."""
        if pool not in self._runs:
            self._runs[pool] = self.evaluator.run(pool, self.samples)
        return self._runs[pool]

    def over_loads(self, best: GraphPool, other: GraphPool) -> OverLoads:
        """Return two pools over all loads, the highest rate that meets the SLO among what is judged."""
        tuned, own = self.evaluator.details([best, other], self.samples, 0, keeps_runs=True)
        for pool, detail in ((best, tuned), (other, own)):
            kept = [of_sample[1.0].kept for of_sample in detail.runs]
            self._runs[pool] = [run for run in kept if run is not None]
        return OverLoads(tuned, own, judged(own, tuned, with_rate=True))

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
