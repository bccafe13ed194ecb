from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from scheduler.analysis.comparison.compare import Comparison
from scheduler.analysis.comparison.step_times import saved_s, step_curves
from scheduler.report import plots
from scheduler.report.plots.decisions import (
    Estimate,
    NamedPoint,
    ParetoPoint,
    SweepCurves,
    SweptVariant,
    TunedPool,
    TuningCurve,
)
from scheduler.report.plots.fidelity import Series
from scheduler.report.plots.latency import quantile_curve
from scheduler.report.plots.style import log_ticks, looks
from scheduler.report.views import WeightedValues, graph_use, views_of

RATES = (2.0, 4.0, 8.0)


def every_figure(comparison: Comparison) -> dict[str, Figure]:
    views = views_of(comparison)
    curve = TuningCurve(
        "mean TPOT (ms)",
        tuple(TunedPool(k, 8 + 6 / k, 7.9 + 6 / k, 8.1 + 6 / k, k << 20, 0.3 * k) for k in (1, 2, 4, 8, 51)),
        (NamedPoint("vllm", 51, 8.3),),
        knee=4,
        without_graphs=16.0,
        with_all=8.0,
    )
    swept = SweptVariant(
        "graphs",
        {
            key: tuple(Estimate(rate * 3, rate * 2, rate * 4) for rate in RATES)
            for key in ("p99_ttft_ms", "request_goodput_to_last_arrival")
        },
    )
    sweep = SweepCurves("request rate (1/s)", RATES, (swept,), {"ttft": 10.0})
    values = np.geomspace(1, 100, 50)
    series = Series(np.arange(50.0), values)
    return {
        "latency": plots.latency_ecdf(views),
        "batch_sizes": plots.batch_histogram(views),
        "over_time": plots.over_time(views),
        "graph_use": plots.graph_use_bars("graphs", graph_use(views[0])),
        "step_time": plots.step_time(step_curves(comparison), views[0].sizes),
        "tune": plots.tuning_curve(curve),
        "sweep": plots.sweep_curves(sweep),
        "pareto": plots.pareto({"graphs": [ParetoPoint("2", 50, 400), ParetoPoint("4", 40, 700)]}),
        "validate": plots.measured_and_simulated(
            {"ttft": (values, values * 1.1)}, {"running": (series, series)}
        ),
    }


@pytest.fixture(scope="module")
def figures(comparison: Comparison) -> dict[str, Figure]:
    return every_figure(comparison)


