"""The files of a run of this program: requests.npz, steps.npz and the step log of real execution."""

from __future__ import annotations

import json
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import InputError
from scheduler.workload.bench_results.cells import RowBuilder
from scheduler.workload.inputs.found import Found
from scheduler.workload.server_logs.engine_log import EngineLog, Times
from scheduler.workload.server_logs.start_up import StartUpFacts

REQUESTS, STEPS, STEP_LOG = "graphpool requests.npz", "graphpool steps.npz", "graphpool step log"
COMMAND = "python run.py WORKLOAD"
LOG_COMMAND = "python run.py WORKLOAD --executor torch"
MOST_BYTES = 1 << 30
REQUEST_COLUMNS = ("arrival_ns", "first_token_ns", "finish_ns", "prompt_tokens", "output_tokens", "status")
STEP_COLUMNS = ("duration_ns", "kind", "batch_size", "capture_size", "kv_tokens", "prefill_tokens")
COMPLETED = 1  # engine/records.py, Status
DECODE, MIXED = 0, 2  # engine/executor.py, StepKind

Columns = dict[str, NDArray[Any]]


def read_own_tables(path: Path) -> Found:
    """Read the first variant's first replication of requests.npz or steps.npz; raises InputError."""
    columns = _columns(path)
    is_requests = "arrival_ns" in columns
    name, wanted = (REQUESTS, REQUEST_COLUMNS) if is_requests else (STEPS, STEP_COLUMNS)
    needed = (*wanted, "variant", "replication", *(() if is_requests else ("steps",)))
    missing = [key for key in needed if key not in columns]
    if missing:
        raise InputError(f"{path}: {name}: missing {', '.join(missing)}; `{COMMAND}` writes the file anew")
    if not is_requests:
        columns = _one_row_per_step(path, columns)
    used = [columns[key] for key in (*wanted, "variant", "replication")]
    if any(
        column.dtype.kind not in "iu" or column.ndim != 1 or column.size != used[0].size for column in used
    ):
        raise InputError(f"{path}: {name}: expected columns of whole numbers, all of one length")
    first = (columns["variant"] == 0) & (columns["replication"] == 0)
    kept = {key: columns[key][first].astype(np.int64) for key in wanted}
    others = int((~first).sum())
    left_out = (f"left out {others:,} rows of other variants and replications",) if others else ()
    return _requests(path, kept, left_out) if is_requests else _steps(path, kept, left_out)


def _one_row_per_step(path: Path, columns: Columns) -> Columns:
    """Return steps.npz with a row per step, where a row of the file stands for `steps` equal ones."""
    steps, duration = columns["steps"], columns["duration_ns"]
    of_rows = [key for key in columns if key not in ("variants", "duration_ns")]
    rows = [columns[key] for key in of_rows]
    if any(row.dtype.kind not in "iu" or row.shape != (len(steps),) for row in rows) or (
        duration.ndim != 1 or steps.min(initial=1) < 1 or int(steps.sum()) != len(duration)
    ):
        raise InputError(f"{path}: {STEPS}: expected whole numbers, `steps` of them durations for each row")
    first = np.repeat(np.cumsum(steps) - steps, steps)
    expanded = {key: np.repeat(columns[key], steps) for key in of_rows}
    since = np.arange(len(duration)) - first
    expanded["kv_tokens"] = expanded["kv_tokens"] + since * expanded["batch_size"]
    return expanded | {"duration_ns": duration}


