"""What a reader must know before believing a result: the warnings of card, report and results.json."""

from __future__ import annotations

import re

from scheduler.analysis.comparison.compare import Column, Comparison, decoded_without_graph
from scheduler.analysis.comparison.differences import differences
from scheduler.analysis.comparison.steadiness import load_warnings, warmup_warnings
from scheduler.analysis.metrics import without_graph_share
from scheduler.report.wording import count_text, ranges_text, sizes_text


def warnings_of(comparison: Comparison) -> list[str]:
    """Return what a reader must know before believing the card, most important first."""
    warnings = []
    if comparison.failure is not None:
        warnings.append(f"PARTIAL RESULT: the run ended early ({comparison.failure}).")
    for pool in comparison.pools:
        warnings += _pool_warnings(comparison, pool)
    for column in comparison.columns:
        warnings += load_warnings(comparison, column)
    warnings += warmup_warnings(comparison)
    for pool in comparison.pools:
        found = differences(comparison, pool, "mean_e2el_ms")
        reasons = [difference.why_no_interval for difference in found if difference.why_no_interval]
        warnings += [f"{pool.name}: no interval: {reason}." for reason in reasons[:1]]
    warnings += _fallback_warnings(comparison)
    for column in (*comparison.pools, comparison.eager):
        # Replications differ in the figures alone: one of each kind is enough.
        remarks = {re.sub(r"[0-9,]+", "", remark): remark for run in column.runs for remark in run.remarks}
        if remarks:
            texts = "; ".join(remarks.values())
            warnings.append(f"{column.name}: step times beyond the measured range: {texts}.")
        refused = rejections(column)
        if refused:
            texts = "; ".join(f"{count:,} × {reason}" for reason, count in refused.items())
            rejected = count_text(sum(refused.values()), "request")
            warnings.append(f"{column.name}: {rejected} rejected ({texts}).")
    return warnings


def _fallback_warnings(comparison: Comparison) -> list[str]:
    """Say whose times steps without a graph take, where a pool had any and the profile knows no better."""
    if comparison.execution is not None or comparison.profile.curve("fallback") is not None:
        return []
    names = [
        pool.name
        for pool in comparison.pools
        if pool.variant.pool.sizes and any(decoded_without_graph(run) for run in pool.runs)
    ]
    if not names:
        return []
    return [
        f"{', '.join(names)}: decodes in steps without a graph take eager's times, for the profile has no "
        "fallback curve."
    ]


def rejections(column: Column) -> dict[str, int]:
    """Return how many requests were rejected for each reason, over all replications."""
    reasons: dict[str, int] = {}
    for run in column.runs:
        for reason in run.requests.reasons.values():
            reasons[reason] = reasons.get(reason, 0) + 1
    return dict(sorted(reasons.items()))


def _pool_warnings(comparison: Comparison, column: Column) -> list[str]:
    """Return what could not be captured, and every batch size without a graph."""
    pool = column.variant.pool
    warnings = []
    if pool.failed and comparison.execution is not None:
        error = comparison.execution.failed_sizes[pool.failed[-1]]  # captured largest first
        warnings.append(
            f"{column.name}: capture failed for {sizes_text(pool.failed)} ({error}); "
            "steps of these sizes ran without a graph."
        )
    largest = comparison.workload.engine.max_num_seqs
    unserved = pool.unserved(largest)
    if not unserved or not pool.sizes:
        return warnings
    share = sum(without_graph_share(run) for run in column.runs) / max(1, len(column.runs))
    fixes = [] if pool.padding else ["turn padding on"]
    fixes += [f"capture {largest}"] if pool.sizes[-1] < largest else []
    advice = f" ({' and '.join(fixes)}, or lower max_num_seqs)" if fixes else ""
    return [
        *warnings,
        f"{column.name}: batch sizes {ranges_text(unserved)} have no graph; {100 * share:.1f} % of decode "
        f"steps ran without one because of it{advice}.",
    ]
