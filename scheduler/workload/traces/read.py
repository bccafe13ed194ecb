"""Recorded traffic: a trace file becomes arrivals and lengths, and says what was done to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import InputError
from scheduler.workload.inputs.found import Found, RequestRows, Use
from scheduler.workload.prefixes import RecordedPrefixes
from scheduler.workload.requests import Int64
from scheduler.workload.traces.csv import read_csv
from scheduler.workload.traces.jsonl import read_jsonl
from scheduler.workload.traces.lines import MAX_TEXT_BYTES, Problems
from scheduler.workload.traces.rows import MAX_ROWS, LineFeed

NS_PER_S = 1_000_000_000
LATEST_NS = 2**62


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace as the simulator sees it: arrivals ascend from 0, ties in file order, all lengths ≥ 1.

    `lines` tell people what was read and what was done: rows, span, rate, variation, rows dropped. `prefixes`
    say which prompts begin alike, where the trace does; `overstated` is the line on what ignoring that means.
    `shares` is the column of shares that was asked for.
    """

    arrival_ns: Int64
    prompt_tokens: Int64
    output_tokens: Int64
    cached_tokens: Int64 | None
    format_name: str
    lines: tuple[str, ...]
    prefixes: RecordedPrefixes | None = None
    overstated: str | None = None
    shares: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.arrival_ns)


def read_trace(
    path: Path, time_scale: float = 1.0, *, max_text_bytes: int = MAX_TEXT_BYTES, max_rows: int = MAX_ROWS
) -> Trace:
    """Read a trace file, plain or gzipped; its header or first line tells the format.

    Formats: see trace_formats. Policy: rows with 0 prompt or 0 output tokens are dropped and counted (a
    failed or cancelled request occupies no decode step); rows out of order are sorted, stably, and
    counted; the first arrival that is left becomes 0; then every gap is multiplied by `time_scale` and
    rounded half-even to a nanosecond. Anything else that is not as it should be raises InputError with
    one line per problem: file, line number, column, what was expected.
    """
    return trace_of(read_rows(path, max_text_bytes=max_text_bytes, max_rows=max_rows), time_scale)


def read_rows(
    path: Path,
    *,
    max_text_bytes: int = MAX_TEXT_BYTES,
    max_rows: int = MAX_ROWS,
    share_column: str | None = None,
) -> Found:
    """Read the rows of a trace file as they are; raises InputError, one line per problem."""
    rows, left_out = _read_rows(LineFeed(path, max_text_bytes, max_rows), share_column)
    made_by = "CSV or JSON Lines with arrivals and lengths"
    return Found(path, rows.format_name, made_by, requests=rows, left_out=left_out)


def trace_of(found: Found, time_scale: float = 1.0) -> Trace:
    """Return the requests of a file as a trace (see read_trace); raises InputError where there are none."""
    if not (math.isfinite(time_scale) and time_scale > 0):
        raise InputError(f"arrivals.time_scale: expected a finite number above 0, got {time_scale}")
    found.require(Use.ARRIVALS, "a trace")
    path, rows = found.path, found.requests
    assert rows is not None  # noqa: S101  (told to mypy; it has arrivals)
    columns = (rows.arrival_ns, rows.prompt_tokens, rows.output_tokens)
    time_ns, prompt, output = (np.array(column, dtype=np.int64) for column in columns)
    kept = np.flatnonzero((prompt > 0) & (output > 0))
    if not len(kept):
        raise InputError(f"{path}: every one of the {len(prompt):,} rows has 0 prompt or 0 output tokens")
    dropped = _dropped_lines(rows, prompt, output)
    order = kept[np.argsort(time_ns[kept], kind="stable")]
    arrival_ns = _scaled(time_ns[order] - time_ns[order[0]], time_scale, path)
    cached = np.array(rows.cached_tokens, dtype=np.int64)[order] if rows.cached_tokens else None
    lines = (
        _what_was_read(path, rows, arrival_ns, time_scale),
        _lengths_line(prompt[order], output[order]),
        *dropped,
        *_order_lines(rows, time_ns, kept, arrival_ns),
        *found.left_out,
    )
    prefixes, overstated = _prefixes(rows, prompt), _overstated(rows, cached)
    return Trace(
        arrival_ns,
        prompt[order],
        output[order],
        cached,
        rows.format_name,
        lines if overstated is None else (*lines, overstated),
        None if prefixes is None else prefixes.chosen(order),
        overstated,
        np.array(rows.shares, np.float64)[order] if rows.shares else None,
    )


def inter_arrival_cv(arrival_ns: Int64) -> float | None:
    """Return the coefficient of variation of the gaps (standard deviation / mean), None without a span."""
    gaps = np.diff(arrival_ns)
    mean = float(gaps.mean()) if len(gaps) else 0.0
    return float(gaps.std()) / mean if mean > 0 else None


def rate_per_s(arrival_ns: Int64) -> float | None:
    """Return 1 / mean gap in requests per second, None where all arrive at one instant."""
    span_ns = int(arrival_ns[-1] - arrival_ns[0]) if len(arrival_ns) else 0
    return (len(arrival_ns) - 1) * NS_PER_S / span_ns if span_ns else None


