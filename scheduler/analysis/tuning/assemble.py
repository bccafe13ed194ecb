"""From what the search and its checks found to the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from scheduler.analysis.comparison.loads import AtLoad, LoadStudy, LossOf
from scheduler.analysis.statistics.intervals import mean_interval
from scheduler.analysis.tuning.answer import (
    Beyond,
    Candidate,
    CurvePoint,
    Estimate,
    KeptBudgets,
    KnownPool,
    LoadRow,
    Mode,
    PoolComparison,
    PoolFigures,
    PresetPool,
    RateRow,
    SizeHistogram,
    TokenBudget,
    TunedObjective,
    TuningAnswer,
    TuningVerdict,
    WorstLoss,
)
from scheduler.analysis.tuning.checks import Confirmation, FreshRequests, OverLoads
from scheduler.analysis.tuning.closed_loop import Tuning
from scheduler.analysis.tuning.pool_runs import Detail
from scheduler.analysis.tuning.pool_search import Evaluated
from scheduler.analysis.tuning.verdict import is_change, is_steady
from scheduler.engine.graph_pool import GraphPool

NEAR_BEST = 0.01

T = TypeVar("T")


def tuning_answer(
    tuning: Tuning,
    fresh: FreshRequests,
    over: OverLoads | None,
    verdict: TuningVerdict,
    budgets_tried: tuple[TokenBudget, ...] = (),
    study: LoadStudy | None = None,
    beyond: Beyond | None = None,
) -> TuningAnswer:
    """Return everything the tuner found; values that do not exist are None.

    `study` has judged whether fewer of the own pool's graphs would do; `beyond` is what the winner does above
    the loads.
    """
    confirmation = fresh.compare(tuning.best.pool, tuning.own.pool)
    evaluator, best, budgets = tuning.evaluator, tuning.best, tuning.budgets
    advised = best.pool if is_change(verdict) else tuning.own.pool
    goal = evaluator.objective
    points = curve_points(tuning)
    return TuningAnswer(
        workload=evaluator.workload.name,
        sizes=advised.sizes,
        padding=advised.padding,
        mode=_mode(advised),
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
        confirmation=_comparison(confirmation),
        steady_state=is_steady(fresh, best.pool),
        worst=None if over is None else _worst(over),
        beyond=beyond,
        fewer=None if study is None else study.fewer,
        unjudged=None if study is None else study.unjudged,
        loads=() if over is None else _load_rows(over, tuning),
        rates=() if over is None else _rate_rows(over),
        token_budgets=budgets_tried,
        own=_figures(KnownPool, tuning, tuning.own.pool, origin=tuning.own.origin),
        best=_figures(PoolFigures, tuning, best.pool),
        presets=tuple(
            _figures(PresetPool, tuning, named.pool, name=named.name, origin=named.origin)
            for named in tuning.presets
        ),
        curve=tuple(points),
        knee=knee(points, goal.metric.lower_is_better),
        candidates=tuple(
            _figures(Candidate, tuning, pool, found_by=tuning.search.origin[pool])
            for pool in tuning.search.tried
        ),
        search=tuple(tuning.search.endings),
        simulations=evaluator.simulations,
        histogram=_histogram(tuning.search.tried[best.pool]),
        budgets=KeptBudgets(
            graphs=budgets.graphs,
            max_memory_bytes=budgets.max_memory_bytes,
            max_capture_s=budgets.max_capture_s,
            forced_sizes=tuning.rules_for(best.pool).forced,
            align=budgets.align,
            candidates=budgets.candidates,
        ),
    )


def _worst(over: OverLoads) -> WorstLoss:
    worst = over.judged.worst
    return WorstLoss(share=worst.share, rate_factor=worst.factor, host=over.judged.worst_bound, of=worst.of)


def _load_rows(over: OverLoads, tuning: Tuning) -> tuple[LoadRow, ...]:
    """Return every load and end, with the objective (or, in overload, what is served) of both lists."""
    goal = tuning.evaluator.objective

    def value(at: AtLoad, of: LossOf) -> float:
        if of == "throughput":
            return at.requests_per_s or 0.0
        return (at.mean_tpot_ms or 0.0) if at.score is None else goal.score(at.score)

    rows = []
    for bound, several in over.judged.losses.items():
        ends = (over.other.end(bound).at, over.best.end(bound).at)
        own, best = ({at.factor: at for at in end} for end in ends)
        for loss in several:
            if loss.of == "highest rate":
                continue
            interval = over.interval(bound, loss)
            mine, theirs = own[loss.factor], best[loss.factor]
            rows.append(
                LoadRow(
                    rate_factor=loss.factor,
                    host=bound,
                    of=loss.of,
                    own=value(mine, loss.of),
                    best=value(theirs, loss.of),
                    loss=loss.share,
                    low=interval.low if interval else None,
                    high=interval.high if interval else None,
                    offered_per_s=mine.rate_per_s,
                    own_overloaded=mine.overloaded,
                    best_overloaded=theirs.overloaded,
                    own_slo_attainment=mine.slo_attainment,
                    best_slo_attainment=theirs.slo_attainment,
                )
            )
    return tuple(rows)


def _rate_rows(over: OverLoads) -> tuple[RateRow, ...]:
    ends = [(bound, over.other.end(bound), over.best.end(bound)) for bound in over.judged.losses]
    return tuple(
        RateRow(
            host=bound,
            own_per_s=own.max_rate_per_s,
            own_limited_by=own.limited_by,
            best_per_s=best.max_rate_per_s,
            best_limited_by=best.limited_by,
        )
        for bound, own, best in ends
        if own.max_rate_per_s is not None or best.max_rate_per_s is not None
    )


def curve_points(tuning: Tuning) -> list[CurvePoint]:
    """Return the best pool met with at most as many graphs as each pool of the curve, fewest first."""
    score = tuning.evaluator.objective.score
    points: dict[int, CurvePoint] = {}
    for at in tuning.curve:
        graphs = len(at.pool.sizes)
        within = [
            (score(float(np.mean(found.detail.values))), found)
            for pool, found in tuning.search.tried.items()
            if len(pool.sizes) <= graphs
            and pool.padding
            and pool.piecewise == at.pool.piecewise
            and isinstance(found.detail, Detail)
            and found.detail.values
        ]
        if within:
            least, found = min(within, key=_value_and_graphs)
            points[graphs] = _figures(CurvePoint, tuning, found.pool, graphs=graphs, value=score(least))
    return [points[graphs] for graphs in sorted(points)]


def _value_and_graphs(pair: tuple[float, Evaluated]) -> tuple[float, int, tuple[int, ...]]:
    value, found = pair
    return value, len(found.pool.sizes), found.pool.sizes


def knee(points: Sequence[CurvePoint], lower_is_better: bool) -> int | None:
    """Return the least number of graphs whose value is within 1 % of the best on the curve."""
    if not points:
        return None
    values = [point.value for point in points]
    best = min(values) if lower_is_better else max(values)
    return next(point.graphs for point in points if abs(point.value - best) <= NEAR_BEST * abs(best))


def _comparison(confirmation: Confirmation) -> PoolComparison:
    found = confirmation.difference
    return PoolComparison(
        best=_estimate(Estimate, confirmation.best),
        other=_estimate(Estimate, confirmation.other),
        difference=found.difference,
        low=found.interval.low if found.interval else None,
        high=found.interval.high if found.interval else None,
        relative=found.relative,
        shown=found.verdict.value,
        note=found.why_no_interval,
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
        value = float(np.mean(found.detail.values)) if found.detail.values else None
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


def _histogram(best: Evaluated) -> SizeHistogram:
    """Return the steps of the winner over all loads, at both ends."""
    if not isinstance(best.detail, Detail):
        return SizeHistogram({}, {})
    histograms = [histogram for _, histogram in best.detail.histograms]

    def counts(several: Sequence[NDArray[np.int64]]) -> dict[str, int]:
        values = np.sum(several, axis=0)
        return {str(size): int(values[size]) for size in np.flatnonzero(values).tolist()}

    return SizeHistogram(
        counts([histogram.decode_count for histogram in histograms]),
        counts([histogram.mixed_count for histogram in histograms]),
    )
