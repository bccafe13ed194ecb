"""A comparison over loads: its variants from half to twice the rate, and whether fewer graphs would do there.

Quick: one short sample of the same requests, arriving faster or slower. Of the first pool's own sizes the
fewest are chosen whose cost, on the steps that came at every load, stays within half a percent of all of
them, with no gap that a batch beyond those loads would pay for; that list then serves the sample at every
load, and the comparison's own requests. `tune` asks whether any list is faster; whether fewer graphs would do
is asked here, for the card and for `tune`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from scheduler.analysis.comparison.compare import (
    WORTH_WORKERS,
    Column,
    Comparison,
    Progress,
    SmallerPool,
    run_columns,
)
from scheduler.analysis.comparison.differences import column_difference
from scheduler.analysis.comparison.evidence import unjudged
from scheduler.analysis.comparison.loads import (
    LOADS,
    SLO_SHARE,
    FewerGraphs,
    LoadStudy,
    Loss,
    Unjudged,
    VariantLoads,
    first_requests,
    losses,
    variant_loads,
)
from scheduler.analysis.tuning.choose import Load, SizeProblem, best_by_count
from scheduler.analysis.tuning.load_runs import LoadRun, LoadTask
from scheduler.analysis.tuning.padding import kv_per_request, most_padding, without_wide_gaps
from scheduler.analysis.tuning.step_loads import (
    LEAST_TOGETHER,
    cell_loads,
    cell_problem,
    decode_together,
    padding_reach,
    unmet_sizes,
)
from scheduler.analysis.workers import Workers, work_beside
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.model.cost_model import Bound
from scheduler.simulate import HIGH, Variant, pool_cost

REQUESTS = 500
TOLERANCE = 0.005  # of the steps' cost, by which the smaller list is chosen
NO_LOSS = 0.01  # a difference below this is called none
N = TypeVar("N", int, float)
BOUNDS: tuple[Bound, Bound] = ("low", "high")


def study_loads(
    comparison: Comparison,
    progress: Progress | None = None,
    workers: Workers | None = None,
    *,
    first_alone: bool = False,
) -> LoadStudy | None:
    """Return the comparison's variants over the loads, and set its smaller pool where there is one.

    With `first_alone` the first pool's, which is all that fewer graphs are judged by. None where steps are
    executed for real, or the run is partial.
    """
    if comparison.execution is not None or comparison.failure is not None:
        return None
    columns = comparison.pools[:1] if first_alone else _columns(comparison)
    runs = _run(comparison, [column.variant for column in columns], progress, workers)
    share = SLO_SHARE if comparison.workload.slo else None
    variants = {
        variant.column: variant
        for column in columns
        for variant in _over_loads(column.name, runs[column.name], share).values()
    }
    study = LoadStudy(LOADS, len(_sample(comparison)), share, variants)
    own = comparison.pools[0] if comparison.pools else None
    if own is None or not own.variant.pool.sizes or own.variant.pool.draft_tokens:
        return study  # of a drafting server the list is judged beside drafting itself, by draft_study.py
    why_not = unjudged(comparison, own)
    if why_not is not None:
        return replace(study, unjudged=why_not)
    together = max(decode_together(found) for run in runs[own.name] for found in run.histogram.values())
    if together < LEAST_TOGETHER:
        return replace(study, unjudged="idle")
    sizes = _fewest_sizes(comparison, own, runs[own.name], together)
    if sizes is None or len(sizes) >= len(own.variant.pool.sizes):
        return replace(study, unjudged="all needed")
    name = f"{own.variant.name}_smaller"
    variant = replace(own.variant, name=name, pool=replace(own.variant.pool, sizes=sizes))
    cost = pool_cost(comparison.workload.engine, comparison.profile, variant.pool, name)
    column = Column(variant, f"{len(sizes)} of the sizes of {own.name}", cost)
    run_columns(comparison, [column], progress, workers)
    if not column.runs or comparison.failure is not None:
        return study
    comparison.smaller = SmallerPool(own, column)
    smaller = _over_loads(name, _run(comparison, [variant], progress, workers)[name], share)
    fewer = _judged(comparison, study, smaller, _padding(comparison, runs[own.name]))
    unsure = _unsure(comparison) if fewer is not None and fewer.would_do else None
    return replace(study, fewer=fewer) if unsure is None else replace(study, unjudged=unsure)


def _columns(comparison: Comparison) -> list[Column]:
    """Return the columns to run; each is run at both ends of a range where they differ."""
    return [*comparison.pools, comparison.eager]


def _sample(comparison: Comparison) -> range:
    """Return the requests of the first replication that are run at every load."""
    return range(min(REQUESTS, len(comparison.requests[0])))


def _run(
    comparison: Comparison, variants: Sequence[Variant], progress: Progress | None, workers: Workers | None
) -> dict[str, list[LoadRun]]:
    """Run variants on the sample at every load, in the order of the loads."""
    requests = first_requests(comparison.requests[0], len(_sample(comparison)))
    warmup = int(len(requests) * comparison.warmup_requests / max(len(comparison.requests[0]), 1))
    budget = comparison.workload.engine.prefill_tokens_per_step
    tasks = [
        LoadTask(
            comparison.workload, comparison.profile, variant, requests, 0, warmup, factor,
            largest_total=min(max(variant.pool.sizes, default=0), budget) if variant.pool.piecewise else 0,
        )
        for variant in variants
        for factor in LOADS
    ]  # fmt: skip

    def here(index: int) -> LoadRun:
        if progress is not None:
            task = tasks[index]
            progress(f"{task.variant.name} at {task.factor:g} times the load", index, len(tasks))
        return tasks[index].result()

    served = comparison.replications * len(comparison.requests[0]) * len(_columns(comparison))
    if workers is None or served < WORTH_WORKERS:  # else the other processes have started
        results = {index: here(index) for index in range(len(tasks))}
    else:
        results = dict(work_beside(LoadTask.result, tasks, workers, here))
    found: dict[str, list[LoadRun]] = {variant.column: [] for variant in variants}
    for index, task in enumerate(tasks):
        found[task.variant.column].append(results[index])
    return found


def _over_loads(name: str, runs: Sequence[LoadRun], share: float | None) -> dict[Bound, VariantLoads]:
    """Return a variant over the loads at each end; both where any load tells them apart."""
    bounds = BOUNDS if any("high" in run.at for run in runs) else BOUNDS[:1]
    return {
        bound: variant_loads(
            name + (HIGH if bound == "high" else ""), [run.end(bound) for run in runs], share
        )
        for bound in bounds
    }


def _unsure(comparison: Comparison) -> Unjudged | None:
    """Return why the smaller list's mean TPOT is not sure to be no loss: no interval, or too wide a one."""
    if comparison.smaller is None:
        return None
    own, column = comparison.smaller.own, comparison.smaller.column
    found = column_difference(comparison, own, column, "mean_tpot_ms")
    if found is None or found.relative is None:
        return None
    if found.interval is None:
        return "too short"
    wide = found.difference and found.interval.high * found.relative / found.difference > NO_LOSS
    return "wide interval" if wide else None


