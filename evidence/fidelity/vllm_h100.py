"""Recorded vLLM runs against profiles made from some of them: `python -m evidence.fidelity.vllm_h100`.

The shipped profile was fitted to one engine's run and to grids; the other traffics are foretold. A small
model has a profile of its own, and half of the default engine's traffic is left out once. Groups called "bare
log" read runs without the columns that say when launches ended and what the GPU worked.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory

import numpy as np

from evidence.profiles.shipped import FIRST_RUNS, RUNS, VLLM_026
from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.fidelity.recorded import (
    RecordedValidation,
    recorded_workload,
    traffic_of,
    validate_recorded,
)
from scheduler.catalog.importers.engine_steps.build import Source, import_steps, profile_of
from scheduler.catalog.importers.recorded_run import RecordedRun, read_recorded
from scheduler.catalog.profile.file import load_profile
from scheduler.catalog.profile.measured import MeasuredProfile

REPLICATIONS = 4
COLUMNS = (
    ("mean TPOT", "tpot_ms", "mean"),
    ("p50 ITL", "itl_ms", "p50"),
    ("p99 ITL", "itl_ms", "p99"),
    ("mean TTFT", "ttft_ms", "mean"),
    ("mean E2EL", "e2el_ms", "mean"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One traffic of one engine, the profile it is foretold with, and whether that profile saw it."""

    group: str
    path: Path
    traffic: int
    profile: MeasuredProfile


def cases() -> Iterator[Case]:
    """Yield every traffic of the recorded runs of one GPU and its scheduler's thread."""
    shipped = load_profile(VLLM_026).of_its_host()
    default = FIRST_RUNS / "default.json"
    for traffic in (0, 1):
        yield Case("fitted", default, traffic, shipped)
    for traffic in (0, 1):
        yield Case("half of default left out", default, traffic, _without(default, traffic))
    for name in ("only_256", "no_graphs", "eager"):
        for traffic in (0, 1):
            yield Case("foretold, same hour", FIRST_RUNS / f"{name}.json", traffic, shipped)
    others = (
        ("default8b", 2),
        ("default8b_again", 2),
        ("padded8b", 1),
        ("to64_8b", 1),
        ("nographs8b_traffic", 2),
    )
    for name, count in others:
        for traffic in range(count):
            yield Case("foretold, an hour later, slower host", RUNS / f"{name}.json", traffic, shipped)
    later = _imported(Source(RUNS / "default8b.json"), Source(RUNS / "nographs8b.json", grid_only=True))
    for name, count in others[1:]:
        for traffic in range(count):
            yield Case("foretold from default8b", RUNS / f"{name}.json", traffic, later)
    grid = _imported(Source(RUNS / "default8b.json", grid_only=True))
    for traffic in (0, 1):
        yield Case("uniproc, from its grid", RUNS / "default8b.json", traffic, grid)
    mp = _imported(Source(RUNS / "mp8b.json", grid_only=True))
    for traffic in (0, 1):
        yield Case("mp, from its grid", RUNS / "mp8b.json", traffic, mp)
    small = _imported(
        Source(RUNS / "qwen06_default.json"), Source(RUNS / "qwen06_nographs.json", grid_only=True)
    )
    for name, count in (("qwen06_default", 3), ("qwen06_to64", 2), ("qwen06_nographs", 1)):
        for traffic in range(count):
            group = "small model, fitted" if name == "qwen06_default" else "small model, foretold"
            yield Case(group, RUNS / f"{name}.json", traffic, small)

    small_grid = _imported(Source(RUNS / "qwen06_default.json", grid_only=True))
    for traffic in range(3):
        yield Case("small model, from its grid", RUNS / "qwen06_default.json", traffic, small_grid)

    first = (FIRST_RUNS / f"{name}.json" for name in ("only_256", "no_graphs", "eager"))
    for path in (*first, *(RUNS / f"{name}.json" for name, _ in others)):
        own = _imported(Source(path), Source(RUNS / "default8b.json", gpu_only=True))
        for traffic in range(2 if path.stem not in ("padded8b", "to64_8b") else 1):
            yield Case("host fitted to the run itself, GPU to default8b's grid", path, traffic, own)
    for name, count in (("qwen06_to64", 2), ("qwen06_nographs", 1)):
        own = _imported(Source(RUNS / f"{name}.json"), Source(RUNS / "qwen06_default.json", gpu_only=True))
        for traffic in range(count):
            yield Case("small model, the same", RUNS / f"{name}.json", traffic, own)

    with TemporaryDirectory() as folder:
        yield from _without_launches(Path(folder))


