"""report.html: one file without scripts, fonts or addresses to fetch, in light, dark and on paper.

Whatever comes from an input is escaped by the template. A content security policy forbids scripts and
every request, so that even a mistake here could not run what a trace's path says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined, Template

from scheduler import __version__
from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.comparison.differences import differences
from scheduler.analysis.comparison.loads import AtLoad, LoadStudy
from scheduler.analysis.comparison.steadiness import loads
from scheduler.analysis.comparison.step_times import saved_s
from scheduler.files import write_text
from scheduler.report.answer import (
    change_text,
    fewer_graphs,
    limits_text,
    load_text,
    max_rate_text,
    pool_differences,
    risk_text,
    slo_text,
    throughput_numbers,
    value_text,
    verdict_lines,
)
from scheduler.report.card import card_text
from scheduler.report.cautions import warnings_of
from scheduler.report.flags import fewer_flag, pool_flag, why_no_flag
from scheduler.report.summary import summary_records
from scheduler.report.trust import trust_rows
from scheduler.report.views import View, batch_time, graph_use, samples, view_of
from scheduler.report.wording import number_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scheduler.report.plots.style import Look

MIB = 1 << 20
_MOST_TIMES = 8
_ROWS = (
    ("TTFT", "ttft", "ms", 1.0),
    ("TPOT", "tpot", "ms", 1.0),
    ("ITL", "itl", "ms", 1.0),
    ("E2EL", "e2el", "s", 1e-3),
)
_STATISTICS = ("mean", "p50", "p90", "p99")


@dataclass(frozen=True, slots=True)
class Panel:
    """A drawing with the words above it."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """What a colour means: `kind` is box, solid, dashed or dotted, `ink` a colour of the style sheet."""

    text: str
    kind: str
    ink: str


@dataclass(frozen=True, slots=True)
class NumberTile:
    """One of the numbers under the verdict, a row per variant."""

    label: str
    rows: Sequence[tuple[str, str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class GraphTable:
    """What each graph of a pool did; `idle` are the rows of graphs that no decode step took."""

    name: str
    rows: Sequence[Sequence[str]]
    idle: Sequence[int]


@dataclass(frozen=True, slots=True)
class NumbersTable:
    """A table in words."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_report(
    comparison: Comparison,
    path: Path,
    *,
    step_time: Figure | None = None,
    command: str,
    executor: str = "model",
) -> None:
    """Write the report, atomically; `step_time` is the picture of the profile's curves."""
    write_text(path, report_html(comparison, step_time=step_time, command=command, executor=executor))


def report_html(
    comparison: Comparison, *, step_time: Figure | None = None, command: str, executor: str = "model"
) -> str:
    """Return the whole page."""
    from scheduler.report import plots

    profile = comparison.profile
    waits, rates = _distributions(comparison), _rates(comparison)
    text = _template().render(
        title=f"{comparison.workload.name}: CUDA graphs against eager",
        css=files("scheduler.report").joinpath("report.css").read_text(encoding="utf-8"),
        verdict=verdict_lines(comparison),
        numbers=_number_tiles(comparison),
        fewer=fewer_graphs(comparison),
        flag=fewer_flag(comparison),
        risk=risk_text(comparison),
        trust=trust_rows(comparison),
        cautions=warnings_of(comparison),
        numbers_table=_numbers_table(comparison),
        numbers_note="A range is the profile's: a fast and a slow host. "
        "none: below 1 %, or inside its 95 % interval.",
        variant_legend=_variant_legend(comparison),
        route_legend=_ROUTES,
        time_legend=_TIME,
        rates=rates,
        waits=waits[:2],
        batches=_batches(comparison),
        times=_times(comparison),
        distributions=waits if rates else waits[2:],
        graph_tables=[_graph_table(comparison, pool) for pool in comparison.pools if pool.runs],
        step_time="" if step_time is None else plots.to_svg(step_time, "What a decode step takes"),
        identity=[]
        if profile.identity is None
        else [[key.replace("_", " "), str(value)] for key, value in profile.identity.model_dump().items()],
        fits=[
            [
                fit.of,
                f"{fit.points:,}",
                _percent(fit.median_error),
                f"{100 * fit.p90_error:.1f} %",
                _percent(fit.worst_error),
            ]
            for fit in profile.fit
        ],
        origins=[
            [field, entry.origin.upper() if entry.origin == "assumed" else entry.origin, entry.note]
            for field, entry in sorted(profile.provenance.items())
        ],
        flags=[
            (pool.name, pool_flag(comparison, pool.variant.pool) or why_no_flag(comparison))
            for pool in comparison.pools
        ],
        card=card_text(comparison, full=True),
        command=command,
        version=__version__,
        summary=script_json(summary_records(comparison, executor)),
    )
    return text.lstrip() + "\n"


