"""The tuner's answer for people: the advice first, then the evidence, then what to paste; and tune.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from scheduler.analysis.statistics.steady_state import LEAST_ARRIVALS
from scheduler.analysis.tuning.answer import (
    Advice,
    LoadRow,
    LogAnswer,
    PoolComparison,
    PoolFigures,
    Reason,
    TuningAnswer,
)
from scheduler.analysis.tuning.log_evidence import Contradiction, OwnTimes
from scheduler.analysis.tuning.verdict import is_change
from scheduler.report.engine_flags import PastedPool, flags_text
from scheduler.report.wording import count_text, number_text, percent_text, sizes_text

MIB = 1 << 20
LEAST = 0.01  # a smaller difference is called none
LEAST_SAID = 0.0005  # what would be printed as 0.0 %


# With these the own list was held against others on enough requests: kept for its speed.
_FOR_SPEED = (
    Reason.OWN_IS_BEST,
    Reason.NO_DIFFERENCE_SHOWN,
    Reason.WORSE_AT_SOME_LOAD,
    Reason.LOSES_BEYOND,
)


@dataclass(frozen=True, slots=True)
class Fewer:
    """Whether fewer graphs would do, in the card's words; what to paste then, or why there is no flag."""

    text: str
    pasted: PastedPool | None = None
    why_no_flag: str = ""


def tune_json(
    answer: TuningAnswer | LogAnswer, pasted: PastedPool, fewer: Fewer | None = None
) -> dict[str, object]:
    """Return an answer as tune.json holds it: with its reason or notes in words, and what to paste."""
    content = asdict(answer) | {"paste": flags_text(pasted)}
    if isinstance(answer, TuningAnswer):
        content["verdict"]["reason"] = reason_text(answer)
        content["fewer"] = None
        if fewer is not None:
            paste = None if fewer.pasted is None else flags_text(fewer.pasted)
            found = {} if answer.fewer is None else asdict(answer.fewer)
            content["fewer"] = {"text": fewer.text, **found, "paste": paste}
    else:
        content["notes"] = open_loop_notes(answer)
        del content["assumed_kv_tokens"], content["logged_kv_tokens"]
    return content


def tune_text(answer: TuningAnswer | LogAnswer, pasted: PastedPool, fewer: Fewer | None = None) -> str:
    """Return the card of an answer; flags where another list is advised, or fewer graphs would do."""
    if isinstance(answer, LogAnswer):
        lines = _open_loop(answer)
    else:
        lines = _closed_loop(answer, fewer)
        if not is_change(answer.verdict):
            if fewer is None or fewer.pasted is None:
                return "\n".join([*lines, "", "Nothing to paste: keep the list that you have."]) + "\n"
            heading = "Nothing to paste for speed. For fewer graphs paste:"
            return "\n".join([*lines, "", heading, flags_text(fewer.pasted).rstrip("\n")]) + "\n"
    heading = "Paste:"
    if pasted.caution:  # beside the advice, too: what is pasted lies far below it
        below = next((n for n, line in enumerate(lines) if line.startswith("OPEN LOOP")), 0)
        lines.insert(below + 1, f"  CAUTION        {pasted.caution}")
        heading = "Paste, once the caution is seen to:"
    return "\n".join([*lines, "", heading, flags_text(pasted).rstrip("\n")]) + "\n"


def _closed_loop(answer: TuningAnswer, fewer: Fewer | None) -> list[str]:
    return [
        advice_line(answer),
        *_fewer(answer, fewer),
        *_overload(answer),
        *_pools(answer),
        "",
        *_curve(answer),
        "",
        *_over_loads(answer),
        *_beyond(answer),
        *_token_budgets(answer),
        "",
        f"{count_text(answer.simulations, 'simulation')}, {len(answer.candidates)} pools tried; "
        + "; ".join(answer.search),
    ]


def _fewer(answer: TuningAnswer, fewer: Fewer | None) -> list[str]:
    """Return the second question and its answer, as on the card."""
    if fewer is None or not fewer.text:
        return []
    notes = [fewer.why_no_flag] if fewer.why_no_flag else []
    if is_change(answer.verdict) and fewer.pasted is not None:
        notes = [f"of the own list; the {count_text(answer.best.graphs, 'graph')} to paste are another"]
    return [f"Fewer graphs? {fewer.text}" + (f" ({notes[0]})" if notes else "")]


