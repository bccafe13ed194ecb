"""The card: one page of plain text that answers the question, with how sure it is and what it assumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.comparison.differences import (
    column_difference,
    differences,
    verdict_of_range,
)
from scheduler.analysis.comparison.steadiness import is_steady
from scheduler.analysis.statistics.difference import Difference, Verdict
from scheduler.analysis.statistics.intervals import mean_interval
from scheduler.catalog.dispatch.audit import slower_batches
from scheduler.catalog.engine_presets import engine_preset
from scheduler.catalog.profile.profile import assumed_fields
from scheduler.report.cautions import warnings_of
from scheduler.report.engine_flags import PastedPool, paste_line
from scheduler.report.wording import (
    arrivals_text,
    count_text,
    length_text,
    number_text,
    percent_text,
    sizes_text,
)
from scheduler.workload.arrivals import TraceArrivals
from scheduler.workload.schema import Workload

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
        *_preemptions(comparison),
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
    return [*(_headline(comparison, pool) for pool in comparison.pools), *smaller_lines(comparison)]


def smaller_lines(comparison: Comparison) -> list[str]:
    """Return which of the first pool's graphs would do, what that changes, and the flag; often nothing."""
    smaller = comparison.smaller
    if smaller is None:
        return []
    own, column = smaller.own, smaller.column
    sizes = column.variant.pool.sizes
    changes = [
        f"{what} changes by {change_text([found])}"
        for key, what in (("mean_tpot_ms", "mean TPOT"), ("p99_itl_ms", "p99 ITL"))
        if (found := column_difference(comparison, own, column, key)) is not None
    ]
    if not changes:
        return []
    gains = []
    if column.cost.kv_blocks is not None and own.cost.kv_blocks is not None:
        tokens = (column.cost.kv_blocks - own.cost.kv_blocks) * comparison.workload.engine.block_size
        gains.append(f"{tokens:+,} KV tokens")
    if column.cost.capture_s is not None and own.cost.capture_s is not None:
        gains.append(f"{column.cost.capture_s - own.cost.capture_s:+.1f} s".replace("-", "−") + " start-up")
    gain = f"; {', '.join(gains)}" if gains else ""
    limit = comparison.workload.engine.max_num_seqs
    pool, tokens = column.variant.pool, comparison.workload.engine.prefill_tokens_per_step
    slower = slower_batches(own.variant.pool.table(limit, tokens), pool.table(limit, tokens))
    pasted = PastedPool(
        sizes, piecewise=pool.piecewise, full=pool.full, max_num_seqs=limit, slower=tuple(slower)
    )
    return [
        f"Of its {len(own.variant.pool.sizes)} graphs {len(sizes)} would do: {' and '.join(changes)} against "
        f"{own.name}{gain}.",
        f"  {paste_line(pasted, comparison.workload.pool.preset)}",
        "  (some of its own sizes, checked on these requests; run.py tune searches every size in the loop)",
    ]


def _headline(comparison: Comparison, pool: Column) -> str:
    graphs = f"{pool.name}: {count_text(len(pool.variant.pool.sizes), 'graph')}"
    known = [(what, found) for key, what in HEADLINE_KEYS if (found := differences(comparison, pool, key))]
    if not known:
        return f"{graphs}; nothing was completed that could be compared with eager."
    what, found = next((item for item in known if item[1][0].interval is not None), known[0])
    change = change_text(found)
    return f"{graphs}. Against eager, {what} changes by {change} ({_certainty(comparison, pool, found)})."


def _certainty(comparison: Comparison, pool: Column, found: Sequence[Difference]) -> str:
    first = found[0]
    parts = []
    if not _are_steady(comparison, pool):  # a longer run would change by another amount
        parts.append("NO STEADY STATE, true of this finite run only")
    elif first.interval is None:
        parts.append("no interval")
    else:
        parts.append(str(verdict_of_range(found)))
        parts.append(
            f"within {_within(comparison)}, {first.interval.samples} blocks of time"
            if first.within_run
            else f"paired over {comparison.replications} replications"
        )
    if len(found) > 1:
        parts.append(f"the range is eager's host time, {_origin_of_range(comparison)}")
    return "; ".join(parts)


def _origin_of_range(comparison: Comparison) -> str:
    """Return whether the range was measured, derived or assumed, and what an end lacks."""
    return comparison.profile.range_origin.upper()


def _within(comparison: Comparison) -> str:
    return "this trace" if isinstance(comparison.workload.arrivals, TraceArrivals) else "this run"


