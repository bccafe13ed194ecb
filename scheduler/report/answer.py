"""The answer in words, for card and report: overload first, mean TPOT, the highest rate, fewer graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.comparison.differences import (
    LEAST_CHANGE,
    column_difference,
    differences,
    verdict_of_range,
)
from scheduler.analysis.comparison.evidence import LEAST_BUSY, busy_share, may_be_milliseconds
from scheduler.analysis.comparison.loads import AtLoad, FewerGraphs, LoadStudy, Unjudged, VariantLoads
from scheduler.analysis.comparison.measured_on import mismatches
from scheduler.analysis.comparison.steadiness import is_steady, loads
from scheduler.analysis.statistics.difference import Difference, Verdict
from scheduler.analysis.statistics.steady_state import LEAST_ARRIVALS, OfferedLoad
from scheduler.report.cautions import rejections
from scheduler.report.trust import not_of_text
from scheduler.report.wording import (
    count_text,
    cut_text,
    range_text,
    rate_text,
    short_percent_text,
    short_text,
)
from scheduler.workload.arrivals import ClosedLoopArrivals, TraceArrivals

NAME = 21  # characters of a variant's name; `eager, slow host` and most presets fit

_FEW_REJECTED = 0.01  # of the requests
_LONGEST_WHY = 60  # characters of why there is no interval that the verdict has room for
# What the verdict is about: the first of them that both sides have. Percentiles are left to the table.
HEADLINE_KEYS = (("mean_tpot_ms", "mean TPOT"), ("mean_e2el_ms", "mean E2EL"), ("mean_ttft_ms", "mean TTFT"))


def ends(comparison: Comparison, column: Column) -> list[Column]:
    """Return a column at the low end of the profile's range and, where that differs, at its high end."""
    high = comparison.high.get(column.variant.name)
    return [column] if high is None or high is column else [column, high]


def value_text(
    comparison: Comparison,
    column: Column,
    key: str,
    scale: float = 1.0,
    text: Callable[[float], str] = short_text,
) -> str:
    """Return a metric's mean over the replications, as a range where the profile gives one."""
    means = (end.mean(key) for end in ends(comparison, column))
    return range_text((scale * mean for mean in means if mean is not None), text)


def are_steady(comparison: Comparison, columns: Iterable[Column]) -> bool:
    """Tell whether columns have a steady state, at both ends of the profile's range."""
    return all(is_steady(comparison, end) for column in columns for end in ends(comparison, column))


def has_too_few(comparison: Comparison) -> bool:
    """Tell whether fewer requests arrived than a steady state can be told from; not of a batch job."""
    found = loads(comparison, comparison.columns[0])
    fewest = min(map(len, comparison.requests), default=0)
    return any(load.too_few and (load.offered_per_s is not None or fewest < LEAST_ARRIVALS) for load in found)


def change_text(found: Sequence[Difference]) -> str:
    """Return a relative change: `−38 %`, or `−38…−59 %` for a range.

    `none` is a change below 1 %, `unsure` one whose 95 % interval holds 0.
    """
    relative = sorted(
        (difference.relative for difference in found if difference.relative is not None), key=abs
    )
    if not relative:
        return "–"
    if all(_is_small(difference) for difference in found):
        return "none"
    if all(_is_small(difference) or _is_unsure(difference) for difference in found):
        return "unsure"
    return _range_of_changes(relative)


def _range_of_changes(relative: Sequence[float]) -> str:
    texts = [short_percent_text(change) for change in relative]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0].removesuffix(' %')}…{texts[-1]}"


def _is_small(difference: Difference) -> bool:
    return difference.relative is not None and abs(difference.relative) < LEAST_CHANGE


def _is_unsure(difference: Difference) -> bool:
    return difference.interval is not None and difference.interval.contains(0.0)


# The verdict.


def verdict_lines(comparison: Comparison) -> list[str]:
    """Return what to know first: a broken run, overload, mean TPOT against eager and between pools."""
    lines = []
    if comparison.failure is not None:
        lines.append(f"PARTIAL RESULT: the run ended early ({comparison.failure}).")
    refused = _refused_text(comparison)
    lines += [refused] if refused else []
    if may_be_milliseconds(comparison):
        lines.append(f"AN IDLE SERVER: {_idle_text(comparison)}")
    overload = overload_lines(comparison)
    lines += overload
    pairs = [(pool, comparison.eager) for pool in comparison.pools[:1]]
    pairs += [(pool, comparison.pools[0]) for pool in comparison.pools[1:]]
    for pool, other in pairs:
        if not overload or are_steady(comparison, (pool, other)):  # who cannot keep up has been named
            lines.append(_against(comparison, pool, other))
    return lines


