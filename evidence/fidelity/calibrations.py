"""What `calibrate --engine vllm` foretold of its own traffics, and how its host drifted meanwhile.

`python -m evidence.fidelity.calibrations` prints the table of docs/your_engine.md, from the runs that the
command left on five H100 machines (evidence/data/your_engine_h100). Each traffic is predicted by a profile
fitted to everything but it; in the second column by one fitted to nothing of each engine's first 8 s either.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import evidence
from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.fidelity.recorded import recorded_workload, validate_recorded
from scheduler.catalog.importers.engine_steps.build import profile_of
from scheduler.catalog.importers.recorded_run import MODES, RecordedRun, Traffic, read_recorded
from scheduler.report.wording import percent_text

DATA = Path(evidence.__file__).parent / "data" / "your_engine_h100"
CALIBRATIONS = (
    ("8b", "8B, one GPU"),
    ("qwen", "0.6B, one GPU"),
    ("tp2", "8B, two GPUs"),
    ("8b_warm", "8B, one GPU, warmed up"),
    ("qwen_warm", "0.6B, one GPU, warmed up"),
    ("tp2_warm", "8B, two GPUs, warmed up"),
)
NAMES = ("chat", "even")
YOUNG_MS = 8_000.0
REPLICATIONS = 4


def error(runs: list[RecordedRun], traffic: Traffic, after_ms: float) -> tuple[float, float]:
    """Return the measured mean TPOT of a traffic of the first run, and the error of its prediction.

    Nothing of the traffic, no step of the first `after_ms` of a run and no shorter run is fitted to.
    """
    used = [run.steps.scheduled >= run.steps.scheduled[0] + after_ms for run in runs]
    used[0] &= ~runs[0].of_span(traffic.span)
    left = [k for k, run in enumerate(runs) if np.any(used[k] & run.within("cell", "prefill", "traffic"))]
    profile, _ = profile_of([runs[k] for k in left], [used[k] for k in left], {})
    workload = recorded_workload(runs[0], traffic, "fitted.json")
    pool = workload_pool(workload.pool, workload.engine, profile).pool
    found = validate_recorded(runs[0], traffic, workload, profile, pool, REPLICATIONS).latencies["tpot_ms"]
    return found["mean"]["measured"], found["mean"]["error"]


def launch_ms(run: RecordedRun, where: NDArray[np.bool_]) -> float:
    """Return the mean launch without a graph of some steps; NaN where there is none."""
    steps = run.steps
    here = where & (steps.mode == MODES.index("compiled"))
    took = (steps.launched - steps.dispatched)[here]
    return float(np.nanmean(took)) if len(took) else float("nan")


def table() -> str:
    """Return the table, a row per calibration and traffic."""
    lines = [
        "| calibrated | traffic | measured TPOT ms | error | error, fitted to nothing of the first 8 s "
        "| launch without a graph, ms: in the traffic | in the first 10 s of `own` | in `none` |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for folder, label in CALIBRATIONS:
        runs = [read_recorded(DATA / folder / f"{name}.json") for name in ("own", "none", "eager")]
        own, none = runs[:2]
        young = own.steps.scheduled < own.steps.scheduled[0] + 10_000
        for name, traffic in zip(NAMES, own.traffic, strict=False):
            measured, all_of_it = error(runs, traffic, 0.0)
            later = error(runs, traffic, YOUNG_MS)[1]
            launches = (
                launch_ms(own, own.of_span(traffic.span)),
                launch_ms(own, young & ~own.within("traffic")),
                launch_ms(none, np.ones(len(none.steps), bool)),
            )
            told = " | ".join("–" if np.isnan(ms) else f"{ms:.1f}" for ms in launches)
            errors = f"{percent_text(all_of_it)} | {percent_text(later)}"
            lines.append(f"| {label} | {name} | {measured:.2f} | {errors} | {told} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
