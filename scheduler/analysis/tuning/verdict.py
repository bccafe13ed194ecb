"""What the tuner advises, and why."""

from __future__ import annotations

from dataclasses import replace

from scheduler.analysis.comparison.evidence import are_far_apart
from scheduler.analysis.statistics.steady_state import LEAST_ARRIVALS, offered_load
from scheduler.analysis.tuning.answer import Advice, Beyond, Reason, TuningVerdict
from scheduler.analysis.tuning.checks import NO_WORSE, FreshRequests, OverLoads
from scheduler.analysis.tuning.closed_loop import NO_LOSS, Tuning
from scheduler.analysis.tuning.step_loads import LEAST_TOGETHER, unmet_sizes
from scheduler.engine.graph_pool import GraphPool
from scheduler.workload.arrivals import TraceArrivals


def tuning_verdict(
    tuning: Tuning, fresh: FreshRequests, over: OverLoads | None, beyond: Beyond | None = None
) -> TuningVerdict:
    """Judge the confirmed winner against the workload's own pool, over all loads and at both ends.

    `over` is None where the own pool leaves no KV block. A change is advised for what it gains; one that is
    only smaller where the own pool has more graphs than are allowed. `beyond` is what the winner does above
    those loads, where its gaps are wider: less padding at them is no reason for a list that loses there.
    """
    advice, reason = _advice(tuning, fresh, over, beyond)
    together = None if over is None else _together(tuning, over)
    gained = tuning.gained if over is None or tuning.best.pool == tuning.own.pool else -over.judged.mean
    gained = max(gained, 0.0)
    own_pool, best_pool = tuning.own.pool, tuning.best.pool
    own, best = (tuning.evaluator.cost(pool) for pool in (own_pool, best_pool))
    mode = (own_pool.mode, best_pool.mode) if own_pool.mode != best_pool.mode else None
    if own is None or best is None:
        return TuningVerdict(advice, reason, mode_change=mode, together=together, gained=gained)
    kv_tokens = None
    if own.kv_blocks is not None and best.kv_blocks is not None:
        kv_tokens = (best.kv_blocks - own.kv_blocks) * tuning.evaluator.workload.engine.block_size
    start_up = None if own.capture_s is None or best.capture_s is None else own.capture_s - best.capture_s
    memory = None
    if own.graph_memory_bytes is not None and best.graph_memory_bytes is not None:
        memory = own.graph_memory_bytes - best.graph_memory_bytes
    return TuningVerdict(advice, reason, kv_tokens, start_up, memory, mode, together, gained)


def _advice(
    tuning: Tuning, fresh: FreshRequests, over: OverLoads | None, beyond: Beyond | None
) -> tuple[Advice, Reason]:
    own, best = tuning.own.pool, tuning.best.pool
    if _may_be_milliseconds(tuning, over):
        return Advice.KEEP, Reason.MAY_BE_MILLISECONDS
    if fresh.fewest < LEAST_ARRIVALS:
        return Advice.KEEP, Reason.TOO_FEW_REQUESTS
    if over is not None and _drops_unmet(tuning, over) and not _ends_a_cliff(tuning, over):
        return Advice.KEEP, Reason.NOT_MET
    if best == own:
        return Advice.KEEP, Reason.OWN_IS_BEST
    if over is None:
        return Advice.TRIM, Reason.OWN_LEAVES_NO_KV_CACHE
    if _is_finite_run(fresh, best):
        return Advice.KEEP, Reason.NO_STEADY_STATE
    if over.judged.worst.share > NO_WORSE:
        return Advice.KEEP, Reason.WORSE_AT_SOME_LOAD
    loss, _, interval = over.gain
    gains = loss.share < -NO_LOSS and (interval is None or interval.high < 0)
    has_none = interval is None and fresh.compare(best, own).difference.interval is None
    if has_none:
        gains = loss.share < -5 * NO_LOSS  # one run without an interval: only what no noise makes
    if has_none and not gains and tuning.evaluator.objective.metric.pairs_by_request:
        return Advice.KEEP, Reason.TOO_SHORT
    if gains and over.other.most_missed > 0 and _reaches_further(tuning):
        return Advice.RAISE_THE_CEILING, Reason.OWN_ENDS_TOO_EARLY
    if gains and beyond is not None and beyond.loses:
        return Advice.KEEP, Reason.LOSES_BEYOND
    if gains:
        return Advice.TRIM, Reason.LESS_PADDING
    if not is_steady(fresh, best):
        return Advice.KEEP, Reason.NO_STEADY_STATE
    if not _no_worse(fresh, tuning):
        return Advice.KEEP, Reason.NOT_SHOWN
    if len(best.sizes) < len(own.sizes) and not _is_allowed(tuning):
        return Advice.TRIM, Reason.FEWER_DO_AS_WELL
    return Advice.KEEP, Reason.NO_DIFFERENCE_SHOWN


