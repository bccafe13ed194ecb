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
from scheduler.report.plots.style import (
    GRAPH,
    LIMIT,
    NO_GRAPH,
    OTHER,
    WAITING,
    Margins,
    Style,
    legend_on_top,
    number,
    panels_of,
    styled,
)
from scheduler.report.views import View
from scheduler.report.wording import cut_text

_MOST_ACROSS = 4
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
_RUNNING = "#0072B2"


@styled
def over_time(views: Sequence[View]) -> Figure:
    """Draw the first replication of every variant side by side, on the same scales."""
    shown = [view for view in views if view.low_name is None and view.runs]
    across = min(max(1, len(shown)), _MOST_ACROSS)
    blocks = max(1, -(-len(shown) // across))
    figure, grid = panels_of(
        4.1 + 2.8 * across,
        6.4 * blocks,
        3 * blocks,
        across,
        Margins(top=0.65, across=0.6, down=0.42 if blocks == 1 else 0.75),
        sharex=True,
        height_ratios=[1.3, 1, 0.8] * blocks,
    )
    end_ns = max((_end_ns(view) for view in shown), default=0)
    cuts = [cut(view.runs[0], end_ns) for view in shown]
    largest = max((float(np.sum([*slices.batch.values()], axis=0).max()) for slices in cuts), default=1.0)
    most = max((max(slices.running.max(), slices.waiting.max()) for slices in cuts), default=1.0)
    blocks_held = max((slices.kv_blocks.max() for slices in cuts), default=1.0)
    for index, (view, slices) in enumerate(zip(shown, cuts, strict=True)):
        row, column = 3 * (index // across), index % across
        batch, queue, blocks_of = grid[row : row + 3, column]
        _batch(batch, view, slices, largest)
        _queue(queue, slices)
        _blocks(blocks_of, view, slices)
        blocks_of.set_xlabel("time (s)")
        blocks_of.tick_params(labelbottom=True)
        replications = f", replication 1 of {len(view.runs)}" if len(view.runs) > 1 else ""
        batch.set_title(f"{cut_text(view.name, 24)}{replications}")
        for ax, top in ((batch, largest), (queue, most), (blocks_of, blocks_held)):
            ax.set_ylim(0, 1.06 * top or 1)
            ax.yaxis.set_major_formatter(lambda value, _: number(value))
    for row in range(blocks):
        for ax, label in zip(
            grid[3 * row : 3 * row + 3, 0],
            ("batch size\n(sequences)", "requests", "KV blocks in use"),
            strict=True,
        ):
            ax.set_ylabel(label)
    for ax in grid[3 * (blocks - 1) :, len(shown) - across * (blocks - 1) :].ravel():
        ax.set_visible(False)
    routes = [route for route in _FILLS if any(slices.batch[route].any() for slices in cuts)]
    _legend(figure, routes, any(view.sizes and view.sizes[-1] <= 1.5 * largest for view in shown))
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
    ax.plot(times, slices.waiting, color=WAITING, linewidth=1.2, linestyle="--")


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
        Line2D([], [], color=WAITING, linestyle="--", label="waiting"),
    ]
    labels = [str(handle.get_label()) for handle in handles]
    legend_on_top(figure, handles, labels, len(handles) if figure.get_figwidth() > 9 else 3)
