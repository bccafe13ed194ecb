"""The best capture sizes within a budget that sizes draw on unequally, such as capture seconds.

A path through the candidates with a limit on its number of sizes and on a sum of prices: a shortest path
with resources. First the price enters the cost with a multiplier, which bounds the optimum from below and
gives a pool within the budget; then a search over partial pools closes the gap, cutting off whatever the
bound shows to be no better (Handler and Zang 1980; Juttner and others 2001 for the multiplier).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scheduler.analysis.tuning.choose import Choice, Floats, SizeProblem, choose
from scheduler.analysis.tuning.neighbours import neighbours
from scheduler.errors import InputError

Integers = NDArray[np.int64]

MOST_PARTIAL_POOLS = 200_000
MOST_IMPROVEMENTS = 50


@dataclass(frozen=True, slots=True)
class BudgetChoice:
    """The best pool found within a budget; `lower_bound` equals its cost where it is proven the best."""

    choice: Choice
    spent: float
    lower_bound: float


@dataclass(frozen=True, slots=True)
class _Budget:
    """The budget, with room for rounding in sums, and each candidate's price."""

    price: Floats
    most: float
    by_size: dict[int, float]

    def spent(self, choice: Choice) -> float:
        return sum(self.by_size[size] for size in choice.sizes)

    def holds(self, choice: Choice) -> bool:
        return self.spent(choice) <= self.most


