"""The search for the best pool when pool and traffic feed back on each other.

Evaluate a pool, choose the best sizes for the batches it led to, evaluate those, and so on, until a pool
comes back: a fixed point or a cycle. Then everything met on the way, the cheapest neighbours of the best
and the engines' own pools compete by the objective itself, never by the histogram's cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler.analysis.tuning.choose import Choice, Load, SizeProblem
from scheduler.engine.graph_pool import GraphPool

MOST_ITERATIONS = 12
NEIGHBOURS = 16
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A pool, its score (lower is better) and how to get the loads it led to, which only few need.

    `detail` is the evaluator's own. Of a pool that was not evaluated to the end the score is a lower bound.
    """

    pool: GraphPool
    score: float
    loads: Callable[[], Sequence[Load]]
    detail: Any = None
    is_bound: bool = False


@dataclass(frozen=True, slots=True)
class Chooser:
    """How sizes are chosen for loads: the problem they make, its best answer, and answers next to it."""

    problem: Callable[[Sequence[Load]], SizeProblem]
    best: Callable[[SizeProblem], Choice]
    near: Callable[[SizeProblem, Sequence[int]], Sequence[Choice]]


@dataclass(slots=True)
class PoolSearch:
    """Everything that was tried, in order, each pool once, with where it came from.

    `evaluate` may leave off where a pool is sure to lose; `complete` evaluates one to the end.
    """

    evaluate: Callable[[Sequence[GraphPool]], Sequence[Evaluated]]
    complete: Callable[[GraphPool], Evaluated] | None = None
    tried: dict[GraphPool, Evaluated] = field(default_factory=dict)
    origin: dict[GraphPool, str] = field(default_factory=dict)
    endings: list[str] = field(default_factory=list)

    def value(self, pool: GraphPool, origin: str) -> Evaluated:
        """Evaluate a pool, or return what was found when it was tried before."""
        return self.values([(pool, origin)])[0]

    def values(self, pools: Sequence[tuple[GraphPool, str]]) -> list[Evaluated]:
        """Evaluate pools (with where each came from), those not tried before together."""
        new = {pool: origin for pool, origin in reversed(pools) if pool not in self.tried}
        fresh = [pool for pool, _ in pools if pool in new]
        fresh = list(dict.fromkeys(fresh))
        for pool, found in zip(fresh, self.evaluate(fresh) if fresh else (), strict=True):
            self.tried[pool] = found
            self.origin[pool] = new[pool]
        return [self.tried[pool] for pool, _ in pools]

    def completed(self, found: Evaluated) -> Evaluated:
        """Return what a pool is worth when it is evaluated to the end."""
        if found.is_bound and self.complete is not None:
            self.tried[found.pool] = found = self.complete(found.pool)
        return found

    def iterate(self, start: GraphPool, chooser: Chooser, label: str, most: int = MOST_ITERATIONS) -> None:
        """Follow pool → batches → pool from `start` to a fixed point or a cycle; notes how it ended."""
        path = [start]
        for step in range(1, most + 1):
            found = self.value(
                path[-1], f"{label}, start" if len(path) == 1 else f"{label}, iterate {step - 1}"
            )
            sizes = chooser.best(chooser.problem(found.loads())).sizes
            pool = start.with_sizes(sizes)
            if pool in path:
                length = len(path) - path.index(pool)
                ending = "a fixed point" if length == 1 else f"a cycle of {length} pools"
                self.endings.append(f"{label}: {ending} after {step} steps")
                return
            path.append(pool)
        self.value(path[-1], f"{label}, iterate {most}")
        self.endings.append(f"{label}: no end within {most} steps")

    def best(self, allowed: Callable[[GraphPool], bool]) -> Evaluated | None:
        """Return the allowed pool with the least score; of equals the one with fewer, then smaller graphs."""
        candidates = [found for pool, found in self.tried.items() if allowed(pool)]
        return min(candidates, key=lambda e: (e.score, len(e.pool.sizes), e.pool.sizes), default=None)

    def try_neighbours(
        self,
        around: Evaluated,
        chooser: Chooser,
        worth: Callable[[Choice], bool] = lambda choice: True,
        gain: float = 0.0,
    ) -> None:
        """Evaluate the pools next to one, cheapest first by its own batches, as long as that gains.

        Only those are tried that `worth` says may be better; a gain is more than `gain` of the score.
        """
        near = chooser.near(chooser.problem(around.loads()), around.pool.sizes)
        pools = [around.pool.with_sizes(choice.sizes) for choice in near if worth(choice)]
        best = around.score
        for first in range(0, len(pools), AT_ONCE):
            found = self.values([(pool, "neighbour") for pool in pools[first : first + AT_ONCE]])
            least = min(each.score for each in found)
            if least >= best - gain:
                return
            best = least
