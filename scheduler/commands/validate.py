"""`run.py validate WORKLOAD --measured FILE`: a measured run beside the simulation of the same requests."""

from __future__ import annotations

import sys
from pathlib import Path

from scheduler.analysis.fidelity.measured import read_ticks, validate
from scheduler.commands.options import ValidateOptions
from scheduler.commands.run import chosen_pools, workload_profile
from scheduler.files import check_folder, write_json
from scheduler.report.outputs import save_figures
from scheduler.report.validation import validation_figure, validation_text
from scheduler.simulate import Variant
from scheduler.workload.file.loader import load_workload
from scheduler.workload.inputs.door import read_measured


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
        "metrics": {**validation.latencies, **validation.totals},
        "samples": validation.samples,
        "paired": validation.paired,
        "over_time": validation.over_time,
    }
    if options.plots:
        save_figures({"validate": validation_figure(validation)}, folder)
    write_json(folder / "validate.json", result)
    if options.json:
        sys.stdout.write((folder / "validate.json").read_text(encoding="utf-8"))
    else:
        sys.stdout.write(validation_text(validation, pool.origin))
    return 0
