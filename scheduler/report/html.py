"""report.html: one file without scripts, fonts or addresses to fetch, in light, dark and on paper.

Whatever comes from an input is escaped. A content security policy forbids scripts and every request, so
that even a mistake here could not run what a trace's path says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler import __version__
from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.comparison.step_times import saved_s
from scheduler.analysis.statistics.difference import Verdict, paired_difference
from scheduler.files import write_text
from scheduler.report.card import card_text, headlines
from scheduler.report.cautions import warnings_of
from scheduler.report.summary import summary_records
from scheduler.report.views import GraphUse, graph_use, view_of
from scheduler.report.wording import number_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIB = 1 << 20
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
QUESTION = "Which decode batch sizes should this server capture as CUDA graphs, and what do its users gain?"
CAPTIONS = {
    "latency": (
        "How long users wait",
        "Each line says which share of requests (ITL: of gaps between tokens) was at most that slow; further "
        "left is better. Below, on a scale for the slowest few: where a line crosses 1 % is its p99. "
        "Lines turn faint where fewer than ten samples are slower. Shaded: between a fast and a slow host.",
    ),
    "batch_sizes": (
        "Which batch sizes the time went to",
        "Height is the share of decode step time spent at a batch size. Solid: replayed graph. Striped: "
        "the part of that time paid for padded slots. Crossed: no graph could be used. Marks below the axis "
        "are the sizes captured.",
    ),
    "over_time": (
        "What ran when",
        "Batch size averaged over slices of time, coloured by how steps ran; requests running and waiting "
        "at the end of each slice; the most KV blocks in use.",
    ),
    "graph_use": (
        "What each graph was good for",
        "Share of the replayed time that fell to each graph, and the share of its slots that were padding.",
    ),
    "step_time": (
        "What a step takes",
        "The profile's decode step times, which this run is built on. Where replay does not lie below eager, "
        "graphs gain nothing.",
    ),
}


def write_report(
    comparison: Comparison,
    path: Path,
    figures: Mapping[str, Figure],
    *,
    command: str,
    executor: str = "model",
) -> None:
    """Write the report with the given figures (names as in CAPTIONS), atomically."""
    write_text(path, report_html(comparison, figures, command=command, executor=executor))


def report_html(
    comparison: Comparison, figures: Mapping[str, Figure], *, command: str, executor: str = "model"
) -> str:
    """Return the whole page."""
    title = f"{comparison.workload.name}: CUDA graphs against eager"
    records = script_json(summary_records(comparison, executor))
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{QUESTION}</p>',
        _answer(comparison),
        _warnings(warnings_of(comparison)),
        "<h2>The card</h2>",
        f"<pre>{escape(card_text(comparison))}</pre>",
        *(_figure(name, figures[name]) for name in CAPTIONS if name in figures),
        *(_graph_table(comparison, column) for column in comparison.pools if column.runs),
        _profile(comparison),
        "<h2>To repeat this run</h2>",
        f"<pre>{escape(command)}</pre>",
        f'<p class="quiet">graphpool {__version__}; same files, options and seed give the same bytes.</p>',
        f'<script type="application/json" id="summary">{records}</script>',
    ]
    css = files("scheduler.report").joinpath("report.css").read_text(encoding="utf-8")
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{css}</style>",
    ]
    start = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", "<body>"]
    return "\n".join(part for part in (*start, *body, "</body>", "</html>") if part) + "\n"


def script_json(value: Any) -> str:
    """Return JSON that is safe between script tags: nothing in it can close the element."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _answer(comparison: Comparison) -> str:
    sentences = headlines(comparison)
    best = best_pool(comparison)
    if best:
        sentences.append(best)
    return '<div class="answer">' + "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences) + "</div>"


def best_pool(comparison: Comparison) -> str | None:
    """Return a sentence on which of several pools has the lowest mean TPOT, and how sure that is."""
    key = "mean_tpot_ms"
    ranked = [(mean, column) for column in comparison.pools if (mean := column.mean(key)) is not None]
    if len(ranked) < 2:
        return None
    ranked.sort(key=lambda pair: pair[0])
    (mean, best), (_, second) = ranked[:2]
    paired = paired_difference(second.values(key).tolist(), best.values(key).tolist())
    lead = f"Of the pools compared, {best.name} has the lowest mean TPOT, {number_text(mean)} ms"
    if paired.interval is None:
        return f"{lead}; one replication cannot say how sure that is."
    if paired.verdict is Verdict.NO_DIFFERENCE_SHOWN:
        return f"{lead}, but no difference from {second.name} is shown: choose by memory and start-up time."
    low, high = sorted((abs(paired.interval.low), abs(paired.interval.high)))
    return f"{lead}: {number_text(low)} to {number_text(high)} ms less than {second.name} (95 % interval)."


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<div class="warnings"><ul>{items}</ul></div>'