def graphs_within_memory(budget_bytes: float, first_bytes: float, marginal_bytes: float) -> int:
    """Return how many graphs fit: the first, then as many at the marginal cost as the rest allows."""
    if budget_bytes < first_bytes:
        return 0
    if marginal_bytes <= 0:
        return int(np.iinfo(np.int32).max)
    return 1 + int((budget_bytes - first_bytes) // marginal_bytes)


def choose_within_budget(
    problem: SizeProblem, graphs: int, price_by_size: ArrayLike, budget: float
) -> BudgetChoice:
    """Return the best choice of at most `graphs` sizes whose prices sum to at most `budget`.

    Prices are indexed by capture size and not negative. Raises InputError where the required sizes alone
    exceed the budget.
    """
    price = np.asarray(price_by_size, np.float64)[list(problem.candidates)]
    by_size = dict(zip(problem.candidates, price.tolist(), strict=True))
    limit = _Budget(price, budget + 1e-9 * max(1.0, abs(budget)), by_size)
    required = Choice(problem.forced, problem.cost(problem.forced))
    if not limit.holds(required):
        raise InputError(
            f"the required sizes {list(problem.forced)} alone take {limit.spent(required):g}, "
            f"more than the budget of {budget:g}"
        )
    free = choose(problem, graphs)
    if limit.holds(free):
        return BudgetChoice(free, limit.spent(free), free.cost)
    # The budget alone often limits the number of sizes, too, and is the easier problem.
    best, lower = _solve(problem, None, limit, required)
    if len(best.sizes) > graphs:
        best, lower = _solve(problem, graphs, limit, required)
    return BudgetChoice(best, limit.spent(best), lower)


def _solve(
    problem: SizeProblem, graphs: int | None, limit: _Budget, required: Choice
) -> tuple[Choice, float]:
    """Return the best pool within the budget and a lower bound of its cost."""
    free = _cheapest(problem, graphs)
    if limit.holds(free):
        return free, free.cost
    multiplier, within, lower = _balance(problem, graphs, limit, free, required)
    within = _improve(problem, graphs, limit, within)
    best, proven = _close_gap(problem, graphs, limit, multiplier, within)
    return best, best.cost if proven else lower


def _cheapest(problem: SizeProblem, graphs: int | None) -> Choice:
    """Return the cheapest pool with at most `graphs` sizes, or with any number in one pass."""
    if graphs is not None:
        return choose(problem, graphs)
    count = len(problem.candidates)
    reached, parent = np.zeros(count + 1), np.zeros(count + 1, np.int64)
    for node in range(1, count + 1):
        through = reached[:node] + problem.segment[node - 1, :node]
        parent[node] = through.argmin()
        reached[node] = through[parent[node]]
    node, sizes = int((reached + problem.tail).argmin()), []
    cost = float(reached[node] + problem.tail[node])
    while node:
        sizes.append(problem.candidates[node - 1])
        node = int(parent[node])
    return Choice(tuple(reversed(sizes)), cost)


def _balance(
    problem: SizeProblem, graphs: int | None, limit: _Budget, over: Choice, within: Choice
) -> tuple[float, Choice, float]:
    """Find the multiplier that bounds the optimum best; return it, a pool within budget and the bound."""
    while True:
        multiplier = (within.cost - over.cost) / (limit.spent(over) - limit.spent(within))
        priced = replace(problem, segment=problem.segment + multiplier * limit.price[:, None])
        relaxed = _cheapest(priced, graphs)
        found = Choice(relaxed.sizes, problem.cost(relaxed.sizes))
        reached = over.cost + multiplier * limit.spent(over)
        if found.sizes in (over.sizes, within.sizes) or relaxed.cost >= reached - 1e-12 * abs(reached):
            return multiplier, within, relaxed.cost - multiplier * limit.most
        if limit.holds(found):
            within = found
        else:
            over = found


def _improve(problem: SizeProblem, graphs: int | None, limit: _Budget, best: Choice) -> Choice:
    """Walk to cheaper neighbours within the budget: a lower cost to beat cuts the search off sooner."""
    most = len(problem.candidates) if graphs is None else graphs
    price_by_size = np.zeros(problem.candidates[-1] + 1)
    price_by_size[list(problem.candidates)] = limit.price
    for _ in range(MOST_IMPROVEMENTS):
        nearby = neighbours(problem, best.sizes, most, 1, spent=price_by_size, budget=limit.most)
        if not nearby or nearby[0].cost >= best.cost * (1 - 1e-12):
            break
        best = nearby[0]
    return Choice(best.sizes, problem.cost(best.sizes))


def _close_gap(
    problem: SizeProblem, graphs: int | None, limit: _Budget, multiplier: float, best: Choice
) -> tuple[Choice, bool]:
    """Extend partial pools candidate by candidate, keeping those that may still beat `best`.

    A partial pool is (cost, price, number of sizes, last candidate, the pool before). Returns the best
    pool and whether it is proven the best: False where the partial pools grew too many.
    """
    most = len(problem.candidates) if graphs is None else min(graphs, len(problem.candidates))
    bound = _bounds(problem, graphs, limit.price, multiplier)
    cost, spent = np.zeros(1), np.zeros(1)
    size, node, before = (np.zeros(1, np.int64) for _ in range(3))
    for after in range(1, len(problem.tail)):
        new_cost, new_spent = cost + problem.segment[after - 1, node], spent + limit.price[after - 1]
        allowed = most - size - 1
        ahead = bound[np.maximum(allowed, 0) if graphs is not None else 0, after]
        floor = new_cost + multiplier * (new_spent - limit.most) + ahead
        enough = best.cost - 1e-12 * abs(best.cost)
        keep = np.flatnonzero((new_spent <= limit.most) & (allowed >= 0) & (floor < enough))
        keep = keep[_undominated(new_cost[keep], new_spent[keep], size[keep] if graphs is not None else None)]
        first = len(cost)
        cost, spent = np.append(cost, new_cost[keep]), np.append(spent, new_spent[keep])
        size, before = np.append(size, size[keep] + 1), np.append(before, keep)
        node = np.append(node, np.full(len(keep), after))
        if len(keep):
            last = first + int(new_cost[keep].argmin())
            if cost[last] + problem.tail[after] < enough:
                best = Choice(_sizes(problem, node, before, last), float(cost[last] + problem.tail[after]))
        if len(cost) > MOST_PARTIAL_POOLS:
            return best, False
    return best, True


def _bounds(problem: SizeProblem, graphs: int | None, price: Floats, multiplier: float) -> Floats:
    """Return the least priced cost of completing a pool: [sizes still allowed, last candidate].

    With any number of sizes allowed there is one row.
    """
    priced = problem.segment + multiplier * price[:, None]
    if graphs is None:
        single = problem.tail.copy()
        for node in range(len(single) - 2, -1, -1):
            single[node] = min(single[node], (priced[node:, node] + single[node + 1 :]).min())
        return single[None, :]
    bound = np.empty((graphs + 1, len(problem.tail)))
    bound[0] = problem.tail
    for allowed in range(1, graphs + 1):
        through = (priced + bound[allowed - 1, 1:, None]).min(axis=0)
        bound[allowed] = np.minimum(problem.tail, through)
    return bound


def _undominated(cost: Floats, spent: Floats, size: Integers | None) -> Integers:
    """Return which partial pools no other one (of the same size, if given) beats in cost and price."""
    group = np.zeros(len(cost), np.int64) if size is None else size
    order = np.lexsort((spent, cost, group))
    kept: list[int] = []
    least, current = np.inf, -1
    for index in order.tolist():
        if group[index] != current:
            least, current = np.inf, group[index]
        if spent[index] < least:
            kept.append(index)
            least = spent[index]
    return np.array(kept, np.int64)


def _sizes(problem: SizeProblem, node: Integers, before: Integers, last: int) -> tuple[int, ...]:
    sizes: list[int] = []
    while node[last]:
        sizes.append(problem.candidates[int(node[last]) - 1])
        last = int(before[last])
    return tuple(reversed(sizes))
