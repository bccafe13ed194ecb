"""The table of formats: what each is called, what makes such files, how it is recognised and read.

Adding a format is adding a row here and, where no reader fits, a file with its reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scheduler.catalog.importers.recorded_run import read_recorded
from scheduler.errors import InputError
from scheduler.workload.bench_results import aiperf, guidellm, lists_of_requests, own_run, request_logs
from scheduler.workload.inputs.found import Found, Use
from scheduler.workload.inputs.head import PAGE, Head
from scheduler.workload.server_logs import (
    batches,
    prometheus,
    recorded_runs,
    sglang,
    step_records,
    tensorrt_llm,
    vllm,
)
from scheduler.workload.server_logs.engine_log import EngineLog
from scheduler.workload.server_logs.start_up import StartUpFacts
from scheduler.workload.server_logs.wrappers import strings_in
from scheduler.workload.traces.lines import numbered_lines
from scheduler.workload.traces.read import read_rows


@dataclass(frozen=True, slots=True)
class Format:
    """One row of the table: `is_it` and `read` take the head of a file; `gives` is for the documents."""

    name: str
    command: str
    gives: tuple[Use, ...]
    is_it: Callable[[Head], bool]
    read: Callable[[Head], Found]


def _json(matches: Callable[[frozenset[str]], bool]) -> Callable[[Head], bool]:
    return lambda head: head.kind == "json" and matches(head.keys)


def _has(*keys: str) -> Callable[[frozenset[str]], bool]:
    wanted = frozenset(keys)
    return lambda found: found >= wanted


def _as_found(path: Path, name: str, command: str, log: EngineLog) -> Found:
    return Found(
        path,
        name,
        command,
        log.facts.version,
        log=log,
        read=log.notes,
        left_out=log.left_out,
        lacks=log.lacks,
    )


def _server_log(head: Head) -> Found:
    lines = head.messages() if head.whole else None
    log = batches.read_server_log(head.path, head.told.max_num_seqs, lines, head.told.draft_tokens)
    if not log.has_steps and not log.facts.are_known and not log.accepted_length:
        raise InputError(
            [f"{head.path}: not a format that is known, and no server's log: {batches.NONE_FOUND}; {PAGE}"]
            + [f"{head.path}: {line}" for line in log.left_out]
        )
    engines = {
        "vllm": ("vLLM", vllm.FIX),
        "sglang": ("SGLang", sglang.FIX),
        "tensorrt-llm": ("TensorRT-LLM", tensorrt_llm.FIX),
    }
    known = log.format if log.has_steps else log.facts.engine or ""
    engine, command = engines.get(known, ("server", "; ".join(batches.FIXES)))
    return _as_found(head.path, f"{engine} log", command, log)


def _histogram(head: Head) -> Found:
    log = batches.read_server_log(head.path)
    return _as_found(head.path, "batch histogram CSV", "a CSV with batch_size,steps", log)


def _prometheus(head: Head) -> Found:
    lines = numbered_lines(head.path, any_bytes=True)
    log = prometheus.read_prometheus(head.path, lines, head.told.max_num_seqs)
    return _as_found(head.path, prometheus.NAME, prometheus.COMMAND, log)


def _recorded_run(path: Path, settings: Path) -> Found:
    log = recorded_runs.log_of(read_recorded(settings))
    return _as_found(path, recorded_runs.NAME, recorded_runs.COMMAND, log)


def _step_record(head: Head) -> Found:
    settings = recorded_runs.settings_of(head.path)
    if settings is not None:
        return _recorded_run(head.path, settings)
    log = step_records.read_step_record(head.path, numbered_lines(head.path))
    return _as_found(head.path, step_records.NAME, step_records.COMMAND, log)


def _tensorrt_metrics(head: Head) -> Found:
    reader = tensorrt_llm.TensorrtReader()
    for number, stats in head.objects():
        reader.read_metrics(number, stats)
    log = reader.log(StartUpFacts())
    name = "TensorRT-LLM /metrics"
    if log is None or not log.has_steps:
        lost = reader.not_understood.lines or ("every iteration is without a request",)
        raise InputError(
            [f"{head.path}: {name}: expected iterations with requests"]
            + [f"{head.path}: {line}" for line in lost]
        )
    return _as_found(head.path, name, tensorrt_llm.FIX, log)


def _refuse(what: str, instead: str) -> Callable[[Head], Found]:
    def read(head: Head) -> Found:
        raise InputError(f"{head.path}: {what}: it holds totals, not requests or steps; {instead}")

    return read


def _refuse_aggregate(head: Head) -> Found:
    raise aiperf.refuse_aggregate(head.path)


_COLUMN = re.compile(r"[\w./%() -]{1,80}")  # a line of a log has colons, hashes or brackets
_TIME_COLUMNS = ("timestamp", "arrived_at", "arrival_s", "arrival_ms", "arrival_us", "arrival_ns")
_MESSAGE_COLUMNS = frozenset(("message", "@message", "msg", "log", "line", "body", "textpayload", "_raw"))
_REQUESTS = (Use.ARRIVALS, Use.LENGTHS, Use.LATENCIES)
_STEPS = (Use.BATCHES, Use.STEP_TIMES)
FORMATS = (
    Format(
        "graphpool requests.npz or steps.npz",
        own_run.COMMAND,
        (*_REQUESTS, *_STEPS),
        lambda head: head.kind == "npz",
        lambda head: own_run.read_own_tables(head.path),
    ),
    Format(
        own_run.STEP_LOG,
        own_run.LOG_COMMAND,
        _STEPS,
        _json(_has("variant", "replication", "steps")),
        lambda head: own_run.read_step_log(head.path, numbered_lines(head.path)),
    ),
    Format(
        "graphpool summary",
        own_run.COMMAND,
        (),
        _json(lambda keys: "tool_version" in keys or {"command", "executor", "profile"} <= keys),
        _refuse("graphpool summary.json or results.json", "requests.npz and steps.npz beside it have them"),
    ),
    Format(
        recorded_runs.NAME,
        recorded_runs.COMMAND,
        (*_STEPS, Use.START_UP),
        _json(_has("engine", "cells", "traffic")),
        lambda head: _recorded_run(head.path, head.path),
    ),
    Format(
        f"{lists_of_requests.VLLM} or {lists_of_requests.SGLANG}",
        f"{lists_of_requests.VLLM_COMMAND}; {lists_of_requests.SGLANG_COMMAND}",
        _REQUESTS,
        _json(lists_of_requests.is_bench_result),
        lambda head: lists_of_requests.read_bench_result(head.path, head.run, head.runs()),
    ),
    Format(
        guidellm.NAME,
        guidellm.COMMAND,
        _REQUESTS,
        _json(_has("benchmarks")),
        lambda head: guidellm.read_guidellm(head.path, head.run, head.runs()[0]),
    ),
    Format(
        aiperf.NAME,
        aiperf.COMMAND,
        _REQUESTS,
        _json(aiperf.is_aiperf),
        lambda head: aiperf.read_aiperf(head.path, head.objects()),
    ),
    Format("AIPerf aggregate", aiperf.COMMAND, (), _json(_has("input_config")), _refuse_aggregate),
    Format(
        request_logs.NAME,
        request_logs.COMMAND,
        _REQUESTS,
        _json(request_logs.is_request_log),
        lambda head: request_logs.read_request_log(head.path, head.objects()),
    ),
    Format(
        request_logs.CSV_NAME,
        request_logs.CSV_COMMAND,
        _REQUESTS,
        lambda head: head.kind == "csv" and request_logs.is_measured_csv(head.keys),
        lambda head: request_logs.read_measured_csv(head.path),
    ),
    Format(
        "TensorRT-LLM /metrics",
        tensorrt_llm.FIX,
        (*_STEPS, Use.ACCEPTANCE),
        _json(lambda keys: bool(keys & {"inflightBatchingStats", "iterLatencyMS"})),
        _tensorrt_metrics,
    ),
    Format(
        prometheus.NAME,
        prometheus.COMMAND,
        (Use.BATCHES, Use.ACCEPTANCE),
        lambda head: head.kind in ("text", "csv") and prometheus.is_prometheus(head.first_line),
        _prometheus,
    ),
    Format(
        step_records.NAME,
        step_records.COMMAND,
        _STEPS,
        lambda head: head.kind == "csv" and step_records.is_step_record(head.keys),
        _step_record,
    ),
    Format(
        "batch histogram CSV",
        "a CSV with batch_size,steps",
        (Use.BATCHES,),
        lambda head: head.kind == "csv" and head.keys == {"batch_size", "steps"},
        _histogram,
    ),
    Format(
        "recorded trace",
        "CSV or JSON Lines with arrivals and lengths (docs/workloads.md)",
        (Use.ARRIVALS, Use.LENGTHS),
        lambda head: (head.kind == "csv" and _is_trace_header(head.keys)) or _is_trace_object(head),
        lambda head: read_rows(head.path, share_column=head.told.share_column),
    ),
    Format(
        "server log",
        "; ".join(batches.FIXES),
        (*_STEPS, Use.ACCEPTANCE, Use.START_UP),
        lambda head: True,
        _server_log,
    ),
)


def _is_trace_header(columns: frozenset[str]) -> bool:
    if len(columns) < 2 or not all(_COLUMN.fullmatch(column) for column in columns if column):
        return False
    if any("token" in column for column in columns):
        return True
    # A time beside messages is a log that a collector wrote as a table.
    return not columns & _MESSAGE_COLUMNS and any(column in _TIME_COLUMNS for column in columns)


def _is_trace_object(head: Head) -> bool:
    """Tell a request from a collector's message: numbers, and no text but identifiers."""
    if head.kind != "json" or head.whole or not isinstance(head.value, Mapping):
        return False
    named = any(
        key in head.keys
        for key in (
            "input_length",
            "output_length",
            "sub_requests",
            "arrival_time",
            "arrived_at",
            "queued_ts",
        )
    ) or any(key.endswith(("_toks", "_tokens", "_len")) or key.startswith("arriv") for key in head.keys)
    has_message = any(" " in text.strip() for text in strings_in(head.value))
    return named or not has_message
