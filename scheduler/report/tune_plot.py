"""The tuner's answer as the plot's view: what each further graph buys, presets as points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler.analysis.tuning.answer import TuningAnswer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tuning_figure(answer: TuningAnswer) -> Figure:
    """Draw the curve of a closed-loop answer."""
    from scheduler.report import plots
    from scheduler.report.plots.decisions import NamedPoint, TunedPool, TuningCurve

    goal = answer.objective
    curve = TuningCurve(
        objective=f"{_words(goal.name)} ({goal.unit})",
        pools=tuple(
            TunedPool(
                point.graphs,
                point.value,
                graph_memory_bytes=point.graph_memory_bytes,
                capture_s=point.capture_s,
            )
            for point in answer.curve
        ),
        presets=tuple(
            NamedPoint(preset.name, preset.graphs, preset.value)
            for preset in answer.presets
            if preset.value is not None
        ),
        knee=answer.knee,
        without_graphs=next((point.value for point in answer.curve if point.graphs == 0), None),
    )
    return plots.tuning_curve(curve)


def _words(objective: str) -> str:
    """Return `mean_tpot` as `mean TPOT`."""
    metrics = ("ttft", "tpot", "itl", "e2el")
    return " ".join(word.upper() if word in metrics else word for word in objective.split("_"))
