"""Pictures to decide by: how many graphs to capture, how much traffic to take, speed against throughput."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scheduler.report.plots.style import (
    EAGER,
    GRAPH,
    LIMIT,
    MARKERS,
    POOLS,
    Look,
    Margins,
    Style,
    legend_on_top,
    log_axis,
    number,
    panels_of,
    styled,
)
from scheduler.report.wording import count_text

MIB = 1 << 20
SLOW_HOST = ", slow host"
_LEGEND_COLUMNS = 3
FLAT = 0.02  # a line that changes by less than this has no effect worth a slope


@dataclass(frozen=True, slots=True)
class TunedPool:
    """The best pool of `graphs` graphs. `objective` has an interval where it was simulated repeatedly."""

    graphs: int
    objective: float
    low: float | None = None
    high: float | None = None
    graph_memory_bytes: int | None = None
    capture_s: float | None = None


@dataclass(frozen=True, slots=True)
class NamedPoint:
    """A pool that is not tuned (an engine's preset, today's), as a point on the tuning curve."""

    name: str
    graphs: int
    objective: float


@dataclass(frozen=True, slots=True)
class TuningCurve:
    """What each further graph buys. `objective` names it with its unit: `mean TPOT (ms)`.

    `knee` is the recommended number of graphs; `without_graphs` and `with_all` are the objective of the
    empty pool and of a graph for every batch size.
    """

    objective: str
    pools: tuple[TunedPool, ...]
    presets: tuple[NamedPoint, ...] = ()
    knee: int | None = None
    without_graphs: float | None = None
    with_all: float | None = None


@styled
def tuning_curve(curve: TuningCurve) -> Figure:
    """Draw the objective against the number of graphs; below it, where known, memory and capture time."""
    curve = replace(curve, pools=tuple(pool for pool in curve.pools if pool.graphs))  # a logarithmic axis
    costs = [
        (label, values)
        for label, values in (
            ("graph memory\n(MiB)", [_over(pool.graph_memory_bytes, MIB) for pool in curve.pools]),
            ("start-up\n(s)", [pool.capture_s for pool in curve.pools]),
        )
        if any(value is not None for value in values)
    ]
    ratios = [2.6] + [1.0] * len(costs)
    entries = 2 + len(curve.presets) + (curve.without_graphs is not None) + (curve.with_all is not None)
    top = 0.35 + 0.2 * -(-entries // _LEGEND_COLUMNS)
    rows, margins = 1 + len(costs), Margins(left=0.98, top=top, down=0.2)
    figure, grid = panels_of(8, 3.9 + 1.3 * len(costs), rows, 1, margins, sharex=True, height_ratios=ratios)
    panels = grid[:, 0]
    graphs = [pool.graphs for pool in curve.pools]
    _objective(panels[0], curve, graphs)
    for ax, (label, values) in zip(panels[1:], costs, strict=True):
        ax.plot(graphs, [np.nan if value is None else value for value in values], color="#555555", marker=".")
        ax.set_ylabel(label)
        ax.set_ylim(0, 1.15 * max([value for value in values if value is not None], default=1) or 1)
    for ax in panels:
        if curve.knee is not None:
            ax.axvline(curve.knee, color=LIMIT, linewidth=1.1, linestyle=(0, (6, 2, 1, 2)))
    most = max([*graphs, *(point.graphs for point in curve.presets), 2])
    least = max(1, min([*graphs, *(point.graphs for point in curve.presets)], default=1))
    log_axis(panels[-1], "x", least, 1.1 * most)
    panels[-1].set_xlabel("number of graphs")
    handles, labels = panels[0].get_legend_handles_labels()
    legend_on_top(figure, handles, labels, _LEGEND_COLUMNS)
    return figure


def _over(value: int | None, unit: int) -> float | None:
    return None if value is None else value / unit


def _objective(ax: Axes, curve: TuningCurve, graphs: Sequence[int]) -> None:
    ax.plot(
        graphs,
        [pool.objective for pool in curve.pools],
        color=GRAPH,
        marker="o",
        markersize=4,
        label="tuned pool",
    )
    ranged = [pool for pool in curve.pools if pool.low is not None and pool.high is not None]
    if ranged:
        low, high = [pool.low for pool in ranged], [pool.high for pool in ranged]
        ax.fill_between([pool.graphs for pool in ranged], low, high, color=GRAPH, alpha=0.15, linewidth=0)  # type: ignore[arg-type]
    for index, point in enumerate(curve.presets):
        color, marker = POOLS[1 + index % (len(POOLS) - 1)], "sD^vPX"[index % 6]
        ax.plot(
            point.graphs, point.objective, marker, color=color, markersize=7, label=point.name, linestyle=""
        )
    if curve.without_graphs is not None:
        ax.axhline(curve.without_graphs, color=EAGER, linestyle="--", linewidth=1.2, label="without graphs")
    if curve.with_all is not None:
        ax.axhline(
            curve.with_all, color=EAGER, linestyle=":", linewidth=1.2, label="a graph for every batch size"
        )
    if curve.knee is not None:
        ax.plot(
            [],
            [],
            color=LIMIT,
            linewidth=1.1,
            linestyle=(0, (6, 2, 1, 2)),
            label=f"knee: {curve.knee} graphs",
        )
    ax.set_ylabel(curve.objective)
    values = [pool.objective for pool in curve.pools]
    values += [value for value in (curve.without_graphs, curve.with_all) if value is not None]
    _from_zero_where_flat(ax, values)
    tuned = values[: len(curve.pools)]
    flat = next((i for i in range(len(tuned)) if max(tuned[i:]) <= (1 + FLAT) * min(tuned[i:])), len(tuned))
    if flat < len(tuned) - 1:
        _say_no_effect(ax, f"more than {count_text(graphs[flat], 'graph')}: no effect", tuned[flat:])


def _from_zero_where_flat(ax: Axes, values: Sequence[float]) -> None:
    """Begin the axis at 0 where a cropped one would magnify little."""
    if values and max(values) < 1.5 * min(values):
        ax.set_ylim(0, 1.25 * max(values))


def _say_no_effect(ax: Axes, what: str, values: Sequence[float]) -> None:
    spread = 100 * (max(values) / min(values) - 1) if min(values) > 0 else 0.0
    below = ax.get_ylim()[0] == 0 and min(values) > 0.3 * ax.get_ylim()[1]  # the line is far above 0
    text = f"{what}: all within {spread:.1f} %"
    ax.text(0.99, 0.06 if below else 0.8, text, transform=ax.transAxes, ha="right", va="bottom")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric at one point of a sweep; without an interval where there is one replication."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class SweptVariant:
    """One variant over a sweep: `metrics` maps a metric to one estimate (or None) per swept value.

    Metrics drawn: p99_ttft_ms, p99_tpot_ms and goodput to the last arrival; others are ignored.
    """

    name: str
    metrics: dict[str, tuple[Estimate | None, ...]]


@dataclass(frozen=True, slots=True)
class SweepCurves:
    """Variants over the same swept values. `over` names them with their unit: `request rate (1/s)`."""

    over: str
    values: tuple[float, ...]
    variants: tuple[SweptVariant, ...]
    slo_ms: dict[str, float]


_SWEPT = {
    "p99_ttft_ms": ("p99 TTFT (ms)", "ttft"),
    "p99_tpot_ms": ("p99 TPOT (ms)", "tpot"),
    "request_goodput_to_last_arrival": ("goodput (requests/s)", None),
}


@styled
def sweep_curves(curves: SweepCurves) -> Figure:
    """Draw p99 TTFT, p99 TPOT (logarithmic) and goodput over the swept values, with intervals."""
    shown = [key for key in _SWEPT if any(any(variant.metrics.get(key, ())) for variant in curves.variants)]
    count = max(1, len(shown))
    figure, grid = panels_of(0.6 + 4.4 * count, 4.2, 1, count, Margins(across=0.75))
    panels = grid[0]
    styles = _looks_by_name([variant.name for variant in curves.variants])
    for ax, key in zip(panels, shown, strict=False):
        label, metric = _SWEPT[key]
        for variant in curves.variants:
            _swept(ax, curves.values, variant.metrics.get(key, ()), styles[variant.name], variant.name)
        ax.set_xlabel(curves.over)
        ax.set_title(label)
        if metric is None:
            if "rate" in curves.over:
                top = max(curves.values, default=1)
                ax.plot([0, top], [0, top], color="#999999", linewidth=1.0, linestyle=":", zorder=1)
                ax.text(
                    0.92 * top,
                    0.95 * top,
                    "every request good",
                    ha="right",
                    va="bottom",
                    fontsize=8.5,
                    color="#666666",
                )
            ax.set_ylim(bottom=0)
        else:
            ax.set_yscale("log")
            low, high = ax.get_ylim()
            limit = curves.slo_ms.get(metric)
            low, high = (min(low, limit), max(high, 1.15 * limit)) if limit else (low, high)
            log_axis(ax, "y", *((low, high) if high > 2 * low else (low / 1.5, high * 1.5)))
            means = [
                [found.mean for found in variant.metrics.get(key, ()) if found] for variant in curves.variants
            ]
            if all(len(line) > 1 and max(line) <= (1 + FLAT) * min(line) for line in means if line):
                _say_no_effect(
                    ax, "no effect", max(means, key=lambda line: max(line) / min(line) if line else 0)
                )
            if limit:
                ax.axhline(limit, color=LIMIT, linewidth=1.1, linestyle=(0, (6, 2, 1, 2)))
                ax.annotate(
                    f"SLO {limit:g} ms",
                    (0.01, limit),
                    xycoords=("axes fraction", "data"),
                    xytext=(0, 2),
                    textcoords="offset points",
                    fontsize=8.5,
                    color=LIMIT,
                )
    handles, labels = panels[0].get_legend_handles_labels()
    legend_on_top(figure, handles, labels)
    return figure


def _looks_by_name(names: Sequence[str]) -> dict[str, Look]:
    """Return each line's look; the slow end of a range is its variant's, dotted."""
    bases = list(dict.fromkeys(name.replace(SLOW_HOST, "") for name in names))
    pools = [base for base in bases if not base.startswith("eager")]
    others = [base for base in bases if base.startswith("eager")]
    found = {
        base: Look(POOLS[i % len(POOLS)], "-", MARKERS[1:][i % (len(MARKERS) - 1)])
        for i, base in enumerate(pools)
    }
    found |= {base: Look(EAGER, "--", "x+1234"[i % 6]) for i, base in enumerate(others)}
    return {
        name: found[base]._replace(linestyle=":") if base != name else found[base]
        for name in names
        for base in [name.replace(SLOW_HOST, "")]
    }


def _swept(
    ax: Axes, values: Sequence[float], estimates: Sequence[Estimate | None], look: Look, name: str
) -> None:
    points = [(value, found) for value, found in zip(values, estimates, strict=False) if found is not None]
    if not points:
        return
    at = [value for value, _ in points]
    style: Style = {
        "color": look.color,
        "linestyle": look.linestyle,
        "marker": look.marker,
        "markersize": 4.5,
    }
    ax.plot(at, [found.mean for _, found in points], label=name, **style)
    low = [found.mean if found.low is None else found.low for _, found in points]
    high = [found.mean if found.high is None else found.high for _, found in points]
    ax.fill_between(at, low, high, color=look.color, alpha=0.15, linewidth=0)


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """One run: what a user sees and what the server delivers, both in tokens per second."""

    label: str
    tokens_per_s_per_user: float
    tokens_per_s: float


def _label_points(ax: Axes, points: Sequence[tuple[ParetoPoint, str]]) -> None:
    """Write the labels of points; one that would be printed over another is left to its neighbour."""
    width, height = (high - low for low, high in (ax.get_xlim(), ax.get_ylim()))
    taken: list[tuple[float, float]] = []
    for point, color in points:
        at = (point.tokens_per_s_per_user / width, point.tokens_per_s / height)
        if any(abs(at[0] - x) < 0.05 and abs(at[1] - y) < 0.035 for x, y in taken):
            continue
        taken.append(at)
        ax.annotate(
            point.label,
            (point.tokens_per_s_per_user, point.tokens_per_s),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
            color=color,
        )


@styled
def pareto(variants: dict[str, Sequence[ParetoPoint]], over: str = "") -> Figure:
    """Draw tokens/s of the server against tokens/s per user; up and to the right is better.

    `over` says what the labels at the points are.
    """
    figure, grid = panels_of(7.5, 5)
    ax = grid[0, 0]
    styles = _looks_by_name([*variants])
    for name, points in variants.items():
        look = styles[name]
        ordered = sorted(points, key=lambda point: point.tokens_per_s)
        speed, total = [p.tokens_per_s_per_user for p in ordered], [p.tokens_per_s for p in ordered]
        ax.plot(
            speed,
            total,
            color=look.color,
            linestyle=look.linestyle,
            marker=look.marker,
            markersize=5,
            label=name,
        )
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    _label_points(ax, [(point, styles[name].color) for name, points in variants.items() for point in points])
    ax.xaxis.set_major_formatter(lambda value, _: number(value))
    ax.yaxis.set_major_formatter(lambda value, _: number(value))
    ax.set_xlabel("output tokens/s per user (1,000 / mean TPOT in ms)")
    ax.set_ylabel("output tokens/s of the server")
    ax.set_title(f"up and to the right is better{f'; numbers: {over}' if over else ''}")
    handles, labels = ax.get_legend_handles_labels()
    legend_on_top(figure, handles, labels)
    return figure