def _beyond(answer: TuningAnswer) -> list[str]:
    """Return what the winner's gaps cost above the loads that were judged; nothing where they cost none."""
    found = answer.beyond
    if found is None:
        return []
    share = percent_text(found.loss)
    loses = f"it begins to lose at {found.rate_factor:g}× the load ({share})"
    holds = f"up to {found.rate_factor:g}× the load that costs no more than {share}"
    return [
        f"  beyond these: a batch of {found.batch} takes {percent_text(found.padding)} against the own list; "
        + (loses if found.loses else holds)
    ]


def _overload(answer: TuningAnswer) -> list[str]:
    """Return at which loads each list cannot keep up, and where nobody's request meets the SLO."""
    lines = []
    for name in ("own", "best"):
        behind = [row for row in answer.loads if getattr(row, f"{name}_overloaded")]
        unmet = [row for row in answer.loads if getattr(row, f"{name}_slo_attainment") == 0.0]
        title = "own pool" if name == "own" else "tuned list"
        if behind:
            lines.append(f"  OVERLOAD       the {title} cannot keep up at {_loads_text(behind)}")
        if unmet:
            lines.append(f"  SLO MISSED     by every request of the {title} at {_loads_text(unmet)}")
    return lines


def _loads_text(rows: Sequence[LoadRow]) -> str:
    """Return the loads of some rows, with what arrives at the first of them."""
    factors = [f"{factor:g}×" for factor in dict.fromkeys(row.rate_factor for row in rows)]
    came = rows[0].offered_per_s
    arrive = "" if came is None else f" ({number_text(came)}/s arrive at {factors[0]})"
    host = "" if any(row.host == "low" for row in rows) else " on a slow host"
    return f"{', '.join(factors)}{host}{arrive}"


def advice_line(answer: TuningAnswer) -> str:
    """Return the first line: the advice, why, and what it gains in KV room and start-up time."""
    verdict = answer.verdict
    gains = []
    if verdict.kv_tokens_gained:
        gains.append(f"{verdict.kv_tokens_gained:+,}".replace("-", "−") + " KV tokens")
    if verdict.start_up_s_gained is not None:
        gains.append(f"{-verdict.start_up_s_gained:+.1f}".replace("-", "−") + " s start-up")
    memory = verdict.graph_memory_bytes_gained
    if memory is not None and round(memory / MIB):
        gains.append(f"{-memory / MIB:+,.0f}".replace("-", "−") + " MiB of graphs")
    if not is_change(verdict):
        gains = []
    elif answer.confirmation.note and not _has_intervals(answer):
        gains.append("too short a run for an interval, so how much is not sure")
    if is_change(verdict) and verdict.mode_change is not None:
        before, after = (mode.upper() for mode in verdict.mode_change)
        gains.insert(0, f"CHANGES THE MODE from {before} to {after}")
    lead = str(verdict.advice)
    if verdict.advice is Advice.KEEP and verdict.reason in _FOR_SPEED:
        lead = f"KEEP {_own_list(answer)} for speed"
    return f"{lead}: {reason_text(answer)}" + (f"; {', '.join(gains)}" if gains else "")


def _has_intervals(answer: TuningAnswer) -> bool:
    return answer.confirmation.low is not None or any(row.low is not None for row in answer.loads)


def _own_list(answer: TuningAnswer) -> str:
    """Return whose list the own one is: `vLLM's list` of the origin `vllm (vLLM 0.33.0)`."""
    words = answer.own.origin.partition(" (")[2].split()
    return f"{words[0]}'s list" if words and words[0] != "no" else "your list"


