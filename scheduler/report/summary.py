"""What the JSON result files say: summary.json's flat records and results.json's nested truth.

Neither holds a date, a host, wall-clock time or the output folder: the same inputs give the same bytes.
"""

from __future__ import annotations

from scheduler import __version__
from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.comparison.steadiness import loads
from scheduler.analysis.metrics import Record
from scheduler.analysis.records import SCHEMA_VERSION, flat_record
from scheduler.engine.graph_pool import GraphPool
from scheduler.report.cautions import rejections, warnings_of
from scheduler.report.views import graph_use, view_of
from scheduler.simulate import decides_ahead


def summary_records(comparison: Comparison, executor: str = "model") -> list[Record]:
    """Return one flat record per variant; metrics are means over the replications."""
    return [_record(comparison, column, executor) for column in comparison.columns if column.summaries]


def _record(comparison: Comparison, column: Column, executor: str) -> Record:
    record = flat_record(
        comparison.workload,
        comparison.profile,
        column.variant,
        column.cost,
        column.summaries,
        loads(comparison, column),
        {"replications": len(column.summaries)},
        executor,
    )
    return record if comparison.failure is None else record | {"partial": True}


def nested_results(comparison: Comparison, command: str, executor: str = "model") -> dict[str, object]:
    """Return everything about one invocation: resolved workload, provenance, pools, every replication."""
    workload = comparison.workload
    resolved = workload.model_dump(mode="json", exclude_none=True)
    resolved["engine"]["async_scheduling"] = decides_ahead(workload.engine, comparison.profile)
    found: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "command": command,
        "executor": executor,
        "workload": resolved,
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


def _slower_batches(comparison: Comparison, pool: GraphPool) -> dict[str, object]:
    """Return the decode batches, as inclusive ranges, that the engine admits and no FULL graph serves."""
    engine = comparison.workload.engine
    ranges = pool.table(engine.max_num_seqs, engine.prefill_tokens_per_step).decode_ranges()
    return {
        "batch_sizes_without_graph": [[first, last] for first, last, kind in ranges if kind == "NONE"],
        "batch_sizes_piecewise": [[first, last] for first, last, kind in ranges if kind == "PIECEWISE"],
    }


def _variant(comparison: Comparison, column: Column) -> dict[str, object]:
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