def test_the_same_inputs_give_the_same_bytes(
    comparison: Comparison, figures: dict[str, Figure], tmp_path: Path
) -> None:
    again = every_figure(comparison)
    for name, figure in figures.items():
        assert plots.to_svg(figure) == plots.to_svg(again[name]), name
    plots.save_png(figures["latency"], tmp_path / "a.png")
    plots.save_png(again["latency"], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_users_matplotlibrc_changes_nothing(comparison: Comparison, figures: dict[str, Figure]) -> None:
    import matplotlib

    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.hashsalt": "other"}):
        svg = plots.to_svg(plots.latency_ecdf(views_of(comparison)))
    assert svg == plots.to_svg(figures["latency"])


def test_every_axis_that_has_a_quantity_names_its_unit(figures: dict[str, Figure]) -> None:
    units = ("(", "%", "share", "requests", "blocks", "number of", "tokens", "running")
    for name, figure in figures.items():
        panels = [*figure.axes, *(ax for sub in figure.subfigs for ax in sub.axes)]
        labels = [label for ax in panels for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
        assert labels, name
        for label in labels:
            assert any(unit in label for unit in units), f"{name}: {label}"


def test_svg_is_well_formed_and_fit_to_stand_beside_others(figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        svg = plots.to_svg(figure, 'a "title" & <more>')
        root = ElementTree.fromstring(svg)  # noqa: S314 our own text
        assert root.get("aria-label") == 'a "title" & <more>'
        assert "viewBox" in root.attrib
        assert "width" not in root.attrib
        assert not [word for word in ("<metadata", "<!DOCTYPE", 'id="figure_1"', "<script") if word in svg], (
            name
        )
        assert len(svg) < 400_000, name


def test_names_from_inputs_stay_text_in_svg(comparison: Comparison) -> None:
    view = replace(views_of(comparison)[0], name="<script>alert(1)</script> $\\frac{1}{2}$")
    svg = plots.to_svg(plots.latency_ecdf([view]))
    assert "<script>" not in svg
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $\\frac{1}{2}$" in svg


def test_eager_is_dashed_and_pools_differ_in_more_than_colour(comparison: Comparison) -> None:
    drawn = looks(views_of(comparison))
    assert drawn["eager"].linestyle == "--"
    shapes = [(look.linestyle, look.marker) for look in drawn.values()]
    assert len(set(shapes)) == len(shapes)


def test_curves_are_the_percentiles_of_the_card_and_few_points() -> None:
    values = np.random.default_rng(1).lognormal(3, 1, 5_001)
    points, shares = quantile_curve(WeightedValues(values))
    assert len(points) <= 2000
    assert points == pytest.approx(np.percentile(values, 100 * shares))
    counts = np.random.default_rng(2).integers(1, 5, 300).astype(np.int32)
    points, shares = quantile_curve(WeightedValues(values[:300], counts))
    assert points == pytest.approx(np.percentile(np.repeat(values[:300], counts), 100 * shares))


def test_a_single_request_and_a_run_without_requests_can_be_drawn() -> None:
    from small_comparison import small_comparison

    one = small_comparison(requests=1, replications=1)
    views = views_of(one)
    empty = [replace(view, warmup_requests=1) for view in views]
    for draw in (plots.latency_ecdf, plots.batch_histogram, plots.over_time):
        assert draw(views).axes
        assert draw([]).axes
    assert plots.latency_ecdf(empty).axes


@pytest.mark.parametrize(("low", "high"), [(1, 1.2), (3, 70), (0.02, 9), (900, 110_000), (1e-4, 1e6)])
def test_logarithmic_axes_have_two_to_six_round_ticks(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low * 0.9 <= tick <= high * 1.1 for tick in ticks)


def test_time_saved_is_exact_where_step_times_are_lines(comparison: Comparison) -> None:
    """An inline profile is affine in KV tokens, so the mean over a bucket loses nothing."""
    column = comparison.pools[0]
    expected = 0.0
    for view in views_of(comparison)[:1]:
        from scheduler.report.views import measured_steps

        for steps in measured_steps(view):
            replayed = (steps.kind == 0) & (steps.capture_size > 0)
            without_ms = 16 + 0.06 * steps.batch_size[replayed]
            expected += without_ms.sum() / 1e3 - steps.duration_ns[replayed].sum() / 1e9
    saved = saved_s(comparison, column)
    assert sum(low for low, _ in saved.values()) == pytest.approx(expected, rel=1e-4)
    assert all(low == high for low, high in saved.values())


def test_every_variant_is_drawn_however_many_there_are(comparison: Comparison) -> None:
    views = [replace(views_of(comparison)[0], name=f"pool-{index}") for index in range(6)]
    over_time = [ax.get_title(loc="left") for ax in plots.over_time(views).axes]
    histogram = [ax.get_title(loc="left") for ax in plots.batch_histogram(views).axes]
    for titles in (over_time, histogram):
        assert [
            name for name in (view.name for view in views) if not any(name in title for title in titles)
        ] == []


def test_no_two_titles_are_printed_over_each_other(
    comparison: Comparison, figures: dict[str, Figure]
) -> None:
    named = plots.step_time(step_curves(comparison), title="a profile")
    (title,) = [
        text for ax in named.axes for loc in ("left", "center", "right") if (text := ax.get_title(loc=loc))
    ]
    assert title.startswith("a profile, ")
    for name, figure in figures.items():
        for ax in figure.axes:
            assert not (ax.get_title(loc="left") and ax.get_title(loc="center")), name


def tuned(*objectives: float) -> TuningCurve:
    pools = tuple(TunedPool(graphs, value) for graphs, value in zip((1, 2, 4, 8), objectives, strict=True))
    return TuningCurve("mean TPOT (ms)", pools)


def test_a_flat_line_says_no_effect_and_its_axis_begins_at_zero() -> None:
    flat = plots.tuning_curve(tuned(10.1, 10.05, 10.0, 10.02)).axes[0]
    assert [text.get_text() for text in flat.texts] == ["more than 1 graph: no effect: all within 1.0 %"]
    assert flat.get_ylim()[0] == 0
    steep = plots.tuning_curve(tuned(40, 20, 12, 9)).axes[0]
    assert list(steep.texts) == []
    estimates = tuple(Estimate(value) for value in (100.0, 101.0, 100.5))
    swept = SweptVariant("graphs", {"p99_ttft_ms": estimates})
    ax = plots.sweep_curves(SweepCurves("max_num_seqs (requests)", RATES, (swept,), {})).axes[0]
    assert "no effect: all within 1.0 %" in [text.get_text() for text in ax.texts]
    low, high = ax.get_ylim()
    assert high / low > 2, "no cropped axis that magnifies 1 %"


def test_the_tallest_bars_say_how_tall_they_are(comparison: Comparison) -> None:
    uses = graph_use(views_of(comparison)[0])
    share = max(use.step_s for use in uses) / sum(use.step_s for use in uses)
    labels = [text.get_text() for ax in plots.graph_use_bars("graphs", uses).axes for text in ax.texts]
    assert f"{100 * share:.0f} %" in labels
