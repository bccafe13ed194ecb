"""Drafting in words: whether to draft, up to which load, with which list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scheduler.analysis.comparison.drafting import PAYS, DraftChange, DraftedList, DraftStudy, rate_at
from scheduler.executors.model.cost_model import Bound
from scheduler.report.draft_flags import draft_flags
from scheduler.report.engine_flags import PastedPool, flags_text, paste_line
from scheduler.report.wording import count_text, ranges_text, rate_text, short_percent_text, sizes_text
from scheduler.workload.schema import Workload

LEAST_REQUESTS = 100  # at the own load: with fewer, neither overload nor a list can be told


def drafting_answer(study: DraftStudy) -> list[str]:
    """Return whether to draft and up to which load, what that changes, and which list: a sentence each."""
    if study.requests < LEAST_REQUESTS:
        return [
            f"Draft? Too few requests to tell: {study.requests} at the own load; expected at least "
            f"{LEAST_REQUESTS}."
        ]
    here = study.best_here()
    k = here.draft_tokens
    changes = _changes(study.changes_of(k, "low"))
    return [f"{_whether(study, k)}: {changes}{_other_numbers(study, k)}", _which_list(study, k)]


def _whether(study: DraftStudy, k: int) -> str:
    ends: list[Bound] = ["low", "high"] if "high" in study.changes else ["low"]
    stops = [study.stops_at(bound, k) for bound in ends]
    at = study.chosen[k].at["low"].at
    if all(stop == 0.0 for stop in stops):
        return f"Draft? No: {k} draft tokens save nothing even at {at[0].factor:g}× this load"
    if all(stop is None for stop in stops):
        return f"Draft? Yes, {k} tokens, at every load tried, to {at[-1].factor:g}×"
    texts: list[str] = []
    for stop in _coarsely(stops):
        if stop is None:
            texts.append(f"more than {at[-1].factor:g}×")
            continue
        rate = rate_at(at, stop)
        texts.append(f"{stop:.1f}×" + ("" if rate is None else f" ({rate_text(rate)}/s)"))
    slow = ", the latter on a slow host" if len(texts) > 1 else ""
    return f"Draft? Yes, {k} tokens, up to {' or '.join(texts)} this load{slow}"


def _other_numbers(study: DraftStudy, k: int) -> str:
    """Say from which load on another number of draft tokens, or none, is the better one."""
    above = [change for change in study.best("low") if change.factor > study.best_here().factor]
    for change in above:
        if change.draft_tokens == k and change.share <= -PAYS:
            continue
        better = f"{change.draft_tokens}" if change.share <= -PAYS else "none"
        return f"; from {change.factor:g}× on {better} is the better number" if len(study.chosen) > 2 else ""
    return ""


def _coarsely(stops: Sequence[float | None]) -> list[float | None]:
    """Return the loads to one digit, one for those that differ by no more than that."""
    coarse = [None if stop is None else round(stop, 1) for stop in stops]
    known = [stop for stop in coarse if stop is not None]
    if len(known) == len(coarse) and max(known) - min(known) < 0.15:
        return coarse[:1]
    return list(dict.fromkeys(coarse))


def _changes(changes: Sequence[DraftChange]) -> str:
    texts = []
    for change in changes:
        share = change.share if change.of != "throughput" else -change.share
        what = " served" if change.of == "throughput" else ""
        texts.append(f"{short_percent_text(share)}{what} at {change.factor:g}×")
    return f"mean TPOT {', '.join(texts)}"


def _which_list(study: DraftStudy, k: int) -> str:
    own, chosen = (next(each for each in study.lists if each.draft_tokens == k), study.chosen[k])
    falls = ""
    if own.falls_off:
        ranges = ranges_text([(first, last) for first, last, _ in own.falls_off])
        falls = f" (without a FULL graph: batches {ranges})"
    if chosen.pool == own.pool:
        return f"List? The own one{falls} is as good as any tried at these loads."
    added = sorted({*chosen.pool.sizes} - {*own.pool.sizes})
    if len(added) == len(chosen.pool.sizes) - len(own.pool.sizes):
        return f"List? The own one{falls} and {len(added)} more: {sizes_text(added)}."
    return f"List? Not the own one{falls}: {count_text(len(chosen.pool.sizes), 'graph')} {chosen.origin}."


def drafts_text(
    study: DraftStudy, workload: Workload, on: str, assumed: str | None, caution: str = ""
) -> str:
    """Return the card of `tune --draft-tokens`, ending in a newline.

    `assumed` of the drafter's cost; `caution` is what speaks against pasting.
    """
    lines = [*drafting_answer(study), "", f"against no drafts, {on}:"]
    for bound in study.changes:
        if bound == "high":
            lines.append("on a slow host:")
        lines += [f"  {_row(study, k, bound)}" for k in sorted(study.chosen) if k]
    best = study.best("low")
    lines.append(f"best at each load: {', '.join(f'{b.draft_tokens} at {b.factor:g}×' for b in best)}")
    stop = study.stops_at("low")
    if stop is not None and stop > 0:
        lines.append(f"above {stop:.1f}× this load no number of draft tokens that was tried pays")
    left = sorted({change.draft_tokens for change in study.changes["low"] if change.low is None})
    if left and any(change.low is not None for change in study.changes["low"]):
        numbers = ", ".join(map(str, left))
        lines.append(f"k = {numbers}: clearly worse than others at every load of the search, not confirmed")
    loads = ", ".join(f"{factor:g}×" for factor in _loads_of(study))
    lines += ["", f"lists tried (mean TPOT in ms at {loads}; –: clearly worse, not tried there):"]
    lines += [f"  {_list_row(each, study)}" for each in study.lists]
    lines += ["", flags_text(replace(pasted_drafts(study, workload), caution=caution)).rstrip("\n")]
    engine = workload.engine
    if engine.speculation is not None:
        flags = draft_flags(engine.speculation.method, study.best_here().draft_tokens, engine.max_num_seqs)
        lines += ["", "# drafting itself, the method's further options left to you", *flags]
    if assumed is not None:
        lines.append(f"ASSUMED: {assumed} (engine.speculation.draft)")
    return "\n".join(lines) + "\n"


def _row(study: DraftStudy, k: int, bound: Bound) -> str:
    texts = []
    for change in study.changes_of(k, bound):
        interval = ""
        if change.low is not None and change.high is not None:
            interval = f" [{short_percent_text(change.low)}, {short_percent_text(change.high)}]"
        served = " not served" if change.of == "throughput" else ""
        texts.append(f"{change.factor:g}×: {short_percent_text(change.share)}{served}{interval}")
    return f"k = {k}  {'  '.join(texts)}"


def _loads_of(study: DraftStudy) -> list[float]:
    """Return the loads at which any list but the chosen ones was tried."""
    return sorted({load.factor for each in study.lists for load in each.at["low"].at})


def _list_row(each: DraftedList, study: DraftStudy) -> str:
    known = {load.factor: load.mean_tpot_ms for load in each.at["low"].at}
    values = [known.get(factor) for factor in _loads_of(study)]
    times = " ".join("–" if value is None else f"{value:.2f}" for value in values)
    mark = " ←" if study.chosen[each.draft_tokens].pool == each.pool else ""
    falls = ranges_text([(first, last) for first, last, _ in each.falls_off]) if each.falls_off else "none"
    graphs = f"{count_text(len(each.pool.sizes), 'graph')} {sizes_text(each.pool.sizes)}"
    return f"k = {each.draft_tokens}, {each.origin}: {times}{mark}; {graphs}; batches without FULL: {falls}"


def pasted_drafts(study: DraftStudy, workload: Workload) -> PastedPool:
    """Return the list to capture for the best number of draft tokens at the workload's own load."""
    pool, engine = study.chosen[study.best_here().draft_tokens].pool, workload.engine
    return PastedPool(
        pool.sizes,
        pool.padding,
        pool.piecewise,
        engine.max_num_seqs,
        engine.max_num_batched_tokens,
        draft_tokens=pool.draft_tokens,
        full=pool.full,
        in_tokens=pool.tokens_per_size > 1,
    )


