"""From what the search and its checks found to the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import numpy as np

from scheduler.analysis.statistics.intervals import mean_interval
from scheduler.analysis.statistics.steady_state import offered_load
from scheduler.analysis.tuning.answer import (
    AgainstPowers,
    Candidate,
    ComparedSizes,
    CurvePoint,
    DriftRow,
    Estimate,
    KeptBudgets,
    KnownPool,
    Mode,
    PoolComparison,
    PoolFigures,
    PresetPool,
    SizeHistogram,
    TunedObjective,
    TuningAnswer,
    TuningVerdict,
)
from scheduler.analysis.tuning.checks import Confirmation, Drift, FreshRequests
from scheduler.analysis.tuning.closed_loop import Tuning
from scheduler.analysis.tuning.pool_runs import Detail
from scheduler.analysis.tuning.pool_search import Evaluated
from scheduler.analysis.tuning.step_loads import StepHistogram
from scheduler.catalog.pool_presets import pool_preset
from scheduler.engine.graph_pool import GraphPool

NEAR_BEST = 0.01

T = TypeVar("T")


def tuning_answer(
    tuning: Tuning, fresh: FreshRequests, drifts: Sequence[Drift], verdict: TuningVerdict
) -> TuningAnswer:
    """Return everything the tuner found; values that do not exist are None."""
    confirmation = fresh.compare(tuning.best.pool, tuning.own.pool)
    evaluator, best, budgets = tuning.evaluator, tuning.best, tuning.budgets
    goal = evaluator.objective
    points = curve_points(tuning)
    return TuningAnswer(
        workload=evaluator.workload.name,
        sizes=best.pool.sizes,
        padding=best.pool.padding,
        mode=_mode(best.pool),
        verdict=verdict,
        objective=_estimate(
            TunedObjective,
            confirmation.best,
            name=goal.name,
            key=goal.metric.key,
            unit=goal.metric.unit,
            lower_is_better=goal.metric.lower_is_better,
            on=confirmation.on,
        ),
        confirmation=_comparison(PoolComparison, confirmation),
        steady_state=_steady(tuning, fresh),
        fewest=_fewest(tuning, fresh, points),
        powers_of_two=_powers_of_two(tuning, fresh, points),
        own=_figures(KnownPool, tuning, tuning.own.pool, origin=tuning.own.origin),
        best=_figures(PoolFigures, tuning, best.pool),
        presets=tuple(
            _figures(PresetPool, tuning, named.pool, name=named.name, origin=named.origin)
            for named in tuning.presets
        ),
        curve=tuple(points),
        knee=knee(points, goal.metric.lower_is_better),
        drift=tuple(_drift(drift, goal.metric.lower_is_better) for drift in drifts),
        candidates=tuple(
            _figures(Candidate, tuning, pool, found_by=tuning.search.origin[pool])
            for pool in tuning.search.tried
        ),
        search=tuple(tuning.search.endings),
        simulations=evaluator.simulations,
        histogram=_histogram(best),
        budgets=KeptBudgets(
            graphs=budgets.graphs,
            max_memory_bytes=budgets.max_memory_bytes,
            max_capture_s=budgets.max_capture_s,
            forced_sizes=tuning.rules_for(best.pool).forced,
            align=budgets.align,
            candidates=budgets.candidates,
        ),
    )


def curve_points(tuning: Tuning) -> list[CurvePoint]:
    """Return the best pool met with at most as many graphs as each pool of the curve, fewest first."""
    score = tuning.evaluator.objective.score
    points: dict[int, CurvePoint] = {}
    for at in tuning.curve:
        graphs = len(at.pool.sizes)
        within = [
            found
            for pool, found in tuning.search.tried.items()
            if len(pool.sizes) <= graphs and pool.padding and pool.piecewise == at.pool.piecewise
        ]
        least = min(within, key=lambda found: (found.score, len(found.pool.sizes), found.pool.sizes))
        if np.isfinite(least.score):
            points[graphs] = _figures(CurvePoint, tuning, least.pool, graphs=graphs, value=score(least.score))
    return [points[graphs] for graphs in sorted(points)]


def knee(points: Sequence[CurvePoint], lower_is_better: bool) -> int | None:
    """Return the least number of graphs whose value is within 1 % of the best on the curve."""
    if not points:
        return None
    values = [point.value for point in points]
    best = min(values) if lower_is_better else max(values)
    return next(point.graphs for point in points if abs(point.value - best) <= NEAR_BEST * abs(best))


def _steady(tuning: Tuning, fresh: FreshRequests) -> bool:
    """Tell whether the winner's runs have a steady state; a closed loop cannot pile up."""
    if any(sample.requests.concurrency is not None for sample in fresh.samples):
        return True
    return all(offered_load(run.requests).steady_state for run, _ in fresh.run(tuning.best.pool))


