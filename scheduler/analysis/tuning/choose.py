"""The best capture sizes for a histogram of batch sizes: exact, by dynamic programming.

Weights w[n], a graph's time g(s), the time e(n) without a graph: a step of n sequences takes the smallest
chosen s ≥ n, or no graph above the largest. Cut at the chosen sizes, the cost is a sum of segments
C(i, j) = Σ w[n] g(s_j) for s_i < n ≤ s_j and a tail Σ w[n] e(n) above the last, so that
f_q(j) = min_i f_{q-1}(i) + C(i, j) gives every pool size q in one pass, O(K n²). Step times need not
ascend: nothing but the sum is used, which divide and conquer and other fast schemes do not allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scheduler.errors import InputError

Floats = NDArray[np.float64]
Routing = Literal["smallest", "cheaper"]
CandidateRule = Literal["all", "kernel", "stride"]
MOST_DENSE = 512


@dataclass(frozen=True, slots=True)
class Load:
    """A histogram and what its steps cost, all indexed by batch size (entry 0 is unused).

    `weights`: how much a step of this size counts. `graph_ns`: a step's time in the graph of each size,
    or a matrix [batch size, capture size] where the live rows matter too; infinite or NaN where no graph
    could be captured. `eager_ns`: its time without a graph. For piecewise graphs the index is total tokens.
    """

    weights: Floats
    graph_ns: Floats
    eager_ns: Floats

    @classmethod
    def of(cls, weights: ArrayLike, graph_ns: ArrayLike, eager_ns: ArrayLike) -> Load:
        """Return a load of plain sequences; raises ValueError where shapes or weights make no sense."""
        load = cls(*(np.asarray(values, np.float64) for values in (weights, graph_ns, eager_ns)))
        if len(load.eager_ns) < len(load.weights) or (
            load.graph_ns.ndim == 2 and len(load.graph_ns) < len(load.weights)
        ):
            raise ValueError("step times end before the histogram does")
        if not (np.isfinite(load.weights).all() and (load.weights >= 0).all()):
            raise ValueError("weights must be finite and not negative")
        return load

    def rows_in_graph(self, size: int, routing: Routing) -> Floats:
        """Return the time of every batch size (up to `size`, at most all) in the graph of `size`."""
        rows = min(size + 1, len(self.weights))
        graph = self.graph_ns[:rows, size] if self.graph_ns.ndim == 2 else np.full(rows, self.graph_ns[size])
        return np.minimum(graph, self.eager_ns[:rows]) if routing == "cheaper" else graph


@dataclass(frozen=True, slots=True)
class Choice:
    """Capture sizes, ascending, and the weighted sum of step times they lead to, in ns."""

    sizes: tuple[int, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class SizeProblem:
    """Loads cut at the candidate sizes.

    `segment[j, i]` is the cost of all batches above candidate i (0 is "from the start") and not above
    candidate j (0-based) in graph j; infinite where i is not below j or a forced size lies between.
    `tail[i]` is the cost of all batches above candidate i without a graph.
    """

    candidates: tuple[int, ...]
    forced: tuple[int, ...]
    segment: Floats
    tail: Floats

    def up_to(self, largest: int) -> SizeProblem:
        """Return the problem with the candidates above `largest` left out (no forced one among them)."""
        count = sum(size <= largest for size in self.candidates)
        return SizeProblem(
            self.candidates[:count], self.forced, self.segment[:count, : count + 1], self.tail[: count + 1]
        )

    def cost(self, sizes: Sequence[int]) -> float:
        """Return the cost of a pool made of candidates, infinite where a forced size is missing."""
        position = {size: index for index, size in enumerate(self.candidates)}
        path = [0, *(position[size] + 1 for size in sorted(sizes))]
        total = sum(float(self.segment[after - 1, before]) for before, after in pairwise(path))
        return total + float(self.tail[path[-1]])

    def cost_of_usable(self, sizes: Sequence[int]) -> float:
        """Return the cost of those of some sizes that are candidates: others have no step time."""
        usable = set(self.candidates)
        return self.cost([size for size in sizes if size in usable])


def candidate_sizes(largest: int, rule: CandidateRule = "all", align: int = 1) -> tuple[int, ...]:
    """Return the sizes to choose from, up to the first multiple of `align` that holds `largest`.

    `all` is every multiple of `align` up to 512, then as `kernel`; `kernel` what matrix kernels like: 1 to
    8, then multiples of 8, and of 16, 32, … so that neighbours are a sixteenth to a thirty-second apart;
    `stride` the engines' grid (1, 2, 4, steps of 8 below 256, of 16 from there) and `largest`, each rounded
    up to a multiple of `align`.
    """
    if rule == "stride":
        grid = [1, 2, 4, *range(8, min(largest + 1, 256), 8), *range(256, largest + 1, 16), largest]
    else:
        dense = min(largest, MOST_DENSE if rule == "all" else 8)
        grid = [*range(1, dense + 1), largest]
        size = dense
        while size < largest:
            step = 1 << max(size.bit_length() - 5, 3)
            size = (size // step + 1) * step
            grid.append(size)
    return tuple(sorted({-(-size // align) * align for size in grid if size <= largest}))


def smoothed(load: Load, candidates: Sequence[int]) -> Load:
    """Return a load whose graph times do not fall with the size: midway between the curves that bound them.

    A larger graph does at least the work of a smaller one; where a measured curve falls, that is its noise,
    and a search would settle in its dips. Sizes without a time stay without.
    """
    usable = [size for size in sorted(set(candidates)) if _can_capture(load, size)]
    if load.graph_ns.ndim == 1 or not usable:
        return load
    times = load.graph_ns[:, usable]
    holds = np.array(usable)[None, :] >= np.arange(len(times))[:, None]
    below = np.maximum.accumulate(np.where(holds, times, -np.inf), axis=1)
    above = np.minimum.accumulate(times[:, ::-1], axis=1)[:, ::-1]
    graph = load.graph_ns.copy()
    graph[:, usable] = np.where(holds, (below + above) / 2, times)
    return Load(load.weights, graph, load.eager_ns)


def size_problem(
    loads: Sequence[Load],
    candidates: Sequence[int],
    *,
    forced: Sequence[int] = (),
    routing: Routing = "smallest",
    padding: bool = True,
    extra_cost: ArrayLike | None = None,
) -> SizeProblem:
    """Cut one or more loads (decode steps; mixed steps) at the candidates; one list serves all.

    `routing`: the smallest graph that holds the batch, or the cheaper of that graph and none.
    `padding` False: only the exact size has a graph. `extra_cost` (by size) is added once per chosen
    size. Candidates for which a load has no finite graph time are dropped; forced ones must remain.
    """
    sizes = sorted({*candidates, *forced})
    usable = tuple(size for size in sizes if all(_can_capture(load, size) for load in loads))
    missing = sorted(set(forced) - set(usable))
    if missing:
        raise InputError(f"capture size {missing[0]} is required but has no step time in the profile")
    count = len(usable)
    segment, tail = np.zeros((count, count + 1)), np.zeros(count + 1)
    edges = np.array([0, *usable])
    for load in loads:
        _add_load(segment, tail, load, edges, routing, padding)
    if extra_cost is not None:
        segment += np.asarray(extra_cost, np.float64)[list(usable)][:, None]
    segment[np.triu_indices(count, 1, count + 1)] = np.inf
    _require(segment, tail, [usable.index(size) for size in set(forced)])
    return SizeProblem(usable, tuple(sorted(set(forced))), segment, tail)


def _can_capture(load: Load, size: int) -> bool:
    if size >= load.graph_ns.shape[-1]:
        return False
    times = load.graph_ns[: size + 1, size] if load.graph_ns.ndim == 2 else load.graph_ns[size]
    return bool(np.isfinite(times).all())


def _add_load(
    segment: Floats, tail: Floats, load: Load, edges: NDArray[np.int64], routing: Routing, padding: bool
) -> None:
    """Add one load's costs: for each size the running sum over batch sizes, read off at the edges."""
    last = len(load.weights) - 1
    at = np.minimum(edges, last)
    eager = np.where(load.weights > 0, load.weights * load.eager_ns[: last + 1], 0.0)
    eager[0] = 0.0
    eager_until = np.cumsum(eager)
    tail += eager_until[-1] - eager_until[at]
    for index, size in enumerate(edges[1:].tolist()):
        cost = load.weights[: size + 1] * load.rows_in_graph(size, routing)
        cost[0] = 0.0
        if not padding:
            exact = cost[size] if size <= last else 0.0
            cost = eager[: size + 1].copy()
            if size <= last:
                cost[size] = exact
        until = np.cumsum(cost)
        segment[index, : index + 1] += until[-1] - until[at[: index + 1]]


