"""GuideLLM's benchmarks.json: every benchmark of a report with its requests.

Read in GuideLLM 0.3.1 (src/guidellm/benchmark/benchmark.py) and 0.4.0 to 0.7.3, report schema 2
(src/guidellm/schemas/request_stats.py, benchmark/schemas/report.py): times are Unix seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scheduler.errors import InputError
from scheduler.workload.bench_results.cells import RowBuilder, count_of, number, positive, tokens
from scheduler.workload.inputs.found import Found, Sending
from scheduler.workload.inputs.runs import chosen_run

NAME = "GuideLLM report"
COMMAND = "guidellm benchmark --output-dir DIR"
_STATUSES = {"errored": "failed", "incomplete": "cut off by the end of the benchmark"}


def read_guidellm(path: Path, run: int | None, report: Mapping[str, Any]) -> Found:
    """Read one benchmark of a report; raises InputError."""
    version = _version(report)
    title = f"{NAME} {version}" if version else NAME
    benchmarks = report.get("benchmarks")
    if not isinstance(benchmarks, list) or not all(isinstance(part, Mapping) for part in benchmarks):
        raise InputError(f"{path}: {title}: expected benchmarks, a list of objects, as `{COMMAND}` writes it")
    benchmark, note = chosen_run(path, run, benchmarks, "benchmarks")
    groups = benchmark.get("requests")
    done = groups.get("successful") if isinstance(groups, Mapping) else None
    if not isinstance(groups, Mapping) or not isinstance(done, list):
        raise InputError(
            f"{path}: {title}: missing requests.successful, the completed requests: `{COMMAND}` writes them "
            "unless its sample size is 0"
        )
    builder = RowBuilder(path, title)
    for index, row in enumerate(done):
        try:
            _add(builder, index, row)
        except ValueError as error:
            builder.problem(index, error)
    for group, why in _STATUSES.items():
        for index in range(len(groups[group]) if isinstance(groups.get(group), list) else 0):
            builder.leave_out(index, why)
    sending, strategy = _sending(benchmark)
    rows = builder.built(sending)
    kept = _kept_share(benchmark, len(done))
    if kept and rows.arrival_ns:
        del rows.arrival_ns[:]
    return Found(
        path,
        NAME,
        COMMAND,
        version,
        rows,
        read=(*note, f"{len(rows):,} completed requests{f', strategy {strategy}' if strategy else ''}"),
        left_out=builder.left_out,
        lacks=(kept,) if kept else (),
    )


def _version(report: Mapping[str, Any]) -> str | None:
    metadata = report.get("metadata")
    version = metadata.get("guidellm_version") if isinstance(metadata, Mapping) else None
    return version[:40] if isinstance(version, str) and version.isprintable() else None


def _add(builder: RowBuilder, index: int, row: object) -> None:
    if not isinstance(row, Mapping):
        raise ValueError("expected an object")
    if row.get("output_tokens") in (0, None) or row.get("prompt_tokens") in (0, None):
        builder.leave_out(index, "no token counts")
        return
    start_s, first_s, end_s = _times(row)
    ttft_ms = e2el_ms = math.nan
    if end_s is not None and start_s is not None:
        e2el_ms = 1e3 * (end_s - start_s)
        ttft_ms = e2el_ms if first_s is None else 1e3 * (first_s - start_s)
    cached = row.get("cached_tokens")
    builder.add(
        index,
        tokens(row, "prompt_tokens"),
        tokens(row, "output_tokens"),
        start_s=start_s,
        ttft_ms=min(ttft_ms, e2el_ms) if ttft_ms < e2el_ms + 1 else ttft_ms,
        e2el_ms=e2el_ms,
        cached=None if cached is None else tokens(row, "cached_tokens", 0),
    )


def _times(row: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    """Return start, first token and end in Unix seconds, by the names of either generation of reports."""
    if "start_time" in row:  # up to 0.3
        first = number(row, "first_token_time") if row.get("first_token_time") is not None else None
        return number(row, "start_time"), first, number(row, "end_time")
    info = row.get("info")
    timings = info.get("timings") if isinstance(info, Mapping) else None
    named: dict[str, object] = {**timings} if isinstance(timings, Mapping) else {}
    if "request_start_time" in row:
        start = number(row, "request_start_time")
    else:
        start = number(named, "request_start")
    first = None
    if row.get("time_to_first_token_ms") is not None:
        first = start + number(row, "time_to_first_token_ms") / 1e3
    elif named.get("first_token_iteration") is not None:
        first = number(named, "first_token_iteration")
    if row.get("request_latency") is not None:
        return start, first, start + number(row, "request_latency")
    end = named.get("request_end")
    return start, first, None if end is None else number(named, "request_end")


def _sending(benchmark: Mapping[str, Any]) -> tuple[Sending | None, str]:
    """Return how the strategy sends, and its name; closed loops have no arrivals of their own."""
    for holder in ("config", "args"):  # 0.3 calls it args
        config = benchmark.get(holder)
        strategy = config.get("strategy") if isinstance(config, Mapping) else None
        if isinstance(strategy, Mapping):
            break
    else:
        return None, ""
    kind = str(strategy.get("type_", ""))[:40]
    if kind == "synchronous":
        return Sending(concurrency=1), kind
    most = strategy.get("streams") if kind == "concurrent" else strategy.get("max_concurrency")
    if kind in ("concurrent", "throughput"):
        return Sending(concurrency=count_of(most)), kind
    rate = positive(strategy.get("rate")) if kind == "poisson" else None
    return None if rate is None else Sending(rate_per_s=rate), kind


def _kept_share(benchmark: Mapping[str, Any], kept: int) -> str | None:
    """Say so where the report holds a sample of the requests: arrivals of a sample are no arrivals."""
    metrics = benchmark.get("metrics")
    totals = metrics.get("request_totals") if isinstance(metrics, Mapping) else None
    done = totals.get("successful") if isinstance(totals, Mapping) else None
    if (count_of(done, 10**12) or 0) > kept:
        return (
            f"only {kept:,} of {done:,} completed requests were kept, so when requests arrived is unknown: "
            "leave the sample size out to keep all"
        )
    return None
