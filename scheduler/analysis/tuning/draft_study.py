"""Draft tokens and capture list together, in the closed loop: which to take, at which load to stop.

For each number of draft tokens some lists serve the same requests from half the load up: the workload's
own (an engine's default list is made anew for each), the same with sizes up to the last request, and a thin
one. The fewest graphs that are no worse are chosen, and their server is compared with one that does not
draft. Lists that are clearly worse at the lowest and the highest load are left out of those between, and
numbers that are clearly worse than another at every load are not confirmed on fresh requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.analysis.comparison.compare import Comparison
from scheduler.analysis.comparison.drafting import (
    DraftChange,
    DraftedList,
    DraftStudy,
    best_changes,
    crossing,
)
from scheduler.analysis.comparison.loads import (
    LOADS,
    SLO_SHARE,
    Loss,
    first_requests,
    loss_at,
    mean_at_load,
    variant_loads,
)
from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.statistics.intervals import mean_interval
from scheduler.analysis.tuning.load_runs import LoadRun, LoadTask
from scheduler.analysis.tuning.objectives import Objective
from scheduler.analysis.workers import Workers, as_completed
from scheduler.catalog.dispatch.audit import Range, audit
from scheduler.catalog.dispatch.engines import engine_rules
from scheduler.catalog.dispatch.table import Settings
from scheduler.catalog.dispatch.vllm import grid
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.executors.model.cost_model import Bound
from scheduler.simulate import Variant, pool_cost
from scheduler.workload.draw import draw_requests
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

Progress = Callable[[str, int, int], None]
REQUESTS = 400  # of a comparison's study, at its own load
TOLERANCE = 0.01  # by which fewer graphs may be worse: called no difference
# Requests to 4 one by one, to 16 in twos, to 32 in fours, and so on: about an eighth is padded at most.
SPACING = ((1, 4), (2, 16), (4, 32), (8, 64), (16, 128), (32, 4096))
FURTHER = (3.0, 4.0)  # loads tried above the others as long as drafting pays
CLEARLY = 0.02  # worse than the best by more than this: a list is not tried at the loads between
CONTENDS = 0.05  # a number that comes this near to the best of a load is confirmed on fresh requests
BOUNDS: tuple[Bound, Bound] = ("low", "high")


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests of one replication: the first `count` come at the workload's own load, as many more at others.

    So arrivals last as long at every load, where the requests suffice. The first `warmup_share` do not count.
    """

    requests: Requests
    replication: int
    count: int
    warmup_share: float = 0.1

    def at(self, factor: float) -> tuple[Requests, int, int]:
        """Return the requests of a load, the replication, and how many of the first do not count."""
        several = self.requests.concurrency is None
        requests = first_requests(self.requests, round(self.count * factor) if several else self.count)
        return requests, self.replication, int(len(requests) * self.warmup_share)


def draft_sample(workload: Workload, replication: int, count: int) -> Sample:
    """Draw a sample with `count` requests at the workload's own load; of a record, its first."""
    if workload.happened_once or workload.requests is None:
        requests = draw_requests(workload, replication)
        return Sample(requests, replication, min(count, len(requests)))
    count = min(count, workload.requests)
    most = round(count * max((*LOADS, *FURTHER)))
    more = workload.model_copy(update={"requests": most})
    return Sample(draw_requests(more, replication), replication, count)