@cache
def _template() -> Template:
    source = files("scheduler.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(source)


def script_json(value: Any) -> str:
    """Return JSON that is safe between script tags: nothing in it can close the element."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# Words.


def _number_tiles(comparison: Comparison) -> list[NumberTile]:
    columns = (*comparison.pools, comparison.eager)
    tpot = [(column.name, f"{value_text(comparison, column, 'mean_tpot_ms')} ms") for column in columns]
    changes = [
        f"{pool.name} {change_text(found)}"
        for pool in comparison.pools
        if (found := differences(comparison, pool, "mean_tpot_ms"))
    ]
    tiles = [NumberTile("mean TPOT", tpot, f"against eager: {', '.join(changes)}" if changes else "")]
    label, text = throughput_numbers(comparison)
    if label == "max rate":
        note = text.rpartition("(")[2].rstrip(")")
        rows = [(column.name, max_rate_text(comparison, column)) for column in columns]
        tiles.append(NumberTile("highest rate", rows, note))
    elif comparison.workload.slo is None:
        key = "output_throughput_to_last_arrival"
        key = "output_throughput" if comparison.eager.mean(key) is None else key
        rows = [(column.name, value_text(comparison, column, key)) for column in columns]
        tiles.append(NumberTile(f"output tokens/s, {text.rpartition('  ')[2]}", rows))
    else:
        rows = [(column.name, slo_text(comparison, column)) for column in columns]
        tiles.append(NumberTile("requests that meet the SLO", rows, f"{limits_text(comparison)} ms"))
    load = load_text(comparison).split("; ")
    return [*tiles, NumberTile("the load now", [(load[0], "")], "; ".join(load[1:]))]


def _numbers_table(comparison: Comparison) -> NumbersTable:
    first, further = comparison.pools[:1], comparison.pools[1:]
    header = ["", "eager"]
    for pool in comparison.pools:
        header += [pool.name, "against eager"]
        header += [f"against {first[0].name}"] if pool in further else []
    rows = []
    for label, name, unit, scale in _ROWS:
        for statistic in _STATISTICS:
            key = f"{statistic}_{name}_ms"
            if all(column.mean(key) is None for column in (comparison.eager, *comparison.pools)):
                continue
            row = [f"{label} {statistic} ({unit})", value_text(comparison, comparison.eager, key, scale)]
            for pool in comparison.pools:
                row += [value_text(comparison, pool, key, scale)]
                row += [change_text(differences(comparison, pool, key))]
                row += [change_text(pool_differences(comparison, pool, key))] if pool in further else []
            rows.append(row)
    shares = [("SLO met", "slo_attainment"), ("decode steps in a graph", "replay_share")]
    if any(pool.variant.pool.piecewise for pool in comparison.pools):
        shares.append(("steps with prompts in a graph", "mixed_replay_share"))
    shares.append(("padded slots", "padding_share"))
    plain = [("output tokens/s, to the last arrival", "output_throughput_to_last_arrival", _same)]
    plain.append(("mean decode batch", "mean_batch_size", _same))
    for label, key, text in [*plain, *((label, key, _share) for label, key in shares)]:
        if all(column.mean(key) is None for column in (comparison.eager, *comparison.pools)):
            continue
        row = [label, text(value_text(comparison, comparison.eager, key, 100 if text is _share else 1))]
        for pool in comparison.pools:
            row += [text(value_text(comparison, pool, key, 100 if text is _share else 1)), ""]
            row += [""] if pool in further else []
        rows.append(row)
    return NumbersTable(header, rows)


def _same(text: str) -> str:
    return text


def _share(text: str) -> str:
    return text if text == "–" else f"{text} %"


def _graph_table(comparison: Comparison, column: Column) -> GraphTable:
    uses = graph_use(view_of(comparison, column))
    saved = saved_s(comparison, column)
    total_s = sum(use.step_s for use in uses) or 1.0
    costs = comparison.profile.pool
    engine = comparison.workload.engine
    captures = column.variant.pool.captures(engine.max_num_seqs, engine.prefill_tokens_per_step)
    rows = []
    for use in uses:
        memory = "–"
        if costs is not None:
            others = tuple(size for size in captures if size != use.size)
            memory = f"{(costs.memory_bytes(captures) - costs.memory_bytes(others)) / MIB:,.1f}"
        padding = "–" if use.padding_share is None else f"{100 * use.padding_share:.1f} %"
        share = f"{100 * use.step_s / total_s:.1f} %"
        rows.append(
            [f"{use.size:,}", f"{use.steps:,}", share, padding, _saved_text(saved.get(use.size)), memory]
        )
    return GraphTable(column.name, rows, [index for index, use in enumerate(uses) if not use.steps])


def _saved_text(saved: tuple[float, float] | None) -> str:
    if saved is None:
        return "–"
    low, high = (number_text(value).replace("-", "−") for value in saved)
    return low if low == high else f"{low} to {high}"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")


# Drawings.

_INK_OF = {
    "#0072B2": "blue",
    "#D55E00": "vermilion",
    "#009E73": "green",
    "#CC79A7": "pink",
    "#E69F00": "orange",
    "#444444": "dark",
}
_ROUTES = (
    LegendEntry("replayed graph", "box", "blue"),
    LegendEntry("of it padding", "box", "pale"),
    LegendEntry("no graph", "box", "orange"),
)
_TIME = (
    LegendEntry("decode, replayed graph", "box", "blue"),
    LegendEntry("decode, no graph", "box", "orange"),
    LegendEntry("step with prompts", "box", "silver"),
    LegendEntry("waiting requests", "dashed", "vermilion"),
)


def _columns(comparison: Comparison) -> list[Column]:
    return [column for column in comparison.columns if column.runs]


def _looks(comparison: Comparison) -> dict[str, Look]:
    from scheduler.report.plots.style import looks

    return looks([view_of(comparison, column) for column in _columns(comparison)])


def _variant_legend(comparison: Comparison) -> list[LegendEntry]:
    drawn = _looks(comparison)
    kinds = {"-": "solid", "--": "dashed", ":": "dotted"}
    return [
        LegendEntry(
            column.title,
            kinds.get(str(drawn[column.name].linestyle), "dashed"),
            _INK_OF.get(drawn[column.name].color, "strong"),
        )
        for column in _columns(comparison)
    ]


def _panel(title: str, figure: Figure, note: str = "") -> Panel:
    from scheduler.report import plots

    return Panel(title, plots.to_svg(figure, title), note)


def _distributions(comparison: Comparison) -> list[Panel]:
    """Return TPOT, TTFT, ITL and E2EL: the share of requests (ITL: of gaps) that were at most that slow."""
    from scheduler.report.plots import panels
    from scheduler.report.plots.latency import TITLES

    drawn = _looks(comparison)
    sampled = {column.name: samples(view_of(comparison, column)) for column in _columns(comparison)}
    limits: Mapping[str, float] = comparison.workload.slo.limits_ms if comparison.workload.slo else {}
    return [
        _panel(
            TITLES[metric],
            panels.distribution(
                metric, {name: found[metric] for name, found in sampled.items()}, drawn, limits.get(metric)
            ),
        )
        for metric in ("tpot", "ttft", "itl", "e2el")
    ]


def _rates(comparison: Comparison) -> list[Panel]:
    """Return mean TPOT and mean TTFT against the arrival rate; nothing where other loads were not tried."""
    from scheduler.report.plots import panels

    study = comparison.load_study
    here = None if study is None else _rate_now(study)
    if study is None or here is None:
        return []
    drawn = _looks(comparison)
    limits: Mapping[str, float] = comparison.workload.slo.limits_ms if comparison.workload.slo else {}
    found = []
    for metric in ("tpot", "ttft"):
        curves = [
            panels.RateCurve(drawn[name], tuple(
                (at.rate_per_s, value, at.overloaded)
                for at in _with_the_whole_run(comparison, name, variant.at)
                if at.rate_per_s is not None and (value := getattr(at, f"mean_{metric}_ms")) is not None
            ))
            for name, variant in study.variants.items()
            if name in drawn
        ]  # fmt: skip
        title = f"Mean {metric.upper()} (ms)"
        found.append(_panel(title, panels.against_rate(curves, here, limits.get(metric))))
    return found


def _with_the_whole_run(comparison: Comparison, name: str, at: Sequence[AtLoad]) -> list[AtLoad]:
    """Return a variant over the loads, the own one as all requests met it and not the sample alone."""
    column = next(column for column in comparison.columns if column.name == name)
    tpot_ms, ttft_ms = column.mean("mean_tpot_ms"), column.mean("mean_ttft_ms")
    overloaded = any(load.overloaded for load in loads(comparison, column))
    return [
        replace(one, mean_tpot_ms=tpot_ms, mean_ttft_ms=ttft_ms, overloaded=overloaded)
        if one.factor == 1
        else one
        for one in at
    ]


def _rate_now(study: LoadStudy) -> float | None:
    """Return the workload's own rate, as any variant met it."""
    return next(
        (at.rate_per_s for found in study.variants.values() for at in found.at if at.factor == 1), None
    )


def _batches(comparison: Comparison) -> list[Panel]:
    from scheduler.report.plots import panels

    views = [view_of(comparison, column) for column in (*comparison.pools, comparison.eager) if column.runs]
    times = [batch_time(view) for view in views]
    largest = max((len(time.in_graph) - 1 for time in times), default=1)
    return [
        _panel(view.name, panels.batches(view, time, largest), _batch_note(view, largest))
        for view, time in zip(views, times, strict=True)
    ]


def _batch_note(view: View, largest: int) -> str:
    beyond = [size for size in view.sizes if size > 1.3 * largest]
    parts = [f"{len(beyond)} of {len(view.sizes)} sizes lie further right"] if beyond else []
    if view.max_num_seqs > 1.3 * largest:
        parts.append(f"max_num_seqs is {view.max_num_seqs}")
    return f"({', '.join(parts)})" if parts else ""


def _times(comparison: Comparison) -> list[Panel]:
    from scheduler.report.over_time import over_time
    from scheduler.report.plots import panels

    columns = _columns(comparison)[:_MOST_TIMES]
    views = [view_of(comparison, column) for column in columns]
    end_ns = max((_end_ns(view) for view in views), default=0)
    cuts = [over_time(view.runs[0], end_ns, 120) for view in views]
    top = max((max(_most(sum(cut.batch.values())), _most(cut.waiting)) for cut in cuts), default=1.0)
    return [
        _panel(column.title, panels.over_time(view, end_ns, top))
        for column, view in zip(columns, views, strict=True)
    ]


def _most(values: Iterable[float] | Any) -> float:
    return float(max(values, default=0.0))


def _end_ns(view: View) -> int:
    steps = view.runs[0].steps
    return int(steps.start_ns[-1] + steps.duration_ns[-1]) if len(steps) else 0
