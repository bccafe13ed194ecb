"""What the tuner advises, in one word and one sentence's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from scheduler.analysis.statistics.difference import Verdict
from scheduler.analysis.tuning.checks import Confirmation
from scheduler.analysis.tuning.closed_loop import Tuning
from scheduler.analysis.tuning.pool_runs import Detail

NO_WORSE = 0.01  # a smaller loss than this share is worth the graphs it saves


class Advice(StrEnum):
    """KEEP the own pool; RAISE THE CEILING of a list that ends too early; TRIM it to the traffic."""

    KEEP = "KEEP"
    RAISE_THE_CEILING = "RAISE THE CEILING"
    TRIM = "TRIM"
    NO_DIFFERENCE = "NO DIFFERENCE"


@dataclass(frozen=True, slots=True)
class TuningVerdict:
    """The advice, its reason, and what the winner gains beside the objective (None where unknown)."""

    advice: Advice
    reason: str
    kv_tokens_gained: int | None
    start_up_s_gained: float | None
    memory_bytes_gained: int | None


def tuning_verdict(tuning: Tuning, confirmation: Confirmation) -> TuningVerdict:
    """Judge the confirmed winner against the workload's own pool.

    TRIM covers a list with fewer graphs that is no more than 1 % worse, and one with the same ceiling
    whose finer sizes are faster: padding is trimmed, then.
    """
    advice, reason = _advice(tuning, confirmation)
    own, best = (tuning.evaluator.cost(pool) for pool in (tuning.own.pool, tuning.best.pool))
    if own is None or best is None:
        return TuningVerdict(advice, reason, None, None, None)
    kv_tokens = None
    if own.kv_blocks is not None and best.kv_blocks is not None:
        kv_tokens = (best.kv_blocks - own.kv_blocks) * tuning.evaluator.workload.engine.block_size
    start_up = None if own.capture_s is None or best.capture_s is None else own.capture_s - best.capture_s
    memory = None
    if own.graph_memory_bytes is not None and best.graph_memory_bytes is not None:
        memory = own.graph_memory_bytes - best.graph_memory_bytes
    return TuningVerdict(advice, reason, kv_tokens, start_up, memory)


def _advice(tuning: Tuning, confirmation: Confirmation) -> tuple[Advice, str]:
    own, best = tuning.own.pool, tuning.best.pool
    if best == own:
        return Advice.KEEP, "the own pool is the best one found"
    if tuning.evaluator.cost(own) is None:
        return Advice.TRIM, "the own pool leaves no room for the KV cache"
    if confirmation.difference.verdict is Verdict.SLOWER and not _no_worse(tuning, confirmation):
        return Advice.KEEP, "the tuned pool is worse on requests it was not tuned on"
    is_faster = confirmation.difference.verdict is Verdict.FASTER
    detail = tuning.search.tried[own].detail
    misses = detail.without_graph_share if isinstance(detail, Detail) else 0.0
    ends_early = misses > 0 and max(best.sizes, default=0) > max(own.sizes, default=0)
    if is_faster and ends_early:
        return Advice.RAISE_THE_CEILING, f"{misses:.1%} of the own pool's decode steps ran without a graph"
    if len(best.sizes) < len(own.sizes) and _no_worse(tuning, confirmation):
        return Advice.TRIM, f"{len(best.sizes)} graphs do as well as {len(own.sizes)}, within 1 %"
    if is_faster:
        return Advice.TRIM, "sizes that fit the traffic pad less"
    return Advice.NO_DIFFERENCE, "no difference shown on requests the pool was not tuned on"


def _no_worse(tuning: Tuning, confirmation: Confirmation) -> bool:
    """Tell whether even the bad end of the interval is a loss of less than 1 % of the own pool's value."""
    scale = abs(sum(confirmation.other) / len(confirmation.other))
    difference, interval = confirmation.difference.difference, confirmation.difference.interval
    if tuning.evaluator.objective.metric.lower_is_better:
        worst = difference if interval is None else interval.high
    else:
        worst = -(difference if interval is None else interval.low)
    return worst <= NO_WORSE * scale
