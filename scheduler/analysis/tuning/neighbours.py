"""Pools one step away from a pool: a size added, removed, or exchanged for another, cheapest first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from scheduler.analysis.tuning.choose import Choice, Floats, SizeProblem


def neighbours(
    problem: SizeProblem,
    sizes: Sequence[int],
    graphs: int,
    count: int = 16,
    *,
    spent: ArrayLike | None = None,
    budget: float = np.inf,
) -> list[Choice]:
    """Return the `count` cheapest pools that differ from `sizes` by one size added, removed or exchanged.

    At most `graphs` sizes; forced sizes stay; the sum of `spent` (by size, e.g. capture seconds) stays
    within `budget`. Ordered by cost, then by sizes.
    """
    base = sorted(set(sizes))
    budget += 1e-9 * max(1.0, abs(budget)) if np.isfinite(budget) else 0.0  # room for rounding in sums
    price = (
        np.zeros(max(problem.candidates, default=0) + 1) if spent is None else np.asarray(spent, np.float64)
    )
    found: dict[tuple[int, ...], float] = {}
    removable = [size for size in base if size not in problem.forced]
    for removed in [None, *removable]:
        kept = [size for size in base if size != removed]
        if removed is not None:
            found[tuple(kept)] = problem.cost(kept)
        if len(kept) < graphs:
            room = budget - float(sum(price[size] for size in kept))
            _additions(problem, kept, count + 1, found, price, room)
    found.pop(tuple(base), None)
    feasible = [
        (cost, pool)
        for pool, cost in found.items()
        if np.isfinite(cost) and len(pool) <= graphs and sum(price[size] for size in pool) <= budget
    ]
    return [Choice(pool, cost) for cost, pool in sorted(feasible)[:count]]


def _additions(
    problem: SizeProblem,
    kept: Sequence[int],
    count: int,
    found: dict[tuple[int, ...], float],
    price: Floats,
    room: float,
) -> None:
    """Put into `found` the `count` cheapest pools made of `kept` and one more size whose price fits."""
    candidates = np.array(problem.candidates)
    edges = np.concatenate([[0], np.searchsorted(candidates, kept) + 1]).astype(np.int64)
    new = np.setdiff1d(np.arange(1, len(candidates) + 1), edges)
    new = new[price[candidates[new - 1]] <= room]
    place = np.searchsorted(edges, new)
    before = edges[place - 1]
    is_last = place == len(edges)
    after = edges[np.where(is_last, 0, place)]
    total = problem.cost(kept)
    if np.isfinite(total):
        split = np.where(is_last, problem.tail[new], problem.segment[after - 1, new])
        whole = np.where(is_last, problem.tail[before], problem.segment[after - 1, before])
        costs = total + problem.segment[new - 1, before] + split - whole
    else:
        costs = np.array([problem.cost([*kept, int(candidates[node - 1])]) for node in new])
    for index in np.argsort(costs, kind="stable")[:count].tolist():
        found[tuple(sorted([*kept, int(candidates[new[index] - 1])]))] = float(costs[index])