def _columns(path: Path) -> Columns:
    """Return the arrays of an npz file whose unpacked size was checked first; no pickles."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MOST_BYTES:
            raise InputError(f"{path}: expected at most {MOST_BYTES:,} bytes of arrays, unpacked")
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, NotImplementedError, SyntaxError) as error:
        raise InputError(f"{path}: damaged .npz file: {' '.join(str(error).split())[:120]}") from error
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())[:120]}") from error


def _requests(path: Path, kept: Columns, left_out: tuple[str, ...]) -> Found:
    builder = RowBuilder(path, REQUESTS, "row")
    start = int(kept["arrival_ns"].min(initial=0))
    for index, (arrival, first, finish, prompt, output, status) in enumerate(
        zip(*(kept[key].tolist() for key in REQUEST_COLUMNS), strict=True), 1
    ):
        if status != COMPLETED or output < 1 or prompt < 1:
            builder.leave_out(index, "not completed")
            continue
        try:
            builder.add(
                index,
                prompt,
                output,
                start_s=(arrival - start) / 1e9,
                ttft_ms=(first - arrival) / 1e6,
                e2el_ms=(finish - arrival) / 1e6,
            )
        except ValueError as error:
            builder.problem(index, error)
    rows = builder.built()
    read = (f"{len(rows):,} completed requests of the first variant",)
    return Found(path, REQUESTS, COMMAND, requests=rows, read=read, left_out=(*left_out, *builder.left_out))


def _steps(path: Path, kept: Columns, left_out: tuple[str, ...]) -> Found:
    rows = zip(*(kept[key].tolist() for key in STEP_COLUMNS), strict=True)
    return _found(path, STEPS, COMMAND, rows, left_out)


def read_step_log(path: Path, lines: Iterable[tuple[int, str]]) -> Found:
    """Read the first section of a step log; raises InputError."""
    rows: list[tuple[int, ...]] = []
    sections = further = 0
    for number, line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{path}:{number}: {STEP_LOG}: expected JSON; is the file cut off?") from None
        if isinstance(value, dict):
            sections += 1
        elif sections > 1:
            further += 1
        elif (
            isinstance(value, list)
            and len(value) == len(STEP_COLUMNS)
            and all(isinstance(cell, int) and not isinstance(cell, bool) for cell in value)
        ):
            rows.append(tuple(value))
        else:
            raise InputError(
                f"{path}:{number}: {STEP_LOG}: expected {', '.join(STEP_COLUMNS)}, got {line[:80]!r}"
            )
    left_out = (f"left out {further:,} steps of other variants and replications",) if further else ()
    return _found(path, STEP_LOG, LOG_COMMAND, rows, left_out)


def _found(
    path: Path, name: str, command: str, rows: Iterable[tuple[int, ...]], left_out: tuple[str, ...]
) -> Found:
    steps: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    times: dict[tuple[int, bool | None], Times] = defaultdict(Times)
    mixed_times: dict[int, Times] = defaultdict(Times)
    kv: dict[int, Times] = defaultdict(Times)
    without: Counter[int] = Counter()
    for duration_ns, kind, batch, size, kv_tokens, prompt_tokens in rows:
        if min(duration_ns, batch, size, kv_tokens, prompt_tokens) < 0 or duration_ns > 10**15:
            raise InputError(f"{path}: {name}: expected numbers of at least 0")
        if kind == DECODE and batch:
            steps[True][batch] += 1
            times[batch, size > 0].add(duration_ns / 1e6)
            kv[batch].add(kv_tokens / batch)
            without[batch] += size == 0
        elif batch + prompt_tokens:
            steps[False][batch + prompt_tokens] += 1
            mixed_times[batch + prompt_tokens].add(duration_ns / 1e6)
    log = EngineLog(
        "graphpool",
        dict(sorted(steps[True].items())),
        dict(sorted(steps[False].items())),
        StartUpFacts(),
        (f"{steps[True].total():,} decode steps and {steps[False].total():,} with prompts of one variant",),
        kv_tokens={batch: share.mean_ms for batch, share in sorted(kv.items())},
        decode_times=dict(times),
        mixed_times=dict(mixed_times),
        without_graph={batch: count for batch, count in sorted(without.items()) if count},
    )
    return Found(path, name, command, log=log, read=log.notes, left_out=left_out)
