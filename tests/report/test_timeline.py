from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_comparison import small_comparison

from scheduler.analysis.comparison.compare import Comparison
from scheduler.errors import InputError
from scheduler.report.timeline import ENGINE_TRACK, batch_slots, timeline_events, window_of, write_timeline

Event = dict[str, Any]


def broken_rules(trace: Any) -> list[str]:
    """What a trace breaks of the trace-event format's rules, as far as we use it."""
    if not isinstance(trace, dict) or not isinstance(trace.get("traceEvents"), list):
        return ["the file is no object with a list of traceEvents"]
    broken = []
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    named = set()
    for event in trace["traceEvents"]:
        missing = {"ph", "pid", "name"} - set(event)
        if missing:
            broken.append(f"{event} lacks {missing}")
        elif event["ph"] == "X":
            if not all(isinstance(event.get(key), int | float) for key in ("ts", "dur", "tid")):
                broken.append(f"{event}: ts, dur and tid must be numbers")
            elif event["ts"] < 0 or event["dur"] < 0:
                broken.append(f"{event}: negative time")
            else:  # microseconds; three decimals are whole nanoseconds
                start = round(event["ts"] * 1000)
                tracks[event["pid"], event["tid"]].append((start, start + round(event["dur"] * 1000)))
        elif event["ph"] == "C":
            values = event.get("args", {}).values()
            if "ts" not in event or not values or not all(isinstance(value, int | float) for value in values):
                broken.append(f"{event}: a counter needs a time and numbers")
        elif event["ph"] == "M":
            if event["name"] in ("process_name", "thread_name"):
                named.add((event["pid"], event.get("tid")))
                if not isinstance(event["args"].get("name"), str):
                    broken.append(f"{event}: no name")
        else:
            broken.append(f"{event}: unknown phase")
    for track, spans in tracks.items():
        if track not in named:
            broken.append(f"track {track} has no name")
        open_until: list[int] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            if open_until and end > open_until[-1]:
                broken.append(f"track {track}: {start}–{end} overlaps without nesting")
            open_until.append(end)
    return broken


def read(path: Path) -> Any:
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


@pytest.fixture(scope="module")
def trace(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("timeline") / "run.json.gz"
    write_timeline(comparison, path)
    return read(path)


def events_of(trace: Any, process: int, category: str) -> list[Event]:
    return [e for e in trace["traceEvents"] if e["pid"] == process and e.get("cat") == category]


def test_the_timeline_keeps_the_formats_rules(trace: Any) -> None:
    assert broken_rules(trace) == []


@pytest.mark.parametrize(
    "event",
    [
        {"ph": "X", "pid": 0, "tid": 0, "name": "a", "ts": 0.5, "dur": 1e6},
        {"ph": "X", "pid": 0, "tid": 0, "name": "a", "ts": -1, "dur": 1},
        {"ph": "X", "pid": 0, "tid": 9999, "name": "a", "ts": 1, "dur": 1},
        {"ph": "C", "pid": 0, "name": "a", "ts": 1, "args": {"n": "many"}},
        {"ph": "Q", "pid": 0, "name": "a"},
        {"ph": "X", "pid": 0},
    ],
)
def test_the_validator_sees_a_broken_event(trace: Any, event: Event) -> None:
    assert broken_rules({"traceEvents": [*trace["traceEvents"], event]})


def test_every_step_and_request_of_a_run_is_there_once(trace: Any, comparison: Comparison) -> None:
    for process, column in enumerate(comparison.columns):
        run = column.runs[0]
        steps = events_of(trace, process, "step")
        assert [round(event["ts"] * 1000) for event in steps] == run.steps.start_ns.tolist()
        assert [round(event["dur"] * 1000) for event in steps] == run.steps.duration_ns.tolist()
        requests = events_of(trace, process, "request")
        assert sorted(event["args"]["request"] for event in requests) == list(range(len(run.requests.status)))


def test_steps_say_their_route_and_padding(trace: Any, comparison: Comparison) -> None:
    steps = comparison.pools[0].runs[0].steps
    events = events_of(trace, 0, "step")
    for event, kind, batch, capture in zip(
        events, steps.kind, steps.batch_size, steps.capture_size, strict=True
    ):
        assert event["args"]["route"] == ("graph" if capture else "no graph")
        assert event["args"]["batch_size"] == batch
        assert event["args"].get("padding") == (capture - batch if capture and kind == 0 else None)


def test_counters_end_at_nothing_running_and_nothing_waiting(trace: Any) -> None:
    for process in range(3):
        counts = [e for e in trace["traceEvents"] if e["pid"] == process and e["name"] == "requests"]
        assert counts[-1]["args"] == {"running": 0, "waiting": 0}
        assert max(count["args"]["running"] for count in counts) > 16
        times = [count["ts"] for count in counts]
        assert times == sorted(times)


def test_slots_are_reused_and_never_shared(comparison: Comparison) -> None:
    requests = comparison.eager.runs[0].requests
    slots = np.array(batch_slots(requests))
    running_at_once = max(
        int(((requests.scheduled_ns <= t) & (requests.finish_ns > t)).sum()) for t in requests.scheduled_ns
    )
    assert set(slots.tolist()) == set(range(running_at_once))


def test_a_window_keeps_what_overlaps_it(comparison: Comparison) -> None:
    column = comparison.pools[0]
    low, high = 2_000_000_000, 3_000_000_000
    events = list(timeline_events(column, 0, (low, high)))
    spans = [(e["ts"] * 1000, (e["ts"] + e["dur"]) * 1000) for e in events if e["ph"] == "X"]
    assert spans
    assert all(start < high and end > low for start, end in spans)
    steps = column.runs[0].steps
    inside = ((steps.start_ns < high) & (steps.start_ns + steps.duration_ns > low)).sum()
    assert sum(e["ph"] == "X" and e["tid"] == ENGINE_TRACK for e in events) == inside
    assert broken_rules({"traceEvents": events}) == []


def test_the_same_run_gives_the_same_gzip_bytes(comparison: Comparison, tmp_path: Path) -> None:
    for name in ("a.json.gz", "b.json.gz"):
        write_timeline(comparison, tmp_path / name, (1.0, 2.0))
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    write_timeline(comparison, tmp_path / "plain.json", (1.0, 2.0))
    assert read(tmp_path / "plain.json") == read(tmp_path / "a.json.gz")


def test_rejected_and_unfinished_requests_take_no_slot_or_keep_theirs(tmp_path: Path) -> None:
    found = small_comparison(requests=40, replications=1, kv_blocks=60)
    requests = found.eager.runs[0].requests
    assert (requests.status == 2).any()
    slots = batch_slots(requests)
    assert all(
        (slot == -1) == (scheduled < 0) for slot, scheduled in zip(slots, requests.scheduled_ns, strict=True)
    )
    requests.finish_ns[5] = -1  # as after an executor's failure
    write_timeline(found, tmp_path / "t.json")
    assert broken_rules(read(tmp_path / "t.json")) == []


@pytest.mark.parametrize(("text", "window"), [("10s", (0, 10)), ("2.5", (0, 2.5)), ("60s:70s", (60, 70))])
def test_windows_are_read(text: str, window: tuple[float, float]) -> None:
    assert window_of(text) == window


@pytest.mark.parametrize("text", ["", "0s", "5s:5s", "-1s", "nan", "1:2:3", "inf", "ten", "1e99"])
def test_a_window_that_is_none_is_one_clear_line(text: str) -> None:
    with pytest.raises(InputError, match="--window"):
        window_of(text)
