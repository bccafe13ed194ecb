"""Every percentile and every interval: what `--full` prints below the card."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.comparison.differences import differences, verdict_of_range
from scheduler.analysis.statistics.difference import Difference, Verdict
from scheduler.analysis.statistics.intervals import mean_interval
from scheduler.report.answer import are_steady, ends, within
from scheduler.report.cautions import warnings_of
from scheduler.report.wording import aligned, number_text, percent_text

LATENCIES = (("ttft", "TTFT"), ("tpot", "TPOT"), ("itl", "ITL"), ("e2el", "E2EL"))
FOOTER = (
    "TTFT = first token − arrival. TPOT = (E2EL − TTFT) / (output tokens − 1), per request. ITL = every gap "
    "between tokens.\nE2EL = last token − arrival. Replay share = decode steps replayed / decode steps. "
    "Padding share = padded / captured slots.\nThroughputs count up to the last completion, as vLLM's "
    "benchmark does, unless they say otherwise."
)


def full_text(comparison: Comparison) -> str:
    """Return the whole table with its intervals, verdicts, warnings and definitions, ending in a newline."""
    warnings = warnings_of(comparison)
    parts = [*_table(comparison), *_preemptions(comparison), "", *_verdicts(comparison)]
    parts += ["", *(f"warning: {warning}" for warning in warnings)] if warnings else []
    parts += ["", FOOTER]
    return "\n".join(line.rstrip() for line in parts) + "\n"


def _table(comparison: Comparison) -> list[str]:
    header = [""]
    columns: list[tuple[Column, bool]] = []
    for column in (comparison.eager, *comparison.pools):
        for end in ends(comparison, column):
            header.append(end.title)
            columns.append((end, False))
        if column is not comparison.eager:
            header.append("change")
            columns.append((column, True))
    rows = [header]
    rows += [
        _row(comparison, f"{label} {q} ms", f"{q}_{name}_ms", columns)
        for name, label in LATENCIES
        for q in ("mean", "p50", "p90", "p99")
    ]
    rows += [
        _row(comparison, label, key, columns)
        for label, key in (
            ("Output token throughput (tok/s)", "output_throughput"),
            ("the same, to the last arrival", "output_throughput_to_last_arrival"),
            ("Request throughput (req/s)", "request_throughput"),
        )
    ]
    if comparison.workload.slo is not None:
        rows.append(_row(comparison, "Request goodput (req/s)", "request_goodput", columns))
        rows.append(_row(comparison, "SLO attainment", "slo_attainment", columns))
    rows.append(_row(comparison, "Mean decode batch size", "mean_batch_size", columns))
    if comparison.workload.engine.draft_tokens:
        rows.append(_row(comparison, "Tokens per request and step", "spec_decode_acceptance_length", columns))
    rows.append(_row(comparison, "Replay share", "replay_share", columns))
    if any(pool.variant.pool.piecewise for pool in comparison.pools):
        rows.append(_row(comparison, "Replay share, steps with prompts", "mixed_replay_share", columns))
    rows.append(_row(comparison, "Padding share", "padding_share", columns))
    for label, key in (
        ("Prefix cache hit rate", "prefix_hit_rate"),
        ("Cached prompt tokens", "prefix_cached_tokens"),
        ("Cached blocks overwritten", "prefix_evicted_blocks"),
    ):
        if comparison.eager.mean(key) is not None:
            rows.append(_row(comparison, label, key, columns))
    return aligned(rows)


def _preemptions(comparison: Comparison) -> list[str]:
    """Return one line where requests lost their KV blocks and were computed again, else none."""
    texts = []
    for column in (comparison.eager, *comparison.pools):
        in_all = sum(summary["preemptions"] for summary in column.summaries)
        most = max((summary["max_preemptions"] for summary in column.summaries), default=0)
        texts.append(f"{column.name} {in_all:,} in all, at most {most:,} of one request" if in_all else "")
    shown = [text for text in texts if text]
    return ["", f"preemptions: {'; '.join(shown)}"] if shown else []


def _row(comparison: Comparison, label: str, key: str, columns: Sequence[tuple[Column, bool]]) -> list[str]:
    return [
        label,
        *(
            _change(comparison, column, key) if is_change else _cell(column, key)
            for column, is_change in columns
        ),
    ]


def _change(comparison: Comparison, pool: Column, key: str) -> str:
    """Return a pool's relative change against eager with half its interval; shares have none."""
    if _is_share(key) or key in ("mean_batch_size", "spec_decode_acceptance_length"):
        return ""
    shown = [found for found in differences(comparison, pool, key) if found.relative is not None]
    if not shown:
        return "–"
    ordered = sorted(shown, key=lambda found: abs(found.relative or 0))
    if len(ordered) > 1:
        return f"{percent_text(ordered[0].relative)[:-2]}…{percent_text(ordered[-1].relative)}"
    half_width = ordered[0].relative_half_width
    return percent_text(ordered[0].relative) + ("" if half_width is None else f" ±{100 * half_width:.1f}")


def _is_share(key: str) -> bool:
    return key.endswith("share") or key == "slo_attainment"


def _cell(column: Column, key: str) -> str:
    values = column.values(key)
    if not len(values):
        return "–"
    if _is_share(key):
        return f"{100 * values.mean():.1f} %"
    interval = mean_interval(values.tolist())
    text = number_text(float(values.mean()))
    return text if interval is None else f"{text} ±{number_text(interval.half_width)}"


# How sure.


def _verdicts(comparison: Comparison) -> list[str]:
    lines = []
    for pool in comparison.pools:
        if not are_steady(comparison, (pool, comparison.eager)):
            continue  # a mean of a run without a steady state describes its length
        for key, label in (("mean_tpot_ms", "mean TPOT"), ("mean_e2el_ms", "mean E2EL")):
            found = differences(comparison, pool, key)
            if found:
                lines.append(
                    f"{pool.name} against eager, {label}: {difference_text(found, within(comparison))}"
                )
    return lines


def difference_text(found: Sequence[Difference], within: str = "this trace") -> str:
    """Return the differences in milliseconds, with their intervals and the verdict they agree on."""
    texts = []
    for difference in found:
        text = f"{difference.difference:+.3f} ms"
        if difference.interval is not None:
            text += f" [{difference.interval.low:+.3f}, {difference.interval.high:+.3f}]"
        texts.append(text.replace("-", "−"))
    first = found[0]
    if first.interval is None:
        return f"{' … '.join(texts)} (no interval)"
    verdict = str(verdict_of_range(found))
    more = max(difference.more_replications or 0 for difference in found)  # the end that needs most
    if verdict == Verdict.NO_DIFFERENCE_SHOWN and more:
        verdict += f" (about {more:,} more replications to resolve 1 %)"
    where = f", within {within}" if first.within_run else ""
    if any(difference.interval is None for difference in found):
        where += ", one end of the range without interval"
    return f"{' … '.join(texts)}  {verdict} (95 %{where})"
