"""The report's panels: one small picture each, read at 360 pixels as on a desk; titles and legends are HTML.

Their colours become CSS variables (`to_svg`), so that a page shows them in light and dark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scheduler.report.over_time import over_time as cut
from scheduler.report.plots.latency import quantile_curve
from scheduler.report.plots.style import (
    GRAPH,
    LIMIT,
    NO_GRAPH,
    OTHER,
    PADDING,
    WAITING,
    Look,
    apply_style,
    log_axis,
    number,
    percent_axis,
)
from scheduler.report.views import BatchTime, View, WeightedValues

Parameters = ParamSpec("Parameters")


@dataclass(frozen=True, slots=True)
class RateCurve:
    """One variant's (arrivals per second, mean latency in ms, whether requests pile up) by rate."""

    look: Look
    points: tuple[tuple[float, float, bool], ...]


# A figure of 5 inches is 360 units wide; the page never shows it smaller, so text keeps its 11 pixels.
_SIZE_IN = (5.0, 3.0)
_BOX = (0.15, 0.185, 0.82, 0.755)
_TEXT = 12.0
_SLICES = 120


def panel(
    draw: Callable[Concatenate[Axes, Parameters], None],
) -> Callable[Parameters, Figure]:
    """Give a drawing function an empty panel of its own and return that as a figure."""

    @wraps(draw)
    def drawn(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Figure:
        with matplotlib.rc_context():
            apply_style(text=_TEXT)
            figure = Figure(figsize=_SIZE_IN, facecolor="none")
            FigureCanvasAgg(figure)
            ax = figure.add_axes(_BOX, facecolor="none")
            draw(ax, *args, **kwargs)
            return figure

    return drawn


@panel
def distribution(
    ax: Axes,
    metric: str,
    samples: Mapping[str, WeightedValues],
    drawn: Mapping[str, Look],
    limit_ms: float | None = None,
) -> None:
    """Draw which share of requests was at most that slow, a line per variant, with the limit of the SLO."""
    everything = [np.array([limit_ms] if limit_ms else [])]
    for name, sample in samples.items():
        if sample.size:
            values, shares = quantile_curve(sample)
            look = drawn[name]
            ax.plot(values, shares, color=look.color, linestyle=look.linestyle, linewidth=look.width + 0.2)
            everything.append(values)
    positive = np.concatenate(everything)
    positive = positive[positive > 0]
    if len(positive):
        low, high = float(positive.min()), float(positive.max())
        log_axis(ax, "x", *((low, high) if high > 1.5 * low else (low / 1.5, high * 1.5)))
    _limit(ax, limit_ms, f"SLO {limit_ms:g}" if limit_ms else "")
    ax.set_ylim(0, 1.02)
    percent_axis(ax)
    ax.set_xlabel(f"{metric.upper()} (ms)")


def _limit(ax: Axes, at: float | None, text: str, height: float = 0.03) -> None:
    """Draw a vertical line with its words beside it, on the side where there is room."""
    if not at:
        return
    ax.axvline(at, color=LIMIT, linewidth=1.2, linestyle=(0, (6, 2, 1, 2)))
    low, high = ax.get_xlim()
    is_log = ax.get_xscale() == "log"
    place = np.log(at / low) / np.log(high / low) if is_log else (at - low) / (high - low)
    ax.annotate(
        text,
        (at, height),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if place > 0.5 else 4, 0),
        textcoords="offset points",
        ha="right" if place > 0.5 else "left",
        va="bottom",
        color=LIMIT,
    )


