"""AIPerf's profile_export.jsonl: a line per request.

Read in AIPerf 0.1.1 (aiperf/common/models/record_models.py; docs/tutorials/working-with-profile-exports.md)
and as 0.13.0 documents it: times of metadata are Unix nanoseconds, metrics name their units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scheduler.errors import InputError
from scheduler.workload.bench_results.cells import RowBuilder, failure, number, positive, tokens
from scheduler.workload.inputs.found import Found

NAME = "AIPerf profile_export.jsonl"
COMMAND = "aiperf profile"
_MS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3}


def is_aiperf(keys: frozenset[str]) -> bool:
    """Tell by its keys whether a line is an AIPerf record."""
    return keys >= {"metadata", "metrics"}


def read_aiperf(path: Path, objects: Iterable[tuple[int, Mapping[str, Any]]]) -> Found:
    """Read the records; raises InputError."""
    builder = RowBuilder(path, NAME, "line")
    later_turns = 0
    drafts: list[float] = []
    first_ns: int | None = None
    for line, record in objects:
        try:
            metadata = _part(record, "metadata")
            first_ns = first_ns if first_ns is not None else _start_ns(metadata)
            later_turns += _add(builder, line, record, metadata, first_ns)
        except ValueError as error:
            builder.problem(line, error)
        accepted = record.get("spec_decode_acceptance")
        if isinstance(accepted, Mapping):
            length = positive(accepted.get("mean_acceptance_length"), 1e4)
            drafts += [] if length is None else [length]
    rows = builder.built()
    read = [f"{len(rows):,} completed requests"]
    if drafts:
        read.append(
            f"speculative decoding: {math.fsum(drafts) / len(drafts):.2f} tokens to a request and step were "
            "accepted"
        )
    lacks = ["how the client sent (at a rate, or so many at a time): profile_export_aiperf.json has it"]
    if later_turns:
        lacks.append(
            f"{later_turns:,} requests are later turns of a conversation: they waited for the answer before, "
            "which another server gives at another time"
        )
    return Found(
        path,
        NAME,
        COMMAND,
        requests=rows,
        read=tuple(read),
        left_out=builder.left_out,
        lacks=tuple(lacks),
    )


def refuse_aggregate(path: Path) -> InputError:
    """Return the error for AIPerf's aggregate, which holds no requests."""
    return InputError(
        f"{path}: AIPerf aggregate (profile_export_aiperf.json): expected a line per request, which "
        f"profile_export.jsonl beside it holds (`{COMMAND}`)"
    )


def _part(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = record.get(key)
    if not isinstance(part, Mapping):
        raise ValueError(f"{key}: expected an object")
    return part


def _start_ns(metadata: Mapping[str, Any]) -> int:
    value = metadata.get("request_start_ns")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError("metadata.request_start_ns: expected whole nanoseconds")
    return value


def _add(
    builder: RowBuilder,
    line: int,
    record: Mapping[str, Any],
    metadata: Mapping[str, Any],
    first_ns: int,
) -> bool:
    """Add a record, or count it as left out; return whether it is a later turn of a conversation."""
    phase = metadata.get("benchmark_phase", "profiling")
    if phase != "profiling":
        builder.leave_out(line, f"phase {failure(phase)}, not profiling")
        return False
    if metadata.get("was_cancelled"):
        builder.leave_out(line, "cancelled")
        return False
    if record.get("error"):
        error = record["error"]
        kind = error.get("type") or error.get("code") if isinstance(error, Mapping) else error
        builder.leave_out(line, f"failed ({failure(kind)})")
        return False
    metrics = _part(record, "metrics")
    prompt = _metric(metrics, "input_sequence_length")
    output_key = "output_sequence_length" if "output_sequence_length" in metrics else "output_token_count"
    output = _metric(metrics, output_key)
    if output.get(output_key) == 0:
        builder.leave_out(line, "no output tokens")
        return False
    e2el_ms = _ms(metrics, "request_latency")
    ttft_ms = _ms(metrics, "time_to_first_token") if "time_to_first_token" in metrics else e2el_ms
    builder.add(
        line,
        tokens(prompt, "input_sequence_length"),
        tokens(output, output_key),
        start_s=(_start_ns(metadata) - first_ns) / 1e9,  # before floats: nanoseconds since 1970 do not fit
        ttft_ms=ttft_ms,
        e2el_ms=e2el_ms,
    )
    turn = metadata.get("turn_index")
    return isinstance(turn, int) and turn > 0


def _metric(metrics: Mapping[str, Any], key: str) -> dict[str, object]:
    metric = metrics.get(key)
    return {key: metric.get("value")} if isinstance(metric, Mapping) else {}


def _ms(metrics: Mapping[str, Any], key: str) -> float:
    metric = metrics.get(key)
    if not isinstance(metric, Mapping):
        return math.nan
    unit = metric.get("unit", "ms")
    if not isinstance(unit, str) or unit not in _MS:
        raise ValueError(f"{key}: expected a unit of time, got {failure(unit)}")
    return number({key: metric.get("value")}, key) * _MS[unit]