def _read_rows(feed: LineFeed, share_column: str | None = None) -> tuple[RequestRows, tuple[str, ...]]:
    path = feed.path
    if not feed.advance():
        raise InputError(f"{path}: expected a trace, got an empty file")
    if feed.text.startswith("["):
        raise InputError(f"{path}:{feed.number}: expected JSON Lines, one object per line, got an array")
    problems = Problems(path)
    rows = RequestRows()
    left_out: tuple[str, ...] = ()
    if feed.text.startswith("{"):
        left_out = read_jsonl(feed, rows, problems, share_column)
    else:
        read_csv(feed, rows, problems, share_column)
    problems.raise_if_any(feed.number)
    if not rows.numbers:
        raise InputError(
            [f"{path}:{feed.number}: expected rows below the header, got none"]
            + [f"{path}: {line}" for line in left_out]
        )
    return rows, left_out


def _scaled(since_first_ns: Int64, time_scale: float, path: Path) -> Int64:
    span_ns = int(since_first_ns[-1])
    if span_ns * time_scale > LATEST_NS:
        years = span_ns * time_scale / NS_PER_S / 31_557_600
        raise InputError(f"{path}: expected a span below 146 years, got {years:.4g} (times in mixed units?)")
    if span_ns == 0 or time_scale == 1:
        return since_first_ns
    if time_scale == int(time_scale):
        return np.asarray(since_first_ns * int(time_scale))
    return np.asarray(np.rint(since_first_ns * time_scale).astype(np.int64))


def _what_was_read(path: Path, rows: RequestRows, arrival_ns: Int64, time_scale: float) -> str:
    read, kept = len(rows.numbers), len(arrival_ns)
    line = f"trace {path.name}: {rows.format_name}, times in {rows.time_unit}, {_rows(read)}"
    line += f", {kept:,} of them used," if kept < read else ""
    rate, variation = rate_per_s(arrival_ns), inter_arrival_cv(arrival_ns)
    if rate is None or variation is None:
        line += " at one instant"
    else:
        span_s = int(arrival_ns[-1]) / NS_PER_S
        line += f" over {span_s:,.4g} s, {rate:.4g} requests/s, CV of inter-arrival {variation:.2f}"
    return line + (f" (every gap times {time_scale:g})" if time_scale != 1 else "")


def _lengths_line(prompt: Int64, output: Int64) -> str:
    parts = []
    for name, tokens in (("prompt", prompt), ("output", output)):
        p50, p99 = np.percentile(tokens, [50, 99])
        values = f"mean {tokens.mean():.0f}, p50 {p50:.0f}, p99 {p99:.0f}, max {tokens.max()}"
        parts.append(f"{name} tokens {values}")
    return "; ".join(parts)


def _dropped_lines(rows: RequestRows, prompt: Int64, output: Int64) -> list[str]:
    lines = []
    for what, is_bad in (("output", output == 0), ("prompt", (prompt == 0) & (output > 0))):
        bad = np.flatnonzero(is_bad)
        if len(bad):
            first = rows.numbers[int(bad[0])]
            lines.append(f"dropped {_rows(len(bad))} with 0 {what} tokens (first: {rows.place} {first})")
    return lines


def _order_lines(rows: RequestRows, time_ns: Int64, kept: NDArray[np.intp], arrival_ns: Int64) -> list[str]:
    lines = []
    late = np.flatnonzero(np.diff(time_ns[kept]) < 0) + 1
    if len(late):
        first = rows.numbers[int(kept[late[0]])]
        times = "once" if len(late) == 1 else f"{len(late):,} times"
        lines.append(f"the file goes back in time {times} (first: {rows.place} {first}): sorted by time")
    ties = int(np.count_nonzero(np.diff(arrival_ns) == 0))
    if ties:
        share = f"{ties / len(arrival_ns):.0%}" if ties > len(arrival_ns) / 100 else f"{ties:,}"
        lines.append(f"{share} of the requests arrive together with an earlier one: served in file order")
    return lines


def _prefixes(rows: RequestRows, prompt: Int64) -> RecordedPrefixes | None:
    """Return which prompts begin alike, by rows of the file."""
    if rows.block_tokens is None or not rows.shares_prefixes:
        return None
    ids, ends = (np.array(column, dtype=np.int64) for column in (rows.block_ids, rows.block_ends))
    return RecordedPrefixes(rows.block_tokens, ids, np.concatenate([np.zeros(1, np.int64), ends]), prompt)


def _overstated(rows: RequestRows, cached: Int64 | None) -> str | None:
    if not rows.shares_prefixes or cached is not None:
        return None
    line = "prompts share prefixes (hash_ids) that a prefix cache would hit: prefill is overstated"
    if rows.reusable_tokens is not None:
        share = rows.reusable_tokens / max(1, sum(rows.prompt_tokens))
        line += f" by up to {share:.0%} of the prompt tokens"
    return line


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"
