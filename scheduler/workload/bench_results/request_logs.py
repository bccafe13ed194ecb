"""Plain logs of measured requests: JSON lines of vLLM's benchmark tools and LLMServingSim, and a CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scheduler.errors import InputError
from scheduler.workload.bench_results.cells import RowBuilder, number, tokens
from scheduler.workload.inputs.found import Found
from scheduler.workload.traces.lines import numbered_lines

NAME = "request log"
CSV_NAME = "measured requests CSV"
COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens", "ttft_ms", "e2el_ms")
COMMAND = "LLMServingSim's bench, or JSON lines with input_toks, output_toks and token times"
CSV_COMMAND = f"a CSV with {','.join(COLUMNS)}"


def is_request_log(keys: frozenset[str]) -> bool:
    """Tell by its keys whether a line is a measured request."""
    return keys >= {"input_toks", "output_toks", "first_token_ts", "last_token_ts"}


def read_request_log(path: Path, objects: Iterable[tuple[int, Mapping[str, Any]]]) -> Found:
    """Read input_toks, output_toks, queued_ts or arrival_time, first_token_ts, last_token_ts (s) a line."""
    builder = RowBuilder(path, NAME, "line")
    for line, row in objects:
        try:
            # Token times are on the clock of queued_ts; arrival_time may be on another one.
            served = number(row, "queued_ts" if "queued_ts" in row else "arrival_time")
            builder.add(
                line,
                tokens(row, "input_toks"),
                tokens(row, "output_toks"),
                start_s=number(row, "arrival_time" if "arrival_time" in row else "queued_ts"),
                served_s=served,
                ttft_ms=1e3 * (number(row, "first_token_ts") - served),
                e2el_ms=1e3 * (number(row, "last_token_ts") - served),
            )
        except ValueError as error:
            builder.problem(line, error)
    rows = builder.built()
    read = (f"{len(rows):,} completed requests",)
    return Found(path, NAME, COMMAND, requests=rows, read=read, left_out=builder.left_out)


def is_measured_csv(columns: frozenset[str]) -> bool:
    """Tell by its columns whether a CSV holds measured requests."""
    return columns >= {"arrival_s", "ttft_ms", "e2el_ms"}


def read_measured_csv(path: Path) -> Found:
    """Read the columns arrival_s, prompt_tokens, output_tokens, ttft_ms and e2el_ms."""
    lines = (f"{text}\n" for _, text in numbered_lines(path))
    reader = csv.DictReader(lines, skipinitialspace=True)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
    if missing:
        raise InputError(f"{path}: {CSV_NAME}: missing {', '.join(missing)}; expected {','.join(COLUMNS)}")
    builder = RowBuilder(path, CSV_NAME, "line")
    try:
        for row in reader:
            try:
                _add(builder, reader.line_num, {name: _parsed(name, row[name]) for name in COLUMNS})
            except ValueError as error:
                builder.problem(reader.line_num, error)
    except csv.Error as error:
        builder.problem(reader.line_num, error)
    rows = builder.built()
    read = (f"{len(rows):,} completed requests",)
    return Found(path, CSV_NAME, CSV_COMMAND, requests=rows, read=read, left_out=builder.left_out)


def _add(builder: RowBuilder, line: int, values: Mapping[str, float]) -> None:
    if values["output_tokens"] == 0:
        builder.leave_out(line, "no output tokens")
        return
    builder.add(
        line,
        tokens(values, "prompt_tokens"),
        tokens(values, "output_tokens"),
        start_s=number(values, "arrival_s"),
        ttft_ms=number(values, "ttft_ms"),
        e2el_ms=number(values, "e2el_ms"),
    )


def _parsed(name: str, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise ValueError(f"{name}: expected a number, got {text!r}") from None
