"""What drafting changes over the loads, by draft tokens and capture list, and where it stops paying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

from scheduler.analysis.comparison.loads import AtLoad, LossOf, VariantLoads
from scheduler.catalog.dispatch.table import Kind
from scheduler.engine.graph_pool import GraphPool
from scheduler.executors.model.cost_model import Bound

PAYS = 0.01  # a change below this is called none


@dataclass(frozen=True, slots=True)
class DraftedList:
    """One capture list with one number of draft tokens over the loads, at each end of a host range.

    `falls_off` are the decode batches, as inclusive ranges, that no FULL graph of the list serves (in mode
    piecewise: no graph).
    """

    draft_tokens: int
    origin: str
    pool: GraphPool
    falls_off: tuple[tuple[int, int, Kind], ...]
    at: Mapping[Bound, VariantLoads]

    def end(self, bound: Bound) -> VariantLoads:
        """Return the list over the loads at one end."""
        return self.at[bound] if bound in self.at else self.at["low"]


@dataclass(frozen=True, slots=True)
class DraftChange:
    """What drafting changes at one load against not drafting, each with its chosen list.

    `share` is that of mean TPOT (negative: better) or, where the server is overloaded without drafts, of the
    requests it does not serve. `low` and `high` are the ends of its 95 % interval over fresh requests, None
    where it was not confirmed there.
    """

    factor: float
    rate_per_s: float | None
    draft_tokens: int
    share: float
    of: LossOf
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class DraftStudy:
    """Numbers of draft tokens × capture lists over the loads.

    `chosen` is the list chosen for each number of draft tokens, `changes` what each but 0 changes at every
    load, at each end of the host range. `requests` are those of the sample.
    """

    requests: int
    lists: tuple[DraftedList, ...]
    chosen: Mapping[int, DraftedList]
    changes: Mapping[Bound, tuple[DraftChange, ...]]

    def best(self, bound: Bound) -> list[DraftChange]:
        """Return the best change at every load, lowest load first."""
        return best_changes(self.changes.get(bound, self.changes["low"]))

    def best_here(self, bound: Bound = "low") -> DraftChange:
        """Return the best change at the workload's own load."""
        return min(self.best(bound), key=lambda change: abs(log(change.factor)))

    def changes_of(self, draft_tokens: int, bound: Bound) -> list[DraftChange]:
        """Return what one number of draft tokens changes at every load, lowest load first."""
        changes = self.changes.get(bound, self.changes["low"])
        return sorted(
            (change for change in changes if change.draft_tokens == draft_tokens),
            key=lambda change: change.factor,
        )

    def stops_at(self, bound: Bound, draft_tokens: int | None = None) -> float | None:
        """Return the load, as a multiple of the workload's, above which drafting stops paying.

        `draft_tokens` None: whatever number is best at each load.
        0 where it pays at no load that was tried, None where it pays at all of them. Between two loads the
        change is taken to grow with the logarithm of the load.
        """
        if draft_tokens is None:
            return crossing(self.best(bound))
        return crossing(self.changes_of(draft_tokens, bound))


def best_changes(changes: Sequence[DraftChange]) -> list[DraftChange]:
    """Return the best of the changes at every load, lowest load first."""
    factors = sorted({change.factor for change in changes})
    return [
        min((each for each in changes if each.factor == factor), key=lambda each: each.share)
        for factor in factors
    ]


def crossing(best: Sequence[DraftChange]) -> float | None:
    """Return the first load from which on the change is no gain; see `DraftStudy.stops_at`."""
    before: DraftChange | None = None
    for change in best:
        if change.share <= -PAYS:
            before = change
            continue
        if before is None:
            return 0.0
        gain, loss = before.share, change.share
        part = 1.0 if loss <= 0 else gain / (gain - loss)
        return exp(log(before.factor) + part * (log(change.factor) - log(before.factor)))
    return None


def rate_at(loads: Sequence[AtLoad], factor: float) -> float | None:
    """Return the requests per second of a load, None in a closed loop."""
    known = next((load for load in loads if load.rate_per_s and load.factor), None)
    return None if known is None or known.rate_per_s is None else known.rate_per_s / known.factor * factor