def _is_allowed(tuning: Tuning) -> bool:
    """Tell whether the own pool keeps within the graphs, memory and capture time that are allowed."""
    own = tuning.own.pool
    rules = replace(tuning.rules_for(own), forced=())
    return rules.allows(own.with_sizes(size for size in own.sizes if size <= rules.candidates[-1]))


def is_change(verdict: TuningVerdict) -> bool:
    """Tell whether another list than the own one is advised."""
    return verdict.advice in (Advice.RAISE_THE_CEILING, Advice.TRIM)


def is_steady(fresh: FreshRequests, pool: GraphPool) -> bool:
    """Tell whether a pool's runs have a steady state; a closed loop cannot pile up."""
    if any(sample.requests.concurrency is not None for sample in fresh.samples):
        return True
    return all(offered_load(run.requests).steady_state for run, _ in fresh.run(pool))


def _is_finite_run(fresh: FreshRequests, pool: GraphPool) -> bool:
    """Tell whether numbers describe the length of a run: shorter than its answers, or all arrive at once."""
    if any(sample.requests.concurrency is not None for sample in fresh.samples):
        return False
    loads = [offered_load(run.requests) for run, _ in fresh.run(pool)]
    return any(load.too_short or load.offered_per_s is None for load in loads)


def _may_be_milliseconds(tuning: Tuning, over: OverLoads | None) -> bool:
    """Tell whether a record's whole seconds, of requests that hardly ever meet, may count milliseconds."""
    arrivals = tuning.evaluator.workload.arrivals
    if not isinstance(arrivals, TraceArrivals) or arrivals.time_scale != 1:
        return False
    is_idle = over is not None and _together(tuning, over) < LEAST_TOGETHER
    return is_idle and any(are_far_apart(sample.requests) for sample in tuning.samples)


def _drops_unmet(tuning: Tuning, over: OverLoads) -> bool:
    """Tell whether the winner lacks sizes of the own list that no load says anything of."""
    own, engine = tuning.own.pool, tuning.evaluator.workload.engine
    together = _together(tuning, over)
    unmet = unmet_sizes(own.sizes, together, engine.max_num_seqs)
    return not set(unmet) <= set(tuning.best.pool.sizes) or (
        together < LEAST_TOGETHER and tuning.best.pool == own
    )


def _ends_a_cliff(tuning: Tuning, over: OverLoads) -> bool:
    """Tell whether the own list leaves steps without a graph, and no list of so few graphs holds it, too.

    Then every load says what the own list costs, and what larger batches pad by in the winner's is the
    price of the graphs allowed.
    """
    both = {*tuning.own.pool.sizes, *tuning.best.pool.sizes}
    cannot_hold_both = len(both) > tuning.budgets.graphs
    return cannot_hold_both and over.other.most_missed > 0 and _reaches_further(tuning)


def _together(tuning: Tuning, over: OverLoads) -> int:
    """Return how many requests decode together, in the search or on fresh requests: either is evidence."""
    searched = tuning.search.tried[tuning.own.pool].detail
    return max(over.other.together, 0 if searched is None else searched.together)


def _no_worse(fresh: FreshRequests, tuning: Tuning) -> bool:
    """Tell whether at the workload's load even the bad end of the interval is a loss of less than 2 %."""
    found = fresh.compare(tuning.best.pool, tuning.own.pool)
    scale = abs(sum(found.other) / len(found.other))
    if found.difference.interval is None:
        return True  # the losses over all loads have been judged
    interval = found.difference.interval
    is_lower = tuning.evaluator.objective.metric.lower_is_better
    return (interval.high if is_lower else -interval.low) <= NO_WORSE * scale


def _reaches_further(tuning: Tuning) -> bool:
    """Tell whether the winner's graphs hold larger steps of some kind than the workload's own."""
    engine = tuning.evaluator.workload.engine
    own, best = (
        pool.table(engine.max_num_seqs, engine.prefill_tokens_per_step)
        for pool in (tuning.own.pool, tuning.best.pool)
    )
    kinds = ((own.full, best.full), (own.piecewise, best.piecewise))
    return any(max(after, default=0) > max(before, default=0) for before, after in kinds)