@panel
def batches(ax: Axes, view: View, time: BatchTime, largest: int) -> None:
    """Draw the share of decode step time per batch size: in a graph, of it padding, without a graph.

    Marks below the axis are capture sizes, a line is max_num_seqs where it is near; the tallest bar is named.
    """
    total = time.decode_s or 1.0
    edges = np.arange(len(time.in_graph) + 1) - 0.5
    top = time.in_graph / total
    used, whole = top - time.padding / total, top + time.without_graph / total
    for lower, upper, color in ((0 * used, used, GRAPH), (used, top, PADDING), (top, whole, NO_GRAPH)):
        if (upper > lower).any():
            ax.stairs(upper, edges, baseline=lower, fill=True, color=color, linewidth=0)
    right = max(1.0, largest + max(0.5, 0.02 * largest))
    if view.max_num_seqs <= 1.3 * largest:
        right = max(right, 1.02 * view.max_num_seqs)
    ax.set_xlim(0, right)
    ax.set_ylim(0, 1.25 * float(whole.max(initial=0.01)))
    if view.max_num_seqs <= right:
        _limit(ax, view.max_num_seqs, "max_num_seqs", 0.6)
    within = [size for size in view.sizes if size <= right]
    below = ax.get_xaxis_transform()
    ax.vlines(within, -0.06, -0.01, transform=below, color=LIMIT, linewidth=1.3, clip_on=False)
    ax.tick_params(axis="x", length=0, pad=9)
    if whole.max(initial=0) > 0:
        tallest = int(whole.argmax())
        ax.annotate(
            f"{tallest}: {100 * whole[tallest]:.0f} %",
            (tallest, whole[tallest]),
            xytext=(0, 3),
            textcoords="offset points",
            ha="left" if tallest < 0.15 * right else "right" if tallest > 0.85 * right else "center",
        )
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    percent_axis(ax)
    ax.set_xlabel("batch size (sequences)")


@panel
def over_time(ax: Axes, view: View, end_ns: int, top: float) -> None:
    """Draw the batch size over time, coloured by how steps ran, and the requests waiting as a line."""
    slices = cut(view.runs[0], end_ns, _SLICES)
    base = np.zeros(len(slices.edges_s) - 1)
    for route, color in (("graph", GRAPH), ("no graph", NO_GRAPH), ("with prefill", OTHER)):
        mean = slices.batch[route]
        if mean.any():
            ax.stairs(base + mean, slices.edges_s, baseline=base, fill=True, color=color, linewidth=0)
            base = base + mean
    ax.plot(slices.edges_s[1:], slices.waiting, color=WAITING, linewidth=1.6, linestyle="--")
    if view.sizes and view.sizes[-1] < top:
        ax.axhline(view.sizes[-1], color=LIMIT, linewidth=1.2, linestyle=(0, (6, 2, 1, 2)))
        ax.text(0, view.sizes[-1], f" largest size {view.sizes[-1]}", va="bottom", color=LIMIT)
    ax.set_xlim(0, end_ns / 1e9 or 1)
    ax.set_ylim(0, 1.05 * top or 1)
    ax.yaxis.set_major_formatter(lambda value, _: number(value))
    ax.set_xlabel("time (s)")


@panel
def against_rate(ax: Axes, curves: Sequence[RateCurve], here: float, limit_ms: float | None = None) -> None:
    """Draw a mean latency against the arrival rate; open markers are overloaded, a line marks today."""
    drawn = [value for curve in curves for _, value, _ in curve.points]
    for curve in curves:
        color = curve.look.color
        rates, values = [rate for rate, _, _ in curve.points], [value for _, value, _ in curve.points]
        ax.plot(rates, values, color=color, linestyle=curve.look.linestyle, linewidth=curve.look.width)
        for rate, value, overloaded in curve.points:
            fill = "none" if overloaded else color
            ax.plot([rate], [value], "o", markersize=6, markeredgecolor=color, markerfacecolor=fill)
    if drawn:
        low, high = min(drawn), max(drawn)
        if limit_ms and limit_ms < 4 * high:
            low, high = min(low, limit_ms), max(high, limit_ms)
        low, high = (low, high) if high > 2 * low else (low / 1.5, high * 1.5)
        log_axis(ax, "y", low, high * (high / low) ** 0.15)  # room for words above the curves
        if limit_ms and low <= limit_ms <= high:
            ax.axhline(limit_ms, color=LIMIT, linewidth=1.2, linestyle=(0, (6, 2, 1, 2)))
            ax.annotate(
                f"SLO {limit_ms:g} ms", (0.01, limit_ms), xycoords=("axes fraction", "data"), va="bottom",
                color=LIMIT,
            )  # fmt: skip
    ax.set_xlim(left=0)
    _limit(ax, here, "you are here", 0.93)
    ax.set_xlabel("requests per second")
