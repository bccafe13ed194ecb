"""Measured runs: what a real server's requests saw, to hold a simulation against.

Read are LLMServingSim/vLLM request logs (JSON lines with queued, first-token and last-token times),
results of `vllm bench serve --save-detailed`, and a plain CSV
`arrival_s,prompt_tokens,output_tokens,ttft_ms,e2el_ms`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import InputError
from scheduler.workload.requests import Requests

Float = NDArray[np.float64]
MAX_BYTES = 1 << 30
CSV_COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens", "ttft_ms", "e2el_ms")


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured run in arrival order: its requests, and per request TTFT and E2EL in milliseconds."""

    requests: Requests
    ttft_ms: Float
    e2el_ms: Float

    @property
    def tpot_ms(self) -> Float:
        """(E2EL − TTFT) / (output tokens − 1); not a number for one-token answers."""
        later = self.requests.output_tokens - 1
        return (self.e2el_ms - self.ttft_ms) / np.where(later > 0, later, np.nan)

    @property
    def makespan_s(self) -> float:
        """From the first arrival to the last token."""
        finish_ms = self.requests.arrival_ns / 1e6 + self.e2el_ms
        return float(finish_ms.max() - self.requests.arrival_ns[0] / 1e6) / 1e3


def read_measured(path: Path) -> Measured:
    """Read a measured run; raises InputError, one line per problem with its place."""
    text = _text(path)
    start = text.lstrip()[:1]
    if start == "{":
        first, _, rest = text.strip().partition("\n")
        try:
            value = json.loads(first)
            if rest or (isinstance(value, dict) and "input_lens" not in value):
                return _from_json_lines(path, text)
        except ValueError:
            pass
        return _from_bench_serve(path, text)
    return _from_csv(path, text)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: expected at most {MAX_BYTES >> 20} MiB")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text (byte {error.start})") from None


def _from_json_lines(path: Path, text: str) -> Measured:
    """Read input_toks, output_toks, queued_ts or arrival_time, first_token_ts, last_token_ts (s) a line."""
    rows: list[tuple[float, float, float, float, float]] = []
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("expected an object")
            # Token times are on the clock of queued_ts; arrival_time may be on another one.
            arrival = _number(row, "queued_ts" if "queued_ts" in row else "arrival_time")
            ttft_ms = 1e3 * (_number(row, "first_token_ts") - arrival)
            e2el_ms = 1e3 * (_number(row, "last_token_ts") - arrival)
            rows.append((arrival, _tokens(row, "input_toks"), _tokens(row, "output_toks"), ttft_ms, e2el_ms))
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}:{number}: {error}")
    return _checked(path, rows, problems)


def _from_bench_serve(path: Path, text: str) -> Measured:
    """One object of lists: input_lens, output_lens, ttfts, itls and start_times, in seconds."""
    try:
        result = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON ({error})") from None
    keys = ("input_lens", "output_lens", "ttfts", "itls", "start_times")
    missing = [key for key in keys if not isinstance(result, dict) or not isinstance(result.get(key), list)]
    if missing:
        raise InputError(
            f"{path}: expected the lists {', '.join(keys)} of "
            f"`vllm bench serve --save-result --save-detailed`; missing: {', '.join(missing)}"
        )
    lists = [result[key] for key in keys]
    if len({len(values) for values in lists}) > 1:
        raise InputError(f"{path}: expected lists of one length, got {[len(values) for values in lists]}")
    rows: list[tuple[float, float, float, float, float]] = []
    problems: list[str] = []
    for index, (prompt, output, ttft, itls, start) in enumerate(zip(*lists, strict=True)):
        row = {"input_lens": prompt, "output_lens": output, "ttfts": ttft, "start_times": start}
        try:
            if not isinstance(itls, list):
                raise ValueError("itls: expected a list")
            gaps = [_number({"itls": gap}, "itls") for gap in itls]
            ttft_ms = 1e3 * _number(row, "ttfts")
            rows.append(
                (
                    _number(row, "start_times"),
                    _tokens(row, "input_lens"),
                    _tokens(row, "output_lens"),
                    ttft_ms,
                    ttft_ms + 1e3 * math.fsum(gaps),
                )
            )
        except ValueError as error:
            problems.append(f"{path}: request {index}: {error}")
    return _checked(path, rows, problems)


def _from_csv(path: Path, text: str) -> Measured:
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in CSV_COLUMNS if name not in (reader.fieldnames or [])]
    if missing:
        raise InputError(
            f"{path}: expected a request log (JSON lines), a detailed vllm bench serve result, or a CSV with "
            f"{','.join(CSV_COLUMNS)}; missing: {', '.join(missing)}"
        )
    rows: list[tuple[float, float, float, float, float]] = []
    problems: list[str] = []
    for row in reader:
        try:
            values = {name: _parsed(name, row[name]) for name in CSV_COLUMNS}
            rows.append(
                (
                    values["arrival_s"],
                    _tokens(values, "prompt_tokens"),
                    _tokens(values, "output_tokens"),
                    values["ttft_ms"],
                    values["e2el_ms"],
                )
            )
        except ValueError as error:
            problems.append(f"{path}:{reader.line_num}: {error}")
    return _checked(path, rows, problems)


def _parsed(name: str, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise ValueError(f"{name}: expected a number, got {text!r}") from None


def _number(row: dict[str, Any], key: str) -> float:
    value = row.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{key}: expected a number, got {json.dumps(value, default=str)[:60]}")
    return float(value)


def _tokens(row: dict[str, Any], key: str) -> float:
    value = _number(row, key)
    if value < 1 or value != int(value) or value > 10_000_000:
        raise ValueError(f"{key}: expected a whole number of tokens from 1 to 10,000,000, got {value:g}")
    return value


def _checked(
    path: Path, rows: list[tuple[float, float, float, float, float]], problems: list[str]
) -> Measured:
    problems += [
        f"{path}: a request that arrived at {row[0]:g} s: expected 0 ≤ TTFT ≤ E2EL"
        for row in rows
        if row[3] < 0 or row[4] < row[3] or not all(map(math.isfinite, row))
    ]
    if problems:
        further = [f"{path}: and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise InputError([*problems[:20], *further])
    if not rows:
        raise InputError(f"{path}: expected at least one request, got none")
    columns = np.array(sorted(rows, key=lambda row: row[0]), np.float64).T
    arrival_ns = np.rint((columns[0] - columns[0][0]) * 1e9).astype(np.int64)
    tokens = columns[1:3].astype(np.int64)
    requests = Requests(
        arrival_ns, tokens[0], tokens[1], notes=(f"measured run {path.name}: {len(rows):,} requests",)
    )
    return Measured(requests, columns[3], columns[4])
