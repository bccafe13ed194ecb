"""The one door for files from outside: told by its contents what a file is, and used in the role it can fill.

`--from`, `--trace`, `--measured` and `--from-log` all come through here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scheduler.errors import InputError
from scheduler.workload.inputs.formats import FORMATS
from scheduler.workload.inputs.found import Found, Use
from scheduler.workload.inputs.head import NOTHING_TOLD, Told, head_of
from scheduler.workload.inputs.measured import Measured, measured_of
from scheduler.workload.requests import Int64
from scheduler.workload.server_logs.engine_log import EngineLog
from scheduler.workload.traces.read import Trace, trace_of
from scheduler.workload.traces.values import shown


def read_input(path: Path, told: Told = NOTHING_TOLD) -> Found:
    """Tell what a file is and read it; `path#2` reads the second run of a file with several.

    `told` is what the user says where a server's log does not. Raises InputError, one line
    per problem, with the format that was recognised.
    """
    head = head_of(path, told)
    return next(row for row in FORMATS if row.is_it(head)).read(head)


def read_trace(path: Path, time_scale: float = 1.0, share_column: str | None = None) -> Trace:
    """Return the arrivals and lengths of a file as a trace; raises InputError where it has none.

    `share_column` names a further column, of shares from 0 to 1, that the file has to have.
    """
    found = read_input(path, Told(share_column=share_column))
    found.require(Use.ARRIVALS, "a trace")
    trace = trace_of(found, time_scale)
    if share_column is not None and trace.shares is None:
        raise InputError(
            f"{path}: {found.title}: expected a CSV or JSON Lines trace with the column {shown(share_column)}"
        )
    return trace


def read_lengths(path: Path) -> Found:
    """Return a file that has lengths of requests; raises InputError where it has none."""
    found = read_input(path)
    if Use.BATCHES in found.uses and Use.LENGTHS not in found.uses:
        raise InputError(
            f"{path}: {found.title}: it holds a server's steps, not requests; run.py tune --from {path.name} "
            "--profile NAME takes it"
        )
    found.require(Use.LENGTHS, "a workload")
    return found


def recorded_lengths(found: Found) -> tuple[Int64, Int64]:
    """Return prompt and output lengths of a file's requests in the order of arrival (else the file's)."""
    rows = found.requests
    assert rows is not None  # noqa: S101  (told to mypy; read_lengths has seen to it)
    prompt, output = np.array(rows.prompt_tokens, np.int64), np.array(rows.output_tokens, np.int64)
    kept = np.flatnonzero((prompt > 0) & (output > 0))
    if not len(kept):
        raise InputError(f"{found.path}: {found.title}: every request has 0 prompt or 0 output tokens")
    if rows.arrival_ns:
        kept = kept[np.argsort(np.array(rows.arrival_ns, np.int64)[kept], kind="stable")]
    return prompt[kept], output[kept]


def read_measured(path: Path) -> Measured:
    """Return the measured requests of a file; raises InputError where it lacks arrivals or latencies."""
    found = read_input(path)
    found.require(Use.ARRIVALS, "--measured")
    found.require(Use.LATENCIES, "--measured")
    return measured_of(found)


def read_engine_log(path: Path, told: Told = NOTHING_TOLD) -> EngineLog:
    """Return the steps of a server's log or metrics; raises InputError where the file has none."""
    found = read_input(path, told)
    found.require(Use.BATCHES, "--from-log")
    assert found.log is not None  # noqa: S101  (told to mypy; it has batches)
    return found.log
