"""Predicted against executed: the same requests through the cost model and through real execution.

The executed steps are logged and fed back through the loop, which must then decide exactly as it did: the
same batches, routes and times in the same order. What remains between prediction and execution is the cost
model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from scheduler.analysis.metrics import latencies_ms, measured_requests, summarize
from scheduler.analysis.statistics.intervals import weighted_percentile
from scheduler.engine.executor import Executor
from scheduler.engine.loop import Run
from scheduler.engine.records import StepRecords
from scheduler.executors.step_log import LogExecutor, RecordingExecutor, Section
from scheduler.simulate import AnyProfile, Variant, high_end, simulate
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

COMPARED = (
    "output_throughput",
    "duration",
    "mean_tpot_ms",
    "median_tpot_ms",
    "p99_tpot_ms",
    "mean_itl_ms",
    "p99_itl_ms",
    "mean_e2el_ms",
    "time_mean_batch_size",
    "replay_share",
    "steps",
)
TIE = 0.01
"""Differences of less than this share, measured and predicted, have no sign worth comparing."""
HEADLINE = ("output_throughput", "median_tpot_ms", "p99_tpot_ms", "p99_itl_ms")


def predict_and_execute(
    workload: Workload,
    requests: Requests,
    profile: AnyProfile,
    variants: Sequence[Variant],
    open_executor: Callable[[], Executor],
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run every variant for real and by the profile; return metrics, relative errors, and pool differences.

    `open_executor` gives a real executor with an empty batch. In the result: `variants` (per name: executed,
    predicted, error, same_decisions, failure, section), `differences` (per pair of variants and metric:
    measured and predicted relative difference, same_sign).
    """
    results: dict[str, Any] = {}
    for variant in variants:
        section = Section(variant.name, 0)
        executed = simulate(
            workload, requests, profile, variant, executor=RecordingExecutor(open_executor(), section)
        )
        predicted = simulate(workload, requests, profile, variant)
        again = simulate(workload, requests, profile, variant, executor=LogExecutor(section))
        result = results[variant.name] = _compared(executed, predicted, again, section)
        high = high_end(profile, variant, [predicted])
        if high is not None:
            result["predicted_high"] = compared_metrics(simulate(workload, requests, profile, high))
            result["error_high"] = relative_errors(result["executed"], result["predicted_high"])
        for line in fidelity_lines(variant.name, results[variant.name]):
            say(line)
    return {"workload": workload.name, "variants": results, "differences": _differences(results)}


def _compared(executed: Run, predicted: Run, again: Run, section: Section) -> dict[str, Any]:
    measured, modelled = compared_metrics(executed), compared_metrics(predicted)
    return {
        "executed": measured,
        "predicted": modelled,
        "error": relative_errors(measured, modelled),
        "same_decisions": same_steps(executed.steps, again.steps),
        "failure": executed.failure,
        "section": section,
    }


def compared_metrics(run: Run) -> dict[str, float]:
    """Return the compared metrics; the percentiles even of few requests, because both sides have the same."""
    summary = summarize(run, {})
    tpot = latencies_ms(run.requests, measured_requests(run.requests, 0))["tpot"]
    if len(tpot):
        summary["p99_tpot_ms"] = np.percentile(tpot, 99)
    if len(run.gaps.gap_ns):
        summary["p99_itl_ms"] = weighted_percentile(run.gaps.gap_ns / 1e6, run.gaps.count, [99.0])[0]
    return {key: float(summary[key]) for key in COMPARED if key in summary}


def relative_errors(measured: Mapping[str, float], predicted: Mapping[str, float]) -> dict[str, float]:
    """Return predicted / measured − 1 for every metric both have; a measured 0 has no relative error."""
    return {key: predicted[key] / value - 1 for key, value in measured.items() if value and key in predicted}


def same_steps(one: StepRecords, other: StepRecords) -> bool:
    """Tell whether two runs took the same steps (batch, route, KV, kind) at the same times."""
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(StepRecords)
    )


def _differences(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare every later variant with the first: the measured difference beside the predicted one."""
    names = list(results)
    rows = []
    for name in names[1:]:
        base = names[0]
        for metric in ("mean_itl_ms", "median_tpot_ms", "p99_itl_ms", "output_throughput"):
            ends = []
            for side in ("executed", "predicted"):
                first, second = results[base][side].get(metric), results[name][side].get(metric)
                if first and second is not None:
                    ends.append(second / first - 1)
            if len(ends) == 2:
                tie = max(abs(ends[0]), abs(ends[1])) < TIE
                same_sign = None if tie else (ends[0] > 0) == (ends[1] > 0)
                rows.append(
                    {
                        "from": base,
                        "to": name,
                        "metric": metric,
                        "measured": ends[0],
                        "predicted": ends[1],
                        "same_sign": same_sign,
                    }
                )
    return rows


def fidelity_lines(name: str, result: Mapping[str, Any]) -> list[str]:
    """Say what was executed, what was predicted and by how much it was off."""
    lines = [f"{name}: executed | predicted | error"]
    for key in ("steps", "time_mean_batch_size", *HEADLINE, "mean_itl_ms"):
        if key in result["executed"] and key in result["predicted"]:
            error = result["error"].get(key)
            shown = "" if error is None else f"{error:+.1%}"
            lines.append(
                f"  {key:22} {result['executed'][key]:12.4f} | {result['predicted'][key]:12.4f} | {shown}"
            )
    if "error_high" in result:
        errors = result["error_high"]
        high = ", ".join(f"{key} {errors[key]:+.1%}" for key in HEADLINE if key in errors)
        lines.append(f"  at the high end of the profile's range: {high}")
    lines.append(
        f"  same decisions when fed the executed step times: {'yes' if result['same_decisions'] else 'NO'}"
    )
    if result["failure"]:
        lines.append(f"  stopped early: {result['failure']}")
    return lines


def difference_lines(differences: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say each difference between two variants, measured and predicted."""
    verdict = {True: "", False: " (WRONG SIGN)", None: " (a tie)"}
    return [
        f"{row['to']} against {row['from']}, {row['metric']}: measured {row['measured']:+.1%}, "
        f"predicted {row['predicted']:+.1%}{verdict[row['same_sign']]}"
        for row in differences
    ]
