"""A run as Chrome trace events, the JSON that torch.profiler writes: Perfetto opens both side by side.

Format: an object with `traceEvents`; "X" events have `ts` and `dur` in microseconds and must nest on their
track, "M" events name processes and threads, "C" events are counters. One process per variant; in it track
0 is the engine, track 1 + slot the requests that held a batch slot, one after the other.
"""

from __future__ import annotations

import gzip
import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.metrics import waiting_and_running
from scheduler.engine.executor import StepKind
from scheduler.engine.records import RequestRecords, Run
from scheduler.errors import InputError
from scheduler.files import replacing

Event = dict[str, object]
ENGINE_TRACK = 0
ALWAYS = 2**62
MOST_SECONDS = 1e9
_KIND_NAMES = {StepKind.DECODE: "decode", StepKind.PREFILL: "prefill", StepKind.MIXED: "mixed"}
# Names that Perfetto's viewers colour: replay, no graph, prefill and mixed.
_COLORS = {"graph": "good", "no graph": "bad", "prefill": "grey"}


def window_of(text: str) -> tuple[float, float]:
    """Read `10s` (the first ten seconds) or `60s:70s`; the s may be left out. Raises InputError."""
    parts = [part.strip().removesuffix("s") for part in text.split(":")]
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    start, end = (0.0, *numbers) if len(numbers) == 1 else numbers if len(numbers) == 2 else (0.0, 0.0)
    if not 0 <= start < end <= MOST_SECONDS:  # also refuses NaN
        raise InputError(f"--window {text}: expected seconds such as 10s, or a span such as 60s:70s")
    return start, end


def write_timeline(
    comparison: Comparison, path: Path, window_s: float | tuple[float, float] | None = None
) -> None:
    """Write the first replication of every variant, gzipped where the name ends in .gz.

    `window_s` keeps what overlaps [start, end) in seconds of the virtual clock; a single number is the
    end, and None keeps all.
    """
    start_s, end_s = window_s if isinstance(window_s, tuple) else (0.0, window_s)
    window_ns = (round(start_s * 1e9), ALWAYS if end_s is None else round(end_s * 1e9))
    with replacing(path) as temporary:
        if path.suffix == ".gz":
            # No name and no time in the header: the same run gives the same bytes.
            with temporary.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                _write(comparison, window_ns, packed)
        else:
            with temporary.open("wb") as plain:
                _write(comparison, window_ns, plain)


def _write(comparison: Comparison, window_ns: tuple[int, int], out: Any) -> None:
    head = {"schemaVersion": 1, "displayTimeUnit": "ms", "traceName": comparison.workload.name}
    out.write(json.dumps(head).encode()[:-1] + b', "traceEvents": [\n')
    first = True
    columns = [column for column in comparison.columns if column.runs]
    for process, column in enumerate(columns):
        for event in timeline_events(column, process, window_ns):
            out.write((b"" if first else b",\n") + json.dumps(event, separators=(",", ":")).encode())
            first = False
    out.write(b"\n]}\n")


def timeline_events(
    column: Column, process: int, window_ns: tuple[int, int] = (0, ALWAYS)
) -> Iterator[Event]:
    """Yield the events of a column's first run that overlap the window: names, steps, requests, counters."""
    run = column.runs[0]
    yield _named("process_name", process, ENGINE_TRACK, f"graphpool {column.name}")
    yield {"ph": "M", "name": "process_sort_index", "pid": process, "tid": 0, "args": {"sort_index": process}}
    yield _named("thread_name", process, ENGINE_TRACK, "engine steps")
    yield from _steps(run, process, window_ns)
    yield from _requests(run.requests, process, window_ns)
    yield from _counters(run, process, window_ns)


def _named(what: str, process: int, track: int, name: str) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": track, "args": {"name": name}}


def _microseconds(time_ns: int) -> float:
    return time_ns / 1000  # nanoseconds survive as decimals


def _steps(run: Run, process: int, window_ns: tuple[int, int]) -> Iterator[Event]:
    steps = run.steps
    low, high = window_ns
    chosen = np.flatnonzero((steps.start_ns < high) & (steps.start_ns + steps.duration_ns > low))
    rows = zip(
        *(
            getattr(steps, name)[chosen].tolist()
            for name in (
                "start_ns",
                "duration_ns",
                "kind",
                "batch_size",
                "capture_size",
                "kv_tokens",
                "prefill_tokens",
            )
        ),
        strict=True,
    )
    for start, duration, kind, batch, capture, kv_tokens, prefill_tokens in rows:
        name, route = _KIND_NAMES[StepKind(kind)], "graph" if capture else "no graph"
        arguments = {"route": route, "batch_size": batch, "kv_tokens": kv_tokens}
        if capture:
            arguments["capture_size"] = capture
        if capture and kind == StepKind.DECODE:
            arguments["padding"] = capture - batch * run.tokens_per_row
        if prefill_tokens:
            arguments["prefill_tokens"] = prefill_tokens
        yield {
            "ph": "X",
            "cat": "step",
            "name": f"{name} {batch}" + (f" in graph {capture}" if capture else ", no graph"),
            "pid": process,
            "tid": ENGINE_TRACK,
            "ts": _microseconds(start),
            "dur": _microseconds(duration),
            "cname": _COLORS[route if kind == StepKind.DECODE else "prefill"],
            "args": arguments,
        }


