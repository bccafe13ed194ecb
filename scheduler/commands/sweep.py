"""`run.py sweep`: many points of one workload in parallel, and the highest rate that meets the SLO."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from scheduler.analysis.comparison.pools import NamedPool, named_pool, workload_pool
from scheduler.analysis.metrics import Record
from scheduler.analysis.sweep.axes import POOL_KEY, Axis, Combination, combinations, parse_axes
from scheduler.analysis.sweep.max_rate import require_searchable
from scheduler.analysis.sweep.over_replications import rate_rows
from scheduler.analysis.sweep.store import Store
from scheduler.analysis.sweep.sweep import Effort, Point, carry_out, collect, failures
from scheduler.analysis.sweep.task import setting_of
from scheduler.analysis.workers import Workers, WorkersLostError, open_workers
from scheduler.catalog.profile.profile import Profile
from scheduler.commands.options import SweepOptions
from scheduler.commands.run import chosen_pools, sampling, workload_profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.files import check_folder, write_json, write_text
from scheduler.report.flat_csv import csv_text
from scheduler.report.progress import progress_bar
from scheduler.report.sweep_text import max_rate_text, sweep_text
from scheduler.report.wording import count_text
from scheduler.simulate import HIGH, Variant
from scheduler.workload.file.loader import load_workload
from scheduler.workload.schema import Workload

PARTS = "sweep_parts"
RATE_KEYS = ("arrivals.rate_per_s", "arrivals.time_scale", "arrivals.stages")
EAGER = Variant("eager", GraphPool(), "eager")


@dataclass(slots=True)
class _Answer:
    """What a sweep found: a record per run, a row per point and variant of the rate searches."""

    runs: list[Record]
    rates: list[Record]
    rate_rows: list[Record]
    failure: str | None = None


def run_sweep(workload_file: Path, options: SweepOptions) -> int:
    """Sweep, write the result files, print the tables (or JSON); return the exit status.

    0; 2 where a point failed on its input (the others are complete); 3 where the workers were lost and
    130 after Ctrl-C, both with what is finished, each record marked `"partial": true`. Raises InputError
    where no point can be run at all.
    """
    axes = parse_axes(options.over)
    if not axes and not options.find_max_rate:
        raise InputError("sweep: expected --over KEY=V1,V2,… or --find-max-rate")
    if not 0 < options.slo_share <= 1:
        raise InputError(f"--slo-share: expected a share above 0 and at most 1, got {options.slo_share:g}")
    points = _points(workload_file, axes, options) if axes else []
    searched = []
    if options.find_max_rate:
        searched = _points(workload_file, [axis for axis in axes if axis.key not in RATE_KEYS], options)
        for point in searched:
            if point.setting is not None:
                require_searchable(point.setting.workload)
    folder = options.out or Path("results") / _name([*points, *searched])
    check_folder(folder, ("sweep.json", "sweep.csv", "max_rate.json"))
    answer = _answer(points, searched, axes, options, folder)
    _write(answer, axes, folder)
    if options.plots and not answer.failure:
        _draw(answer, axes, folder)
    _print(answer, axes, options)
    for line in failures([*answer.runs, *answer.rates]):
        print(f"error: {line}", file=sys.stderr)
    if answer.failure is not None:
        print(f"{answer.failure}; what is finished is kept, the same command goes on", file=sys.stderr)
        return 130 if answer.failure == "interrupted" else 3
    return 2 if any("error" in record for record in [*answer.runs, *answer.rates]) else 0


def _points(workload_file: Path, axes: Sequence[Axis], options: SweepOptions) -> list[Point]:
    """Resolve every combination; one that cannot be run keeps its error. Raises InputError if none can."""
    pool_values = [str(value.shown) for axis in axes if axis.key == POOL_KEY for value in axis.values]
    others = [axis for axis in axes if axis.key != POOL_KEY]
    points = [
        _point(combination, pool_values, workload_file, options) for combination in combinations(others)
    ]
    if all(point.problems for point in points):
        raise InputError(points[0].problems)
    return points


def _point(
    combination: Combination, pool_values: Sequence[str], workload_file: Path, options: SweepOptions
) -> Point:
    swept = dict(combination.settings)
    try:
        workload = load_workload(
            workload_file, (*options.overrides, *combination.overrides), options.trace, options.source_file
        )
        profile = workload_profile(workload, options.eager_ms)
        pools = _pools(workload, profile, pool_values, options.pools)
        replications, warmup_share = sampling(workload, options, is_real=False)
        setting = setting_of(workload, profile, warmup_share)
    except InputError as error:
        lines = [_as_over(line, combination) for line in error.lines]
        return Point(swept, problems=tuple(lines))
    variants = tuple(Variant(named.name, named.pool, "fallback") for named in pools)
    return Point(swept, setting, (*variants, EAGER), replications)


def _as_over(line: str, combination: Combination) -> str:
    """Let an error name the option the person wrote."""
    for key, _ in combination.settings:
        if line.startswith(f"--set {key}:"):
            return line.replace("--set", "--over", 1)
    return line


def _pools(
    workload: Workload, profile: Profile, swept: Sequence[str], further: tuple[str, ...]
) -> list[NamedPool]:
    """Return the pools to compare with eager: the workload's own or the swept ones, and those of `--pool`."""
    if not swept:
        return chosen_pools(workload, profile, further)
    own = workload_pool(workload.pool, workload.engine, profile)
    texts = [text for text in (*swept, *further) if text not in ("eager", "none")]
    pools = [named_pool(text, workload.engine, profile, own.pool) for text in texts]
    names = [pool.name for pool in pools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"--over pool: expected each pool once, got {twice} twice")
    return pools


