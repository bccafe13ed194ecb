"""Predicted against executed: the same requests through the cost model and through real execution.

The executed steps are logged and fed back through the loop, which must then decide exactly as it did: the
same batches, routes and times in the same order. What remains between prediction and execution is the cost
model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from scheduler.analysis.metrics import latencies_ms, measured_requests, summarize
from scheduler.analysis.statistics.intervals import weighted_percentile
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.executor import Executor
from scheduler.engine.records import Run, StepRecords
from scheduler.executors.step_log import LogExecutor, RecordingExecutor, Section
from scheduler.simulate import Variant, high_end, simulate
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
_DIFFERENCES = ("mean_itl_ms", "median_tpot_ms", "p99_itl_ms", "output_throughput")

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class VariantFidelity:
    """One variant as executed and as predicted, at the high end too where the profile's range matters.

    `same_decisions`: fed the executed step times, the loop decides as it did. `section` is the step log.
    """

    name: str
    executed: Metrics
    predicted: Metrics
    predicted_high: Metrics | None
    same_decisions: bool
    failure: str | None
    section: Section

    @property
    def error(self) -> Metrics:
        """Predicted / executed − 1."""
        return relative_errors(self.executed, self.predicted)

    @property
    def error_high(self) -> Metrics | None:
        """The same at the high end of the profile's range."""
        return None if self.predicted_high is None else relative_errors(self.executed, self.predicted_high)

    def record(self) -> dict[str, object]:
        """Return everything but the step log as JSON."""
        record: dict[str, object] = {
            "executed": self.executed,
            "predicted": self.predicted,
            "error": self.error,
            "same_decisions": self.same_decisions,
            "failure": self.failure,
        }
        if self.predicted_high is not None:
            record |= {"predicted_high": self.predicted_high, "error_high": self.error_high}
        return record


@dataclass(frozen=True, slots=True)
class VariantDifference:
    """How far a variant's metric lies from the first variant's: other / base − 1, measured and predicted."""

    base: str
    other: str
    metric: str
    measured: float
    predicted: float

    @property
    def same_sign(self) -> bool | None:
        """Whether both lie on the same side; None where both are ties."""
        if max(abs(self.measured), abs(self.predicted)) < TIE:
            return None
        return (self.measured > 0) == (self.predicted > 0)

    def record(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "from": self.base,
            "to": self.other,
            "metric": self.metric,
            "measured": self.measured,
            "predicted": self.predicted,
            "same_sign": self.same_sign,
        }


@dataclass(frozen=True, slots=True)
class Fidelity:
    """A workload's variants, executed and predicted; the first is what the others are compared with."""

    workload: str
    variants: list[VariantFidelity]

    @property
    def differences(self) -> list[VariantDifference]:
        """Every later variant against the first, by the metrics that both have."""
        base, *others = self.variants
        found = []
        for other in others:
            for metric in _DIFFERENCES:
                ends = [
                    second[metric] / first[metric] - 1
                    for first, second in (
                        (base.executed, other.executed),
                        (base.predicted, other.predicted),
                    )
                    if first.get(metric) and metric in second
                ]
                if len(ends) == 2:
                    found.append(VariantDifference(base.name, other.name, metric, *ends))
        return found

    def record(self) -> dict[str, object]:
        """Return everything but the step logs as JSON."""
        return {
            "workload": self.workload,
            "variants": {variant.name: variant.record() for variant in self.variants},
            "differences": [difference.record() for difference in self.differences],
        }


def predict_and_execute(
    workload: Workload,
    requests: Requests,
    profile: Profile,
    variants: Sequence[Variant],
    open_executor: Callable[[], Executor],
    done: Callable[[VariantFidelity], None] = lambda found: None,
) -> Fidelity:
    """Run every variant for real and by the profile; `done` hears of each as it is finished.

    `open_executor` gives a real executor with an empty batch.
    """
    results = []
    for variant in variants:
        section = Section(variant.name, 0)
        executed = simulate(
            workload, requests, profile, variant, executor=RecordingExecutor(open_executor(), section)
        )
        predicted = simulate(workload, requests, profile, variant)
        again = simulate(workload, requests, profile, variant, executor=LogExecutor(section))
        high = high_end(profile, variant, [predicted])
        found = VariantFidelity(
            variant.name,
            compared_metrics(executed),
            compared_metrics(predicted),
            None if high is None else compared_metrics(simulate(workload, requests, profile, high)),
            same_steps(executed.steps, again.steps),
            executed.failure,
            section,
        )
        results.append(found)
        done(found)
    return Fidelity(workload.name, results)


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