class DraftRuns:
    """Runs capture lists with drafts on samples over the loads, side by side where there are workers."""

    def __init__(
        self,
        workload: Workload,
        profile: Profile,
        objective: Objective | None = None,
        progress: Progress | None = None,
        workers: Workers | None = None,
    ) -> None:
        if workload.engine.speculation is None:
            raise InputError(
                "engine.speculation: expected method and acceptance, to try numbers of draft tokens; the key "
                "is missing"
            )
        self.workload = workload
        self.profile = profile
        self.objective = objective
        self.progress = progress
        self.workers = workers

    def drafting(self, draft_tokens: int) -> Workload:
        """Return the workload with another number of draft tokens; raises InputError where that cannot be."""
        engine = self.workload.engine
        settings = engine.speculation
        assert settings is not None  # noqa: S101  (checked when made)
        least = engine.max_num_seqs * (1 + draft_tokens)
        if engine.policy == "mixed" and engine.max_num_batched_tokens < least:
            raise InputError(
                f"engine.max_num_batched_tokens: expected at least {least} for {draft_tokens} "
                f"draft tokens, max_num_seqs × {1 + draft_tokens}, got {engine.max_num_batched_tokens}"
            )
        shares = settings.acceptance.per_position
        if shares is not None and len(shares) < draft_tokens:
            raise InputError(
                f"engine.speculation.acceptance.per_position: expected {draft_tokens} shares for as "
                f"many draft tokens, got {len(shares)}"
            )
        settings = settings.model_copy(update={"draft_tokens": draft_tokens})
        return self.workload.model_copy(
            update={"engine": engine.model_copy(update={"speculation": settings})}
        )

    def run(
        self, lists: Sequence[tuple[int, GraphPool]], samples: Sequence[Sample], factors: Sequence[float]
    ) -> list[list[list[LoadRun]]]:
        """Return what every list showed, by sample and load."""
        tasks = [
            LoadTask(
                self.drafting(k), self.profile, Variant("candidate", pool, "fallback"), *sample.at(factor),
                factor, 0, self.objective,
            )
            for k, pool in lists
            for sample in samples
            for factor in factors
        ]  # fmt: skip
        found: dict[int, LoadRun] = {}
        if self.workers is not None and len(tasks) > 1:
            for index, result in as_completed(LoadTask.result, tasks, self.workers):
                found[index] = result
                self._tell(len(found), len(tasks))
        else:
            for index, task in enumerate(tasks):
                found[index] = task.result()
                self._tell(len(found), len(tasks))
        several = iter(found[index] for index in range(len(tasks)))
        return [[[next(several) for _ in factors] for _ in samples] for _ in lists]

    def _tell(self, done: int, of: int) -> None:
        if self.progress is not None:
            self.progress("drafting over the loads", done, of)


def study_drafts(
    runs: DraftRuns,
    sample: Sample,
    draft_tokens: Sequence[int],
    factors: Sequence[float] = LOADS,
) -> DraftStudy:
    """Return the study on one sample; 0 draft tokens are always among those compared.

    Where drafting still pays at the highest load, higher ones are tried. `pool` replaces the workload's own
    list for its own number of draft tokens. Raises InputError for numbers that the workload does not allow.
    """
    numbers = sorted({0, *draft_tokens})
    lists = [each for k in numbers for each in _lists(runs, k)]
    loads = sorted({*factors, 1.0})
    ends, between = sorted({loads[0], loads[-1]}), loads[1:-1]
    shown = _tried(lists, ends, sample, runs)
    kept = [each for k in numbers for each in _near([each for each in shown if each.draft_tokens == k])]
    if between:
        again = [(each.draft_tokens, each.origin, each.pool) for each in kept]
        more = _tried(again, between, sample, runs)
        kept = [_joined(each, further) for each, further in zip(kept, more, strict=True)]
        shown = [next((each for each in kept if each.pool == one.pool), one) for one in shown]
    chosen = {k: _chosen([each for each in kept if each.draft_tokens == k]) for k in numbers}
    for further in FURTHER:
        if further <= loads[-1] or crossing(best_changes(_changes(chosen, "low"))) is not None:
            continue
        loads.append(further)
        again = [(each.draft_tokens, each.origin, each.pool) for each in chosen.values()]
        further_on = _tried(again, [further], sample, runs)
        chosen = {
            each.draft_tokens: _joined(each, there)
            for each, there in zip(chosen.values(), further_on, strict=True)
        }
    bounds = BOUNDS if any("high" in each.at for each in chosen.values()) else BOUNDS[:1]
    changes = {bound: tuple(_changes(chosen, bound)) for bound in bounds}
    return DraftStudy(sample.count, tuple(shown), chosen, changes)


