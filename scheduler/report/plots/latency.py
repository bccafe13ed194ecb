"""How long users wait: distributions of TTFT, TPOT, ITL and E2EL, as shares and as tails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scheduler.analysis.statistics.intervals import weighted_percentile
from scheduler.report.plots.style import (
    LIMIT,
    Look,
    Margins,
    Style,
    legend_on_top,
    log_axis,
    looks,
    panels_of,
    percent_axis,
    styled,
)
from scheduler.report.views import METRICS, View, WeightedValues, samples

Float = NDArray[np.float64]
TITLES = {
    "ttft": "TTFT: wait for the first token",
    "tpot": "TPOT: mean per further token",
    "itl": "ITL: every gap between tokens",
    "e2el": "E2EL: until the last token",
}
# Half of them evenly spread, half towards the tail: more than a line on screen can show.
_QUANTILES = 240
_FAINT_BELOW = 10  # samples above a point that is drawn faint
_LOWEST_SHARE = 1e-5


@styled
def latency_ecdf(views: Sequence[View]) -> Figure:
    """Draw each variant's ECDFs, and below them the share of slower requests on a logarithmic axis."""
    figure, panels = panels_of(
        12.5, 6.2, 2, len(METRICS), Margins(left=0.98, down=0.28), sharex="col", sharey="row"
    )
    drawn = looks(views)
    sampled = {view.name: samples(view) for view in views}
    labels: dict[str, Artist] = {}
    for column, metric in enumerate(METRICS):
        chosen = {name: sample[metric] for name, sample in sampled.items() if sample[metric].size}
        curves = {name: quantile_curve(sample) for name, sample in chosen.items()}
        share, tail = panels[0][column], panels[1][column]
        limit = next((view.slo_ms[metric] for view in views if metric in view.slo_ms), None)
        for view in views:
            if view.name in curves:
                label = _label(view, views)
                line = _draw(share, tail, curves[view.name], chosen[view.name].size, drawn[view.name])
                if label is not None:
                    labels.setdefault(label, line)
        _shade_ranges(share, tail, views, curves, drawn)
        _dress(share, tail, metric, curves, limit)
        _limit(share, tail, limit)
    panels[0][0].set_ylabel("share of requests\n(ITL: of gaps) at most this")
    panels[1][0].set_ylabel("share slower than this")
    if labels:
        legend_on_top(figure, list(labels.values()), [*labels])
    return figure


def quantile_curve(sample: WeightedValues) -> tuple[Float, Float]:
    """Return (values, shares at most that) at a few hundred quantiles, dense towards the tail."""
    size = sample.size
    tail = np.geomspace(0.5, max(1 / size, _LOWEST_SHARE), _QUANTILES // 2)
    shares = np.unique(np.concatenate([np.linspace(0, 1, _QUANTILES // 2 + 1), 1 - tail]))
    if sample.counts is None:
        return np.percentile(sample.values, 100 * shares), shares
    return weighted_percentile(sample.values, sample.counts, list(100 * shares)), shares


def _label(view: View, views: Sequence[View]) -> str | None:
    if view.low_name is not None:
        return f"{view.low_name}, slow host"
    has_range = any(other.low_name == view.name for other in views)
    return f"{view.name}, fast host" if has_range else view.name


def _draw(share: Axes, tail: Axes, curve: tuple[Float, Float], size: int, look: Look) -> Any:
    values, shares = curve
    style: Style = {
        "color": look.color,
        "linestyle": look.linestyle,
        "linewidth": look.width,
        "marker": look.marker,
        "markersize": 4.5,
        "markevery": 0.12,
    }
    (line,) = share.plot(values, shares, **style)
    slower = 1 - shares
    sure = slower * size >= _FAINT_BELOW
    tail.plot(values[sure], slower[sure], **style)
    rest = slice(max(0, int(sure.sum()) - 1), len(values) - 1)
    tail.plot(
        values[rest], slower[rest], color=look.color, linestyle=look.linestyle, linewidth=0.9, alpha=0.45
    )
    return line


def _shade_ranges(
    share: Axes,
    tail: Axes,
    views: Sequence[View],
    curves: Mapping[str, tuple[Float, Float]],
    drawn: Mapping[str, Look],
) -> None:
    """Shade between both ends of a range: the truth lies somewhere in there."""
    for view in views:
        if view.low_name is not None and view.low_name in curves and view.name in curves:
            low, shares = curves[view.low_name]
            high = np.interp(shares, curves[view.name][1], curves[view.name][0])
            color = drawn[view.name].color
            fill: Style = {"color": color, "alpha": 0.12, "linewidth": 0}
            share.fill_betweenx(shares[::3], low[::3], high[::3], **fill)
            tail.fill_betweenx(1 - shares[:-1:3], low[:-1:3], high[:-1:3], **fill)


def _limit(share: Axes, tail: Axes, limit: float | None) -> None:
    if limit is None:
        return
    for ax in (share, tail):
        ax.axvline(limit, color=LIMIT, linewidth=1.1, linestyle=(0, (6, 2, 1, 2)))
    low, high = share.get_xlim()
    on_the_left = limit * limit > low * high  # in the right half of the panel: there is room on its left
    share.annotate(
        f"SLO {limit:g} ms",
        (limit, 0.03),
        xytext=(-3 if on_the_left else 3, 0),
        textcoords="offset points",
        rotation=90,
        ha="right" if on_the_left else "left",
        va="bottom",
        fontsize=8.5,
        color=LIMIT,
    )


def _dress(
    share: Axes, tail: Axes, metric: str, curves: Mapping[str, tuple[Float, Float]], limit: float | None
) -> None:
    share.set_title(TITLES[metric])
    tail.set_xlabel(f"{metric.upper()} (ms)")
    every = [*(values for values, _ in curves.values()), np.array([limit] if limit else [])]
    positive = np.concatenate(every) if every else np.zeros(0)
    positive = positive[positive > 0]
    if len(positive):
        low, high = float(positive.min()), float(positive.max())
        if low == high:
            low, high = low / 1.5, high * 1.5
        log_axis(share, "x", low, high)
    share.set_ylim(0, 1.01)
    percent_axis(share)
    tail.set_yscale("log")
    lowest = min((1 - shares[-2] for _, shares in curves.values()), default=0.01)
    tail.set_ylim(max(_LOWEST_SHARE, min(0.01, float(lowest))) * 0.8, 1.05)
    percent_axis(tail)