def _padding(comparison: Comparison, runs: Sequence[LoadRun]) -> float:
    """Return the largest share by which any decode batch takes longer in the smaller list's graphs."""
    if comparison.smaller is None:
        return 0.0
    own, engine = comparison.smaller.own, comparison.workload.engine
    model = cost_model(comparison.profile, own.variant.without_graph, "low")
    share, _ = most_padding(
        own.variant.pool,
        comparison.smaller.column.variant.pool,
        model,
        _kv_per_request(runs),
        engine.max_num_seqs,
        engine.prefill_tokens_per_step,
    )
    return share


def _kv_per_request(runs: Sequence[LoadRun]) -> float:
    return kv_per_request([histogram for run in runs for histogram in run.histogram.values()])


def _judged(
    comparison: Comparison, study: LoadStudy, smaller: dict[Bound, VariantLoads], padding: float
) -> FewerGraphs | None:
    """Return the smaller list against its own pool: the worst over all loads, and on the whole requests."""
    if comparison.smaller is None:
        return None
    own, column = comparison.smaller.own, comparison.smaller.column
    found: list[Loss] = []
    for bound in BOUNDS:
        high = own.name + (HIGH if bound == "high" else "")
        mine = study.variants.get(high, study.variants[own.name])
        theirs = smaller.get(bound, smaller["low"])
        found += losses(mine, theirs)
    difference = column_difference(comparison, own, column, "mean_tpot_ms")
    if difference is not None and difference.relative is not None:
        found.append(Loss(difference.relative, 1.0, "mean TPOT"))
    if not found:
        return None
    worst = max(found, key=lambda loss: loss.share)
    before, after = own.cost, column.cost
    return FewerGraphs(
        own.name,
        len(own.variant.pool.sizes),
        column.variant.pool.sizes,
        worst.share,
        worst.factor,
        worst.of,
        would_do=worst.share <= NO_LOSS,
        most_padding=padding,
        start_up_s_saved=_saved(before.capture_s, after.capture_s),
        graph_memory_bytes_saved=_saved(before.graph_memory_bytes, after.graph_memory_bytes),
        kv_tokens_gained=_saved(after.kv_blocks, before.kv_blocks, comparison.workload.engine.block_size),
    )