def _name(points: Sequence[Point]) -> str:
    return next(point.setting.workload.name for point in points if point.setting is not None)


def _answer(
    points: Sequence[Point],
    searched: Sequence[Point],
    axes: Sequence[Axis],
    options: SweepOptions,
    folder: Path,
) -> _Answer:
    store = Store(folder / PARTS)
    runs = [list(point.simulations()) for point in points]
    searches = [list(point.rate_searches(options.slo_share)) for point in searched]
    errors: dict[str, str] = {}
    failure = None
    try:
        with open_workers(options.workers, options.dask) as workers, progress_bar() as progress:
            for what, tasks in (("simulations", runs), ("rate searches", searches)):
                if tasks:
                    effort = carry_out(chain(*tasks), workers, store, progress, what)
                    errors |= effort.errors
                    _say(what, effort, workers)
    except KeyboardInterrupt:
        failure = "interrupted"
    except WorkersLostError as error:
        failure = f"the workers were lost ({error})"
    answer = _Answer(collect(points, runs, store, errors), collect(searched, searches, store, errors), [])
    answer.failure = failure
    swept = _swept(axes, for_rates=True)
    answer.rate_rows = rate_rows(answer.rates, [key for key in swept if key != POOL_KEY])
    if any(axis.key == POOL_KEY for axis in axes):
        for record in [*answer.runs, *answer.rate_rows]:
            if "variant" in record:
                record[POOL_KEY] = record["variant"].removesuffix(HIGH)
    if failure is not None:
        for record in [*answer.runs, *answer.rate_rows]:
            record["partial"] = True
    return answer


def _swept(axes: Sequence[Axis], for_rates: bool = False) -> list[str]:
    return [axis.key for axis in axes if not (for_rates and axis.key in RATE_KEYS)]


def _say(what: str, effort: Effort, workers: Workers) -> None:
    """Tell on stderr what was done and how busy the workers were."""
    parts = [f"{effort.computed:,} {what} computed, {effort.reused:,} taken from earlier runs"]
    if effort.utilisation is not None:
        busy = f"busy {100 * effort.utilisation:.0f} % ({effort.cpu_s:.1f} CPU s)"
        parts.append(f"{effort.wall_s:.1f} s with {count_text(workers.count, 'worker')}, {busy}")
    print("; ".join(parts), file=sys.stderr)


def _write(answer: _Answer, axes: Sequence[Axis], folder: Path) -> None:
    if answer.runs:
        write_text(folder / "sweep.csv", csv_text(answer.runs, [*_swept(axes), "variant", "replication"]))
        write_json(folder / "sweep.json", answer.runs)
    if answer.rate_rows:
        write_json(folder / "max_rate.json", answer.rate_rows)


def _draw(answer: _Answer, axes: Sequence[Axis], folder: Path) -> None:
    """Draw the plots of the runs; eager is one line, though it is a value of every swept pool."""
    if any("error" not in record for record in answer.runs):
        from scheduler.report.sweep_plots import write_sweep_plots

        write_sweep_plots(answer.runs, [key for key in _swept(axes) if key != POOL_KEY], folder)


def _print(answer: _Answer, axes: Sequence[Axis], options: SweepOptions) -> None:
    if options.json:
        content = {"runs": answer.runs, "max_rates": answer.rate_rows}
        sys.stdout.write(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
        return
    swept = [key for key in _swept(axes) if key != POOL_KEY]
    tables = [
        sweep_text(answer.runs, swept),
        max_rate_text(answer.rate_rows, [key for key in swept if key not in RATE_KEYS]),
    ]
    sys.stdout.write("\n".join(table for table in tables if table))
