"""Could the pool be smaller? One quick answer from a comparison that was run anyway.

Of the pool's own sizes the fewest are chosen whose cost, on the batches that came, stays within half a
percent of all of them; that pool then serves the same requests, and the paired difference is the answer.
`tune` searches all sizes in the closed loop; this only drops what the traffic did not need.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scheduler.analysis.comparison.compare import Column, Comparison, Progress, SmallerPool, run_columns
from scheduler.analysis.tuning.choose import best_by_count, size_problem
from scheduler.analysis.tuning.step_loads import decode_load, mixed_load, step_histogram
from scheduler.analysis.workers import Workers
from scheduler.engine.graph_pool import full_limit
from scheduler.executors.model.by_profile import cost_model
from scheduler.simulate import pool_cost

TOLERANCE = 0.005


def smaller_pool(
    comparison: Comparison, progress: Progress | None = None, workers: Workers | None = None
) -> SmallerPool | None:
    """Return a smaller version of the first pool, simulated on the same requests, or None.

    None where steps are executed for real, the run is partial, or no smaller pool costs as little. The
    smallest size, the largest FULL graph and the largest of all are always kept, so that no batch takes a
    slower kind of graph than before.
    """
    own = comparison.pools[0] if comparison.pools else None
    if own is None or comparison.execution is not None or comparison.failure is not None:
        return None
    sizes = _fewest_sizes(comparison, own)
    if sizes is None or len(sizes) >= len(own.variant.pool.sizes):
        return None
    name = f"{own.variant.name}_smaller"
    variant = replace(own.variant, name=name, pool=replace(own.variant.pool, sizes=sizes))
    cost = pool_cost(comparison.workload.engine, comparison.profile, variant.pool, name)
    column = Column(variant, f"{len(sizes)} of the sizes of {own.name}", cost)
    run_columns(comparison, [column], progress, workers)
    return SmallerPool(own, column) if column.runs else None


def _fewest_sizes(comparison: Comparison, own: Column) -> tuple[int, ...] | None:
    pool = own.variant.pool
    most = comparison.workload.engine.max_num_seqs
    table = pool.table(most, comparison.workload.engine.prefill_tokens_per_step)
    if table.decode[-1].kind == "NONE" or not pool.padding or len(pool.sizes) < 3:
        return None
    kept = {pool.sizes[0], table.decode[-1].tokens}
    kept |= {graphs[-1] for graphs in (table.full, table.piecewise) if graphs}
    kept &= set(pool.sizes)
    largest_total = pool.sizes[-1] if pool.piecewise else 0
    histogram = step_histogram(own.runs, most, largest_total)
    model = cost_model(comparison.profile, own.variant.without_graph)
    loads = [decode_load(histogram, model, pool.sizes, full_limit(pool, most))]
    if pool.piecewise:
        loads.append(mixed_load(histogram, model, pool.sizes))
    problem = size_problem(loads, pool.sizes, forced=sorted(kept))
    choices = best_by_count(problem, len(pool.sizes))
    costs = [np.inf if choice is None else choice.cost for choice in choices]
    enough = min(costs) * (1 + TOLERANCE)
    choice = next((choice for choice in choices if choice is not None and choice.cost <= enough), None)
    return None if choice is None else choice.sizes
