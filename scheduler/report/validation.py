"""A measured run beside the simulation of the same requests: the table and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scheduler.analysis.fidelity.measured import STATISTICS, Compared, Validation
from scheduler.analysis.fidelity.recorded import LATENCIES, RecordedValidation
from scheduler.analysis.fidelity.teacher import Residual
from scheduler.report.wording import aligned, count_text, number_text, percent_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENOUGH_FOR_P99 = 1_000  # ten samples beyond it


def validation_text(validation: Validation, pool_origin: str) -> str:
    """Return the table measured | simulated | error, with sample counts and per-request errors."""
    measured = validation.measured
    rows = [["", "measured", "simulated", "error", "samples"]]
    for name in ("ttft_ms", "tpot_ms", "e2el_ms"):
        for statistic in STATISTICS:
            if statistic in validation.latencies[name]:
                label = f"{name.removesuffix('_ms').upper()} {statistic} ms"
                numbers = _numbers(validation.latencies[name][statistic])
                samples = validation.samples[name]
                few = statistic == "p99" and samples < ENOUGH_FOR_P99
                rows.append([label, *numbers, f"{'only ' if few else ''}{samples:,}"])
    rows.append(["Makespan s", *_numbers(validation.totals["makespan_s"]), ""])
    rows.append(["Output throughput tok/s", *_numbers(validation.totals["output_throughput"]), ""])
    lines = [
        f"{validation.workload.name}: {len(measured.requests):,} measured requests, pool {pool_origin}",
        *(f"  {note}" for note in measured.requests.notes[1:]),
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


def validation_figure(validation: Validation) -> Figure:
    """Draw the CDFs and, where the server's own ticks are known, what ran over time."""
    from scheduler.report import plots
    from scheduler.report.plots.fidelity import Series

    ticks = validation.ticks
    timelines = {}
    if ticks is not None:
        for name, (measured, simulated) in validation.timelines.items():
            label = "KV cache use (%)" if name == "kv_cache_pct" else f"{name} requests"
            timelines[label] = (Series(ticks.time_s, measured), Series(ticks.time_s, simulated))
    return plots.measured_and_simulated(validation.distributions, timelines)


def recorded_text(validation: RecordedValidation, run: str, traffic: int, pool_origin: str) -> str:
    """Return the table of a recorded traffic, how each kind of step was used, and a verdict line."""
    rows = [["", "measured", "simulated", "error", "samples"]]
    for name in LATENCIES:
        for statistic, numbers in validation.latencies[name].items():
            samples = validation.samples[name]
            few = "only " if statistic == "p99" and samples < ENOUGH_FOR_P99 else ""
            label = f"{name.removesuffix('_ms').upper()} {statistic} ms"
            rows.append([label, *_numbers(numbers), f"{few}{samples:,}"])
    rows.append(["Output throughput tok/s", *_numbers(validation.throughput), ""])
    shares = [["share of", "steps measured", "simulated", "time measured", "simulated"]]
    for name, use in validation.modes.items():
        cells = (use.steps["measured"], use.steps["simulated"], use.time["measured"], use.time["simulated"])
        shares.append([name, *(f"{100 * share:.1f} %" for share in cells)])
    replications = count_text(validation.replications, "replication")
    lines = [
        f"{run}, traffic {traffic}: {validation.requests:,} recorded requests, pool {pool_origin}, "
        f"{replications} simulated (mean TPOT {validation.spread[0]:.2f} to {validation.spread[1]:.2f} ms)",
        "",
        *aligned(rows),
        "",
        *aligned(shares),
        "",
        _verdict(validation),
        *_drift(validation),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _verdict(validation: RecordedValidation) -> str:
    """Say within what the simulation is: the worst of the means, and of the percentiles."""
    errors = {
        kind: max(
            (abs(numbers[statistic]["error"]), f"{name.removesuffix('_ms').upper()} {statistic}")
            for name, numbers in validation.latencies.items()
            for statistic in numbers
            if (statistic == "mean") == (kind == "means")
        )
        for kind in ("means", "percentiles")
    }
    tpot = validation.latencies["tpot_ms"]["mean"]["error"]
    parts = [f"{kind} within {100 * worst:.1f} % ({name})" for kind, (worst, name) in errors.items()]
    return f"verdict: mean TPOT {percent_text(tpot)}; {'; '.join(parts)}"


def _drift(validation: RecordedValidation) -> list[str]:
    """Say what the profile's host would make of another engine or another minute."""
    if validation.drifted is None:
        return []
    fast, slow = validation.drifted["tpot_ms"]
    numbers = validation.latencies["tpot_ms"]["mean"]
    inside = "inside" if fast <= numbers["measured"] <= slow else "outside"
    return [
        f"host drift: mean TPOT {fast:.2f} to {slow:.2f} ms with a host one standard deviation of its drift "
        f"faster and slower; {numbers['measured']:.2f} ms measured is {inside}"
    ]


def teacher_text(found: Sequence[Residual]) -> str:
    """Return the table of teacher forcing: step times by mode and the mode before, without feedback."""
    rows = [["the measured steps replayed", "after", "steps", "measured ms", "model ms", "error"]]
    for one in found:
        numbers = (f"{one.steps:,}", f"{one.measured_ms:.2f}", f"{one.model_ms:.2f}", percent_text(one.error))
        rows.append([one.mode, one.before, *numbers])
    return "\n" + "\n".join(line.rstrip() for line in aligned(rows)) + "\n"


def recorded_figure(validation: RecordedValidation) -> Figure:
    """Draw the CDFs of all four latencies."""
    from scheduler.report import plots

    return plots.measured_and_simulated(validation.distributions)


def _numbers(values: Compared) -> list[str]:
    return [number_text(values["measured"]), number_text(values["simulated"]), percent_text(values["error"])]