def batch_slots(requests: RequestRecords) -> list[int]:
    """Return each request's slot, the lowest that is free as in the engine; −1 where it never ran.

    A request holds its slot from its first scheduling to its end, preemptions included, so that with
    preemptions there may be more slots than the batch ever had.
    """
    slots = [-1] * len(requests.scheduled_ns)
    scheduled = np.flatnonzero(requests.scheduled_ns >= 0)
    order = scheduled[np.argsort(requests.scheduled_ns[scheduled], kind="stable")]
    free: list[int] = []
    busy: list[tuple[int, int]] = []  # (end, slot)
    starts, ends = requests.scheduled_ns.tolist(), _ends(requests)
    for index in order.tolist():
        while busy and busy[0][0] <= starts[index]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        slot = heapq.heappop(free) if free else len(busy)
        slots[index] = slot
        heapq.heappush(busy, (ends[index], slot))
    return slots


def _ends(requests: RequestRecords) -> list[int]:
    """Return when each request left the batch; an unfinished one never did (the end of the records)."""
    last = int(max(requests.finish_ns.max(initial=0), requests.scheduled_ns.max(initial=0)))
    return np.where(requests.finish_ns >= 0, requests.finish_ns, last).tolist()  # type: ignore[no-any-return]


def _requests(requests: RequestRecords, process: int, window_ns: tuple[int, int]) -> Iterator[Event]:
    low, high = window_ns
    ends = np.array(_ends(requests), np.int64)
    chosen = (requests.scheduled_ns >= 0) & (requests.scheduled_ns < high) & (ends > low)
    slots = batch_slots(requests)
    used = sorted({slots[index] for index in np.flatnonzero(chosen).tolist()})
    for slot in used:
        yield _named("thread_name", process, 1 + slot, f"slot {slot}")
    for index in np.flatnonzero(chosen).tolist():
        start = int(requests.scheduled_ns[index])
        arguments = {
            "request": index,
            "prompt_tokens": int(requests.prompt_tokens[index]),
            "output_tokens": int(requests.output_tokens[index]),
            "waited_ms": (start - int(requests.arrival_ns[index])) / 1e6,
            "preemptions": int(requests.preemptions[index]),
        }
        if requests.first_token_ns[index] >= 0:
            arguments["ttft_ms"] = (
                int(requests.first_token_ns[index]) - int(requests.arrival_ns[index])
            ) / 1e6
        yield {
            "ph": "X",
            "cat": "request",
            "name": f"request {index}",
            "pid": process,
            "tid": 1 + slots[index],
            "ts": _microseconds(start),
            "dur": _microseconds(int(ends[index]) - start),
            "args": arguments,
        }


def _counters(run: Run, process: int, window_ns: tuple[int, int]) -> Iterator[Event]:
    """Yield running and waiting where they change, and the KV blocks at each run of equal steps."""
    low, high = window_ns
    requests, kv_use = run.requests, run.kv_use
    changes = kv_use.time_ns[np.flatnonzero(np.diff(kv_use.running, prepend=0))]
    times = np.unique(
        np.concatenate([requests.arrival_ns, requests.scheduled_ns, requests.finish_ns, changes])
    )
    times = times[(times >= max(low, 0)) & (times < high)]
    waiting, running = waiting_and_running(run, times)
    for at, wait, active in zip(times.tolist(), waiting.tolist(), running.tolist(), strict=True):
        values = {"running": int(active), "waiting": int(wait)}
        yield {"ph": "C", "name": "requests", "pid": process, "ts": _microseconds(at), "args": values}
    within = (kv_use.time_ns >= low) & (kv_use.time_ns < high)
    for at, blocks in zip(kv_use.time_ns[within].tolist(), kv_use.blocks[within].tolist(), strict=True):
        yield {
            "ph": "C",
            "name": "KV blocks",
            "pid": process,
            "ts": _microseconds(at),
            "args": {"in use": blocks},
        }
