"""The card: at most 25 lines of 80 columns: the answer, how sure it is, and what it rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.comparison.differences import differences
from scheduler.catalog.engine_presets import engine_preset
from scheduler.report.answer import (
    change_text,
    ends,
    fewer_graphs,
    latency_numbers,
    load_text,
    throughput_numbers,
    value_text,
    verdict_lines,
)
from scheduler.report.cautions import warnings_of
from scheduler.report.drafting_text import drafting_answer
from scheduler.report.flags import drafted_flag, fewer_flag, why_no_flag
from scheduler.report.full_card import full_text
from scheduler.report.trust import trust_lines
from scheduler.report.views import used_graphs
from scheduler.report.wording import (
    aligned,
    arrivals_text,
    coarse_text,
    count_text,
    cut_text,
    cut_words,
    short_text,
    wrapped,
)
from scheduler.workload.schema import Workload
from scheduler.workload.speculation import SpeculationSettings

WIDTH, HEIGHT = 80, 25
_LABEL = 10
_NAME = 15
_MOST_VARIANTS = 6
_LEAST_IN_S = 300  # milliseconds; less of it would be lost in seconds
_MOST_VERDICTS = 3  # of further pools the table tells
# What a reader needs below the answer and its table, most needed first.
_TRUST, _WORKLOAD, _CAUTION, _SETTING, _DETAIL, _MORE_CAUTIONS = range(6)
# Of each latency the number that the change is of; a percentile stands beside it.
_ROWS = (("TTFT", "mean"), ("TPOT", "mean"), ("ITL", "p50"), ("E2EL", "mean"))
# With several pools every variant is a row, and these are the columns after mean TPOT and its change.
_COLUMNS = (("", "TPOT"), ("mean", "TTFT"), ("", "TTFT"), ("", "ITL"))  # "": the percentile
_PROMPTS = "p99 ITL is prompt chunks' time, which decode graphs leave as it is."


class _Block(NamedTuple):
    """Lines that belong together; the lower `rank` is what the reader needs more."""

    rank: int
    lines: list[str]
    kind: str


def card_text(comparison: Comparison, *, full: bool = False) -> str:
    """Return the card, ending in a newline; with `full` every percentile, interval and warning below it."""
    answer, table = _answer(comparison), _table(comparison)
    top = [*answer, "", *table, ""]
    blocks = _blocks(comparison)
    if len(top) + sum(len(block.lines) for block in blocks) + 1 > HEIGHT:
        top = [*answer, *table]
    kept, left = _chosen(blocks, HEIGHT - len(top) - 1)
    lines = [*top, *kept, *_labelled("next", _closing(left))]
    text = "\n".join(cut_words(line.rstrip(), WIDTH) for line in lines) + "\n"
    return f"{text}\n{_in_full(comparison)}\n\n{full_text(comparison)}" if full else text


def _blocks(comparison: Comparison) -> list[_Block]:
    """Return what stands below the table, in its order: the setting, what to trust, cautions."""
    blocks = []
    for label, text in _setting(comparison):
        rank = _WORKLOAD if label in ("workload", "pool") else _SETTING
        rank = _TRUST if "ASSUMED" in text or "left out" in text else rank
        blocks.append(_Block(rank, _labelled(label, text, most=2), "setting"))
    for index, line in enumerate(trust_lines(comparison, WIDTH - _LABEL)):
        rank = _DETAIL if line.is_detail else _TRUST
        blocks.append(_Block(rank, _labelled("" if index else "trust", line.text, most=2), "setting"))
    for index, warning in enumerate(warnings_of(comparison, overload=False)):  # overload is the headline
        rank = _MORE_CAUTIONS if index else _CAUTION
        blocks.append(_Block(rank, _labelled("caution", warning, most=3), "caution"))
    return blocks


def _chosen(blocks: Sequence[_Block], room: int) -> tuple[list[str], list[_Block]]:
    """Return the lines of the blocks that there is room for, in their order, and the blocks left out."""
    chosen: dict[int, _Block] = {}
    for index in sorted(range(len(blocks)), key=lambda index: (blocks[index].rank, index)):
        block = blocks[index]
        if len(block.lines) <= room:
            chosen[index] = block
            room -= len(block.lines)
    left = [block for index, block in enumerate(blocks) if index not in chosen]
    return [line for index in sorted(chosen) for line in chosen[index].lines], left


def _closing(left: Sequence[_Block]) -> str:
    """Return what to do next; what was left out is in `--full`."""
    cautions = sum(block.kind == "caution" for block in left)
    parts = [count_text(cautions, "more caution")] if cautions else []
    parts += ["setting"] if any(block.kind == "setting" for block in left) else []
    every = "percentiles" if len(parts) == 2 else "every percentile"
    text = f"--full: {', '.join([*parts, every])}; run.py tune; report.html"
    return text if len(text) <= WIDTH - _LABEL else text.replace("run.py tune", "tune")


def _in_full(comparison: Comparison) -> str:
    """Return setting and trust without a word cut off, and every note on how requests were read."""
    requests, delayed = comparison.requests[0], comparison.workload.engine.delay_start_by_capture
    lines = [*_setting(comparison), *(("", note) for note in requests.notes)]
    if comparison.workload.engine.preset is not None:
        lines.append(("preset", comparison.workload.engine.preset))
    for pool in comparison.pools:
        if pool.cost.capture_s is not None:
            after = ", serving starts after" if delayed else ""
            lines.append(("start-up", f"{pool.name}: {pool.cost.capture_s:.1f} s to capture{after}"))
    trust = trust_lines(comparison, width=10_000)
    lines += [("" if index else "trust", line.text) for index, line in enumerate(trust)]
    return "\n".join(f"{label:<{_LABEL}}{text}".rstrip() for label, text in dict.fromkeys(lines))


def _labelled(label: str, text: str, most: int = 1) -> list[str]:
    """Return text wrapped beside its label; of what is longer than `most` lines, whole words are kept."""
    lines = wrapped(text, WIDTH - _LABEL) or [""]
    if len(lines) > most:
        lines = [*lines[: most - 1], cut_words(f"{lines[most - 1]} {lines[most]}", WIDTH - _LABEL)]
    return [f"{label if i == 0 else '':<{_LABEL}}{line}" for i, line in enumerate(lines)]


# The answer.


def _answer(comparison: Comparison) -> list[str]:
    lines = []
    for verdict in verdict_lines(comparison)[:_MOST_VERDICTS]:
        lines += wrapped(verdict, WIDTH, "  ")[:3]
    tpot, (rate, delivered) = latency_numbers(comparison), throughput_numbers(comparison)
    if len(comparison.pools) > 1 and len(tpot) > WIDTH - 15:
        tpot = ""  # the table has a row for each
    for label, text in (("mean TPOT", tpot), (rate, delivered), ("load now", load_text(comparison))):
        found = wrapped(text, WIDTH - 15) if text else []
        lines += [f"  {label if i == 0 else '':<13}{line}" for i, line in enumerate(found[:2])]
    for text in drafting_answer(comparison.draft_study) if comparison.draft_study else ():
        lines += wrapped(text, WIDTH, "  ")[:3]
    if comparison.draft_study is not None:
        command, why = drafted_flag(comparison), why_no_flag(comparison)
        lines += [f"  ({why})"] if why else []
        lines += [] if command is None else _pasted(command, "run.py tune")
    fewer = fewer_graphs(comparison)
    if fewer:
        lines += wrapped(f"Fewer graphs? {fewer}", WIDTH, "  ")[:2]
        lines += _fewer_flag(comparison)
    return lines


def _fewer_flag(comparison: Comparison) -> list[str]:
    """Return the flag of a smaller list that would do, or why there is none."""
    study = comparison.load_study
    if study is None or study.fewer is None or not study.fewer.would_do:
        return []
    flag = fewer_flag(comparison)
    return [f"  ({why_no_flag(comparison)})"] if flag is None else _pasted(flag)


def _pasted(flag: str, elsewhere: str = "report.html") -> list[str]:
    """Return a command in at most two lines that a shell joins again, or where a longer one is."""
    words = flag.split(" ")
    if len(flag) <= WIDTH - 2:
        return [f"  {flag}"]
    fits = max(n for n in range(len(words)) if len(" ".join(words[:n])) <= WIDTH - 4)
    rest = " ".join(words[fits:])
    if len(rest) > WIDTH - 4:
        return [f"  (the flag to paste: {elsewhere})"]
    return [f"  {' '.join(words[:fits])} \\", f"    {rest}"]


# The table.


def _table(comparison: Comparison) -> list[str]:
    lines = _by_metric(comparison) if len(comparison.pools) == 1 else _by_variant(comparison)
    shares = [pool.mean("p99_itl_prompt_share") for pool in comparison.pools]
    return [*lines, _PROMPTS] if any(share is not None and share > 0.5 for share in shares) else lines


def _by_metric(comparison: Comparison) -> list[str]:
    (pool,) = comparison.pools
    lines = _metric_rows(comparison, pool, short_text)
    if max(map(len, lines)) > WIDTH:
        lines = _metric_rows(comparison, pool, coarse_text)
    if max(map(len, lines)) > WIDTH:  # rather means alone than a table without its last column
        lines = _metric_rows(comparison, pool, coarse_text, percentiles=False)
    return [*lines, *_graphs_hit(pool)]


def _metric_rows(
    comparison: Comparison, pool: Column, text: Callable[[float], str], *, percentiles: bool = True
) -> list[str]:
    rows = [["", cut_text(pool.name, _NAME), "eager", "change"]]
    high = _percentile(comparison)
    for name, statistic in _ROWS:
        key, beside = (f"{which}_{name.lower()}_ms" for which in (statistic, high))
        both = [end for column in (pool, comparison.eager) for end in ends(comparison, column)]
        means = [mean for end in both if (mean := end.mean(key)) is not None]
        if not means:
            continue
        unit, scale = ("s", 1e-3) if max(means) >= 1000 and min(means) >= _LEAST_IN_S else ("ms", 1.0)
        cells = [value_text(comparison, column, key, scale, text) for column in (pool, comparison.eager)]
        label = f"{name:<4} {statistic:<4} {unit}"
        if percentiles:
            label = f"{name:<4} {statistic:<4} / {high} {unit}"
            further = (
                value_text(comparison, column, beside, scale, coarse_text)
                for column in (pool, comparison.eager)
            )
            cells = [f"{cell} / {percentile}" for cell, percentile in zip(cells, further, strict=True)]
        rows.append([label, *cells, change_text(differences(comparison, pool, key))])
    return aligned(rows)


def _percentile(comparison: Comparison) -> str:
    """Return the highest of the usual percentiles that so many requests may state."""
    stated = (q for q in ("p99", "p90") if comparison.eager.mean(f"{q}_ttft_ms") is not None)
    return next(stated, "p50")


def _graphs_hit(pool: Column) -> list[str]:
    """Return how often graphs were replayed, and how many of the sizes that took."""
    sizes = pool.variant.pool.sizes
    if not sizes:
        return []
    parts: list[str] = []
    for what, key in (("decode", "replay_share"), ("steps with prompts", "mixed_replay_share")):
        share = pool.mean(key)
        if share is not None and (key == "replay_share" or pool.variant.pool.piecewise):
            used = used_graphs(pool.runs, decode=what == "decode")
            parts.append(f"{what} {100 * share:.0f} % ({used}{'' if parts else f' of {len(sizes)} sizes'})")
    return [f"graphs hit: {', '.join(parts) or 'no step took one'}"]


def _by_variant(comparison: Comparison) -> list[str]:
    shown = [(statistic or _percentile(comparison), name) for statistic, name in _COLUMNS]
    rows = [["ms", "mean TPOT", "change", *(f"{statistic} {name}" for statistic, name in shown)]]
    for column in [*comparison.pools, comparison.eager][-_MOST_VARIANTS:]:
        of_eager = column is comparison.eager
        change = "" if of_eager else change_text(differences(comparison, column, "mean_tpot_ms"))
        cells = [
            value_text(comparison, column, f"{statistic}_{name.lower()}_ms", text=coarse_text)
            for statistic, name in shown
        ]
        rows.append(
            [cut_text(column.name, _NAME), value_text(comparison, column, "mean_tpot_ms"), change, *cells]
        )
    hidden = max(0, len(comparison.pools) + 1 - _MOST_VARIANTS)
    more = f"; {count_text(hidden, 'more pool')}: --full" if hidden else ""
    return [*aligned(rows), f"change: mean TPOT against eager{more}"]


# The setting.


def _setting(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what was run, as (label, text)."""
    workload, engine = comparison.workload, comparison.workload.engine
    runs = _requests_text(comparison)
    if comparison.replications > 1:
        runs += f" × {comparison.replications}"
    kv_blocks = comparison.pools[0].cost.kv_blocks if comparison.pools else comparison.eager.cost.kv_blocks
    limits = [engine.policy, f"max_num_seqs {engine.max_num_seqs}"]
    if engine.policy != "decode_only":
        limits.append(f"{_budget(workload):,} tokens per step")
    limits.append("unlimited KV" if kv_blocks is None else f"{kv_blocks:,} KV blocks of {engine.block_size}")
    if engine.preset is not None:
        limits.append(engine_preset(engine.preset).release)
    prompt, output = (
        np.concatenate([getattr(requests, name) for requests in comparison.requests]).mean()
        for name in ("prompt_tokens", "output_tokens")
    )
    asked = f"{arrivals_text(workload)}, prompt {prompt:.0f}, output {output:.0f}"
    return [
        ("workload", f"{workload.name}: {runs}, {asked}"),
        *(("", note) for note in _told(comparison.requests[0].notes)),
        ("engine", ", ".join(limits)),
        *(("prefixes", text) for text in [_prefixes_text(comparison)] if text),
        *((("drafts", drafting_text(engine.speculation)),) if engine.speculation else ()),
        *(("pool" if i == 0 else "", pool_text(pool)) for i, pool in enumerate(comparison.pools[:2])),
    ]