def reason_text(answer: TuningAnswer) -> str:
    """Return why the advice is given."""
    match answer.verdict.reason:
        case Reason.OWN_IS_BEST:
            tried = f"none of the {len(answer.candidates)} lists tried gains"
            if answer.verdict.gained < LEAST_SAID:
                return f"{tried} without losing at some load"
            return f"{tried} more than {100 * answer.verdict.gained:.1f} % in the mean without losing at some"
        case Reason.OWN_LEAVES_NO_KV_CACHE:
            return "the own pool leaves no room for the KV cache"
        case Reason.WORSE_AT_SOME_LOAD:
            found = f"the best list of at most {answer.budgets.graphs} graphs"
            if answer.worst is None:
                return f"{found} is worse at some load"
            return f"{found} loses {worst_text(answer)}"
        case Reason.LOSES_BEYOND:
            found, beyond = gain_text(answer), answer.beyond
            if beyond is None:
                return f"{found}, and a loss at higher loads"
            return f"{found}, but {percent_text(beyond.loss)} at {beyond.rate_factor:g}× it"
        case Reason.TOO_FEW_REQUESTS:
            return f"fewer than {LEAST_ARRIVALS} fresh requests in a run: too few to tell"
        case Reason.MAY_BE_MILLISECONDS:
            return (
                "requests come whole seconds apart and hardly ever meet: if their times are milliseconds, "
                "add --set arrivals.time_scale=0.001"
            )
        case Reason.NOT_MET:
            return _not_met_text(answer)
        case Reason.NO_STEADY_STATE:
            return (
                "no steady state, and no gain shown: what fewer graphs cost is not to be told from this run"
            )
        case Reason.TOO_SHORT:
            why = answer.confirmation.note or "no interval"
            return f"too short to tell ({why}); more requests would"
        case Reason.NOT_SHOWN:
            return "the interval is wider than what the tuned list may lose; more requests would tell"
        case Reason.OWN_ENDS_TOO_EARLY:
            share = answer.own.missed_graph_share or 0.0
            seen = f"{100 * share:.1f} % of the own pool's steps found no graph of their kind at this load"
            if share < LEAST_SAID:
                seen = "at higher loads steps of the own pool find no graph of their kind"
            return f"{seen}; {gain_text(answer)}"
        case Reason.FEWER_DO_AS_WELL:
            fewer = f"{answer.best.graphs} graphs, as allowed, do as well as {answer.own.graphs}"
            return f"{fewer}: {worst_text(answer)} at worst"
        case Reason.LESS_PADDING:
            return f"sizes that fit the traffic pad less; {gain_text(answer)}"
        case Reason.NO_DIFFERENCE_SHOWN:
            best = f"the best of the {len(answer.candidates)} lists tried"
            if answer.verdict.gained < LEAST_SAID:
                return f"{best} gains nothing on fresh requests"
            gained = f"{100 * answer.verdict.gained:.1f} % in the mean over the loads"
            return f"{best} gains {gained}: no difference shown"


def _not_met_text(answer: TuningAnswer) -> str:
    together = answer.verdict.together or 0
    most = max((row.rate_factor for row in answer.loads), default=1.0)
    seen = f"hardly more than {count_text(together, 'request')} decode together at up to {most:g}× the load"
    return (
        f"{seen}, which says nothing of larger sizes; more would: --loads 1,{10 * most:g}, or a busier hour"
    )


def gain_text(answer: TuningAnswer) -> str:
    """Return where the winner gains most against the own list."""
    row = min(answer.loads, key=lambda row: row.loss, default=None)
    if row is None:
        return "nothing known"
    host = ", slow host" if row.host == "high" else ""
    change = percent_text(-row.loss if row.of == "throughput" else row.loss)
    what = "requests served" if row.of == "throughput" else answer.objective.name.replace("_", " ")
    return f"{what} {change} at {row.rate_factor:g}× the load{host}"


def worst_text(answer: TuningAnswer) -> str:
    """Return where the winner does worst against the own list."""
    worst = answer.worst
    if worst is None:
        return "nothing known"
    host = ", slow host" if worst.host == "high" else ""
    return f"{percent_text(worst.share)} of {worst.of} at {worst.rate_factor:.3g}× the load{host}"


def _open_loop(answer: LogAnswer) -> list[str]:
    """Return the card of a log; what contradicts it comes first."""
    without, best, current = answer.no_graphs_mean_step_ms, answer.mean_step_ms, answer.current
    width, found = answer.tokens_per_request, answer.contradiction
    unit = "" if width == 1 else f" (requests of {width} tokens)" if width else " (tokens)"
    lines = [
        *(_contradiction(found) if found else ()),
        f"OPEN LOOP: the best {count_text(len(answer.sizes), 'graph')} for {answer.steps:,} logged steps",
        f"  sizes          {' '.join(map(str, answer.sizes)) or 'none'}{unit}",
        f"  mean step      {number_text(best)} ms; without graphs {number_text(without)} ms",
    ]
    if current is not None:
        priced = ", priced as the log says they ran" if found and found.is_list_known else ""
        lines.append(
            f"  server's own   {count_text(len(current.sizes), 'graph')}: "
            f"{number_text(current.mean_step_ms)} ms{priced}"
        )
    if answer.own_times is not None:
        lines.append(f"  own steps      {_own_times(answer.own_times)}")
    return lines + [f"  note: {note}" for note in open_loop_notes(answer)]