def _refused_text(comparison: Comparison) -> str:
    """Return how many requests were rejected and why, where that is more than a few; else nothing."""
    first = (comparison.pools or [comparison.eager])[0]
    refused = rejections(first)
    came = sum(len(run.requests.arrival_ns) for run in first.runs)
    if sum(refused.values()) <= _FEW_REJECTED * came:
        return ""
    share = 100 * sum(refused.values()) / came
    return f"{share:.0f} % REJECTED ({'; '.join(refused)}): all below is of the other requests."


def _idle_text(comparison: Comparison) -> str:
    """Return what makes recorded arrivals look like milliseconds that were read as seconds."""
    first = (comparison.pools or [comparison.eager])[0]
    idle = 100 * (1 - busy_share(first))
    return f"nothing runs {idle:.1f} % of the time; {_MS}"


def overload_lines(comparison: Comparison) -> list[str]:
    """Return who cannot keep up with the arrivals; nothing where everyone can."""
    served: list[str] = []
    overloaded: list[list[OfferedLoad]] = []
    for column in (*comparison.pools, comparison.eager):
        both = ends(comparison, column)
        behind = {end: [load for load in loads(comparison, end) if load.overloaded] for end in both}
        found = {end: few for end, few in behind.items() if few}
        overloaded += found.values()
        rates = [fmean(load.delivered_per_s or 0.0 for load in few) for few in found.values()]
        if len(found) == len(both):
            served.append(f"{cut_text(column.name, NAME)} {range_text(rates, rate_text)}/s")
        else:
            served += [f"{cut_text(end.title, NAME)} {rate_text(rates[0])}/s" for end in found]
    if not served:
        return []
    came = fmean(load.offered_per_s or 0.0 for few in overloaded for load in few)
    offered = _rate_asked_for(comparison) or came
    keeps_up = [cut_text(pool.name, NAME) for pool in comparison.pools if are_steady(comparison, [pool])]
    if are_steady(comparison, [comparison.eager]):
        keeps_up = []
    lead = f"ONLY {' AND '.join(keeps_up)} KEEP{'S' * (len(keeps_up) == 1)} UP" if keeps_up else "OVERLOAD"
    return [
        f"{lead}: {rate_text(offered)} requests/s arrive; the queue grows where "
        f"{', '.join(served)} are served."
    ]


def _against(comparison: Comparison, pool: Column, other: Column) -> str:
    """Return what a pool does to mean TPOT against eager or another pool, as far as that is shown."""
    name = cut_text(pool.name, NAME)
    graphs = f"{name} ({count_text(len(pool.variant.pool.sizes), 'size')})"
    if not pool.variant.pool.sizes:
        graphs = f"{name} (no graphs)"
    of = differences if other is comparison.eager else pool_differences
    known = ((what, of(comparison, pool, key)) for key, what in HEADLINE_KEYS)
    what, found = next(((what, found) for what, found in known if found), ("", []))
    against = cut_text(other.name, NAME)
    if not found:
        return f"{graphs}: nothing was completed that could be compared with {against}."
    return _judged(comparison, graphs, against, what, found, are_steady(comparison, (pool, other)))


def pool_differences(comparison: Comparison, pool: Column, key: str) -> list[Difference]:
    """Return a further pool − the first pool, at each end of the profile's range that either has."""
    first = comparison.pools[0]
    high = [comparison.high.get(column.variant.name, column) for column in (first, pool)]
    pairs = [(first, pool)] + ([] if high == [first, pool] else [(high[0], high[1])])
    found = (column_difference(comparison, before, after, key) for before, after in pairs)
    return [difference for difference in found if difference is not None]


