"""Whether a mean means anything: overload, and a warm-up that was cut too short."""

from __future__ import annotations

import numpy as np

from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.records import offered_loads
from scheduler.analysis.statistics.steady_state import OfferedLoad, WarmUp, averaged_series, mser5
from scheduler.engine.records import Status
from scheduler.workload.arrivals import TraceArrivals


def loads(comparison: Comparison, column: Column) -> list[OfferedLoad]:
    """Return the load of every replication, computed once; none in a closed loop."""
    if column not in comparison.loads:
        comparison.loads[column] = offered_loads(comparison.workload, column.runs)
    return comparison.loads[column]


def is_steady(comparison: Comparison, column: Column) -> bool:
    """Return whether every replication of a column has a steady state to speak of."""
    return all(load.steady_state for load in loads(comparison, column))


def warm_up(comparison: Comparison, column: Column) -> WarmUp | None:
    """Return what MSER-5 would cut of the averaged E2EL series.

    None where it says nothing: for one replication, a trace (never cut), a partial run, and without a
    steady state.
    """
    if comparison.failure is not None or comparison.replications < 2:
        return None
    if isinstance(comparison.workload.arrivals, TraceArrivals):
        return None
    series = averaged_series([_e2el_s(column, index) for index in range(len(column.runs))])
    if not len(series) or not is_steady(comparison, column):
        return None
    return mser5(series)


def _e2el_s(column: Column, replication: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    requests = column.runs[replication].requests
    completed = requests.status == Status.COMPLETED
    return np.asarray((requests.finish_ns - requests.arrival_ns)[completed] / 1e9, np.float64)
