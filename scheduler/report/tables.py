"""Result tables as .npz files: one array per column, the same bytes for the same rows, no pickles.

Every table starts with `variants` (the names, in the order of summary.json); the column `variant` is an
index into it and `replication` counts from 0. All other arrays are as long as each other, but for the
durations of steps.npz: a row there is a run of `steps` equal steps, and each step has a duration.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.engine.records import RequestRecords, Run, StepRuns
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
    "steps",
    "kind",
    "batch_size",
    "capture_size",
    "kv_tokens",
    "prefill_tokens",
    "graph",
    "kv_blocks",
    "running",
)
GAP_COLUMNS = ("gap_ns", "gap_count", "gap_row")
# File name -> (which records of a run, their columns).
TABLES: dict[str, tuple[Callable[[Run], Any], tuple[str, ...]]] = {
    "requests.npz": (lambda run: run.requests, REQUEST_COLUMNS),
    "steps.npz": (lambda run: run.step_runs, STEP_COLUMNS),
    "gaps.npz": (lambda run: run.step_runs, GAP_COLUMNS),
}
# One value per step, in the order of the rows of steps.npz, of which each stands for `steps` equal steps.
DURATIONS = "duration_ns"
# What a zip member without a date carries.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def write_tables(folder: Path, runs: Runs) -> None:
    """Write requests and steps with their gaps of all runs (by variant name, in replication order)."""
    places = [
        (variant, replication) for variant, name in enumerate(runs) for replication in range(len(runs[name]))
    ]
    names = [*runs]
    for file_name, (records_of, columns) in TABLES.items():

        def parts(column: str, of: Callable[[Run], Any] = records_of) -> Iterator[Array]:
            # A large run lies in a file: only the column that is being written is read from it.
            return (getattr(of(runs[names[variant]][number]), column) for variant, number in places)

        rows = [len(part) for part in parts(columns[0])]
        with replacing(folder / file_name) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            _add(archive, "variants", [np.array(names, np.str_)])
            for place, key in enumerate(("variant", "replication")):
                _add(archive, key, [np.repeat(np.array([p[place] for p in places], np.int16), rows)])
            for column in (*columns, DURATIONS) if file_name == "steps.npz" else columns:
                length = sum(map(len, parts(column))) if column == DURATIONS else sum(rows)
                _add(archive, column, parts(column), length)


def _add(archive: zipfile.ZipFile, name: str, parts: Iterable[Array], length: int | None = None) -> None:
    """Add one array made of parts that are `length` long together (None: there is one part)."""
    following = iter(parts)
    first = next(following, np.zeros(0, np.int64))
    header = np.lib.format.header_data_from_array_1_0(first[:0])
    header["shape"] = (len(first) if length is None else length,)
    with archive.open(zipfile.ZipInfo(f"{name}.npy", _NO_DATE), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for part in chain([first], following):
            member.write(np.ascontiguousarray(part, first.dtype).data.cast("B"))


def read_tables(folder: Path) -> dict[str, list[Run]]:
    """Return the saved runs by variant name; raises InputError for a missing or damaged table."""
    tables = {file_name: _read(folder / file_name, columns) for file_name, (_, columns) in TABLES.items()}
    names = [str(name) for name in tables["requests.npz"]["variants"]]
    runs: dict[str, list[Run]] = {}
    for variant, name in enumerate(names):
        of_variant = tables["requests.npz"]
        numbers = of_variant["replication"][of_variant["variant"] == variant]
        count = int(numbers.max(initial=-1)) + 1
        runs[name] = [_run(tables, variant, replication) for replication in range(count)]
    return runs


def _read(path: Path, columns: Sequence[str]) -> dict[str, Array]:
    if not path.is_file():
        raise InputError(f"{path}: expected a result folder written by this program; the file is missing")
    further = (DURATIONS,) if path.name == "steps.npz" else ()
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            table = {
                name: archive[name] for name in ("variants", "variant", "replication", *columns, *further)
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a result table: {error}") from None
    lengths = {len(table[name]) for name in ("variant", "replication", *columns) if table[name].ndim == 1}
    kinds = {table[name].dtype.kind for name in ("variant", "replication", *columns, *further)}
    if len(lengths) != 1 or not kinds <= {"i"} or any(table[name].ndim != 1 for name in table):
        raise InputError(f"{path}: expected columns of whole numbers, all of one length")
    if further and (table["steps"].min(initial=1) < 1 or table["steps"].sum() != len(table[DURATIONS])):
        raise InputError(f"{path}: expected as many durations as steps")
    return table


def _run(tables: Mapping[str, Mapping[str, Array]], variant: int, replication: int) -> Run:
    found: dict[str, dict[str, Array]] = {}
    for file_name, table in tables.items():
        chosen = (table["variant"] == variant) & (table["replication"] == replication)
        found[file_name] = {column: table[column][chosen] for column in TABLES[file_name][1]}
        if file_name == "steps.npz":
            found[file_name][DURATIONS] = table[DURATIONS][np.repeat(chosen, table["steps"])]
    steps, gaps = found["steps.npz"], found["gaps.npz"]
    rows = gaps["gap_row"]
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(steps["steps"]):
        raise InputError("gaps.npz: names a row that steps.npz does not have")
    requests = RequestRecords(**found["requests.npz"], reasons={})
    return Run(requests, StepRuns(**steps, **gaps), int(steps["kv_blocks"].max(initial=0)))
