"""`run.py validate`: a measured server or a recorded engine beside the simulation of the same requests."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from scheduler.analysis.fidelity.measured import read_ticks, validate
from scheduler.analysis.fidelity.recorded import recorded_workload, traffic_of, validate_recorded
from scheduler.analysis.fidelity.teacher import residuals
from scheduler.catalog.importers.recorded_run import read_recorded
from scheduler.catalog.profile.file import load_profile
from scheduler.commands.options import ValidateOptions
from scheduler.commands.profile import overrides_of
from scheduler.commands.run import chosen_pools, workload_profile
from scheduler.engine.executor import PipelinedExecutor
from scheduler.errors import InputError
from scheduler.files import check_folder, write_json
from scheduler.report.outputs import save_figures
from scheduler.report.validation import (
    recorded_figure,
    recorded_text,
    teacher_text,
    validation_figure,
    validation_text,
)
from scheduler.simulate import Variant, draft_cost, variant_model
from scheduler.workload.file.loader import load_workload
from scheduler.workload.inputs.door import read_measured

MOST_REPLICATIONS = 100


def run_validate(workload_file: Path | None, options: ValidateOptions) -> int:
    """Simulate the measured requests, print and write measured | simulated | error; return 0."""
    if options.run is not None:
        return _run_recorded(workload_file, options.run, options)
    if workload_file is None or options.measured is None:
        raise InputError("validate: expected WORKLOAD --measured FILE, or --run RUN.json --profile PROFILE")
    if options.profile is not None or options.pool or options.teacher:
        raise InputError("--profile, --pool, --teacher: expected only with --run RUN.json")
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


def _run_recorded(workload_file: Path | None, path: Path, options: ValidateOptions) -> int:
    """Simulate a recorded traffic with the engine that ran it, or with another pool."""
    if workload_file is not None or options.measured is not None or options.ticks is not None:
        raise InputError("--run: expected no workload file, --measured or --ticks; all comes from the run")
    if options.profile is None:
        raise InputError("--run: expected --profile, a shipped profile or a profile file")
    if not 1 <= options.replications <= MOST_REPLICATIONS:
        raise InputError(f"--replications: expected 1 to {MOST_REPLICATIONS}, got {options.replications}")
    run = read_recorded(path)
    traffic = traffic_of(run, options.traffic)
    profile = load_profile(options.profile).of_its_host()
    workload = recorded_workload(run, traffic, options.profile, engine_changes(options.settings))
    folder = options.out or Path("results") / f"{workload.name}-{options.traffic}-validate"
    check_folder(folder, ("validate.json", "validate.png"))
    pool = chosen_pools(workload, profile, options.pool)[-1]
    validation = validate_recorded(run, traffic, workload, profile, pool.pool, options.replications)
    own = pool.pool.sizes == run.engine.capture_sizes
    result: dict[str, object] = {
        "run": run.name,
        "traffic": options.traffic,
        "profile": profile.name,
        "pool": list(pool.pool.sizes),
        "requests": validation.requests,
        "replications": validation.replications,
        "metrics": {**validation.latencies, "throughput": validation.throughput},
        "samples": validation.samples,
        "modes": {
            name: {"steps": use.steps, "time": use.time} for name, use in sorted(validation.modes.items())
        },
    }
    if validation.drifted is not None:
        result["host_drift"] = {
            name: {"faster_host": fast, "slower_host": slow}
            for name, (fast, slow) in validation.drifted.items()
        }
    text = recorded_text(validation, run.name, options.traffic, pool.origin if not own else "the run's own")
    if options.teacher:
        variant = Variant("run", pool.pool, "eager" if run.engine.eager else "fallback")
        drawn = [variant_model(workload, profile, variant, r) for r in range(options.replications)]
        models = [model for model in drawn if isinstance(model, PipelinedExecutor)]
        if not models:
            raise InputError(f"--teacher: expected a profile of version 2, {profile.name} knows no parts")
        settings = workload.engine.speculation
        drafting = None
        if settings is not None and settings.draft_tokens:
            drafting = draft_cost(settings, profile, variant)
        found = residuals(run, traffic.span, models, drafting)
        result["teacher"] = [{**asdict(residual), "error": residual.error} for residual in found]
        text += teacher_text(found)
    if options.plots:
        save_figures({"validate": recorded_figure(validation)}, folder)
    write_json(folder / "validate.json", result)
    if options.json:
        sys.stdout.write((folder / "validate.json").read_text(encoding="utf-8"))
    else:
        sys.stdout.write(text)
    return 0


def engine_changes(settings: Sequence[str]) -> dict[str, object]:
    """Return what `--set engine.KEY=VALUE` changes of a run's engine; raises InputError for other keys."""
    changes = {}
    for key, value in overrides_of(settings).items():
        if not key.startswith("engine."):
            raise InputError(f"--set {key}: expected engine.KEY with --run; the rest comes from the run")
        changes[key.removeprefix("engine.")] = value
    return changes
