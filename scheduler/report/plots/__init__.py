"""Pictures for people who did not read the documentation. The only place that imports matplotlib."""

from scheduler.report.plots.batches import batch_histogram, graph_use_bars
from scheduler.report.plots.decisions import pareto, sweep_curves, tuning_curve
from scheduler.report.plots.fidelity import measured_and_simulated
from scheduler.report.plots.latency import latency_ecdf
from scheduler.report.plots.over_time import over_time
from scheduler.report.plots.step_times import step_time
from scheduler.report.plots.style import save_png, to_svg

__all__ = [
    "batch_histogram",
    "graph_use_bars",
    "latency_ecdf",
    "measured_and_simulated",
    "over_time",
    "pareto",
    "save_png",
    "step_time",
    "sweep_curves",
    "to_svg",
    "tuning_curve",
]