def _told(notes: Sequence[str]) -> list[str]:
    """Return what the card must tell of how requests were read: what they are, left out and assumed."""
    return [note for index, note in enumerate(notes) if not index or "left out" in note or "ASSUMED" in note]


def _prefixes_text(comparison: Comparison) -> str:
    """Return how much of the prompts was cached, where it is known what they share; else nothing."""
    texts = []
    for column in (*comparison.pools[:2], comparison.eager):
        rate, evicted = column.mean("prefix_hit_rate"), column.mean("prefix_evicted_blocks")
        if rate is not None and evicted is not None:
            texts.append(f"{column.name} {100 * rate:.1f} % ({evicted:,.0f} blocks overwritten)")
    return f"prompt tokens cached: {', '.join(texts)}" if texts else ""


def drafting_text(settings: SpeculationSettings) -> str:
    """Return who drafts how much, and how much of it is accepted."""
    if not settings.draft_tokens:
        return f"{settings.method}, off"
    rates = settings.acceptance
    if rates.per_position is not None:
        accepted = (
            f"accepted {', '.join(f'{share:.0%}' for share in rates.per_position[: settings.draft_tokens])}"
        )
    else:
        varied = f" ± {rates.spread:g} among requests" if rates.spread else ""
        match = "" if rates.match is None else f" where an n-gram matches, {rates.match:g}"
        rate = f"{rates.rate:g}" if rates.column is None else f"by request, column {rates.column}"
        accepted = f"acceptance rate {rate}{match}{varied}"
    return f"{settings.method}, {settings.draft_tokens} tokens per request and step, {accepted}"