def _figure(name: str, figure: Figure) -> str:
    from scheduler.report import plots

    title, caption = CAPTIONS[name]
    return (
        f'<section id="{name}"><h2>{escape(title)}</h2><figure>{plots.to_svg(figure, title)}'
        f"<figcaption>{escape(caption)}</figcaption></figure></section>"
    )


# Tables.


def _table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int, idle: Iterable[bool] = ()
) -> str:
    """Return a table whose columns from `numbers_from` on are right-aligned; everything is escaped."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if i >= numbers_from else ''}>{escape(value)}</{tag}>"
            for i, value in enumerate(values)
        )

    quiet = [*idle]
    lines = [
        f"<tr{' class=idle' if i < len(quiet) and quiet[i] else ''}>{cells('td', row)}</tr>"
        for i, row in enumerate(rows)
    ]
    head = f"<thead><tr>{cells('th', header)}</tr></thead>" if header else ""
    return f'<div class="scroll"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def _graph_table(comparison: Comparison, column: Column) -> str:
    uses = graph_use(view_of(comparison, column))
    saved = saved_s(comparison, column)
    total_s = sum(use.step_s for use in uses) or 1.0
    costs = comparison.profile.pool
    engine = comparison.workload.engine
    captures = column.variant.pool.captures(engine.max_num_seqs, engine.prefill_tokens_per_step)
    if not captures:
        return ""
    rows = []
    for use in uses:
        memory = "–"
        if costs is not None:
            others = tuple(size for size in captures if size != use.size)
            memory = f"{(costs.memory_bytes(captures) - costs.memory_bytes(others)) / MIB:,.1f}"
        rows.append([*_use_cells(use, total_s), _saved_text(saved.get(use.size)), memory])
    idle = sum(not use.steps for use in uses)
    header = ["capture size", "decode steps", "share of replayed time", "padding share"]
    header += ["time saved (s)", "memory (MiB)"]
    note = (
        "Over all replications. Time saved is against the same steps without a graph, by the profile; memory "
        f"is what the pool would shrink by without this graph. {idle} of {len(uses)} served no decode step."
    )
    return (
        f"<section><h2>Graph by graph: {escape(column.name)}</h2><p class=quiet>{escape(note)}</p>"
        f"<details open><summary>{len(uses)} graphs</summary>"
        f"{_table(header, rows, 0, [not use.steps for use in uses])}</details></section>"
    )


def _use_cells(use: GraphUse, total_s: float) -> list[str]:
    padding = "–" if use.padding_share is None else f"{100 * use.padding_share:.1f} %"
    return [f"{use.size:,}", f"{use.steps:,}", f"{100 * use.step_s / total_s:.1f} %", padding]


def _saved_text(saved: tuple[float, float] | None) -> str:
    if saved is None:
        return "–"
    low, high = (number_text(value).replace("-", "−") for value in saved)
    return low if low == high else f"{low} to {high}"


def _profile(comparison: Comparison) -> str:
    profile = comparison.profile
    if profile.identity is None:
        text = "The step times are written in the workload file and taken as they are; nothing was measured."
        return f"<section><h2>Where the step times come from</h2><p>{text}</p></section>"
    identity = [[key.replace("_", " "), str(value)] for key, value in profile.identity.model_dump().items()]
    fits = [
        [
            fit.of,
            f"{fit.points:,}",
            _percent(fit.median_error),
            f"{100 * fit.p90_error:.1f} %",
            _percent(fit.worst_error),
        ]
        for fit in profile.fit
    ]
    origins = [[field, entry.origin.upper() if entry.origin == "assumed" else entry.origin, entry.note]
               for field, entry in sorted(profile.provenance.items())]  # fmt: skip
    parts = [
        "<section><h2>Where the step times come from</h2>",
        _table([], identity, 2),
        "<h3>Error of the profile against its own measurements</h3>" if fits else "",
        _table(["of", "points", "median", "90 % within", "worst"], fits, 1) if fits else "",
        "<h3>Origin of every number</h3>",
        _table(["field", "origin", "note"], origins, 3),
        "</section>",
    ]
    return "".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")
