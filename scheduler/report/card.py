"""The card: one page of plain text that answers the question, with how sure it is and what it assumes."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.analysis.compare import Column, Comparison, without_graph_share
from scheduler.analysis.differences import Difference, differences, verdict_of_range
from scheduler.analysis.statistics import Verdict, mean_interval
from scheduler.analysis.steadiness import is_steady, load_warnings, warmup_warnings
from scheduler.catalog.profile import Profile
from scheduler.report.wording import (
    arrivals_text,
    count_text,
    length_text,
    number_text,
    percent_text,
    ranges_text,
    sizes_text,
)
from scheduler.workload.schema import Workload

WIDTH = 108
HEADLINE_KEYS = (("p99_itl_ms", "p99 ITL"), ("mean_tpot_ms", "mean TPOT"), ("mean_ttft_ms", "mean TTFT"))
LATENCIES = (("ttft", "TTFT"), ("tpot", "TPOT"), ("itl", "ITL"), ("e2el", "E2EL"))
FOOTER = (
    "TTFT = first token − arrival. TPOT = (E2EL − TTFT) / (output tokens − 1), per request. ITL = every gap "
    "between tokens.\nE2EL = last token − arrival. Replay share = decode steps replayed / decode steps. "
    "Padding share = padded / captured slots."
)


def card_text(comparison: Comparison) -> str:
    """Return the whole card, ending in a newline."""
    parts = [
        *headlines(comparison),
        "",
        *_setting(comparison),
        "",
        *_table(comparison),
        "",
        *_verdicts(comparison),
    ]
    warnings = warnings_of(comparison)
    if warnings:
        parts += ["", *(f"warning: {warning}" for warning in warnings)]
    parts += ["", FOOTER]
    return "\n".join(line.rstrip() for line in parts) + "\n"


# The answer.


def headlines(comparison: Comparison) -> list[str]:
    """Return one sentence per pool: what it changes against eager, and how sure that is."""
    return [_headline(comparison, pool) for pool in comparison.pools]


def _headline(comparison: Comparison, pool: Column) -> str:
    graphs = f"{pool.name}: {count_text(len(pool.variant.pool.sizes), 'graph')}"
    known = [(what, found) for key, what in HEADLINE_KEYS if (found := differences(comparison, pool, key))]
    if not known:
        return f"{graphs}; nothing was completed that could be compared with eager."
    what, found = next((item for item in known if item[1][0].interval is not None), known[0])
    change = change_text(found)
    return f"{graphs}. Against eager, {what} changes by {change} ({_certainty(comparison, found)})."


def _certainty(comparison: Comparison, found: Sequence[Difference]) -> str:
    first = found[0]
    parts = [str(verdict_of_range(found))] if first.interval is not None else []
    if first.within_trace and first.interval is not None:
        parts.append(f"within this trace, {first.interval.samples} blocks of time")
    elif first.interval is not None:
        parts.append(f"paired over {comparison.replications} replications")
    else:
        parts.append("no interval")
    if len(found) > 1:
        parts.append("the range is eager's host time, ASSUMED")
    return "; ".join(parts)


def change_text(found: Sequence[Difference]) -> str:
    """Return the relative change as text: `−38.1 % ±0.4`, or `−38.1…−67.9 %` for a range."""
    shown = [difference for difference in found if difference.relative is not None]
    if not shown:
        return "–"
    least = min(shown, key=lambda difference: abs(difference.relative or 0))
    if len(shown) > 1:
        most = max(shown, key=lambda difference: abs(difference.relative or 0))
        return f"{percent_text(least.relative)[:-2]}…{percent_text(most.relative)}"
    half_width = least.relative_half_width
    return percent_text(least.relative) + ("" if half_width is None else f" ±{100 * half_width:.1f}")


# The setting.


def _setting(comparison: Comparison) -> list[str]:
    workload = comparison.workload
    engine = workload.engine
    requests = len(comparison.requests[0])
    runs = f"{count_text(requests, 'request')} × {count_text(comparison.replications, 'replication')}"
    dropped = (
        f", first {comparison.warmup_requests:,} dropped as warm-up" if comparison.warmup_requests else ""
    )
    kv_blocks = comparison.pools[0].cost.kv_blocks if comparison.pools else comparison.eager.cost.kv_blocks
    kv_text = (
        "unlimited KV" if kv_blocks is None else f"{kv_blocks:,} KV blocks of {engine.block_size} tokens"
    )
    budget = "" if engine.policy == "decode_only" else f", {_budget(workload):,} tokens per step"
    lines = [
        f"workload  {workload.name}, seed {workload.seed}: {runs}{dropped}",
        f"          {arrivals_text(workload)}; prompt {length_text(workload.prompt_tokens)}; "
        f"output {length_text(workload.output_tokens)}",
        *(f"          {note}" for note in comparison.requests[0].notes),
        f"engine    {engine.policy}, max_num_seqs {engine.max_num_seqs}{budget}, {kv_text}",
        *_profile_lines(comparison),
    ]
    for pool in comparison.pools:
        lines += _pool_lines(comparison, pool)
    return lines


def _budget(workload: Workload) -> int:
    engine = workload.engine
    return engine.max_num_batched_tokens if engine.policy == "mixed" else engine.prefill_tokens_per_step


def _profile_lines(comparison: Comparison) -> list[str]:
    profile = comparison.profile
    if comparison.execution is not None:
        return [f"steps     {comparison.execution.line}"]
    if not isinstance(profile, Profile):
        return ["profile   inline: step times of the workload file, taken as they are"]
    identity = profile.identity
    lines = [
        f"profile   {identity.name}: {identity.model} {identity.dtype} on {identity.gpu}, {identity.engine} "
        f"{identity.engine_version}, {identity.date}"
    ]
    errors = [fit.worst_error for fit in profile.fit]
    if errors:
        points = sum(fit.points for fit in profile.fit)
        lines.append(
            f"          its error on {points} measured points: worst {percent_text(min(errors))[:-2]}…"
            f"{percent_text(max(errors))} (run.py profile show {identity.name})"
        )
    assumed = [field for field, _ in profile.fields_of_origin("assumed")]
    if assumed:
        lines.append(f"          ASSUMED, not measured: {', '.join(assumed)}")
    return lines


def _pool_lines(comparison: Comparison, column: Column) -> list[str]:
    pool, cost = column.variant.pool, column.cost
    costs = []
    if cost.graph_memory_bytes is not None:
        costs.append(f"{cost.graph_memory_bytes / 2**20:,.0f} MiB")
    if cost.capture_s is not None:
        costs.append(f"{cost.capture_s:.1f} s to capture")
    used = used_graphs(column)
    what = f"{count_text(len(pool.sizes), 'graph')} {sizes_text(pool.sizes)}" if pool.sizes else "no graphs"
    padding = "" if pool.padding or not pool.sizes else ", exact sizes only"
    lines = [f"pool      {column.name} = {column.origin}: {what}{padding}"]
    detail = "; ".join([*costs, f"decode steps used {used} of them" if pool.sizes else "pure eager"])
    return [*lines, f"          {detail}"]


def used_graphs(column: Column) -> int:
    """Return how many of a pool's graphs any decode step took."""
    taken: dict[int, None] = {}
    for run in column.runs:
        decode = run.steps.kind == 0
        taken |= dict.fromkeys(run.steps.capture_size[decode].tolist())
    return len([size for size in taken if size])


