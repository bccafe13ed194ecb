"""What a decode step takes by the profile, against the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scheduler.analysis.comparison.step_times import StepCurve, StepCurves
from scheduler.report.plots.style import (
    EAGER,
    GRAPH,
    NO_GRAPH,
    Style,
    legend_on_top,
    log_axis,
    log_ticks,
    panels_of,
    styled,
)

_STYLES: dict[str, Style] = {
    "eager": {"color": EAGER, "linestyle": "--", "marker": "s"},
    "fallback": {"color": NO_GRAPH, "linestyle": "-.", "marker": "^"},
    "graph": {"color": GRAPH, "linestyle": "-", "marker": "o"},
}
_NAMES = {"eager": "eager", "fallback": "no graph, same engine", "graph": "replayed graph, no padding"}

_ORIGINS = {"derived": " (derived)", "assumed": " (ASSUMED)"}


@styled
def step_time(curves: StepCurves, sizes: Sequence[int] = (), title: str = "") -> Figure:
    """Draw milliseconds per decode step against the batch size: eager, without a graph, in a graph.

    The title begins with `title`, else it says whose KV tokens these are. With the capture `sizes` of a pool
    also what a padded step takes: a staircase.
    """
    figure, grid = panels_of(11, 4.6)
    ax = grid[0, 0]
    for curve in curves.curves:
        style = _STYLES[curve.mode]
        label = _NAMES[curve.mode] + _ORIGINS.get(curve.origin, "")
        is_range = bool((curve.high_ms > curve.low_ms * 1.001).any())
        label += ", fast to slow host" if is_range else ""
        ax.plot(curve.batch, curve.low_ms, color=style["color"], linestyle=style["linestyle"], label=label)
        if is_range:
            ax.plot(curve.batch, curve.high_ms, color=style["color"], linestyle=style["linestyle"])
            ax.fill_between(
                curve.batch, curve.low_ms, curve.high_ms, color=style["color"], alpha=0.12, linewidth=0
            )
        if len(curve.measured):
            at = np.interp(curve.measured, curve.batch, curve.low_ms)
            ax.plot(curve.measured, at, style["marker"], color=style["color"], markersize=4.5)
    graph = next((curve for curve in curves.curves if curve.mode == "graph"), None)
    if graph is not None and sizes:
        _staircase(ax, graph, sizes)
    largest = max((int(curve.batch[-1]) for curve in curves.curves), default=1)
    log_axis(ax, "x", 1, max(2, largest))
    ax.set_xticks(log_ticks(0.99, max(2, largest)))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("batch size (sequences)")
    ax.set_ylabel("decode step (ms)")
    markers = "; markers: measured sizes" if any(len(curve.measured) for curve in curves.curves) else ""
    tokens = f"{curves.kv_tokens_per_row:,.0f} KV tokens per sequence"
    ax.set_title(f"{title}, {tokens}{markers}" if title else f"With {tokens}, as on average here{markers}")
    handles, labels = ax.get_legend_handles_labels()
    legend_on_top(figure, handles, labels, 4)
    return figure


def _staircase(ax: Any, graph: StepCurve, sizes: Sequence[int]) -> None:
    within = [size for size in sizes if size <= graph.batch[-1]]
    heights = np.interp(within, graph.batch, graph.low_ms)
    edges = np.array([0.94, *within], float)
    if len(within):
        ax.stairs(
            heights,
            edges,
            color=GRAPH,
            linewidth=1.0,
            alpha=0.8,
            baseline=None,
            label="padded to the pool's sizes",
        )
