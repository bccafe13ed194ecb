"""The flags to paste for the pools of a comparison."""

from __future__ import annotations

from dataclasses import replace

from scheduler.analysis.comparison.compare import Comparison
from scheduler.catalog.dispatch.audit import slower_batches
from scheduler.engine.graph_pool import GraphPool
from scheduler.report.engine_flags import PastedPool, paste_line


def pool_flag(comparison: Comparison, pool: GraphPool, instead_of: GraphPool | None = None) -> str:
    """Return the command that captures a pool; `instead_of` another, with what runs slower than there."""
    engine = comparison.workload.engine
    limit, tokens = engine.max_num_seqs, engine.prefill_tokens_per_step
    slower = (
        []
        if instead_of is None
        else slower_batches(instead_of.table(limit, tokens), pool.table(limit, tokens))
    )
    pasted = PastedPool(
        pool.sizes,
        padding=pool.padding,
        piecewise=pool.piecewise,
        full=pool.full,
        max_num_seqs=limit,
        slower=tuple(slower),
        draft_tokens=pool.draft_tokens,
        in_tokens=pool.draft_tokens > 0 and pool.tokens_per_size > 1,
    )
    return paste_line(pasted, comparison.workload.pool.preset)


def fewer_flag(comparison: Comparison) -> str | None:
    """Return the command of the smaller list, only where it was judged at other loads and would do."""
    study = comparison.load_study
    if study is None or study.fewer is None or not study.fewer.would_do:
        return None
    own = comparison.pools[0].variant.pool
    return pool_flag(comparison, replace(own, sizes=study.fewer.sizes), own)
