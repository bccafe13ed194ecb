"""A profile from a decode table as aiconfigurator gives it: GPU milliseconds of a whole decode step.

Columns `batch_size,context_len,decode_step_ms`, and `model,system,backend,…` to choose by where the table
holds several. Its operators were timed in CUDA graphs, so the times are graph-mode GPU times.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scheduler.catalog.importers.grid import decode_table, leave_one_size_out
from scheduler.catalog.importers.llmservingsim import EAGER_ISSUE_MS, ISSUE_NOTE
from scheduler.catalog.importers.overrides import with_overrides
from scheduler.catalog.importers.rows import number_at, read_rows
from scheduler.catalog.importers.whole_steps import imported_identity
from scheduler.catalog.profile.curves import CurveProfile, Decode, DecodeMode, Host
from scheduler.catalog.profile.profile import Provenance
from scheduler.errors import InputError

COLUMNS = ("batch_size", "context_len", "decode_step_ms")
CHOICES = ("model", "system", "backend", "dtype", "tp")


def read_decode_cells(path: Path, choose: Mapping[str, str]) -> dict[tuple[int, float], float]:
    """Return (batch, KV tokens per row) -> ms of the rows with the chosen model, system, backend, ….

    Raises InputError where the table holds several and `choose` does not tell which.
    """
    rows = read_rows(path, (*COLUMNS, *choose))
    present = [column for column in CHOICES if column in rows[0]]
    kept = [
        (index, row)
        for index, row in enumerate(rows)
        if all(row[key] == value for key, value in choose.items())
    ]
    wanted = ", ".join(f"{key} {value}" for key, value in choose.items())
    if not kept:
        raise InputError(f"{path}: no rows with {wanted}")
    for column in present:
        found = sorted({row[column] for _, row in kept})
        if len(found) > 1:
            raise InputError(f"{path}: rows of several {column}s; choose one of {', '.join(found)}")
    cells: dict[tuple[int, float], float] = {}
    for index, row in kept:
        key = (
            int(number_at(row, "batch_size", path, index, whole=True)),
            number_at(row, "context_len", path, index, whole=True),
        )
        if key in cells:
            raise InputError(f"{path}: row {index + 2}: batch {key[0]} at context {key[1]:g} stands twice")
        cells[key] = number_at(row, "decode_step_ms", path, index)
    return cells


def import_aiconfigurator(
    path: Path, choose: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> CurveProfile:
    """Return the profile of a decode table; it has no prefill and no memory data of its own."""
    cells = read_decode_cells(path, choose or {})
    chosen = dict(choose or {})
    identity = imported_identity(
        f"aiconfigurator decode table {path.name}", chosen.get("backend", "not stated")
    )
    profile = CurveProfile(
        format="graphpool-profile",
        version=1,
        identity=identity,
        decode=Decode(graph=DecodeMode(gpu=decode_table(cells)), eager=DecodeMode(issue_ms=EAGER_ISSUE_MS)),
        host=Host(overlap=True),
        fit=(leave_one_size_out(cells, "graph decode steps"),),
        provenance=PROVENANCE,
    )
    return with_overrides(profile, overrides or {})


PROVENANCE = {
    "decode.graph.gpu": Provenance(
        origin="derived", note="sum of operators timed in CUDA graphs, as aiconfigurator adds them up"
    ),
    "decode.eager.issue_ms": Provenance(origin="assumed", note=ISSUE_NOTE),
    "host.overlap": Provenance(
        origin="assumed", note="asynchronous scheduling, the engines' default: host work is hidden"
    ),
}
