"""Is the tuned pool really better: on requests the search never met, over all loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scheduler.analysis.comparison.differences import replicated_differences
from scheduler.analysis.comparison.loads import Loss, losses
from scheduler.analysis.metrics import Record
from scheduler.analysis.statistics.difference import Difference, without_interval
from scheduler.analysis.statistics.intervals import Interval, mean_interval
from scheduler.analysis.tuning.answer import Beyond
from scheduler.analysis.tuning.padding import kv_per_request, most_padding
from scheduler.analysis.tuning.pool_runs import Detail, DrawnRequests, Evaluator, Judged, judged
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import Run
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.model.cost_model import Bound

NO_WORSE = 0.02  # a list that loses more than this at some load is no advice
# A batch that no load met may be padded by so much more than in the own list before that is looked into.
LEAST_PADDING = 0.05
FARTHER = (1.25, 1.5, 2.0)  # times the highest load that was judged


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
    def fewest(self) -> int:
        """How many requests the smallest sample has."""
        return min(len(sample.requests) for sample in self.samples)

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

    def beyond(self, best: GraphPool, other: GraphPool, over: OverLoads) -> Beyond | None:
        """Return at which load above those that were judged the tuned pool loses to the other.

        None where no decode batch takes much longer in its graphs.
        """
        evaluator = self.evaluator
        engine, model = evaluator.workload.engine, cost_model(evaluator.profile, "fallback")
        kv_tokens = kv_per_request([histogram for _, histogram in over.other.histograms])
        padding, batch = most_padding(
            other, best, model, kv_tokens, engine.max_num_seqs, engine.prefill_tokens_per_step
        )
        if padding <= LEAST_PADDING:
            return None
        factors = [max(evaluator.factors) * farther for farther in FARTHER]
        tuned, own = evaluator.details([best, other], self.samples[:1], 0, factors=(1.0, *factors))
        found = [loss for several in judged(own, tuned, with_rate=False).losses.values() for loss in several]
        losses_at = {
            factor: max((loss.share for loss in found if loss.factor == factor), default=0.0)
            for factor in factors
        }
        loses = [factor for factor in factors if losses_at[factor] > NO_WORSE]
        factor = loses[0] if loses else factors[-1]
        return Beyond(
            batch=batch, padding=padding, rate_factor=factor, loss=losses_at[factor], loses=bool(loses)
        )

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
