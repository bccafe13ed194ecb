"""The result folder: written whole or not at all, file by file, and read back to draw it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.analysis.comparison.compare import Comparison
from scheduler.analysis.comparison.step_times import step_curves
from scheduler.analysis.records import SCHEMA_VERSION
from scheduler.errors import InputError
from scheduler.files import write_json
from scheduler.report.beside import in_a_copy
from scheduler.report.summary import nested_results, summary_records
from scheduler.report.tables import read_tables, write_tables
from scheduler.report.views import View, graph_use, views_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_JSON_BYTES = 64 << 20
PICTURES = (
    "latency.png",
    "batch_sizes.png",
    "over_time.png",
    "graph_use.png",
    "step_time.png",
    "report.html",
)


def write_results(
    comparison: Comparison,
    folder: Path,
    *,
    command: str = "",
    executor: str = "model",
    draw: bool = True,
) -> None:
    """Write every result file: the tables, the plots and the report where `draw`, JSON last.

    `command` repeats the run and must not name `folder`. summary.json comes last: where it is new, all
    the others are. Who pressed Ctrl-C does not wait for pictures: none are begun after it, and when it comes
    while they are drawn, the numbers are written and KeyboardInterrupt goes on.
    """
    for name in PICTURES if not draw else ():
        (folder / name).unlink(missing_ok=True)  # of an earlier run, with other numbers
    write_tables(folder, {column.name: column.runs for column in comparison.columns if column.runs})
    try:
        if draw and comparison.failure != "interrupted":
            _draw(comparison, folder, command, executor)
    finally:
        write_json(folder / "results.json", nested_results(comparison, command, executor))
        write_json(folder / "summary.json", summary_records(comparison, executor))


def _draw(comparison: Comparison, folder: Path, command: str, executor: str) -> None:
    from scheduler.report import plots
    from scheduler.report.html import write_report

    first = next((column.variant.pool.sizes for column in comparison.pools), ())
    step_time = plots.step_time(step_curves(comparison), first)

    def pictures() -> None:
        save_figures(run_figures(views_of(comparison)) | {"step_time": step_time}, folder)

    report = folder / "report.html"
    with in_a_copy(pictures):
        write_report(comparison, report, step_time=step_time, command=command, executor=executor)


def run_figures(views: Sequence[View]) -> dict[str, Figure]:
    """Draw the pictures of one run, or of several saved ones overlaid; by name."""
    from scheduler.report import plots

    figures = {
        "latency": plots.latency_ecdf(views),
        "batch_sizes": plots.batch_histogram(views),
        "over_time": plots.over_time(views),
    }
    first = next((view for view in views if view.sizes), None)
    if first is not None:
        figures["graph_use"] = plots.graph_use_bars(first.name, graph_use(first))
    return figures


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write figures as NAME.png; return the files."""
    from scheduler.report import plots

    paths = [folder / f"{name}.png" for name in figures]
    for figure, path in zip(figures.values(), paths, strict=True):
        plots.save_png(figure, path)
    return paths


def read_views(folders: Sequence[Path]) -> list[View]:
    """Return the variants saved in result folders; of several folders each name bears its folder's.

    Raises InputError for a folder that is no result folder, or a damaged one.
    """
    views: list[View] = []
    for folder in folders:
        found = _read_folder(folder)
        if len(folders) > 1:
            label = folder.name or folder.resolve().name
            found = [
                replace(
                    view,
                    name=f"{label}/{view.name}",
                    low_name=f"{label}/{view.low_name}" if view.low_name else None,
                )
                for view in found
            ]
        views += found
    names = [view.name for view in views]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: two of the folders have the same name; rename one")
    return views


def _read_folder(folder: Path) -> list[View]:
    path = folder / "results.json"
    results = _read_json(path)
    runs = read_tables(folder)
    try:
        width = 1 + int((results["workload"]["engine"].get("speculation") or {}).get("draft_tokens", 0))
        if results["schema_version"] != SCHEMA_VERSION:
            raise InputError(f"{path}: schema_version {results['schema_version']} is not {SCHEMA_VERSION}")
        return [
            View(
                name=str(variant["name"]),
                sizes=tuple(int(size) for size in variant["capture_sizes"]),
                padding=bool(variant["padding"]),
                runs=tuple(replace(run, tokens_per_row=width) for run in runs[variant["name"]]),
                slo_ms={str(key): float(limit) for key, limit in results["slo_ms"].items()},
                warmup_requests=int(results["warmup_requests"]),
                max_num_seqs=int(results["workload"]["engine"]["max_num_seqs"]),
                kv_blocks=None if variant["kv_blocks"] is None else int(variant["kv_blocks"]),
                low_name=variant["low_name"],
            )
            for variant in results["variants"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a result of this program ({type(error).__name__}: {error})") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(f"{path}: expected at most {MAX_JSON_BYTES >> 20} MiB")
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: expected a result folder of this program; the file is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(results, dict):
        raise InputError(f"{path}: expected an object")
    return results