def _are_steady(comparison: Comparison, pool: Column) -> bool:
    """Tell whether the pool and eager have a steady state, at both ends of the profile's range."""
    low = (pool, comparison.eager)
    high = [comparison.high[column.variant.name] for column in low if column.variant.name in comparison.high]
    return all(is_steady(comparison, column) for column in (*low, *high))


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
    runs = f"{_requests_text(comparison)} × {count_text(comparison.replications, 'replication')}"
    dropped = (
        f", first {comparison.warmup_requests:,} dropped as warm-up" if comparison.warmup_requests else ""
    )
    kv_blocks = comparison.pools[0].cost.kv_blocks if comparison.pools else comparison.eager.cost.kv_blocks
    kv_text = (
        "unlimited KV" if kv_blocks is None else f"{kv_blocks:,} KV blocks of {engine.block_size} tokens"
    )
    budget = "" if engine.policy == "decode_only" else f", {_budget(workload):,} tokens per step"
    preset = "" if engine.preset is None else f", preset {engine.preset} ({_release(engine.preset)})"
    lines = [
        f"workload  {workload.name}, seed {workload.seed}: {runs}{dropped}",
        f"          {arrivals_text(workload)}; prompt {length_text(workload.prompt_tokens)}; "
        f"output {length_text(workload.output_tokens)}",
        *(f"          {note}" for note in comparison.requests[0].notes),
        f"engine    {engine.policy}, max_num_seqs {engine.max_num_seqs}{budget}, {kv_text}{preset}",
        *_profile_lines(comparison),
    ]
    for pool in comparison.pools:
        lines += _pool_lines(comparison, pool)
    return lines


def _requests_text(comparison: Comparison) -> str:
    """Return how many requests a replication has; with `duration_s` not all have as many."""
    counts = [len(requests) for requests in comparison.requests]
    least, most = min(counts), max(counts)
    return count_text(most, "request") if least == most else f"{least:,}–{most:,} requests"


def _release(preset: str) -> str:
    return engine_preset(preset).release


def _budget(workload: Workload) -> int:
    engine = workload.engine
    return engine.max_num_batched_tokens if engine.policy == "mixed" else engine.prefill_tokens_per_step


def _profile_lines(comparison: Comparison) -> list[str]:
    profile = comparison.profile
    if comparison.execution is not None:
        return [f"steps     {_executed(comparison.execution.facts)}"]
    identity = profile.identity
    if identity is None:
        return ["profile   inline: step times of the workload file, taken as they are"]
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
    assumed = assumed_fields(profile)
    if assumed:
        lines.append(f"          ASSUMED, not measured: {', '.join(assumed)}")
    return lines


def _executed(facts: Mapping[str, object]) -> str:
    """Say what executed the steps for real; a step log may tell little of it."""
    words = ", ".join(f"{facts[key]}" for key in ("model", "device", "dtype", "attention") if facts.get(key))
    replay = facts.get("replay")
    return f"executed for real: {words}; {replay}; {facts.get('clock', '')}" if replay else words


def _pool_lines(comparison: Comparison, column: Column) -> list[str]:
    pool, cost = column.variant.pool, column.cost
    costs = []
    if cost.graph_memory_bytes is not None:
        costs.append(f"{cost.graph_memory_bytes / 2**20:,.0f} MiB")
    if cost.capture_s is not None:
        delays = comparison.workload.engine.delay_start_by_capture
        costs.append(f"{cost.capture_s:.1f} s to capture{', serving starts after' if delays else ''}")
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
    eager_high = comparison.high.get(comparison.eager.variant.name)
    columns = [comparison.eager, *([eager_high] if eager_high else [])]
    for pool in comparison.pools:
        high = comparison.high.get(pool.variant.name)
        columns += [pool, *([high] if high else [])]
    titles = [column.title for column in columns]
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
    if any(pool.variant.pool.piecewise for pool in comparison.pools):
        rows.append(_row(comparison, "Replay share, steps with prompts", "mixed_replay_share", columns, None))
    rows.append(_row(comparison, "Padding share", "padding_share", columns, None))
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
        if not _are_steady(comparison, pool):
            continue  # a mean of a run without a steady state describes its length
        for key, label in (("mean_tpot_ms", "mean TPOT"), ("mean_e2el_ms", "mean E2EL")):
            found = differences(comparison, pool, key)
            if found:
                text = difference_text(found, _within(comparison))
                lines.append(f"{pool.name} against eager, {label}: {text}")
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
