"""What the JSON result files say: summary.json's flat records and results.json's nested truth.

Neither holds a date, a host, wall-clock time or the output folder: the same inputs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler import __version__
from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.comparison.steadiness import is_steady
from scheduler.analysis.metrics import request_rate
from scheduler.engine.graph_pool import GraphPool
from scheduler.report.cautions import rejections, warnings_of
from scheduler.report.views import graph_use, view_of
from scheduler.workload.arrivals import (
    GammaArrivals,
    PoissonArrivals,
)

SCHEMA_VERSION = 1


def summary_records(comparison: Comparison, executor: str = "model") -> list[dict[str, Any]]:
    """Return one flat record per variant, with the key names of vLLM's `bench serve`.

    Metrics are means over the replications. A metric that does not exist is left out, never null.
    """
    return [_record(comparison, column, executor) for column in comparison.columns if column.summaries]


def _record(comparison: Comparison, column: Column, executor: str) -> dict[str, Any]:
    workload, profile = comparison.workload, comparison.profile
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "backend": "graphpool",
        "variant": column.name,
        "label": column.name,
        "model_id": profile.model_id,
        "profile": profile.name,
        "executor": executor,
        "workload": workload.name,
        "arrivals": workload.arrivals.process,
        "seed": workload.seed,
        "replications": len(column.summaries),
        "max_concurrency": workload.engine.max_num_seqs,
        "capture_sizes": list(column.variant.pool.sizes),
        "num_graphs": len(column.variant.pool.sizes),
        "steady_state": is_steady(comparison, column),
    }
    if isinstance(workload.arrivals, GammaArrivals | PoissonArrivals):
        record["burstiness"] = getattr(workload.arrivals, "burstiness", 1.0)
    if column.cost.capture_s is not None:
        record["capture_time_s"] = column.cost.capture_s
    if column.cost.graph_memory_bytes is not None:
        record["graph_memory_bytes"] = column.cost.graph_memory_bytes
    if column.cost.kv_blocks is not None:
        record["kv_blocks"] = column.cost.kv_blocks
    if comparison.failure is not None:
        record["partial"] = True
    record |= mean_record(column.summaries)
    record["request_rate"] = request_rate(workload, record)
    return record


def mean_record(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of every number that all replications have; other values as in the first.

    Counts stay whole numbers, as readers of these keys expect.
    """
    record: dict[str, Any] = {}
    for key, first in summaries[0].items():
        values = [summary[key] for summary in summaries if key in summary]
        if len(values) < len(summaries):
            continue
        is_number = isinstance(first, int | float) and not isinstance(first, bool)
        same = all(value == first for value in values)
        if same or not is_number:
            record[key] = first
        else:
            mean = sum(values) / len(values)
            record[key] = round(mean) if all(isinstance(value, int) for value in values) else mean
    return record


def nested_results(comparison: Comparison, command: str, executor: str = "model") -> dict[str, Any]:
    """Return everything about one invocation: resolved workload, provenance, pools, every replication."""
    workload = comparison.workload
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "command": command,
        "executor": executor,
        "workload": workload.model_dump(mode="json", exclude_none=True),
        "profile": comparison.profile.record(),
        "slo_ms": workload.slo.limits_ms if workload.slo else {},
        "replications": comparison.replications,
        "warmup_requests": comparison.warmup_requests,
        "notes": list(comparison.requests[0].notes) if comparison.requests else [],
        "warnings": warnings_of(comparison),
        "variants": [_variant(comparison, column) for column in comparison.columns if column.runs],
    }
    if comparison.smaller is not None:
        column = comparison.smaller.column
        found["smaller_pool"] = {
            "of": comparison.smaller.own.name,
            "capture_sizes": list(column.variant.pool.sizes),
            "replications": column.summaries,
        }
    if comparison.failure is not None:
        found |= {"partial": True, "failure": comparison.failure}
    return found


def _slower_batches(comparison: Comparison, pool: GraphPool) -> dict[str, Any]:
    """Return the decode batches, as inclusive ranges, that the engine admits and no FULL graph serves."""
    engine = comparison.workload.engine
    ranges = pool.table(engine.max_num_seqs, engine.prefill_tokens_per_step).decode_ranges()
    return {
        "batch_sizes_without_graph": [[first, last] for first, last, kind in ranges if kind == "NONE"],
        "batch_sizes_piecewise": [[first, last] for first, last, kind in ranges if kind == "PIECEWISE"],
    }


def _variant(comparison: Comparison, column: Column) -> dict[str, Any]:
    variant = column.variant
    return {
        "name": column.name,
        "origin": column.origin,
        "low_name": variant.name if variant.bound == "high" else None,
        "without_graph": variant.without_graph,
        "capture_sizes": list(variant.pool.sizes),
        "failed_captures": list(variant.pool.failed),
        **_slower_batches(comparison, variant.pool),
        "padding": variant.pool.padding,
        "piecewise": variant.pool.piecewise,
        "capture_time_s": column.cost.capture_s,
        "graph_memory_bytes": column.cost.graph_memory_bytes,
        "kv_blocks": column.cost.kv_blocks,
        "rejections": rejections(column),
        "graph_use": [
            {
                "capture_size": use.size,
                "steps": use.steps,
                "step_time_s": use.step_s,
                "padding_share": use.padding_share,
            }
            for use in graph_use(view_of(comparison, column))
        ],
        "replications": column.summaries,
    }
