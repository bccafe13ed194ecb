"""Whether a mean means anything: overload, and a warm-up that was cut too short."""

from __future__ import annotations

import numpy as np

from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.statistics.steady_state import Load, averaged_series, load_of, mser5
from scheduler.engine.records import Status
from scheduler.workload.arrivals import ClosedLoopArrivals, TraceArrivals

TOO_FEW = "too few requests to tell a steady state; run at least 100."


def loads(comparison: Comparison, column: Column) -> list[Load]:
    """Return the load of every replication; none in a closed loop, where nothing can pile up."""
    if isinstance(comparison.workload.arrivals, ClosedLoopArrivals):
        return []
    return [load_of(run.requests) for run in column.runs]


def is_steady(comparison: Comparison, column: Column) -> bool:
    """Return whether every replication of a column has a steady state to speak of."""
    return all(load.steady_state for load in loads(comparison, column))


def load_warnings(comparison: Comparison, column: Column) -> list[str]:
    """Name an overload: how fast the queue grows and what the server delivers.

    Where too few requests arrived to tell, the comparison's first column says so for all.
    """
    every = loads(comparison, column)
    if any(load.too_few for load in every):
        return [TOO_FEW] if column is comparison.columns[0] else []
    found = [load for load in every if not load.steady_state]
    if not found:
        return []
    growths = [load.growth_per_s.mean for load in found if load.growth_per_s is not None]
    delivered = [load.delivered_per_s for load in found if load.delivered_per_s is not None]
    offered = [load.offered_per_s for load in found if load.offered_per_s is not None]
    where = "" if len(found) == len(column.runs) else f" in {len(found)} of {len(column.runs)} replications"
    if not any(load.overloaded for load in found):
        return [
            f"{column.title}: NO STEADY STATE{where}: the run is too short against one request's service to "
            "tell filling from overload; run more requests."
        ]
    return [
        f"{column.title}: NO STEADY STATE{where}: {np.mean(offered):.2f} requests/s arrive, "
        f"{np.mean(delivered):.2f}/s are served, the queue grows by {np.mean(growths):.2f} requests/s. "
        "The numbers describe this finite run only."
    ]


def warmup_warnings(comparison: Comparison) -> list[str]:
    """Warn where MSER-5 on the averaged E2EL series would cut more than was cut; traces are never cut."""
    if comparison.failure is not None or comparison.replications < 2:
        return []
    if isinstance(comparison.workload.arrivals, TraceArrivals):
        return []
    warnings = []
    for column in (*comparison.pools, comparison.eager):
        series = averaged_series([_e2el_s(column, index) for index in range(len(column.runs))])
        if not len(series) or not is_steady(comparison, column):
            continue
        warm_up = mser5(series)
        if warm_up.too_short:
            warnings.append(
                f"{column.name}: no warm-up can be told from the run (MSER-5); run more requests."
            )
        elif warm_up.cut > comparison.warmup_requests:
            warnings.append(
                f"{column.name}: MSER-5 would drop the first {warm_up.cut:,} requests, "
                f"{comparison.warmup_requests:,} were dropped (--warmup)."
            )
    return warnings


def _e2el_s(column: Column, replication: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    requests = column.runs[replication].requests
    completed = requests.status == Status.COMPLETED
    return np.asarray((requests.finish_ns - requests.arrival_ns)[completed] / 1e9, np.float64)