def drafts_flag(study: DraftStudy, workload: Workload, engine: str | None) -> str | None:
    """Return the command that captures the chosen list in an engine (see `paste_line`).

    None where that list is the workload's own, or where too few requests chose it.
    """
    if study.requests < LEAST_REQUESTS:
        return None
    k = study.best_here().draft_tokens
    own = next(each for each in study.lists if each.draft_tokens == k)
    if study.chosen[k].pool == own.pool:
        return None
    return paste_line(pasted_drafts(study, workload), engine)


def drafts_json(study: DraftStudy, workload: Workload) -> dict[str, object]:
    """Return the study as plain data, for tune.json and summary.json."""
    best = study.best_here()
    return {
        "draft_tokens": best.draft_tokens,
        "stops_at_load": {bound: study.stops_at(bound, best.draft_tokens) for bound in study.changes},
        "no_number_pays_above_load": {bound: study.stops_at(bound) for bound in study.changes},
        "requests": study.requests,
        "changes": {
            bound: [
                {
                    "load": change.factor,
                    "rate_per_s": change.rate_per_s,
                    "draft_tokens": change.draft_tokens,
                    "change": change.share,
                    "of": change.of,
                    "low": change.low,
                    "high": change.high,
                }
                for change in several
            ]
            for bound, several in study.changes.items()
        },
        "lists": [
            {
                "draft_tokens": each.draft_tokens,
                "origin": each.origin,
                "capture_sizes": list(each.pool.sizes),
                "chosen": study.chosen[each.draft_tokens].pool == each.pool,
                "falls_off": [list(part) for part in each.falls_off],
                "mean_tpot_ms": {
                    bound: [[load.factor, load.mean_tpot_ms] for load in loads.at]
                    for bound, loads in each.at.items()
                },
            }
            for each in study.lists
        ],
        "pasted": list(pasted_drafts(study, workload).vllm_sizes),
    }
