"""A profile from whole step times: what a person can measure on any engine.

A decode step is (mode, batch, KV tokens per row, ms); a step with prompt tokens has `prefill_tokens` too,
and then `context_tokens` are those already cached for the prompt (and held by each decode beside it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from scheduler.catalog.importers.grid import decode_table, leave_one_size_out
from scheduler.catalog.importers.overrides import with_overrides
from scheduler.catalog.importers.prefill_steps import PrefillStep, prefill_section
from scheduler.catalog.importers.rows import number_at, read_rows
from scheduler.catalog.profile.curves import CurveProfile, Decode, DecodeMode, Prefill
from scheduler.catalog.profile.profile import Identity, Mode, Provenance
from scheduler.errors import InputError

MODES: tuple[Mode, ...] = ("graph", "fallback", "eager")
COLUMNS = ("mode", "batch", "context_tokens", "step_ms")


@dataclass(frozen=True, slots=True)
class WholeStep:
    """One measured step, host work included. `prompts` prompts share `prefill_tokens` equally."""

    mode: Mode
    batch: int
    context_tokens: float
    step_ms: float
    prefill_tokens: int = 0
    prompts: int = 1


def whole_step_profile(
    steps: Iterable[WholeStep], identity: Identity, overrides: Mapping[str, Any] | None = None
) -> CurveProfile:
    """Return the profile of whole steps; a point measured several times counts with its median."""
    steps = list(steps)
    modes = {mode: _decode_cells(steps, mode) for mode in MODES}
    if not any(modes.values()):
        raise InputError(
            f"{identity.source}: no decode steps (mode graph, fallback or eager, prefill_tokens 0)"
        )
    decode = {mode: DecodeMode(gpu=decode_table(cells)) for mode, cells in modes.items() if cells}
    first = next(iter(decode.values()))
    prefill, fits = _prefill(steps, first)
    fits = [
        *(
            leave_one_size_out(cells, f"{mode} decode steps")
            for mode, cells in modes.items()
            if _has_inner(cells)
        ),
        *fits,
    ]
    provenance = {"decode": _measured(f"whole step times, {identity.source}")}
    if prefill is not None:
        provenance["prefill"] = _measured(f"steps with prompt tokens, {identity.source}")
    profile = CurveProfile(
        format="graphpool-profile",
        version=1,
        identity=identity,
        decode=Decode(**decode),
        prefill=prefill,
        fit=tuple(fits),
        provenance=provenance,
    )
    return with_overrides(profile, overrides or {})


def import_csv(path: Path, overrides: Mapping[str, Any] | None = None) -> CurveProfile:
    """Return the profile of a CSV `mode,batch,context_tokens,step_ms[,prefill_tokens]`; raises InputError."""
    rows = read_rows(path, COLUMNS)
    steps, errors = [], []
    for index, row in enumerate(rows):
        try:
            steps.append(_step_of(row, path, index))
        except InputError as error:
            errors += error.lines
        if len(errors) >= 20:
            break
    if errors:
        raise InputError(errors)
    return whole_step_profile(steps, imported_identity(path.name), overrides)


def imported_identity(source: str, engine: str = "not stated") -> Identity:
    """Return the identity of an import before the person states more with `--set identity.…`."""
    unstated = dict.fromkeys(("gpu", "model", "engine_version", "dtype", "licence", "date"), "not stated")
    return Identity(name="imported", engine=engine, source=source, **unstated)


def _step_of(row: Mapping[str, str], path: Path, index: int) -> WholeStep:
    mode = row["mode"]
    if mode not in MODES:
        raise InputError(
            f"{path}: row {index + 2}: mode: expected graph, fallback or eager, got {mode[:40]!r}"
        )
    prefill = 0.0
    if row.get("prefill_tokens"):
        prefill = number_at(row, "prefill_tokens", path, index, whole=True)
    batch = int(number_at(row, "batch", path, index, whole=True))
    step_ms = number_at(row, "step_ms", path, index)
    if not batch and not prefill:
        raise InputError(f"{path}: row {index + 2}: batch: expected at least 1 without prefill_tokens, got 0")
    if not 0 < step_ms <= 1e6:
        raise InputError(
            f"{path}: row {index + 2}: step_ms: expected milliseconds above 0, got {row['step_ms']}"
        )
    context = number_at(row, "context_tokens", path, index)
    return WholeStep(mode, batch, context, step_ms, int(prefill))


def _decode_cells(steps: Sequence[WholeStep], mode: Mode) -> dict[tuple[int, float], float]:
    times: dict[tuple[int, float], list[float]] = {}
    for step in steps:
        if step.mode == mode and not step.prefill_tokens:
            times.setdefault((step.batch, step.context_tokens), []).append(step.step_ms)
    return {key: median(values) for key, values in times.items()}


def _has_inner(cells: Mapping[tuple[int, float], float]) -> bool:
    return len({size for size, _ in cells}) > 2


def _prefill(steps: Sequence[WholeStep], decode: DecodeMode) -> tuple[Prefill | None, list[Any]]:
    found = []
    for step in steps:
        if step.prefill_tokens:
            each = step.prefill_tokens / step.prompts
            cached = 0.0 if step.batch else step.context_tokens
            found.append(
                PrefillStep(
                    tokens=step.prefill_tokens,
                    pairs=step.prompts * each * (cached + each / 2),
                    fresh=not cached,
                    decodes=step.batch,
                    decode_kv_tokens=round(step.batch * step.context_tokens),
                    ms=step.step_ms,
                )
            )
    return prefill_section(found, decode.gpu)


def _measured(note: str) -> Provenance:
    return Provenance(origin="measured", note=note)
