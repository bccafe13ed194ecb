"""The flags to paste for the pools of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scheduler.analysis.comparison.compare import Comparison
from scheduler.analysis.comparison.measured_on import (
    ENGINES,
    Mismatch,
    NamedEngine,
    engine_mismatch,
    flags_are_for,
    mismatches,
)
from scheduler.catalog.dispatch.audit import slower_batches
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.report.drafting_text import drafts_flag
from scheduler.report.engine_flags import PastedPool, paste_line
from scheduler.report.trust import not_of_text
from scheduler.workload.schema import Workload
from scheduler.workload.server_logs.engine_log import EngineLog


def pool_flag(comparison: Comparison, pool: GraphPool, instead_of: GraphPool | None = None) -> str | None:
    """Return the command that captures a pool; `instead_of` another, with what runs slower than there.

    None where the step times are not those of the engine, release, GPU or model that the flag is for.
    """
    if mismatches(comparison.workload, comparison.profile):
        return None
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
    return paste_line(pasted, flags_are_for(comparison.workload, comparison.profile))


def fewer_flag(comparison: Comparison) -> str | None:
    """Return the command of the smaller list, only where it was judged at other loads and would do."""
    study = comparison.load_study
    if study is None or study.fewer is None or not study.fewer.would_do:
        return None
    own = comparison.pools[0].variant.pool
    return pool_flag(comparison, replace(own, sizes=study.fewer.sizes), own)


def tune_caution(workload: Workload, profile: Profile) -> str:
    """Return what speaks against pasting a tuned list: step times of something else; else nothing."""
    return _caution(mismatches(workload, profile))


def log_caution(log: EngineLog, profile: Profile) -> str:
    """Return the same of a server's log, which says what wrote it."""
    if profile.identity is None:
        return ""
    named = [NamedEngine(log.format, log.facts.version or "")] if log.format in ENGINES else []
    other = engine_mismatch(named, profile.identity)
    return _caution([] if other is None else [other])


def _caution(others: Sequence[Mismatch]) -> str:
    return f"{not_of_text(others)}; measure yours before you paste (run.py profile list)" if others else ""


def why_no_flag(comparison: Comparison) -> str:
    """Return why no flag stands by a list that would do; nothing where there is one."""
    workload, profile = comparison.workload, comparison.profile
    others = mismatches(workload, profile)
    if others:
        return f"no flag: {not_of_text(others)}"
    engine = flags_are_for(workload, profile)
    if paste_line(PastedPool((1,)), engine) is None:
        return f"no flag: {ENGINES.get(engine or '', 'the engine')} takes no list of sizes"
    return ""


def drafted_flag(comparison: Comparison) -> str | None:
    """Return the command of the list chosen for a drafting server, where it is not its own.

    None, too, where the step times are of something else than the flag is for.
    """
    workload, profile = comparison.workload, comparison.profile
    if comparison.draft_study is None or mismatches(workload, profile):
        return None
    return drafts_flag(comparison.draft_study, workload, flags_are_for(workload, profile))