def _require(segment: Floats, tail: Floats, forced: Sequence[int]) -> None:
    """Forbid every segment and tail that passes over a forced candidate (0-based indices)."""
    for index in forced:
        segment[index + 1 :, : index + 1] = np.inf
        tail[: index + 1] = np.inf


def best_by_count(
    problem: SizeProblem, graphs: int, most_by_largest: ArrayLike | None = None
) -> list[Choice | None]:
    """Return the best choice of at most k sizes for every k = 0…`graphs`; None where k is too few.

    Of equal costs the one with fewer sizes is kept. `most_by_largest` (by capture size) limits the number
    of sizes further where that one is the largest, as a memory budget does.
    """
    most = np.full(len(problem.tail), np.inf)
    if most_by_largest is not None:
        most[1:] = np.asarray(most_by_largest, np.float64)[list(problem.candidates)]
    count = len(problem.candidates)
    reached = np.full(count + 1, np.inf)
    reached[0] = 0.0
    best: Choice | None = Choice((), float(problem.tail[0])) if np.isfinite(problem.tail[0]) else None
    choices, parents = [best], []
    work = np.empty_like(problem.segment)
    for size_count in range(1, min(graphs, count) + 1):
        np.add(problem.segment, reached, out=work)
        parents.append(work.argmin(axis=1))
        reached[1:] = work[np.arange(count), parents[-1]]
        reached[0] = np.inf
        total = np.where(size_count <= most, reached + problem.tail, np.inf)
        last = int(total.argmin())
        if np.isfinite(total[last]) and (best is None or total[last] < best.cost):
            best = Choice(_walk_back(problem.candidates, parents, last), float(total[last]))
        choices.append(best)
    return choices + [best] * (graphs - min(graphs, count))


def _walk_back(candidates: Sequence[int], parents: Sequence[NDArray[np.int64]], node: int) -> tuple[int, ...]:
    sizes: list[int] = []
    for parent in reversed(parents):
        sizes.append(candidates[node - 1])
        node = int(parent[node - 1])
    return tuple(reversed(sizes))


def choose(problem: SizeProblem, graphs: int, most_by_largest: ArrayLike | None = None) -> Choice:
    """Return the best choice of at most `graphs` sizes; raises InputError where forced ones are more."""
    best = best_by_count(problem, graphs, most_by_largest)[-1]
    if best is None:
        within = "" if most_by_largest is None else " within the budget"
        raise InputError(
            f"{graphs} graphs{within} cannot hold the {len(problem.forced)} required sizes "
            f"{list(problem.forced)}: allow more graphs, or lift the required sizes"
        )
    return best