def _tried(
    lists: Sequence[tuple[int, str, GraphPool]], loads: Sequence[float], sample: Sample, runs: DraftRuns
) -> list[DraftedList]:
    return _drafted(lists, runs.run([(k, pool) for k, _, pool in lists], [sample], loads), runs)


def _joined(one: DraftedList, other: DraftedList) -> DraftedList:
    """Return a list with the loads of both."""
    return replace(
        one,
        at={
            bound: variant_loads(loads.column, [*loads.at, *other.end(bound).at])
            for bound, loads in one.at.items()
        },
    )


def contenders(study: DraftStudy) -> list[int]:
    """Return the numbers of draft tokens that come near the best of some load, 0 among them."""
    found = {0}
    for changes in study.changes.values():
        for best in best_changes(changes):
            found |= {
                change.draft_tokens
                for change in changes
                if change.factor == best.factor and change.share <= best.share + CONTENDS
            }
    return sorted(found)


def confirmed(runs: DraftRuns, study: DraftStudy, samples: Sequence[Sample]) -> DraftStudy:
    """Return the study with the contenders' changes as means over fresh samples, and their 95 % intervals."""
    numbers = contenders(study)
    chosen = [study.chosen[k] for k in numbers]
    loads = [load.factor for load in chosen[0].at["low"].at]
    found = runs.run([(each.draft_tokens, each.pool) for each in chosen], samples, loads)
    changes = {}
    for bound in study.changes:
        by_sample = []
        for number in range(len(samples)):
            here = {
                each.draft_tokens: replace(
                    each, at={bound: variant_loads("", [r.end(bound) for r in of[number]])}
                )
                for each, of in zip(chosen, found, strict=True)
            }
            by_sample.append(_changes(here, bound))
        fresh = {}
        for several in zip(*by_sample, strict=True):
            fresh[several[0].factor, several[0].draft_tokens] = _mean_change(several)
        changes[bound] = tuple(
            fresh.get((change.factor, change.draft_tokens), change) for change in study.changes[bound]
        )
    return replace(study, changes=changes)


def _mean_change(several: Sequence[DraftChange]) -> DraftChange:
    kinds = [change.of for change in several]
    commonest = max(kinds, key=kinds.count)  # overloaded in some samples, not in others
    several = [change for change in several if change.of == commonest]
    interval = mean_interval([change.share for change in several])
    share = float(np.mean([change.share for change in several]))
    if interval is None:
        return replace(several[0], share=share)
    return replace(several[0], share=share, low=interval.low, high=interval.high)


def _lists(runs: DraftRuns, k: int) -> list[tuple[int, str, GraphPool]]:
    """Return the lists to try with k draft tokens: the own one, one up to the last request, a thin one."""
    workload = runs.drafting(k)
    engine = workload.engine
    named = workload_pool(workload.pool, engine, runs.profile, "own")
    own, origin = named.pool, named.origin
    found = [(k, origin, own)]
    if own.sizes and own.padding:
        unit, most = own.tokens_per_size, engine.max_num_seqs
        whole = {*grid(most), most}
        medium = {n for step, last in SPACING for n in range(step, last + 1, step)} | {most}
        thin = (
            {2**n for n in range(most.bit_length())}
            | {3 * 2**n for n in range(3, most.bit_length())}
            | {most}
        )
        found += [
            (k, "up to the last request", own.with_sizes({*own.sizes, *(n * unit for n in whole)})),
            (k, "of medium spacing", own.with_sizes(n * unit for n in medium if n <= most)),
            (k, "thin", own.with_sizes(n * unit for n in thin if n <= most)),
        ]
    pools: dict[GraphPool, tuple[int, str, GraphPool]] = {}
    for each in found:
        if _fits(workload, runs.profile, each[2]):
            pools.setdefault(each[2], each)
    return list(pools.values()) or [(k, "no graphs", own.with_sizes(()))]


