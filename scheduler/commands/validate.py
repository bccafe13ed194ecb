"""`run.py validate WORKLOAD --measured FILE`: a measured run beside the simulation of the same requests."""

from __future__ import annotations

import sys
from pathlib import Path

from scheduler.analysis.fidelity.measured import STATISTICS, Validation, read_ticks, validate
from scheduler.commands.options import ValidateOptions
from scheduler.commands.run import chosen_pools, workload_profile
from scheduler.files import check_folder, write_json
from scheduler.report.card import aligned
from scheduler.report.wording import number_text, percent_text
from scheduler.simulate import Variant
from scheduler.workload.file.loader import load_workload
from scheduler.workload.inputs.door import read_measured

ENOUGH_FOR_P99 = 1_000  # ten samples beyond it


def run_validate(workload_file: Path, options: ValidateOptions) -> int:
    """Simulate the measured requests, print and write measured | simulated | error; return 0."""
    measured = read_measured(options.measured)
    workload = load_workload(workload_file, options.settings, options.measured)
    folder = options.out or Path("results") / f"{workload.name}-validate"
    check_folder(folder, ("validate.json", "validate.png"))
    profile = workload_profile(workload)
    pool = chosen_pools(workload, profile, ())[0]
    ticks = None if options.ticks is None else read_ticks(options.ticks)
    validation = validate(workload, profile, Variant(pool.name, pool.pool, "fallback"), measured, ticks)
    result = {
        "workload": workload.name,
        "profile": workload.engine.profile if isinstance(workload.engine.profile, str) else "inline",
        "pool": list(pool.pool.sizes),
        "requests": len(measured.requests),
        "metrics": validation.metrics,
        "samples": validation.samples,
        "paired": validation.paired,
        "over_time": validation.over_time,
    }
    if options.plots:
        _draw(validation, folder / "validate.png")
    write_json(folder / "validate.json", result)
    if options.json:
        sys.stdout.write((folder / "validate.json").read_text(encoding="utf-8"))
    else:
        sys.stdout.write(validation_text(validation, pool.origin))
    return 0


def validation_text(validation: Validation, pool_origin: str) -> str:
    """Return the table measured | simulated | error, with sample counts and per-request errors."""
    measured = validation.measured
    rows = [["", "measured", "simulated", "error", "samples"]]
    for name in ("ttft_ms", "tpot_ms", "e2el_ms"):
        for statistic in STATISTICS:
            if statistic in validation.metrics[name]:
                label = f"{name.removesuffix('_ms').upper()} {statistic} ms"
                numbers = _numbers(validation.metrics[name][statistic])
                samples = validation.samples[name]
                few = statistic == "p99" and samples < ENOUGH_FOR_P99
                rows.append([label, *numbers, f"{'only ' if few else ''}{samples:,}"])
    rows.append(["Makespan s", *_numbers(validation.metrics["makespan_s"]), ""])
    rows.append(["Output throughput tok/s", *_numbers(validation.metrics["output_throughput"]), ""])
    lines = [
        f"{validation.workload.name}: {len(measured.requests):,} measured requests, pool {pool_origin}",
        "",
        *aligned(rows),
        "",
    ]
    for name, errors in validation.paired.items():
        lines.append(
            f"per request, {name.removesuffix('_ms').upper()}: "
            f"median error {percent_text(errors['median_error'])}, "
            f"mean absolute {100 * errors['mean_absolute_error']:.1f} %, 90 % of requests within "
            f"{100 * errors['p90_absolute_error']:.1f} % ({errors['requests']} requests)"
        )
    for name, errors in validation.over_time.items():
        lines.append(
            f"over time, {name}: mean {number_text(errors['measured'])} measured, "
            f"{number_text(errors['simulated'])} simulated; mean absolute difference "
            f"{number_text(errors['mean_absolute_difference'])} ({errors['ticks']} ticks)"
        )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _draw(validation: Validation, path: Path) -> None:
    """Draw the CDFs and, where the server's own ticks are known, what ran over time."""
    from scheduler.report import plots
    from scheduler.report.plots.fidelity import Series

    ticks = validation.ticks
    timelines = {}
    if ticks is not None:
        for name, (measured, simulated) in validation.timelines.items():
            label = "KV cache use (%)" if name == "kv_cache_pct" else f"{name} requests"
            timelines[label] = (Series(ticks.time_s, measured), Series(ticks.time_s, simulated))
    plots.save_png(plots.measured_and_simulated(validation.distributions, timelines), path)


def _numbers(values: dict[str, float]) -> list[str]:
    return [number_text(values["measured"]), number_text(values["simulated"]), percent_text(values["error"])]
