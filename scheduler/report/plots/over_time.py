"""What the engine did over time: batch size by route, requests waiting and running, KV blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scheduler.report.over_time import OverTime
from scheduler.report.over_time import over_time as cut
from scheduler.report.plots.style import GRAPH, LIMIT, NO_GRAPH, OTHER, Style, new_figure, number, styled
from scheduler.report.views import View

_MOST_COLUMNS = 3
_FILLS: dict[str, Style] = {
    "graph": {"facecolor": GRAPH, "linewidth": 0},
    "no graph": {"facecolor": NO_GRAPH, "edgecolor": "#7A5200", "hatch": "xxx", "linewidth": 0},
    "with prefill": {"facecolor": OTHER, "linewidth": 0},
}
_LABELS = {
    "graph": "decode, replayed graph",
    "no graph": "decode, no graph",
    "with prefill": "step with prefill",
}
_WAITING, _RUNNING = "#D55E00", "#0072B2"


@styled
def over_time(views: Sequence[View]) -> Figure:
    """Draw the first replication of up to three variants side by side, on the same scales."""
    columns = [view for view in views if view.low_name is None and view.runs]
    if len(columns) > _MOST_COLUMNS:  # the first pools, and eager to hold them against
        eager = [view for view in columns if view.is_eager][:1]
        columns = [*[view for view in columns if not view.is_eager][: _MOST_COLUMNS - len(eager)], *eager]
    count = max(1, len(columns))
    figure = new_figure(4.1 + 2.8 * count, 6.4)
    panels = figure.subplots(3, count, sharex=True, sharey="row", squeeze=False, height_ratios=[1.3, 1, 0.8])
    end_ns = max((_end_ns(view) for view in columns), default=0)
    cuts = [cut(view.runs[0], end_ns) for view in columns]
    largest = max((float(np.sum([*slices.batch.values()], axis=0).max()) for slices in cuts), default=1.0)
    for column, (view, slices) in enumerate(zip(columns, cuts, strict=True)):
        _batch(panels[0][column], view, slices, largest)
        _queue(panels[1][column], slices)
        _blocks(panels[2][column], view, slices)
        panels[2][column].set_xlabel("time (s)")
        replications = f", replication 1 of {len(view.runs)}" if len(view.runs) > 1 else ""
        panels[0][column].set_title(f"{view.name}{replications}")
    panels[0][0].set_ylabel("batch size\n(sequences)")
    panels[1][0].set_ylabel("requests")
    panels[2][0].set_ylabel("KV blocks in use")
    for ax in panels[:, 0]:
        ax.set_ylim(bottom=0)  # once all are drawn: the first limit set ends the scaling of the row
        ax.yaxis.set_major_formatter(lambda value, _: number(value))
    shown = [route for route in _FILLS if any(slices.batch[route].any() for slices in cuts)]
    _legend(figure, shown, any(view.sizes and view.sizes[-1] <= 1.5 * largest for view in columns))
    return figure


def _end_ns(view: View) -> int:
    steps = view.runs[0].steps
    return int(steps.start_ns[-1] + steps.duration_ns[-1]) if len(steps) else 0


def _batch(ax: Axes, view: View, slices: OverTime, largest: float) -> None:
    base = np.zeros(len(slices.edges_s) - 1)
    for route, mean in slices.batch.items():
        if mean.any():
            top = base + mean
            ax.stairs(top, slices.edges_s, baseline=base, fill=True, **_FILLS[route])
            base = top
    ax.stairs(base, slices.edges_s, color="#333333", linewidth=0.6, baseline=None)
    if view.sizes and view.sizes[-1] <= 1.5 * largest:
        ax.axhline(view.sizes[-1], color=LIMIT, linewidth=1.1, linestyle=(0, (6, 2, 1, 2)))


def _queue(ax: Axes, slices: OverTime) -> None:
    times = slices.edges_s[1:]
    ax.plot(times, slices.running, color=_RUNNING, linewidth=1.2)
    ax.plot(times, slices.waiting, color=_WAITING, linewidth=1.2, linestyle="--")


def _blocks(ax: Axes, view: View, slices: OverTime) -> None:
    ax.stairs(slices.kv_blocks, slices.edges_s, color="#555555", linewidth=1.2, baseline=None)
    if view.kv_blocks is None:
        text = "unlimited"
    else:
        share = slices.kv_blocks.max(initial=0) / view.kv_blocks
        text = f"at most {100 * share:.0f} % of {view.kv_blocks:,}"
    ax.set_title(text, loc="right", fontsize=8.5, color="#444444", pad=3)


def _legend(figure: Figure, routes: Sequence[str], with_pool: bool) -> None:
    handles: list[Any] = [Patch(**_FILLS[route], label=_LABELS[route]) for route in routes]
    if with_pool:
        handles.append(
            Line2D(
                [], [], color=LIMIT, linewidth=1.1, linestyle=(0, (6, 2, 1, 2)), label="largest capture size"
            )
        )
    handles += [
        Line2D([], [], color=_RUNNING, label="running"),
        Line2D([], [], color=_WAITING, linestyle="--", label="waiting"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
