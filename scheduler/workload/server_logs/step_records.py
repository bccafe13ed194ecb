"""A row per step of a recorded engine: what ran, in which graph, and when (docs/profiles.md)."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from scheduler.errors import InputError
from scheduler.workload.server_logs.engine_log import MOST_SEQUENCES, EngineLog, Times
from scheduler.workload.server_logs.start_up import StartUpFacts
from scheduler.workload.traces.lines import Problems

NAME = "recorded steps CSV"
COMMAND = "a recorded run of an engine (docs/profiles.md)"
COLUMNS = ("scheduled_us", "requests", "tokens", "chunks", "mode", "output_us")
MODES = ("FULL", "PIECEWISE", "NONE")


def is_step_record(columns: frozenset[str]) -> bool:
    """Tell by its columns whether a CSV is such a record."""
    return columns >= frozenset(COLUMNS)


def read_step_record(path: Path, lines: Iterable[tuple[int, str]]) -> EngineLog:
    """Read the rows; raises InputError, one line per problem.

    A step's time runs from the later of its scheduling and the output before it to its own output: the part
    in which the engine had nothing else to wait for.
    """
    problems = Problems(path)
    steps: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    decode_times: dict[tuple[int, bool | None], Times] = defaultdict(Times)
    mixed_times: dict[int, Times] = defaultdict(Times)
    without: Counter[int] = Counter()
    before_us = 0
    reader = csv.DictReader(f"{text}\n" for _, text in lines)
    for row in reader:
        try:
            scheduled, requests, tokens, output = (
                _whole(row, name) for name in ("scheduled_us", "requests", "tokens", "output_us")
            )
            if row["mode"] not in MODES or not scheduled <= output:
                raise ValueError("expected scheduled_us ≤ output_us and a mode FULL, PIECEWISE or NONE")
        except ValueError as error:
            problems.add(reader.line_num, str(error), may_be_cut=True)
            continue
        ms = max(0, output - max(scheduled, before_us)) / 1e3
        before_us = max(before_us, output)
        if not tokens:
            continue
        is_decode = not (row["chunks"] or "").strip()
        steps[is_decode][requests if is_decode else tokens] += 1
        if is_decode:
            decode_times[requests, row["mode"] != "NONE"].add(ms)
            without[requests] += row["mode"] == "NONE"
        else:
            mixed_times[tokens].add(ms)
    problems.raise_if_any(reader.line_num)
    if not steps[True] and not steps[False]:
        raise InputError(f"{path}: {NAME}: expected at least one step with tokens")
    return EngineLog(
        "graphpool",
        dict(sorted(steps[True].items())),
        dict(sorted(steps[False].items())),
        StartUpFacts(),
        (f"{steps[True].total():,} decode steps and {steps[False].total():,} with prompts",),
        decode_times=dict(decode_times),
        mixed_times=dict(mixed_times),
        without_graph={batch: count for batch, count in sorted(without.items()) if count},
        lacks=("no KV lengths",),
    )


def _whole(row: Mapping[str, str | None], name: str) -> int:
    text = row[name] or ""
    most = 10**15 if name.endswith("_us") else MOST_SEQUENCES
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= most):
        raise ValueError(f"{name}: expected a whole number up to {most:,}, got {text[:40]!r}")
    return int(text)
