"""Simulated against measured: distributions and what ran over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scheduler.report.plots.latency import TITLES, quantile_curve
from scheduler.report.plots.style import EAGER, GRAPH, Style, log_axis, new_figure, percent_axis, styled
from scheduler.report.views import WeightedValues

Float = NDArray[np.float64]
_MEASURED: Style = {"color": EAGER, "linestyle": "--"}
_SIMULATED: Style = {"color": GRAPH, "linestyle": "-"}


@dataclass(frozen=True, slots=True)
class Series:
    """A number over time (running or waiting requests), measured or simulated."""

    time_s: Float
    value: Float


@styled
def measured_and_simulated(
    distributions: Mapping[str, tuple[Float, Float]],
    timelines: Mapping[str, tuple[Series, Series]] | None = None,
) -> Figure:
    """Draw the ECDF of each metric (ttft, tpot, e2el; ms), measured dashed and simulated solid.

    Both mappings hold (measured, simulated). `timelines` maps a label with its unit to two series.
    """
    shown = {metric: pair for metric, pair in distributions.items() if len(pair[0]) and len(pair[1])}
    timelines = timelines or {}
    figure = new_figure(0.4 + 4.2 * max(1, len(shown)), 3.9 + 2.0 * len(timelines))
    rows: Any = figure.subfigures(2, 1, height_ratios=[3.6, 2.0 * len(timelines)]) if timelines else [figure]
    panels = rows[0].subplots(1, max(1, len(shown)), sharey=True, squeeze=False)[0]
    for ax, (metric, (measured, simulated)) in zip(panels, shown.items(), strict=False):
        for values, style in ((measured, _MEASURED), (simulated, _SIMULATED)):
            ax.plot(*quantile_curve(WeightedValues(np.asarray(values, float))), **style)
        _axis_of(ax, measured, simulated)
        ax.set_title(f"{TITLES[metric]} ({_error(measured, simulated)})", fontsize=9.5)
        ax.set_xlabel(f"{metric.upper()} (ms)")
    panels[0].set_ylabel("share of requests at most this")
    percent_axis(panels[0])
    if timelines:
        _timelines(rows[1].subplots(len(timelines), 1, sharex=True, squeeze=False)[:, 0], timelines)
    handles = [panels[0].plot([], [], label=label, **style)[0] for label, style in _BOTH]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


_BOTH = (("measured", _MEASURED), ("simulated", _SIMULATED))


def _axis_of(ax: Any, measured: Float, simulated: Float) -> None:
    positive = np.concatenate([measured, simulated])
    positive = positive[positive > 0]
    if len(positive):
        low, high = float(positive.min()), float(positive.max())
        log_axis(ax, "x", *((low, high) if low < high else (low / 1.5, high * 1.5)))
    ax.set_ylim(0, 1.01)


def _error(measured: Float, simulated: Float) -> str:
    """Return the relative errors of p50 and p99 in words."""
    errors = []
    for percentile in (50, 99):
        truth, ours = (float(np.percentile(values, percentile)) for values in (measured, simulated))
        if truth:
            errors.append(f"p{percentile} {100 * (ours / truth - 1):+.1f} %".replace("-", "−"))
    return ", ".join(errors)


def _timelines(panels: Sequence[Any], timelines: Mapping[str, tuple[Series, Series]]) -> None:
    for ax, (label, pair) in zip(panels, timelines.items(), strict=True):
        for series, (_, style) in zip(pair, _BOTH, strict=True):
            every = max(1, len(series.time_s) // 1000)
            ax.plot(series.time_s[::every], series.value[::every], **style, linewidth=1.2)
        ax.set_ylabel(label)
        ax.set_ylim(bottom=0)
    panels[-1].set_xlabel("time (s)")