def _judged(
    comparison: Comparison, graphs: str, other: str, what: str, found: Sequence[Difference], steady: bool
) -> str:
    change = change_text(found)
    relative = sorted((one.relative for one in found if one.relative is not None), key=abs)
    amount = _range_of_changes(relative) if relative else "an unknown share"
    seen = f"{what} does not change" if change == "none" else f"{what} changes by {amount}"
    if not steady:
        return f"NO STEADY STATE: {graphs} against {other}, {seen} in this finite run."
    if has_too_few(comparison):
        return f"TOO FEW REQUESTS for a verdict: {graphs} against {other}, {seen} here."
    missing = next((difference for difference in found if difference.interval is None), None)
    if missing is not None and change != "none":
        why = missing.why_no_interval or ""
        short = why if len(why) <= _LONGEST_WHY else "too short a run for an interval (--full)"
        return f"NOT SHOWN: {graphs} against {other}, {seen} here; {short}."
    verdict = verdict_of_range(found)
    if change == "none":
        return f"NO DIFFERENCE from {other}: {graphs}, {what} within 1 %."
    if change == "unsure":
        more = max(difference.more_replications or 0 for difference in found)
        need = f"; about {more:,} more runs would tell 1 %" if more else ""
        sure = certainty(comparison, found)
        return (
            f"NO DIFFERENCE SHOWN from {other}: {graphs}, {what} {amount} within its interval ({sure}{need})."
        )
    if verdict is Verdict.NO_DIFFERENCE_SHOWN:
        if not any(_is_small(difference) or _is_unsure(difference) for difference in found):
            return f"DEPENDS ON THE HOST: {graphs} against {other}, {seen}: better on one, worse on another."
        return f"NO CLEAR DIFFERENCE: {graphs} against {other}, {seen}; shown at one end of that range alone."
    return f"{verdict} than {other}: {graphs}, {what} {change} ({certainty(comparison, found)})."


def certainty(comparison: Comparison, found: Sequence[Difference]) -> str:
    """Return how sure a difference is: over what, and what its range is."""
    interval = found[0].interval
    if interval is None:
        return "no interval"
    if found[0].within_run:
        return f"95 %, {interval.samples} blocks of {within(comparison)}"
    return f"95 %, {count_text(comparison.replications, 'run')}"


def within(comparison: Comparison) -> str:
    """Return what an interval of a single run is of."""
    return "this trace" if isinstance(comparison.workload.arrivals, TraceArrivals) else "this run"


# The numbers under it.


def latency_numbers(comparison: Comparison) -> str:
    """Return mean TPOT of every variant, and by how much the first pool is sure to be apart from eager."""
    parts = _each(comparison, "mean_tpot_ms", " ms")
    if all(column.mean("mean_tpot_ms") is None for column in comparison.columns):
        return ""  # answers of one token have no TPOT
    found = differences(comparison, comparison.pools[0], "mean_tpot_ms") if comparison.pools else []
    if not found or verdict_of_range(found) is Verdict.NO_DIFFERENCE_SHOWN or has_too_few(comparison):
        return parts
    if are_steady(comparison, (comparison.pools[0], comparison.eager)):
        intervals = (difference.interval for difference in found if difference.interval is not None)
        least = min(min(abs(interval.low), abs(interval.high)) for interval in intervals)
        parts += f"  at least {short_text(least)} apart"
    return parts


def throughput_numbers(comparison: Comparison) -> tuple[str, str]:
    """Return what a server can deliver, as (label, text).

    The highest rate that meets the SLO (without one: that is kept up with) where other loads were tried,
    else the share of requests that meets it now, else tokens per second.
    """
    slo, study = comparison.workload.slo, comparison.load_study
    if study is not None and any(found.max_rate_per_s is not None for found in study.variants.values()):
        columns = (*comparison.pools, comparison.eager)
        rates = "  ".join(f"{cut_text(c.name, NAME)} {max_rate_text(comparison, c)}" for c in columns)
        return "max rate", f"{rates}  ({_what_meets(comparison, study)})"
    if slo is None:
        key, until = "output_throughput_to_last_arrival", "arrival"
        if comparison.eager.mean(key) is None:  # all arrive at once: what counts is when the job is done
            key, until = "output_throughput", "token"
        return "output tok/s", f"{_each(comparison, key, '')}  to the last {until}"
    met = "  ".join(
        f"{cut_text(column.name, NAME)} {slo_text(comparison, column)}"
        for column in (*comparison.pools, comparison.eager)
    )
    return "SLO met", f"{met}  ({limits_text(comparison)} ms)"


def limits_text(comparison: Comparison) -> str:
    """Return the limits of the SLO in milliseconds: `TTFT 500, TPOT 50`."""
    slo = comparison.workload.slo
    return (
        "" if slo is None else ", ".join(f"{key.upper()} {limit:g}" for key, limit in slo.limits_ms.items())
    )


def _what_meets(comparison: Comparison, study: LoadStudy) -> str:
    if study.slo_share is None:
        return "kept up with"
    return f"{100 * study.slo_share:g} % meet {limits_text(comparison)}"


def max_rate_text(comparison: Comparison, column: Column) -> str:
    """Return a variant's highest rate over the loads tried, as a range where the profile gives one."""
    study = comparison.load_study
    if study is None:
        return "–"
    found = [study.variants[end.name] for end in ends(comparison, column) if end.name in study.variants]
    texts = dict.fromkeys(text for _, text in sorted(map(_max_rate, found)))
    return f"{'–'.join(texts)}/s" if texts else "–"