def open_loop_notes(answer: LogAnswer) -> list[str]:
    """Return what to bear in mind about a log's answer."""
    notes = [
        *answer.notes,
        "open loop: the logged batches are taken as given; other graphs would change them",
        "no verdict at other loads; for one tune your requests: run.py tune WORKLOAD --trace FILE",
    ]
    if answer.logged_kv_tokens is not None:
        notes.append(
            f"KV per running request from the log: {answer.logged_kv_tokens:,.0f} tokens in the mean"
        )
    if answer.assumed_kv_tokens is not None:
        notes.append(
            f"the log has no KV lengths: every request taken to hold {answer.assumed_kv_tokens:,} tokens"
        )
    if (answer.tokens_per_request or 1) > 1:
        notes.append(
            "a step that verifies drafts is priced as a decode step of as many rows as it has tokens; "
            "drafting itself is not in it"
        )
    return notes


def _own_times(times: OwnTimes) -> str:
    """Put the log's own step times beside the profile's."""
    line = (
        f"this log's own steps took {_range_ms(times.own_ms)}; the profile says {_range_ms(times.profile_ms)}"
    )
    if times.is_this_server:
        return f"{line} ({percent_text(1 / times.ratio - 1)})"
    return f"{line}: it is not this server's (log / profile {times.ratio:.2f})"


def _range_ms(ends: tuple[float, float]) -> str:
    low, high = (f"{end:.0f}" if ends[1] >= 10 else f"{end:.2f}" for end in ends)
    return f"{low} ms" if low == high else f"{low}–{high} ms"


def _contradiction(found: Contradiction) -> list[str]:
    """Say that the server did not use graphs it has, and the likely cause."""
    holds = "list goes to" if found.is_list_known else "largest batch that replayed is"
    lines = [
        f"THE LOG CONTRADICTS ITS LIST: {found.steps:,} of {found.of:,} logged decode steps of at most "
        f"{found.largest} requests ran without a graph, though the {holds} {found.largest}"
    ]
    if found.ranks > 1 and found.together > found.largest:
        lines.append(
            f"  cause          DP attention counts all {found.ranks} ranks: {found.together} requests "
            f"together are above {found.largest}; capture to {found.together} or more "
            "(--cuda-graph-max-bs), or graphs are disabled"
        )
    else:
        lines.append(
            "  cause          graphs are disabled (--disable-cuda-graph, --enforce-eager), or a feature in "
            "use excludes them; DP attention counts the requests of all ranks"
        )
    mended = "  until that is mended no list of sizes changes anything; what follows supposes it is"
    return [*lines, mended, ""]


def _pools(answer: TuningAnswer) -> list[str]:
    goal, seen = answer.objective, answer.confirmation
    mode = "decode steps" if answer.best.mode == "decode_only" else "decode and mixed steps"
    own, best = answer.own, answer.best
    interval = "no interval"
    if seen.low is not None and seen.high is not None:
        interval = f"95 % interval {_signed(seen.low)} to {_signed(seen.high)}"
    if _is_own(answer):
        return [
            f"  own pool       {count_text(own.graphs, 'graph')} ({own.origin}): {sizes_text(own.sizes)}",
            f"  {goal.name:<14} {number_text(seen.other.value)} {goal.unit} on {goal.on}",
            *_unsteady(answer),
        ]
    lines = [
        f"  tuned          {count_text(best.graphs, 'graph')} for {mode}: "
        f"{' '.join(map(str, best.sizes)) or 'none'}",
        f"  own pool       {count_text(own.graphs, 'graph')} ({own.origin}): {sizes_text(own.sizes)}",
        f"  {goal.name:<14} tuned {number_text(seen.best.value)} {goal.unit}, "
        f"own {number_text(seen.other.value)}; difference {_signed(seen.difference)} "
        f"({percent_text(seen.relative)}; {interval}) on {goal.on}: {_shown(seen)}",
    ]
    if seen.note:
        lines.append(f"  note           {seen.note}")
    return lines + _unsteady(answer)


def _is_own(answer: TuningAnswer) -> bool:
    """Tell whether the best list found is the own one, so that there is nothing to compare."""
    return (answer.best.sizes, answer.best.mode) == (answer.own.sizes, answer.own.mode)