def _requests_text(comparison: Comparison) -> str:
    """Return how many requests a replication has; with `duration_s` not all have as many."""
    counts = [len(requests) for requests in comparison.requests]
    least, most = min(counts), max(counts)
    return count_text(most, "request") if least == most else f"{least:,}–{most:,} requests"


def _budget(workload: Workload) -> int:
    engine = workload.engine
    return engine.max_num_batched_tokens if engine.policy == "mixed" else engine.prefill_tokens_per_step


def pool_text(column: Column) -> str:
    """Return a pool's name, where it comes from, its sizes and what they cost."""
    pool, cost = column.variant.pool, column.cost
    if not pool.sizes:
        return f"{column.name} = {column.origin}: no graphs"
    shown = " ".join(map(str, pool.sizes)) if len(pool.sizes) <= 9 else f"{pool.sizes[0]} … {pool.sizes[-1]}"
    costs = []
    if cost.graph_memory_bytes is not None:
        costs.append(f"{cost.graph_memory_bytes / 2**20:,.0f} MiB")
    if cost.capture_s is not None:
        costs.append(f"{short_text(cost.capture_s)} s")
    exact = "" if pool.padding else ", exact sizes only"
    sizes = f"{column.name} = {column.origin}: {count_text(len(pool.sizes), 'size')} {shown}{exact}"
    return ", ".join([sizes, *costs])