def _fits(workload: Workload, profile: Profile, pool: GraphPool) -> bool:
    try:
        pool_cost(workload.engine, profile, pool)
    except InputError:
        pool_cost(workload.engine, profile, GraphPool())  # not the pool's fault: raise
        return False
    return True


def _drafted(
    lists: Sequence[tuple[int, str, GraphPool]], found: Sequence[Sequence[Sequence[LoadRun]]], runs: DraftRuns
) -> list[DraftedList]:
    share = SLO_SHARE if runs.workload.slo else None
    shown = []
    for (k, origin, pool), by_sample in zip(lists, found, strict=True):
        every = [run for several in by_sample for run in several]
        bounds = BOUNDS if any("high" in run.at for run in every) else BOUNDS[:1]
        at = {
            bound: variant_loads(
                f"{origin}, k = {k}",
                [mean_at_load([run.end(bound) for run in here]) for here in zip(*by_sample, strict=True)],
                share,
            )
            for bound in bounds
        }
        shown.append(DraftedList(k, origin, pool, _falls_off(runs.workload, pool), at))
    return shown


def _falls_off(workload: Workload, pool: GraphPool) -> tuple[Range, ...]:
    engine = workload.engine
    if pool.mode == "none":
        return ()
    tokens = max(engine.prefill_tokens_per_step, engine.max_num_seqs * (1 + pool.draft_tokens))
    settings = Settings(
        engine.max_num_seqs, tokens, pool.mode, pool.sizes, pool.draft_tokens, padding=pool.padding
    )
    return audit(engine_rules(pool.rules), settings).falls_off


def _near(lists: Sequence[DraftedList], tolerance: float = CLEARLY) -> list[DraftedList]:
    """Return the lists that are no worse than the best over the loads, but for the tolerance."""
    first = lists[0]

    def mean(other: DraftedList) -> float:
        shares = [loss.share for bound in BOUNDS for loss in _at_loads(first, other, bound)]
        return float(np.mean(shares)) if shares else 0.0

    means = {each.pool: mean(each) for each in lists}
    least = min(means.values())
    return [each for each in lists if means[each.pool] <= least + tolerance]


def _chosen(lists: Sequence[DraftedList]) -> DraftedList:
    """Return the list with the fewest graphs of those that are no worse than the best over the loads."""
    return min(_near(lists, TOLERANCE), key=lambda each: len(each.pool.sizes))


def _at_loads(own: DraftedList, other: DraftedList, bound: Bound) -> list[Loss]:
    pairs = zip(own.end(bound).at, other.end(bound).at, strict=True)
    return [loss for pair in pairs if (loss := loss_at(*pair, either=True)) is not None]


def _changes(chosen: dict[int, DraftedList], bound: Bound) -> list[DraftChange]:
    """Return what each number of draft tokens changes against none, at every load."""
    plain = chosen[0]
    rates = {load.factor: load.rate_per_s for load in plain.end(bound).at}
    return [
        DraftChange(loss.factor, rates[loss.factor], k, loss.share, loss.of)
        for k, each in chosen.items()
        if k
        for loss in _at_loads(plain, each, bound)
    ]


def compared_drafts(
    comparison: Comparison, progress: Progress | None = None, workers: Workers | None = None
) -> DraftStudy | None:
    """Return what a comparison's drafting changes over the loads; None where it drafts nothing."""
    workload = comparison.workload
    if not workload.engine.draft_tokens or comparison.failure is not None or comparison.execution is not None:
        return None
    runs = DraftRuns(workload, comparison.profile, progress=progress, workers=workers)
    sample = draft_sample(workload, 0, REQUESTS)
    return study_drafts(runs, sample, (workload.engine.draft_tokens,))