def _fewest(tuning: Tuning, fresh: FreshRequests, points: Sequence[CurvePoint]) -> ComparedSizes | None:
    """Return the curve's smallest pool within 1 % of the own pool's value, confirmed against it."""
    own = tuning.search.tried.get(tuning.own.pool)
    if own is None or not np.isfinite(own.score):
        return None
    goal = tuning.evaluator.objective
    for point in points:
        if goal.score(point.value) <= own.score + NEAR_BEST * abs(own.score):
            compared = fresh.compare(_pool_of(tuning, point), tuning.own.pool)
            return _comparison(ComparedSizes, compared, graphs=point.graphs, sizes=point.sizes)
    return None


def _powers_of_two(
    tuning: Tuning, fresh: FreshRequests, points: Sequence[CurvePoint]
) -> AgainstPowers | None:
    """Return the best pool of as many graphs as there are powers of two, compared with those."""
    most = tuning.rules.max_num_seqs
    powers = pool_preset("powers_of_two", most, most).sizes
    within = [point for point in points if point.graphs <= len(powers)]
    if not within:
        return None
    best = within[-1]
    pool = _pool_of(tuning, best)
    compared = fresh.compare(pool, pool.with_sizes(powers))
    return _comparison(AgainstPowers, compared, graphs=best.graphs, sizes=best.sizes, powers=powers)


def _pool_of(tuning: Tuning, point: CurvePoint) -> GraphPool:
    pool = tuning.own.pool.with_sizes(point.sizes)
    return replace(pool, padding=point.padding, piecewise=point.mode != "decode_only")


def _comparison(kind: Callable[..., T], confirmation: Confirmation, **more: Any) -> T:
    """Return a PoolComparison, or the `kind` of it that holds `more`."""
    found = confirmation.difference
    return kind(
        best=_estimate(Estimate, confirmation.best),
        other=_estimate(Estimate, confirmation.other),
        difference=found.difference,
        low=found.interval.low if found.interval else None,
        high=found.interval.high if found.interval else None,
        relative=found.relative,
        shown=found.verdict.value,
        note=found.why_no_interval,
        **more,
    )


def _mode(pool: GraphPool) -> Mode:
    if not pool.piecewise:
        return "decode_only"
    return "full_and_piecewise" if pool.full else "piecewise"


def _figures(kind: Callable[..., T], tuning: Tuning, pool: GraphPool, **more: Any) -> T:
    """Return the PoolFigures of a pool, or the `kind` of them that holds `more`, which may say otherwise."""
    cost = tuning.evaluator.cost(pool)
    empty = tuning.evaluator.cost(GraphPool())
    found = tuning.search.tried.get(pool)
    value = without = missed = kv_tokens_lost = None
    if found is not None and isinstance(found.detail, Detail):
        value = tuning.evaluator.objective.score(found.score)
        without = found.detail.without_graph_share
        missed = found.detail.missed_graph_share
    if cost and empty and cost.kv_blocks is not None and empty.kv_blocks is not None:
        kv_tokens_lost = (empty.kv_blocks - cost.kv_blocks) * tuning.evaluator.workload.engine.block_size
    figures = PoolFigures(
        sizes=pool.sizes,
        padding=pool.padding,
        mode=_mode(pool),
        graphs=len(pool.sizes),
        value=value,
        without_graph_share=without,
        missed_graph_share=missed,
        graph_memory_bytes=cost.graph_memory_bytes if cost else None,
        kv_tokens_lost=kv_tokens_lost,
        capture_s=cost.capture_s if cost else None,
        fits=cost is not None,
    )
    return kind(**asdict(figures) | more)


def _estimate(kind: Callable[..., T], values: Sequence[float], **more: Any) -> T:
    """Return the Estimate of some values, or the `kind` of it that holds `more`."""
    interval = mean_interval(values)
    return kind(
        value=float(np.mean(values)),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        **more,
    )


def _drift(drift: Drift, lower_is_better: bool) -> DriftRow:
    lost = (drift.best - drift.retuned) / abs(drift.retuned) if drift.retuned else None
    return DriftRow(
        rate_factor=drift.factor,
        best=drift.best,
        own=drift.own,
        no_graphs=drift.no_graphs,
        retuned=drift.retuned,
        retuned_sizes=drift.retuned_sizes,
        lost=lost if lost is None or lower_is_better else -lost,
    )


def _histogram(best: Evaluated) -> SizeHistogram:
    """Return the steps of the winner's runs."""
    histogram: StepHistogram = best.detail.histogram

    def counts(values: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, int]:
        return {str(size): int(values[size]) for size in np.flatnonzero(values).tolist()}

    return SizeHistogram(counts(histogram.decode_count), counts(histogram.mixed_count))