# The table.


def _table(comparison: Comparison) -> list[str]:
    eager_high = comparison.high.get("eager")
    columns = [comparison.eager, *([eager_high] if eager_high else []), *comparison.pools]
    titles = [
        "eager",
        *(["eager, slow host"] if eager_high else []),
        *(pool.name for pool in comparison.pools),
    ]
    single = comparison.pools[0] if len(comparison.pools) == 1 else None
    if single is not None:
        titles.append("change")
    rows = [["", *titles]]
    rows += [
        _row(comparison, f"{label} {q} ms", f"{q}_{name}_ms", columns, single)
        for name, label in LATENCIES
        for q in ("p50", "p90", "p99")
    ]
    rows.append(_row(comparison, "Output token throughput (tok/s)", "output_throughput", columns, single))
    rows.append(_row(comparison, "Request throughput (req/s)", "request_throughput", columns, single))
    if comparison.workload.slo is not None:
        rows.append(_row(comparison, "Request goodput (req/s)", "request_goodput", columns, single))
        rows.append(_row(comparison, "SLO attainment", "slo_attainment", columns, None))
    rows.append(_row(comparison, "Mean decode batch size", "mean_batch_size", columns, None))
    rows.append(_row(comparison, "Replay share", "replay_share", columns, None))
    rows.append(_row(comparison, "Padding share", "padding_share", columns, None))
    return aligned(rows)


