"""What a reader must know before believing a result: the warnings of card, report and results.json."""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from scheduler.analysis.comparison.compare import Column, Comparison, decoded_without_graph
from scheduler.analysis.comparison.differences import differences
from scheduler.analysis.comparison.steadiness import loads, warm_up
from scheduler.analysis.metrics import without_graph_share
from scheduler.catalog.dispatch.table import kind_ranges
from scheduler.engine.executor import StepKind
from scheduler.engine.records import Graph, StepRecords
from scheduler.report.wording import count_text, ranges_text, sizes_text
from scheduler.simulate import assumed_draft

AT_ONCE = "all requests arrive at once: the numbers are of one batch of work, of no steady state."
TOO_FEW = "too few requests to tell a steady state; run at least 100."


def warnings_of(comparison: Comparison, *, overload: bool = True) -> list[str]:
    """Return what a reader must know before believing the card, most important first.

    Without `overload` what is said of the queue is left out.
    """
    warnings = []
    if comparison.failure is not None:
        warnings.append(f"PARTIAL RESULT: the run ended early ({comparison.failure}).")
    for pool in comparison.pools:
        warnings += _pool_warnings(comparison, pool)
    for column in comparison.columns if overload else ():
        warnings += _load_warnings(comparison, column)
    for column in (*comparison.pools, comparison.eager):
        warnings += _warmup_warnings(comparison, column)
    for pool in comparison.pools:
        found = differences(comparison, pool, "mean_e2el_ms")
        reasons = [difference.why_no_interval for difference in found if difference.why_no_interval]
        warnings += [f"{pool.name}: no interval: {reason}." for reason in reasons[:1]]
    warnings += _fallback_warnings(comparison)
    warnings += _drafting_warnings(comparison)
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


def _load_warnings(comparison: Comparison, column: Column) -> list[str]:
    """Name an overload: how fast the queue grows and what the server delivers.

    Where too few requests arrived to tell, the comparison's first column says so for all.
    """
    every = loads(comparison, column)
    if any(load.too_few for load in every):
        is_batch = all(load.offered_per_s is None for load in every)
        return [AT_ONCE if is_batch else TOO_FEW] if column is comparison.columns[0] else []
    found = [load for load in every if not load.steady_state]
    if not found:
        return []
    growths = [load.growth_per_s.mean for load in found if load.growth_per_s is not None]
    delivered = [load.delivered_per_s for load in found if load.delivered_per_s is not None]
    offered = [load.offered_per_s for load in found if load.offered_per_s is not None]
    where = "" if len(found) == len(column.runs) else f" in {len(found)} of {len(column.runs)} replications"
    if not any(load.overloaded for load in found):
        return [
            f"{column.title}: NO STEADY STATE{where}: the run is too short against one request's service to "
            "tell filling from overload; run more requests."
        ]
    return [
        f"{column.title}: NO STEADY STATE{where}: {fmean(offered):.2f} requests/s arrive, "
        f"{fmean(delivered):.2f}/s are served, the queue grows by {fmean(growths):.2f} requests/s. "
        "The numbers describe this finite run only."
    ]


def _warmup_warnings(comparison: Comparison, column: Column) -> list[str]:
    """Warn where MSER-5 would cut more of the beginning than was cut."""
    found = warm_up(comparison, column)
    if found is None:
        return []
    if found.too_short:
        return [f"{column.name}: no warm-up can be told from the run (MSER-5); run more requests."]
    if found.cut <= comparison.warmup_requests:
        return []
    return [
        f"{column.name}: MSER-5 would drop the first {found.cut:,} requests, "
        f"{comparison.warmup_requests:,} were dropped (--warmup)."
    ]