def _saved(before: N | None, after: N | None, unit: int = 1) -> N | None:
    return None if before is None or after is None else (before - after) * unit


def _fewest_sizes(
    comparison: Comparison, own: Column, runs: Sequence[LoadRun], together: int
) -> tuple[int, ...] | None:
    """Return the fewest own sizes that cost no more at any load and end, None where there is no choice.

    The smallest size, the largest FULL graph and the largest of all are always kept, so that no batch takes
    a slower kind of graph than before, and so are sizes that no load tells anything of (at most `together`
    requests decode together). Between the others no gap costs a batch that just misses a size much more.
    """
    pool = own.variant.pool
    most = comparison.workload.engine.max_num_seqs
    table = pool.table(most, comparison.workload.engine.prefill_tokens_per_step)
    kept = {pool.sizes[0], table.decode[-1].tokens}
    kept |= {graphs[-1] for graphs in (table.full, table.piecewise) if graphs}
    kept |= set(unmet_sizes(pool.sizes, together, most))
    forced = sorted(kept & set(pool.sizes))
    reach = padding_reach(
        cost_model(comparison.profile, own.variant.without_graph, "low"),
        pool.sizes,
        pool,
        _kv_per_request(runs),
        most,
    )
    problems: list[SizeProblem] = []
    all_loads: list[Load] = []
    for run in runs:
        for bound, histogram in run.histogram.items():
            model = cost_model(comparison.profile, own.variant.without_graph, bound)
            loads = cell_loads(histogram, model, pool.sizes, pool)
            problem = cell_problem(loads, pool.sizes, forced)
            cost = problem.cost(problem.candidates)
            if cost > 0:
                problems.append(problem)
                all_loads += [replace(load, weights=load.weights / cost) for load in loads]
    if not problems:
        return None
    limits = [problem.cost(problem.candidates) * (1 + TOLERANCE) for problem in problems]
    bounded = without_wide_gaps(cell_problem(all_loads, pool.sizes, forced), reach)
    choices = best_by_count(bounded, len(pool.sizes))
    for choice in choices:
        if choice is not None and all(
            problem.cost(choice.sizes) <= limit for problem, limit in zip(problems, limits, strict=True)
        ):
            return choice.sizes
    return None