def _row(
    comparison: Comparison, label: str, key: str, columns: Sequence[Column], single: Column | None
) -> list[str]:
    row = [label, *(_cell(column, key) for column in columns)]
    if single is not None:
        row.append(change_text(differences(comparison, single, key)))
    return row


def _cell(column: Column, key: str) -> str:
    values = column.values(key)
    if not len(values):
        return "–"
    if key.endswith("share") or key == "slo_attainment":
        return f"{100 * values.mean():.1f} %"
    interval = mean_interval(values.tolist())
    text = number_text(float(values.mean()))
    return text if interval is None else f"{text} ±{number_text(interval.half_width)}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines: the first column to the left, the others to the right."""
    count = max(len(row) for row in rows)
    padded = [[*row, *[""] * (count - len(row))] for row in rows]
    widths = [max(len(row[i]) for row in padded) for i in range(count)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, count))])
        for row in padded
    ]


# How sure.


def _verdicts(comparison: Comparison) -> list[str]:
    lines = []
    for pool in comparison.pools:
        if not is_steady(comparison, pool):
            continue  # a mean of a run without a steady state describes its length
        for key, label in (("mean_tpot_ms", "mean TPOT"), ("mean_e2el_ms", "mean E2EL")):
            found = differences(comparison, pool, key)
            if found:
                lines.append(f"{pool.name} against eager, {label}: {_difference_text(found)}")
    return lines


def _difference_text(found: Sequence[Difference]) -> str:
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
    if verdict == Verdict.NO_DIFFERENCE_SHOWN and first.more_replications:
        verdict += f" (about {first.more_replications:,} more replications to resolve 1 %)"
    where = ", within this trace" if first.within_trace else ""
    return f"{' … '.join(texts)}  {verdict} (95 %{where})"


# What to beware of.


def warnings_of(comparison: Comparison) -> list[str]:
    """Return what a reader must know before believing the card, most important first."""
    warnings = []
    if comparison.failure is not None:
        warnings.append(f"PARTIAL RESULT: the run ended early ({comparison.failure}).")
    for pool in comparison.pools:
        warnings += _pool_warnings(comparison, pool)
    for column in comparison.columns:
        warnings += load_warnings(comparison, column)
    warnings += warmup_warnings(comparison)
    for pool in comparison.pools:
        found = differences(comparison, pool, "mean_e2el_ms")
        reasons = [difference.why_no_interval for difference in found if difference.why_no_interval]
        warnings += [f"{pool.name}: no interval: {reason}." for reason in reasons[:1]]
    for column in (*comparison.pools, comparison.eager):
        remarks = dict.fromkeys(remark for run in column.runs for remark in run.remarks)
        if remarks:
            warnings.append(f"{column.name}: step times beyond the measured range: {'; '.join(remarks)}.")
        rejected = sum(summary["rejected"] for summary in column.summaries)
        if rejected:
            warnings.append(
                f"{column.name}: {count_text(rejected, 'request')} rejected ({_reasons(column)})."
            )
    return warnings


def _reasons(column: Column) -> str:
    reasons: dict[str, int] = {}
    for run in column.runs:
        for reason in run.requests.reasons.values():
            reasons[reason] = reasons.get(reason, 0) + 1
    return "; ".join(f"{count:,} × {reason}" for reason, count in sorted(reasons.items()))


def _pool_warnings(comparison: Comparison, column: Column) -> list[str]:
    pool = column.variant.pool
    largest = comparison.workload.engine.max_num_seqs
    unserved = pool.unserved(largest)
    if not unserved or not pool.sizes:
        return []
    share = sum(without_graph_share(run) for run in column.runs) / max(1, len(column.runs))
    fix = f"capture {largest}" if pool.padding else "turn padding on"
    return [
        f"{column.name}: batch sizes {ranges_text(unserved)} have no graph; {100 * share:.1f} % of decode "
        f"steps ran without one because of it ({fix}, or lower max_num_seqs)."
    ]
