"""The card: one page of plain text that answers the question, with how sure it is and what it assumes."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.analysis.compare import Column, Comparison, without_graph_share
from scheduler.analysis.statistics import PairedDifference, Verdict, mean_interval, paired_difference
from scheduler.report.wording import (
    arrivals_text,
    count_text,
    length_text,
    number_text,
    percent_text,
    ranges_text,
    sizes_text,
)
from scheduler.simulate import Profile
from scheduler.workload.schema import Workload

WIDTH = 108
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
    key = next(
        (key for key in ("p99_itl_ms", "mean_itl_ms", "mean_ttft_ms") if pool.mean(key) is not None), ""
    )
    differences = differences_against_eager(comparison, pool, key) if key else []
    graphs = f"{pool.name}: {count_text(len(pool.variant.pool.sizes), 'graph')}"
    if not differences:
        return f"{graphs}; nothing was completed that could be compared with eager."
    what = key.removesuffix("_ms").upper().replace("_", " ").replace("P99", "p99").replace("MEAN", "mean")
    change = change_text(differences)
    return f"{graphs}. Against eager, {what} changes by {change} ({_certainty(comparison, differences)})."


def _certainty(comparison: Comparison, differences: Sequence[PairedDifference]) -> str:
    parts = []
    if comparison.replications > 1:
        parts.append(f"{verdict_text(differences)}, paired over {comparison.replications} replications")
    elif comparison.requests[0].notes:
        parts.append("one trace")
    else:
        parts.append("one replication: no interval")
    if len(differences) > 1:
        parts.append("ASSUMED range of eager host time")
    return "; ".join(parts)


def differences_against_eager(comparison: Comparison, pool: Column, key: str) -> list[PairedDifference]:
    """Return pool − eager, paired by replication: one, or two where the profile gives eager as a range."""
    pairs = [(comparison.eager, pool)]
    high = comparison.high
    if comparison.eager.variant.name in high:
        pairs.append((high[comparison.eager.variant.name], high.get(pool.variant.name, pool)))
    lower_is_better = key.endswith("_ms")
    found = []
    for eager, column in pairs:
        before, after = eager.values(key), column.values(key)
        if len(before) and len(before) == len(after):
            found.append(paired_difference(before, after, lower_is_better=lower_is_better))
    return found


def change_text(differences: Sequence[PairedDifference]) -> str:
    """Return the relative change as text: `−38.1 % ±0.4`, or `−38.1…−67.9 %` for a range."""
    shown = [difference for difference in differences if difference.relative is not None]
    if not shown:
        return "–"
    low = min(shown, key=lambda difference: abs(difference.relative or 0))
    if len(shown) > 1:
        high = max(shown, key=lambda difference: abs(difference.relative or 0))
        return f"{percent_text(low.relative)[:-2]}…{percent_text(high.relative)}"
    text = percent_text(low.relative)
    if low.interval is not None and low.difference:
        scale = abs((low.relative or 0) / low.difference)
        text += f" ±{100 * low.interval.half_width * scale:.1f}"
    return text


def verdict_text(differences: Sequence[PairedDifference]) -> str:
    """Return the verdict that both ends of a range agree on."""
    verdicts = {difference.verdict for difference in differences}
    return str(verdicts.pop()) if len(verdicts) == 1 else str(Verdict.NO_DIFFERENCE_SHOWN)


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
    if not isinstance(profile, Profile):
        return ["profile   inline: step times of the workload file, taken as they are"]
    identity = profile.identity
    lines = [
        f"profile   {identity.name}: {identity.model} {identity.dtype} on {identity.gpu}, {identity.engine} "
        f"{identity.engine_version}, {identity.date}"
    ]
    for fit in profile.fit:
        lines.append(
            f"          error against {fit.of}: median {percent_text(fit.median_error)}, "
            f"worst {percent_text(fit.worst_error)} ({fit.points} points)"
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
    return _aligned(rows)


def _row(
    comparison: Comparison, label: str, key: str, columns: Sequence[Column], single: Column | None
) -> list[str]:
    row = [label, *(_cell(column, key) for column in columns)]
    if single is not None:
        row.append(change_text(differences_against_eager(comparison, single, key)))
    return row


def _cell(column: Column, key: str) -> str:
    values = column.values(key)
    if not len(values):
        return "–"
    if key.endswith("share") or key == "slo_attainment":
        return f"{100 * values.mean():.1f} %"
    interval = mean_interval(values)
    text = number_text(float(values.mean()))
    return text if interval is None else f"{text} ±{number_text(interval.half_width)}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
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
        for key, label in (("mean_tpot_ms", "mean TPOT"), ("mean_e2el_ms", "mean E2EL")):
            differences = differences_against_eager(comparison, pool, key)
            if differences:
                lines.append(f"{pool.name} against eager, {label}: {_difference_text(differences)}")
    return lines


def _difference_text(differences: Sequence[PairedDifference]) -> str:
    texts = []
    for difference in differences:
        text = f"{difference.difference:+.3f} ms"
        if difference.interval is not None:
            text += f" [{difference.interval.low:+.3f}, {difference.interval.high:+.3f}]"
        texts.append(text)
    first = differences[0]
    if first.interval is None:
        return " … ".join(texts) + " (no interval: one replication)"
    verdict = verdict_text(differences)
    if verdict == Verdict.NO_DIFFERENCE_SHOWN and first.more_replications:
        verdict += f" (about {first.more_replications:,} more replications to resolve 1 %)"
    return f"{' … '.join(texts)}  {verdict}"


# What to beware of.


def warnings_of(comparison: Comparison) -> list[str]:
    """Return what a reader must know before believing the card, most important first."""
    warnings = []
    if comparison.failure is not None:
        warnings.append(f"PARTIAL RESULT: the run ended early ({comparison.failure}).")
    for pool in comparison.pools:
        warnings += _pool_warnings(comparison, pool)
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
