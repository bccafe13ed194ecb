"""Lists that were held back until the importers were done: `python -m evidence.fidelity.held_back`.

Three engines of another hour (evidence/data/vllm_h100_lists), each with its own list on a grid and under
traffic, then with other lists by turns. Profiles are imported from the grid alone and from everything that
the own list did, from the full log and from a bare one (`bare_log`); nothing of another list is fitted to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import evidence
from evidence.fidelity.vllm_h100 import COLUMNS, Case, bare_log, validated
from scheduler.catalog.importers.engine_steps.build import Source, import_steps
from scheduler.catalog.importers.recorded_run import RecordedRun, read_recorded
from scheduler.catalog.profile.measured import MeasuredProfile
from scheduler.report.wording import percent_text

DATA = Path(evidence.__file__).parent / "data" / "vllm_h100_lists"
OWN = "own"
# Folder, its engine, the lists in the order of the table.
ENGINES = (
    ("8b", "8B", (OWN, "pow2", "to_32", "to_64", "decode_only", "decode_only_engine")),
    ("06b", "0.6B", (OWN, "pow2", "to_64", "to_256", "decode_only")),
    ("8b_mp", "8B, mp", (OWN, "to_64", "pow2", "decode_only")),
)
FROM = ("its grid", "all of own", "its grid, bare log", "all of own, bare log")


@dataclass(frozen=True, slots=True)
class Row:
    """One traffic under one list: its mean TPOT in ms, and errors by profile (`FROM`) and column."""

    engine: str
    name: str
    traffic: str
    measured_ms: float
    errors: tuple[tuple[float, ...], ...]


def rows() -> Iterator[Row]:
    """Yield every traffic of every list, foretold by each profile of its engine."""
    for folder, engine, lists in ENGINES:
        profiles = _profiles(DATA / folder / f"{OWN}.json")
        for name in lists:
            path = DATA / folder / f"{name}.json"
            run = read_recorded(path)
            specs = json.loads(path.read_text(encoding="utf-8"))["traffic"]
            for number, entry in enumerate(specs):
                yield _row(engine, run, number, entry["spec"]["name"], profiles)


def _profiles(own: Path) -> list[MeasuredProfile]:
    with TemporaryDirectory() as folder:
        bare = bare_log(own, Path(folder))
        sources = [Source(path, grid_only=grid) for path in (own, bare) for grid in (True, False)]
        return [import_steps((source,), {})[0] for source in sources]


def _row(
    engine: str, run: RecordedRun, number: int, traffic: str, profiles: Sequence[MeasuredProfile]
) -> Row:
    found = [validated(Case(engine, run.path, number, profile), run).latencies for profile in profiles]
    errors = tuple(tuple(one[metric][key]["error"] for _, metric, key in COLUMNS) for one in found)
    return Row(engine, run.name, traffic, found[0]["tpot_ms"]["mean"]["measured"], errors)


def table() -> str:
    """Return the Markdown table of docs/fidelity.md."""
    titles = [f"{name}, {FROM[0]}" for name, _, _ in COLUMNS] + [f"mean TPOT, {name}" for name in FROM[1:]]
    lines = [
        "| engine, list, traffic | measured TPOT ms | " + " | ".join(titles) + " |",
        "|---|---" + "|---" * len(titles) + "|",
    ]
    every = list(rows())
    for _, engine, _ in ENGINES:
        here = [row for row in every if row.engine == engine]
        for row in here:
            cells = " | ".join(percent_text(error) for error in _cells(row))
            lines.append(f"| {engine}, {row.name}, {row.traffic} | {row.measured_ms:.2f} | {cells} |")
        for label, chosen in (
            ("own list", [row for row in here if row.name == OWN]),
            ("held back", [row for row in here if row.name != OWN]),
        ):
            sizes = 100 * np.abs(np.array([_cells(row) for row in chosen]))
            cells = " | ".join(
                f"{mean:.1f} / {worst:.1f} %" for mean, worst in zip(sizes.mean(0), sizes.max(0), strict=True)
            )
            lines.append(f"| **{engine}, {label}: mean / worst size** | | {cells} |")
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[float]:
    """Return the errors that the table shows: all columns of the first profile, mean TPOT of the others."""
    return [*row.errors[0], *(errors[0] for errors in row.errors[1:])]


if __name__ == "__main__":
    print(table(), end="")
