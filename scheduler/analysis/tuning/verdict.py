"""What the tuner advises, and why."""

from __future__ import annotations

from scheduler.analysis.statistics.difference import Verdict
from scheduler.analysis.tuning.answer import Advice, Reason, TuningVerdict
from scheduler.analysis.tuning.checks import Confirmation
from scheduler.analysis.tuning.closed_loop import Tuning
from scheduler.analysis.tuning.pool_runs import Detail

NO_WORSE = 0.01  # a smaller loss than this share is worth the graphs it saves


def tuning_verdict(tuning: Tuning, confirmation: Confirmation) -> TuningVerdict:
    """Judge the confirmed winner against the workload's own pool.

    TRIM covers a list with fewer graphs that is no more than 1 % worse, and one with the same ceiling
    whose finer sizes are faster: padding is trimmed, then.
    """
    advice, reason = _advice(tuning, confirmation)
    own, best = (tuning.evaluator.cost(pool) for pool in (tuning.own.pool, tuning.best.pool))
    if own is None or best is None:
        return TuningVerdict(advice, reason)
    kv_tokens = None
    if own.kv_blocks is not None and best.kv_blocks is not None:
        kv_tokens = (best.kv_blocks - own.kv_blocks) * tuning.evaluator.workload.engine.block_size
    start_up = None if own.capture_s is None or best.capture_s is None else own.capture_s - best.capture_s
    memory = None
    if own.graph_memory_bytes is not None and best.graph_memory_bytes is not None:
        memory = own.graph_memory_bytes - best.graph_memory_bytes
    return TuningVerdict(advice, reason, kv_tokens, start_up, memory)


def _advice(tuning: Tuning, confirmation: Confirmation) -> tuple[Advice, Reason]:
    own, best = tuning.own.pool, tuning.best.pool
    if best == own:
        return Advice.KEEP, Reason.OWN_IS_BEST
    if tuning.evaluator.cost(own) is None:
        return Advice.TRIM, Reason.OWN_LEAVES_NO_KV_CACHE
    if confirmation.difference.verdict is Verdict.SLOWER and not _no_worse(tuning, confirmation):
        return Advice.KEEP, Reason.WORSE_ON_FRESH_REQUESTS
    is_faster = confirmation.difference.verdict is Verdict.FASTER
    detail = tuning.search.tried[own].detail
    misses = detail.missed_graph_share if isinstance(detail, Detail) else 0.0
    if is_faster and misses > 0 and _reaches_further(tuning):
        return Advice.RAISE_THE_CEILING, Reason.OWN_ENDS_TOO_EARLY
    if len(best.sizes) < len(own.sizes) and _no_worse(tuning, confirmation):
        return Advice.TRIM, Reason.FEWER_DO_AS_WELL
    if is_faster:
        return Advice.TRIM, Reason.LESS_PADDING
    return Advice.NO_DIFFERENCE, Reason.NO_DIFFERENCE_SHOWN


def _reaches_further(tuning: Tuning) -> bool:
    """Tell whether the winner's graphs hold larger steps of some kind than the workload's own."""
    engine = tuning.evaluator.workload.engine
    own, best = (
        pool.table(engine.max_num_seqs, engine.prefill_tokens_per_step)
        for pool in (tuning.own.pool, tuning.best.pool)
    )
    kinds = ((own.full, best.full), (own.piecewise, best.piecewise))
    return any(max(after, default=0) > max(before, default=0) for before, after in kinds)


def _no_worse(tuning: Tuning, confirmation: Confirmation) -> bool:
    """Tell whether even the bad end of the interval is a loss of less than 1 % of the own pool's value."""
    scale = abs(sum(confirmation.other) / len(confirmation.other))
    difference, interval = confirmation.difference.difference, confirmation.difference.interval
    if tuning.evaluator.objective.metric.lower_is_better:
        worst = difference if interval is None else interval.high
    else:
        worst = -(difference if interval is None else interval.low)
    return worst <= NO_WORSE * scale