def _without_launches(folder: Path) -> Iterator[Case]:
    """Yield cases of profiles made from logs that say neither when launches ended nor what the GPU worked."""
    names = (
        "default8b",
        "default8b_again",
        "padded8b",
        "to64_8b",
        "nographs8b",
        "nographs8b_traffic",
        "mp8b",
    )
    names += ("qwen06_default", "qwen06_to64", "qwen06_nographs")
    path = {name: bare_log(RUNS / f"{name}.json", folder) for name in names}
    later = _imported(Source(path["default8b"]), Source(path["nographs8b"], grid_only=True))
    for name, count in (("default8b_again", 2), ("padded8b", 1), ("to64_8b", 1), ("nographs8b_traffic", 2)):
        for traffic in range(count):
            yield Case("bare log: foretold from default8b", path[name], traffic, later)
    for name, group in (("default8b", "uniproc"), ("mp8b", "mp"), ("qwen06_default", "small model")):
        grid = _imported(Source(path[name], grid_only=True))
        for traffic in range(3 if group == "small model" else 2):
            yield Case(f"bare log: {group}, from its grid", path[name], traffic, grid)
    fitted = (("default8b", 2), ("default8b_again", 2), ("padded8b", 1), ("to64_8b", 1))
    for name, count in (*fitted, ("nographs8b_traffic", 2)):
        own = _imported(Source(path[name]), Source(path["default8b"], gpu_only=True))
        for traffic in range(count):
            yield Case("bare log: host fitted to the run itself", path[name], traffic, own)
    for name, count in (("qwen06_to64", 2), ("qwen06_nographs", 1)):
        own = _imported(Source(path[name]), Source(path["qwen06_default"], gpu_only=True))
        for traffic in range(count):
            yield Case("bare log: small model, the same", path[name], traffic, own)


BARE = ("scheduled_us", "requests", "tokens", "chunks", "waiting", "free_blocks", "preempted")
BARE += ("dispatched_us", "mode", "captured_tokens", "output_us")


def bare_log(run: Path, folder: Path) -> Path:
    """Write a run to `folder` as a log of decisions, dispatches and hand-overs has it; returns NAME.json.

    Steps for which the GPU was held back are left out: such a log knows nothing of that.
    """
    facts = json.loads(run.read_text(encoding="utf-8"))
    held = []
    for key in ("cells", "prefills", "mixed"):
        entries = facts.get(key, [])
        held += [(entry["start_us"], entry["end_us"]) for entry in entries if entry.get("held_ms")]
        facts[key] = [entry for entry in entries if not entry.get("held_ms")]
    path = folder / run.name
    path.write_text(json.dumps(facts), encoding="utf-8")
    steps, requests = (run.with_name(f"{run.stem}_{kind}.csv.gz") for kind in ("steps", "requests"))
    with (
        gzip.open(steps, "rt", encoding="utf-8", newline="") as full,
        gzip.open(folder / steps.name, "wt", encoding="utf-8", newline="") as bare,
    ):
        writer = csv.DictWriter(bare, BARE, extrasaction="ignore")
        writer.writeheader()
        for row in csv.DictReader(full):
            at = float(row["scheduled_us"])
            if row.get("held") != "1" and not any(first <= at <= last for first, last in held):
                writer.writerow(row)
    if requests.exists():
        copy(requests, folder)
    return path


def _imported(*sources: Source) -> MeasuredProfile:
    return import_steps(sources, {})[0]


def _without(path: Path, traffic: int) -> MeasuredProfile:
    """Fit as the shipped profile is, but for one traffic of the default engine."""
    names = ("no_graphs", "eager")
    runs = [read_recorded(path), *(read_recorded(FIRST_RUNS / f"{name}.json") for name in names)]
    runs.append(read_recorded(RUNS / "padded8b.json"))
    used = [~runs[0].of_span(runs[0].traffic[traffic].span)]
    used += [run.within("cell", "prefill") for run in runs[1:]]
    return profile_of(runs, used, hosts=[True, True, True, False])[0]


def validated(case: Case, run: RecordedRun) -> RecordedValidation:
    """Return a case's validation under the run's own pool."""
    traffic = traffic_of(run, case.traffic)
    workload = recorded_workload(run, traffic, "imported.json")
    pool = workload_pool(workload.pool, workload.engine, case.profile).pool
    return validate_recorded(run, traffic, workload, case.profile, pool, REPLICATIONS)


def table() -> str:
    """Return the Markdown table of docs/fidelity.md."""
    header = " | ".join(name for name, _, _ in COLUMNS)
    lines = [f"| run, traffic | measured TPOT ms | {header} |", "|---|---" + "|---" * len(COLUMNS) + "|"]
    group, errors = "", []
    runs: dict[Path, RecordedRun] = {}
    for case in cases():
        if case.group != group:
            lines += _summary(errors)
            group, errors = case.group, []
            lines.append(f"| **{group}** |" + " |" * (len(COLUMNS) + 1))
        if case.path not in runs:
            runs[case.path] = read_recorded(case.path)
        validation = validated(case, runs[case.path])
        row = [validation.latencies[metric][statistic]["error"] for _, metric, statistic in COLUMNS]
        errors.append(row)
        measured = validation.latencies["tpot_ms"]["mean"]["measured"]
        cells = " | ".join(f"{100 * error:+.1f} %".replace("-", "−") for error in row)
        lines.append(f"| {case.path.stem}, {case.traffic} | {measured:.2f} | {cells} |")
    return "\n".join([*lines, *_summary(errors)]) + "\n"


def _summary(errors: list[list[float]]) -> list[str]:
    if not errors:
        return []
    sizes = 100 * np.abs(np.array(errors))
    cells = " | ".join(
        f"{mean:.1f} / {worst:.1f} %" for mean, worst in zip(sizes.mean(0), sizes.max(0), strict=True)
    )
    return [f"| mean / worst size | | {cells} |"]


if __name__ == "__main__":
    print(table(), end="")
