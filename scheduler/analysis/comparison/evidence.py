"""Whether a comparison's requests and profile can say that fewer graphs would do, and what is missing."""

from __future__ import annotations

import numpy as np

from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.comparison.differences import LEAST_CHANGE, differences
from scheduler.analysis.comparison.loads import Unjudged
from scheduler.analysis.comparison.measured_on import mismatches
from scheduler.analysis.comparison.steadiness import loads
from scheduler.analysis.statistics.difference import Verdict
from scheduler.analysis.statistics.steady_state import LEAST_ARRIVALS
from scheduler.workload.arrivals import ClosedLoopArrivals, TraceArrivals
from scheduler.workload.requests import Requests

LEAST_BUSY = 0.05  # of the time; a server idle for longer does not tell one list from another
# Recorded requests this far apart in whole seconds may well be milliseconds: six a minute need no server.
LEAST_GAP_S = 5


def unjudged(comparison: Comparison, own: Column) -> Unjudged | None:
    """Return what is missing before fewer graphs than a pool's can be judged; None where nothing is.

    A pool that loses to eager is no list to trim. Neither a handful of requests, nor a server without a
    steady state, nor an idle one (such as arrivals in milliseconds make of it when they are read as seconds)
    tells what a list is good for; a profile of another engine, release, GPU or model tells it of another
    server.
    """
    fewest = min(len(run.requests.arrival_ns) for run in own.runs)
    others = mismatches(comparison.workload, comparison.profile)
    if any(other.asked for other in others):  # who names no engine is told of lists, and given no flag
        return "other profile"
    if fewest < LEAST_ARRIVALS:
        return "too few requests"
    if _loses_to_eager(comparison, own):
        return "eager is faster"
    no_choice = _no_choice(comparison, own)
    if no_choice is not None:
        return no_choice
    if may_be_milliseconds(comparison):
        return "milliseconds"
    found = loads(comparison, own)
    is_open = not isinstance(comparison.workload.arrivals, ClosedLoopArrivals)
    if is_open and any(load.offered_per_s is None for load in found):
        return "all at once"
    if any(load.overloaded for load in found):
        return "overload"
    if any(load.too_short for load in found):
        return "too short"
    return "idle" if is_idle(own) else None


def busy_share(column: Column) -> float:
    """Return the share of the time, from the first arrival to the last token, in which steps ran."""
    busy = whole = 0
    for run in column.runs:
        if len(run.requests.arrival_ns):
            busy += int(run.steps.duration_ns.sum())
            last = max(int(run.requests.finish_ns.max()), int(run.requests.arrival_ns.max()))
            whole += last - int(run.requests.arrival_ns.min())
    return min(1.0, busy / whole) if whole else 1.0


def is_idle(column: Column) -> bool:
    """Tell whether nothing runs nearly all the time, or no two requests ever ran together."""
    together = any(int(run.steps.batch_size.max(initial=0)) > 1 for run in column.runs)
    return not together or busy_share(column) < LEAST_BUSY


def may_be_milliseconds(comparison: Comparison) -> bool:
    """Tell whether recorded arrivals, read as seconds, look as if they counted milliseconds.

    They do where every one is a whole number of seconds after the first and most are far apart, and where
    they leave the server idle.
    """
    arrivals = comparison.workload.arrivals
    if not isinstance(arrivals, TraceArrivals) or arrivals.time_scale != 1 or len(comparison.requests[0]) < 2:
        return False
    first = (comparison.pools or [comparison.eager])[0]
    return are_far_apart(comparison.requests[0]) or busy_share(first) < LEAST_BUSY


def are_far_apart(requests: Requests) -> bool:
    """Tell whether all requests come whole seconds after the first, and most of them many."""
    arrival_s = (requests.arrival_ns - requests.arrival_ns[:1]) / 1e9
    are_whole = len(arrival_s) > 1 and bool((arrival_s == np.rint(arrival_s)).all())
    return are_whole and float(np.median(np.diff(arrival_s))) >= LEAST_GAP_S


def _loses_to_eager(comparison: Comparison, own: Column) -> bool:
    """Tell whether a pool is shown to be slower than eager, at any end of a range."""
    found = differences(comparison, own, "mean_tpot_ms")
    return any(
        one.verdict is Verdict.SLOWER and one.relative is not None and one.relative >= LEAST_CHANGE
        for one in found
    )


def _no_choice(comparison: Comparison, own: Column) -> Unjudged | None:
    """Return why no size of a list could go whatever the traffic; None where one could."""
    pool, engine = own.variant.pool, comparison.workload.engine
    if not pool.padding:
        return "exact sizes"
    if pool.table(engine.max_num_seqs, engine.prefill_tokens_per_step).decode[-1].kind == "NONE":
        return "ends early"
    return "too few sizes" if len(pool.sizes) < 3 else None