def _unsteady(answer: TuningAnswer) -> list[str]:
    if answer.steady_state:
        return []
    return ["  note           NO STEADY STATE even with these graphs: numbers describe this finite run"]


def _shown(seen: PoolComparison) -> str:
    """Return what a comparison shows; less than 1 % is called none."""
    if seen.relative is not None and abs(seen.relative) < LEAST:
        return "NO DIFFERENCE (below 1 %)"
    return seen.shown


def _curve(answer: TuningAnswer) -> list[str]:
    goal = answer.objective
    rows = [("graphs", f"{goal.name} ({goal.unit})", "memory MiB", "KV tokens lost", "capture s")]
    for point in answer.curve:
        mark = " ← knee" if point.graphs == answer.knee else ""
        rows.append(_row(str(point.graphs), point.value, point, mark))
    rows += [
        _row(f"{preset.name} ({preset.graphs})", preset.value, preset)
        for preset in answer.presets
        if preset.value is not None
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  "
        + "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]]).rstrip()
        for row in rows
    ]


def _row(name: str, value: float, pool: PoolFigures, mark: str = "") -> tuple[str, str, str, str, str]:
    memory, lost, seconds = pool.graph_memory_bytes, pool.kv_tokens_lost, pool.capture_s
    return (
        name,
        number_text(value),
        "–" if memory is None else f"{memory / MIB:,.0f}",
        "–" if lost is None else f"{lost:,}",
        ("–" if seconds is None else f"{seconds:.1f}") + mark,
    )


def _over_loads(answer: TuningAnswer) -> list[str]:
    """Return what the winner changes at every load and end of the host range, and the highest rates."""
    is_own = _is_own(answer)
    both = "own list" if is_own else "own list and tuned list"
    lines = [f"  {both} over the loads, on requests the search never met:"]
    for row in answer.loads:
        host = ", slow host" if row.host == "high" else ""
        what = answer.objective.unit
        if row.of == "throughput":
            came = "" if row.offered_per_s is None else f"of {number_text(row.offered_per_s)} "
            what = f"{came}requests/s served"
        if is_own:
            lines.append(f"  {row.rate_factor:g}×{host}: {number_text(row.own)} {what}")
            continue
        # What is served is better when it is more: a loss is a change with the other sign.
        sign, bounds = (-1 if row.of == "throughput" else 1), ""
        if row.low is not None and row.high is not None:
            low, high = sorted((sign * row.low, sign * row.high))
            bounds = f" [{percent_text(low)}, {percent_text(high)}]"
        change = "no difference" if _is_none(row) else ("loses" if row.loss > 0 else "gains")
        lines.append(
            f"  {row.rate_factor:g}×{host}: {number_text(row.own)} → {number_text(row.best)} {what}; "
            f"{change} {percent_text(sign * row.loss)}{bounds}"
        )
    for rate in answer.rates:
        host = ", slow host" if rate.host == "high" else ""
        own = _rate(rate.own_per_s, rate.own_limited_by)
        after = "" if is_own else f" → {_rate(rate.best_per_s, rate.best_limited_by)}"
        lines.append(f"  highest rate{host}: {own}{after}")
    return lines if answer.loads else []


def _is_none(row: LoadRow) -> bool:
    """Tell whether a change is called none: below 1 %, or its interval holds 0."""
    within = row.low is not None and row.high is not None and row.low <= 0 <= row.high
    return abs(row.loss) < LEAST or within


def _rate(per_s: float | None, limited_by: str) -> str:
    if per_s is None:
        return "below the lowest load"
    return f"{'at least ' if limited_by == 'nothing' else ''}{number_text(per_s)}/s"


def _token_budgets(answer: TuningAnswer) -> list[str]:
    if not answer.token_budgets:
        return []
    lines = ["  other token budgets against the own list with its own (mean and worst over the loads):"]
    for row in answer.token_budgets:
        ttft = "" if row.ttft_change is None else f"; TTFT {percent_text(row.ttft_change)}"
        lines.append(
            f"  max_num_batched_tokens {row.max_num_batched_tokens:,}, {row.list} list "
            f"({count_text(len(row.sizes), 'graph')}): {percent_text(row.mean_change)}, "
            f"worst {percent_text(row.worst_change)}{ttft}"
        )
    return lines


def _signed(value: float) -> str:
    return ("+" if value > 0 else "−" if value < 0 else "") + number_text(abs(value))