def _drafting_warnings(comparison: Comparison) -> list[str]:
    """Say what was assumed of the drafter."""
    settings = comparison.workload.engine.speculation
    assumed = None if settings is None else assumed_draft(settings, comparison.profile)
    return [] if assumed is None else [f"ASSUMED: {assumed} (engine.speculation.draft)."]


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
    """Return what could not be captured, and every step that no graph, or a slower one, serves."""
    pool = column.variant.pool
    warnings = []
    if pool.failed and comparison.execution is not None:
        error = comparison.execution.failed_sizes[pool.failed[-1]]  # captured largest first
        warnings.append(
            f"{column.name}: capture failed for {sizes_text(pool.failed)} ({error}); "
            "steps of these sizes ran without a graph."
        )
    if pool.sizes:
        found = [*_decode_warnings(comparison, column), *_prompt_warnings(comparison, column)]
        warnings += sorted(
            found, key=lambda warning: " 0.0 % of decode steps" in warning
        )  # what never came, last
    return warnings


def _decode_warnings(comparison: Comparison, column: Column) -> list[str]:
    """Name the decode batches that the engine admits and no FULL graph serves, and how often they ran."""
    pool, engine = column.variant.pool, comparison.workload.engine
    largest = engine.max_num_seqs * pool.tokens_per_size
    ranges = pool.table(engine.max_num_seqs, engine.prefill_tokens_per_step).decode_ranges()
    without = [(first, last) for first, last, kind in ranges if kind == "NONE"]
    piecewise = [(first, last) for first, last, kind in ranges if kind == "PIECEWISE"]
    warnings = []
    if without:
        share = sum(without_graph_share(run) for run in column.runs) / max(1, len(column.runs))
        fixes = [] if pool.padding else ["turn padding on"]
        fixes += [f"capture {largest}"] if largest not in pool.sizes and pool.padding else []
        fixes += [f"capture {largest}"] if pool.sizes[-1] < largest and not pool.padding else []
        advice = f" ({' and '.join(fixes)}, or lower max_num_seqs)" if fixes else ""
        ran = f"{100 * share:.1f} % of decode steps ran without one because of it{advice}"
        if not share:
            ran = f"none ran ({' and '.join(fixes)})" if fixes else "none ran"
        warnings.append(f"{column.name}: batch sizes {ranges_text(without)} have no graph; {ran}.")
    if piecewise and pool.full:
        steps, time = _shares(column, lambda steps: steps.kind == StepKind.DECODE, Graph.PIECEWISE)
        warnings.append(
            f"{column.name}: batch sizes {ranges_text(piecewise)} have no FULL graph and take a PIECEWISE "
            f"one; {100 * steps:.1f} % of decode steps did, {100 * time:.1f} % of all time "
            f"(capture {largest})."
        )
    return warnings


def _prompt_warnings(comparison: Comparison, column: Column) -> list[str]:
    """Say what steps with prompts lose for want of a size, where the list is to serve them."""
    pool, engine = column.variant.pool, comparison.workload.engine
    budget = engine.prefill_tokens_per_step
    if not pool.piecewise or engine.policy == "decode_only":
        return []
    ranges = kind_ranges(pool.table(engine.max_num_seqs, budget).mixed_route(n) for n in range(1, budget + 1))
    without = [(first, last) for first, last, kind in ranges if kind == "NONE"]
    steps, time = _shares(column, lambda steps: steps.kind != StepKind.DECODE, Graph.NONE)
    if not without or steps == 0:
        return []
    return [
        f"{column.name}: {100 * steps:.1f} % of steps with prompts ran without a graph, {100 * time:.1f} % "
        f"of all time: {ranges_text(without)} tokens have none (capture sizes up to {budget})."
    ]


def _shares(
    column: Column, of: Callable[[StepRecords], NDArray[np.bool_]], graph: Graph
) -> tuple[float, float]:
    """Return which share of some steps ran in a kind of graph, and which share of all time that took."""
    chosen = taken = time_ns = all_ns = 0
    for run in column.runs:
        some = of(run.steps)
        found = some & (run.steps.graph == graph)
        chosen, taken = chosen + int(some.sum()), taken + int(found.sum())
        time_ns += int(run.steps.duration_ns[found].sum())
        all_ns += int(run.steps.duration_ns.sum())
    return taken / max(chosen, 1), time_ns / max(all_ns, 1)
