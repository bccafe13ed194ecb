"""The flat record of a variant, in summary.json and sweeps alike: what was run, its cost, what came out.

Its key names are those of vLLM's `bench serve`. A value that does not exist is left out, never null.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler import __version__
from scheduler.analysis.metrics import Record, request_rate
from scheduler.analysis.statistics.steady_state import OfferedLoad, offered_load
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.records import Run
from scheduler.simulate import PoolCost, Variant
from scheduler.workload.arrivals import ClosedLoopArrivals, GammaArrivals, PoissonArrivals
from scheduler.workload.schema import Workload

SCHEMA_VERSION = 1


def flat_record(
    workload: Workload,
    profile: Profile,
    variant: Variant,
    cost: PoolCost,
    summaries: Sequence[Record],
    loads: Sequence[OfferedLoad],
    sampled: Record,
    executor: str = "model",
) -> Record:
    """Return the record of a variant over one or more replications: metrics are means over them.

    `summaries` and `loads` hold one entry per replication (`loads` none in a closed loop); `sampled` says
    which replication it is, or how many there are.
    """
    record: Record = {
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "backend": "graphpool",
        "variant": variant.column,
        "label": variant.column,
        **sampled,
        "model_id": profile.model_id,
        "profile": profile.name,
        "executor": executor,
        "workload": workload.name,
        "arrivals": workload.arrivals.process,
        "seed": workload.seed,
        "max_concurrency": workload.engine.max_num_seqs,
        "capture_sizes": list(variant.pool.sizes),
        "num_graphs": len(variant.pool.sizes),
    }
    if isinstance(workload.arrivals, GammaArrivals | PoissonArrivals):
        record["burstiness"] = getattr(workload.arrivals, "burstiness", 1.0)
    costs = {
        "capture_time_s": cost.capture_s,
        "graph_memory_bytes": cost.graph_memory_bytes,
        "kv_blocks": cost.kv_blocks,
    }
    record |= {key: value for key, value in costs.items() if value is not None}
    record |= mean_record(summaries)
    record |= _load_record(loads)
    if "slo_attainment" in record and "delivered_request_rate" in record:
        good = record["slo_attainment"] * record["delivered_request_rate"]
        record["request_goodput_to_last_arrival"] = good
    record["request_rate"] = request_rate(workload, record)
    return record


def offered_loads(workload: Workload, runs: Sequence[Run]) -> list[OfferedLoad]:
    """Return the load of every replication; none in a closed loop, where nothing can pile up."""
    is_closed = isinstance(workload.arrivals, ClosedLoopArrivals)
    return [] if is_closed else [offered_load(run.requests) for run in runs]


def _load_record(loads: Sequence[OfferedLoad]) -> Record:
    """Return whether there is a steady state, and the rates that say so as means over the replications."""
    record: Record = {"steady_state": all(load.steady_state for load in loads)}
    if not loads:
        return record
    record["overloaded"] = any(load.overloaded for load in loads)
    delivered = [load.delivered_per_s for load in loads if load.delivered_per_s is not None]
    growth = [load.growth_per_s.mean for load in loads if load.growth_per_s is not None]
    for key, values in (("delivered_request_rate", delivered), ("queue_growth_per_s", growth)):
        if len(values) == len(loads):
            record[key] = sum(values) / len(values)
    return record


def mean_record(summaries: Sequence[Record]) -> Record:
    """Return the mean of every number that all replications have; other values as in the first.

    Counts stay whole numbers, as readers of these keys expect.
    """
    record: Record = {}
    for key, first in summaries[0].items():
        values = [summary[key] for summary in summaries if key in summary]
        if len(values) < len(summaries):
            continue
        is_number = isinstance(first, int | float) and not isinstance(first, bool)
        same = all(value == first for value in values)
        if same or not is_number:
            record[key] = first
        else:
            mean = sum(values) / len(values)
            record[key] = round(mean) if all(isinstance(value, int) for value in values) else mean
    return record
