"""Which batch sizes ran, for how long, in which graph, and how much of it was padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from scheduler.report.plots.style import (
    GRAPH,
    NO_GRAPH,
    PADDING,
    Margins,
    legend_on_top,
    panels_of,
    percent_axis,
    styled,
)
from scheduler.report.views import BatchTime, GraphUse, View, batch_time

Float = NDArray[np.float64]
_PADDING_HATCH, _NO_GRAPH_HATCH = "////", "xxx"


@styled
def batch_histogram(views: Sequence[View]) -> Figure:
    """Draw the batch sizes of each variant weighted by step time: graph, padding, without a graph.

    Capture sizes are ticks. The padding of a batch is its time × padded slots / captured slots.
    """
    rows = [view for view in views if view.low_name is None]
    count = max(1, len(rows))
    figure, grid = panels_of(11, 1.1 + 2.3 * count, count, margins=Margins(left=0.98), sharex=True)
    panels = grid[:, 0]
    times = [batch_time(view) for view in rows]
    largest = max((len(time.in_graph) - 1 for time in times), default=1)
    for ax, view, time in zip(panels, rows, times, strict=False):
        _bars(ax, time)
        _capture_ticks(ax, view, time, largest)
        ax.set_title(_headline(view, time))
        ax.set_ylabel("share of decode\nstep time")
        percent_axis(ax)
    for ax in panels:  # the room above the bars is for words: no ticks beyond 100 %
        ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= min(1.0, ax.get_ylim()[1])])
    panels[-1].set_xlim(0, largest + max(1.0, 0.02 * largest))
    panels[-1].xaxis.set_major_locator(MaxNLocator(10, integer=True))
    panels[-1].set_xlabel("batch size (sequences decoded in a step)")
    handles = [
        Patch(facecolor=GRAPH),
        Patch(facecolor=PADDING, edgecolor=GRAPH, hatch=_PADDING_HATCH),
        Patch(facecolor=NO_GRAPH, edgecolor="#7A5200", hatch=_NO_GRAPH_HATCH),
    ]
    legend_on_top(figure, handles, ["replayed graph", "of it padding", "no graph"])
    return figure


def _bars(ax: Axes, time: BatchTime) -> None:
    total = time.decode_s or 1.0
    edges = np.arange(len(time.in_graph) + 1) - 0.5
    used = (time.in_graph - time.padding) / total
    top = time.in_graph / total
    bare = time.without_graph / total
    ax.stairs(used, edges, fill=True, color=GRAPH, linewidth=0)
    _hatched(ax, top, used, edges, PADDING, GRAPH, _PADDING_HATCH)
    _hatched(ax, top + bare, top, edges, NO_GRAPH, "#7A5200", _NO_GRAPH_HATCH)
    ax.set_ylim(0, 1.32 * float((top + bare).max(initial=0.01)) or 1)
    if len(top):
        tallest = int((top + bare).argmax())
        _label_tallest(ax, np.array([tallest]), (top + bare)[[tallest]])


def _hatched(
    ax: Axes, top: Float, bottom: Float, edges: NDArray[Any], face: str, edge: str, hatch: str
) -> None:
    # One polygon per run of sizes that have it, so that nothing is drawn where there is nothing.
    present = np.concatenate([[0], (top > bottom).astype(int), [0]])
    starts, ends = (np.flatnonzero(np.diff(present) == sign) for sign in (1, -1))
    for start, end in zip(starts, ends, strict=True):
        ax.stairs(
            top[start:end],
            edges[start : end + 1],
            baseline=bottom[start:end],
            fill=True,
            facecolor=face,
            edgecolor=edge,
            hatch=hatch,
            linewidth=0.4,
        )


def _capture_ticks(ax: Axes, view: View, time: BatchTime, largest: int) -> None:
    within = [size for size in view.sizes if size <= largest]
    ax.vlines(
        within,
        -0.055,
        -0.005,
        transform=ax.get_xaxis_transform(),
        color="#111111",
        linewidth=1.1,
        clip_on=False,
    )
    ax.tick_params(axis="x", length=0, pad=7)
    notes = []
    beyond = len(view.sizes) - len(within)
    if beyond:
        notes.append(
            f"▏ capture size; {beyond} of {len(view.sizes)} are above {largest}, the largest batch here"
        )
    elif view.sizes:
        end = f"; none above {view.sizes[-1]}" if view.sizes[-1] < largest else ""
        notes.append(f"▏ capture size{end}")
    if time.other_s:
        other = time.other_s / (time.other_s + time.decode_s)
        notes.append(f"not shown: prefill and mixed steps, {100 * other:.0f} % of all step time")
    ax.text(
        0.995,
        0.985,
        "\n".join(notes),
        transform=ax.transAxes,
        ha="right",
        va="top",
        fontsize=8.5,
        color="#444444",
    )


def _headline(view: View, time: BatchTime) -> str:
    total = time.decode_s
    if not total:
        return f"{view.name}: no decode steps"
    graph, padding, bare = (
        float(part.sum()) / total for part in (time.in_graph, time.padding, time.without_graph)
    )
    sizes = np.arange(len(time.in_graph))
    mean = float((sizes * (time.in_graph + time.without_graph)).sum() / total)
    parts = []
    if graph:
        parts.append(f"{100 * graph:.0f} % of decode time in graphs ({100 * padding:.0f} % for padded slots)")
    if bare:
        parts.append(f"{100 * bare:.0f} % {'' if graph else 'of decode time '}without a graph")
    return f"{view.name}: {', '.join(parts)}; mean batch {mean:.0f}"


def _label_tallest(ax: Axes, position: NDArray[Any], heights: Float) -> None:
    """Write the share at the tallest bars, at most three, and none that is hardly there.

    Bars that are thinner than `57 %` is long get the number alone; the axis has the unit.
    """
    unit = " %" if len(heights) <= 35 else ""
    for index in np.argsort(heights)[::-1][:3]:
        if heights[index] >= 0.01:
            ax.annotate(
                f"{100 * heights[index]:.0f}{unit}",
                (position[index], heights[index]),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8.5,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6} if unit else None,
            )


@styled
def graph_use_bars(name: str, uses: Sequence[GraphUse]) -> Figure:
    """Draw what each graph of one pool did: share of replayed time, and its padding."""
    figure, grid = panels_of(11, 4.2, 2, margins=Margins(left=0.98, top=0.4, down=0.25), sharex=True)
    top, bottom = grid[:, 0]
    position = np.arange(len(uses))
    total = sum(use.step_s for use in uses) or 1.0
    share = np.array([use.step_s / total for use in uses])
    padding = np.array([use.padding_share or 0.0 for use in uses])
    top.bar(position, share, color=GRAPH, width=0.8)
    _label_tallest(top, position, share)
    top.set_ylim(0, 1.18 * float(share.max(initial=0.01)))
    unused = [index for index, use in enumerate(uses) if not use.steps]
    if unused:
        top.plot(unused, np.zeros(len(unused)), "x", color="#111111", markersize=5, clip_on=False, zorder=5)
    bottom.bar(
        position, padding, color=PADDING, edgecolor=GRAPH, hatch=_PADDING_HATCH, width=0.8, linewidth=0.4
    )
    idle = f"; × marks the {len(unused)} that no decode step took" if unused else ""
    top.set_title(f"{name}: use of its {len(uses)} graphs{idle}")
    top.set_ylabel("share of\nreplayed time")
    bottom.set_ylabel("padding share\nof its slots")
    bottom.set_xlabel("capture size (sequences)")
    every = max(1, -(-len(uses) // 30))
    bottom.set_xticks(position[::every], [str(use.size) for use in uses[::every]])
    for ax in (top, bottom):
        ax.grid(visible=False, axis="x")
        percent_axis(ax)
    return figure
