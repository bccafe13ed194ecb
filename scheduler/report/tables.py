"""Result tables as .npz files: one array per column, the same bytes for the same rows, no pickles.

Every table starts with `variants` (the names, in the order of summary.json); the column `variant` is an
index into it and `replication` counts from 0. All other arrays are as long as each other.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.engine.loop import Run
from scheduler.engine.records import KVUse, RequestRecords, StepRecords, TokenGaps
from scheduler.errors import InputError
from scheduler.files import replacing

Array = NDArray[Any]
Runs = Mapping[str, Sequence[Run]]
REQUEST_COLUMNS = (
    "arrival_ns",
    "scheduled_ns",
    "first_token_ns",
    "finish_ns",
    "prompt_tokens",
    "output_tokens",
    "preemptions",
    "status",
)
STEP_COLUMNS = (
    "start_ns",
    "duration_ns",
    "kind",
    "batch_size",
    "capture_size",
    "kv_tokens",
    "prefill_tokens",
    "graph",
)
# File name -> (which records of a run, their columns).
TABLES: dict[str, tuple[Callable[[Run], Any], tuple[str, ...]]] = {
    "requests.npz": (lambda run: run.requests, REQUEST_COLUMNS),
    "steps.npz": (lambda run: run.steps, STEP_COLUMNS),
    "gaps.npz": (lambda run: run.gaps, ("gap_ns", "count", "step")),
    "kv.npz": (lambda run: run.kv_use, ("time_ns", "blocks", "running")),
}
# What a zip member without a date carries.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def write_tables(folder: Path, runs: Runs) -> None:
    """Write requests, steps, gaps and KV use of all runs (by variant name, in replication order)."""
    for file_name, (records_of, columns) in TABLES.items():
        parts = [
            (variant, replication, records_of(run))
            for variant, name in enumerate(runs)
            for replication, run in enumerate(runs[name])
        ]
        rows = [len(getattr(records, columns[0])) for _, _, records in parts]
        with replacing(folder / file_name) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            _add(archive, "variants", np.array([*runs], np.str_))
            _add(archive, "variant", np.repeat(np.array([p[0] for p in parts], np.int16), rows))
            _add(archive, "replication", np.repeat(np.array([p[1] for p in parts], np.int16), rows))
            for column in columns:
                arrays = [getattr(records, column) for _, _, records in parts]
                _add(archive, column, np.concatenate(arrays) if arrays else np.zeros(0, np.int64))


def _add(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    info = zipfile.ZipInfo(f"{name}.npy", _NO_DATE)
    with archive.open(info, "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def read_tables(folder: Path) -> dict[str, list[Run]]:
    """Return the saved runs by variant name; raises InputError for a missing or damaged table."""
    tables = {file_name: _read(folder / file_name, columns) for file_name, (_, columns) in TABLES.items()}
    names = [str(name) for name in tables["requests.npz"]["variants"]]
    return {name: _runs_of(tables, variant) for variant, name in enumerate(names)}


def _read(path: Path, columns: Sequence[str]) -> dict[str, Array]:
    if not path.is_file():
        raise InputError(f"{path}: expected a result folder written by this program; the file is missing")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            table = {name: archive[name] for name in ("variants", "variant", "replication", *columns)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a result table: {error}") from None
    lengths = {len(table[name]) for name in ("variant", "replication", *columns) if table[name].ndim == 1}
    kinds = {table[name].dtype.kind for name in ("variant", "replication", *columns)}
    if len(lengths) != 1 or not kinds <= {"i"} or any(table[name].ndim != 1 for name in table):
        raise InputError(f"{path}: expected columns of whole numbers, all of one length")
    return table


def _runs_of(tables: Mapping[str, Mapping[str, Array]], variant: int) -> list[Run]:
    requests = tables["requests.npz"]
    of_variant = requests["replication"][requests["variant"] == variant]
    return [_run(tables, variant, replication) for replication in range(int(of_variant.max(initial=-1)) + 1)]


def _run(tables: Mapping[str, Mapping[str, Array]], variant: int, replication: int) -> Run:
    found: dict[str, dict[str, Array]] = {}
    for file_name, table in tables.items():
        chosen = (table["variant"] == variant) & (table["replication"] == replication)
        found[file_name] = {column: table[column][chosen] for column in TABLES[file_name][1]}
    steps = StepRecords(**found["steps.npz"])
    gaps = TokenGaps(**found["gaps.npz"])
    if len(gaps.step) and not 0 <= int(gaps.step.min()) <= int(gaps.step.max()) < len(steps):
        raise InputError("gaps.npz: names a step that steps.npz does not have")
    kv_use = KVUse(**found["kv.npz"])
    requests = RequestRecords(**found["requests.npz"], reasons={})
    return Run(requests, steps, gaps, kv_use, int(kv_use.blocks.max(initial=0)))