def _max_rate(variant: VariantLoads) -> tuple[float, str]:
    """Return the highest rate of one end and its text, with a sign where only a bound is known."""
    rate = variant.max_rate_per_s
    if variant.limited_by == "every load fails":
        rates = [at.rate_per_s for at in variant.at if at.rate_per_s is not None]
        return (0.0, f"<{rate_text(min(rates))}") if rates else (0.0, "–")
    if rate is None:
        return 0.0, "–"
    return rate, ("≥" if variant.limited_by == "nothing" else "") + rate_text(rate)


def slo_text(comparison: Comparison, column: Column) -> str:
    """Return the share of requests that meet the SLO, as a range where the profile gives one."""
    means = (end.mean("slo_attainment") for end in ends(comparison, column))
    return range_text((100 * mean for mean in means if mean is not None), lambda value: f"{value:.1f}") + " %"


def _each(comparison: Comparison, key: str, unit: str) -> str:
    columns = (*comparison.pools, comparison.eager)
    return "  ".join(
        f"{cut_text(column.name, NAME)} {value_text(comparison, column, key)}{unit}" for column in columns
    )


def load_text(comparison: Comparison) -> str:
    """Return whether the first pool keeps up with what arrives, and how full the server is."""
    pool = comparison.pools[0] if comparison.pools else comparison.eager
    found = [load for load in loads(comparison, pool) if load.offered_per_s is not None]
    if isinstance(comparison.workload.arrivals, ClosedLoopArrivals):
        served = pool.mean("request_throughput")
        lead = "closed loop" if served is None else f"closed loop: {rate_text(served)} requests/s served"
    elif not found:
        lead = "all requests arrive at once"
    else:
        offered = _rate_asked_for(comparison) or fmean(load.offered_per_s or 0.0 for load in found)
        delivered = fmean(load.delivered_per_s or 0.0 for load in found)
        lead = f"keeps up with {rate_text(offered)}/s"
        if has_too_few(comparison):
            lead = f"{rate_text(offered)}/s arrive; too few to tell whether it keeps up"
        elif any(load.overloaded for load in found):
            lead = f"{rate_text(offered)}/s arrive, {rate_text(delivered)}/s are served: the queue grows"
        elif not all(load.steady_state for load in found):
            lead = f"{rate_text(offered)}/s arrive; the run is too short to tell whether it keeps up"
    parts = [lead]
    if comparison.load_study is not None and comparison.workload.slo is not None:
        parts.append(f"SLO met {slo_text(comparison, pool)}")
    mean = pool.mean("mean_batch_size")
    if mean is not None:
        parts.append(f"batch {mean:.0f}, at most {max(pool.values('max_batch_size')):.0f}")
    if pool.cost.kv_blocks:
        peak = max(pool.values("peak_kv_blocks"), default=0.0) / pool.cost.kv_blocks
        parts.append(f"KV {100 * peak:.0f} %")
    return "; ".join(parts)


def _rate_asked_for(comparison: Comparison) -> float | None:
    arrivals = comparison.workload.arrivals
    if isinstance(arrivals, ClosedLoopArrivals | TraceArrivals):
        return None
    return arrivals.rate_per_s


def risk_text(comparison: Comparison) -> str:
    """Return what the first pool and eager do at the highest load tried; nothing where none was."""
    study = comparison.load_study
    if study is None or not comparison.pools:
        return ""
    factor = study.factors[-1]
    texts = []
    for column in (comparison.pools[0], comparison.eager):
        found = [
            study.variants[end.name].at[-1] for end in ends(comparison, column) if end.name in study.variants
        ]
        if found:
            texts.append(f"{column.name}: {_at_load(found)}")
    return f"At {factor:g} times the load, {'; '.join(texts)}." if texts else ""


def _at_load(found: Sequence[AtLoad]) -> str:
    """Return what one column does at a load: overload first, then an SLO that nobody meets."""
    parts = []
    behind = [at for at in found if at.overloaded]
    if behind:
        came = range_text((at.rate_per_s for at in behind if at.rate_per_s is not None), rate_text)
        served = range_text((at.requests_per_s for at in behind if at.requests_per_s is not None), rate_text)
        host = "" if len(behind) == len(found) else " on a slow host"
        parts.append(f"OVERLOADED{host} ({served} of {came}/s served)")
    shares = [100 * at.slo_attainment for at in found if at.slo_attainment is not None]
    if shares and not any(shares):
        parts.append("SLO MET BY NONE")
    parts.append(f"mean TPOT {range_text(at.mean_tpot_ms for at in found if at.mean_tpot_ms is not None)} ms")
    if any(shares):
        parts.append(f"SLO met {range_text(shares)} %")
    return ", ".join(parts)


