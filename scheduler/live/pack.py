"""From what the recorder and the child left to a recorded run: `NAME.json` and its two tables."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from scheduler.catalog.importers.recorded_run import STEP_COLUMNS, with_worker
from scheduler.catalog.importers.rows import read_rows
from scheduler.errors import InputError
from scheduler.files import replacing, write_json
from scheduler.live.engine_process import EngineSpec
from scheduler.workload.server_logs.start_up import GIB, StartUpReader

REQUEST_COLUMNS = (
    "traffic",
    "arrival_us",
    "prompt_tokens",
    "output_tokens",
    "first_token_us",
    "gaps_us",
    "more_tokens",
)


def pack(spec: EngineSpec, raw: Path, out: Path, events: Sequence[Mapping[str, Any]]) -> Path:
    """Write the run's files to `out`, times from the first decision on; return `NAME.json`, written last.

    Steps of the warm-up are left out. Raises InputError where the recorder left nothing.
    """
    facts_path, steps_path = raw / f"{spec.name}.json", raw / f"{spec.name}_steps.csv.gz"
    if not facts_path.exists() or not steps_path.exists():
        raise InputError(
            f"engine {spec.name}: its steps were not recorded; {raw / f'{spec.name}.log'} says why "
            "(lines with graphpool)"
        )
    facts = json.loads(facts_path.read_text(encoding="utf-8"))
    rows = with_worker(steps_path, read_rows(steps_path, STEP_COLUMNS))
    warm_us = max((event["ns"] // 1_000 for event in events if event["kind"] == "warm"), default=0)
    rows = [row for row in rows if int(row["scheduled_us"]) >= warm_us]
    if not rows:
        raise InputError(f"engine {spec.name}: no step was recorded after its warm-up")
    zero = int(rows[0]["scheduled_us"])
    times = [column for column in rows[0] if column.endswith("_us")]
    for row in rows:
        for column in times:
            if row[column]:
                row[column] = str(int(row[column]) - zero)

    def span(event: Mapping[str, Any]) -> dict[str, object]:
        kept = {key: value for key, value in event.items() if key not in ("kind", "requests")}
        return {
            f"{key.removesuffix('_ns')}_us" if key.endswith("_ns") else key: (
                value // 1_000 - zero if key.endswith("_ns") else value
            )
            for key, value in kept.items()
        }

    requests = []
    traffics = [event for event in events if event["kind"] == "traffic"]
    for number, event in enumerate(traffics):
        for begun, prompt, output, deliveries in event["requests"]:
            at = [when for when, _ in deliveries]
            gaps = [(later - earlier) // 1_000 for earlier, later in pairwise(at)]
            more = [f"{index}:{count}" for index, (_, count) in enumerate(deliveries) if count != 1]
            requests.append(
                [
                    number,
                    begun // 1_000 - zero,
                    prompt,
                    output,
                    (at[0] - begun) // 1_000,
                    " ".join(map(str, gaps)),
                    " ".join(more),
                ]
            )
    result = {
        **facts,
        "cells": [span(event) for event in events if event["kind"] == "cell"],
        "prefills": [span(event) for event in events if event["kind"] == "prefill"],
        "mixed": [span(event) for event in events if event["kind"] == "mixed"],
        "traffic": [span(event) for event in traffics],
        "start_up": _start_up(raw / f"{spec.name}.log"),
        "calibration": spec.identity | {"skipped": events[-1].get("skipped", [])},
    }
    columns = list(rows[0])
    _write_table(out / f"{spec.name}_steps.csv.gz", columns, ([row[c] for c in columns] for row in rows))
    if requests:
        _write_table(out / f"{spec.name}_requests.csv.gz", REQUEST_COLUMNS, requests)
    path = out / f"{spec.name}.json"
    write_json(path, result)
    return path


def split_lists(path: Path, lists: Mapping[str, Sequence[int]], out: Path) -> dict[str, Path]:
    """Make a run per list of one whose engine used several by turns; return each list's `OUT/LIST.json`.

    Each is as if an engine of that list alone had been recorded, with the grid and the traffics that were
    begun under it (`list` in their entry or spec). A list without traffic is left out.
    """
    facts = json.loads(path.read_text(encoding="utf-8"))
    stem = path.name.removesuffix(".json")
    steps = read_rows(path.with_name(f"{stem}_steps.csv.gz"), STEP_COLUMNS)
    requests = read_rows(path.with_name(f"{stem}_requests.csv.gz"), ("traffic",))
    found = {}
    for name, sizes in lists.items():
        parts = {
            key: [
                entry for entry in facts[key] if entry.get("list", entry.get("spec", {}).get("list")) == name
            ]
            for key in ("cells", "prefills", "mixed", "traffic")
        }
        if not parts["traffic"]:
            continue
        spans = [(entry["start_us"], entry["end_us"]) for entries in parts.values() for entry in entries]
        kept = [row for row in steps if any(a <= int(row["scheduled_us"]) <= b for a, b in spans)]
        numbers = {str(facts["traffic"].index(entry)): str(i) for i, entry in enumerate(parts["traffic"])}
        rows = [{**row, "traffic": numbers[row["traffic"]]} for row in requests if row["traffic"] in numbers]
        engine = {**facts["engine"], "capture_sizes": sorted(sizes)}
        found[name] = out / f"{name}.json"
        for kind, table in (("steps", kept), ("requests", rows)):
            columns = list(table[0])
            _write_table(out / f"{name}_{kind}.csv.gz", columns, ([row[c] for c in columns] for row in table))
        write_json(found[name], {**facts, **parts, "engine": engine})
    return found


def finished(spec: EngineSpec, out: Path) -> Path | None:
    """Return `NAME.json` of an engine that ran before with the same settings, None where there is none."""
    path = out / f"{spec.name}.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))["calibration"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if all(known.get(key) == value for key, value in spec.identity.items()) else None


def _start_up(log: Path) -> dict[str, object]:
    reader = StartUpReader()
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            reader.read(line)
    facts = reader.facts()
    graphs = None if facts.graph_bytes is None else facts.graph_bytes / GIB
    return {
        "graph_capture_s": facts.capture_s,
        "graph_memory_gib": graphs,
        "kv_cache_tokens": facts.kv_tokens,
        "available_kv_gib": None if facts.kv_bytes is None else facts.kv_bytes / GIB,
    }


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a compressed CSV, the same bytes for the same rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(text.getvalue().encode("ascii"), 9, mtime=0))