# Fewer graphs.


def fewer_graphs(comparison: Comparison) -> str:
    """Return whether fewer graphs would do at every load, or what is missing to tell, in a sentence.

    Nothing for a pool without graphs, and where the list is judged with its drafts.
    """
    own = comparison.pools[0] if comparison.pools else None
    if own is None or not own.variant.pool.sizes or comparison.draft_study is not None:
        return ""
    study = comparison.load_study
    if comparison.failure is not None:
        return "Not judged: the run ended early."
    if comparison.execution is not None:
        return "Not judged on executed steps; run it without --executor."
    if study is None:
        return ""
    if study.fewer is not None:
        return _fewer_at_loads(study, study.fewer)
    return "" if study.unjudged is None else _unjudged(comparison, own, study, study.unjudged)


_MS = "do the time stamps count milliseconds? (--set arrivals.time_scale=0.001)"


def _unjudged(comparison: Comparison, own: Column, study: LoadStudy, why: Unjudged) -> str:
    """Return why fewer graphs were not judged, or that none can go."""
    sizes = len(own.variant.pool.sizes)
    match why:
        case "other profile":
            text = not_of_text(mismatches(comparison.workload, comparison.profile))
            return f"Not judged, no flag: {text} (run.py profile list)."
        case "too few requests":
            fewest = min(len(run.requests.arrival_ns) for run in own.runs)
            return f"Not judged: {count_text(fewest, 'request')} of the {LEAST_ARRIVALS} that a run takes."
        case "milliseconds":
            return f"Not judged: {_MS}"
        case "all at once":
            return "Not judged: all requests arrive at once, so there is no other load to try."
        case "overload":
            return "Not judged: the queue grows; it takes a load that the server keeps up with."
        case "too short":
            return "Not judged: too short to tell; a steady state and an interval take more requests."
        case "idle":
            idle = 1 - busy_share(own)
            seen = f"the server is idle {100 * idle:.0f} % of the time"
            return f"Not judged: {seen if idle > 1 - LEAST_BUSY else 'requests hardly ever decode together'}."
        case "eager is faster":
            return "Not judged: eager is faster than these graphs."
        case "too few sizes":
            return f"No: {count_text(sizes, 'size')}, and none to leave out."
        case "exact sizes":
            return "Not judged: without padding each size serves its own batch alone."
        case "ends early":
            return "Not judged: the list ends below max_num_seqs; first add sizes (run.py tune)."
        case "wide interval":
            return "Not judged: the interval is wider than 1 % of mean TPOT; run more requests."
        case "all needed":
            tried = f"{study.factors[0]:g}x to {study.factors[-1]:g}x"
            return f"No: each of the {sizes} sizes is needed at some load ({tried} tried)."


def _fewer_at_loads(study: LoadStudy, fewer: FewerGraphs) -> str:
    """Return what a smaller list saves and loses at its worst, over all loads that were tried and beyond."""
    sizes = f"{len(fewer.sizes)} of its {fewer.of} sizes"
    if len(fewer.sizes) <= 8:
        sizes = " ".join(map(str, fewer.sizes))
    gains = []
    if fewer.start_up_s_saved:
        gains.append(f"{fewer.start_up_s_saved:.1f} s of start-up")
    if fewer.graph_memory_bytes_saved and fewer.graph_memory_bytes_saved >= 1 << 20:
        gains.append(f"{fewer.graph_memory_bytes_saved / 2**20:,.0f} MiB")
    saves = f"saves {' and '.join(gains)}" if gains else ""
    worst = short_percent_text(fewer.worst_loss if fewer.worst_of == "mean TPOT" else -fewer.worst_loss)
    if not fewer.would_do:
        where = f"{fewer.worst_of} {worst} at {fewer.worst_factor:g}x the load"
        return f"{sizes} {saves}, but {where}: no." if saves else f"{sizes}: {where}: no."
    tried = f"from {study.factors[0]:g}x to {study.factors[-1]:g}x the load"
    one = f", no batch over {short_percent_text(fewer.most_padding)}" if fewer.most_padding >= 0.0005 else ""
    text = f"{sizes} would do: {fewer.worst_of} {worst} at worst {tried}{one}"
    return f"{text}; {saves}." if saves else f"{text}."
