"""What a pool may cost (graphs, GPU memory, seconds of capture) and which sizes it must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from scheduler.analysis.tuning.choose import (
    CandidateRule,
    Choice,
    Floats,
    Load,
    SizeProblem,
    candidate_sizes,
    choose,
)
from scheduler.analysis.tuning.choose_within_budget import choose_within_budget, graphs_within_memory
from scheduler.analysis.tuning.neighbours import neighbours
from scheduler.analysis.tuning.padding import without_wide_gaps
from scheduler.analysis.tuning.pool_search import NEIGHBOURS, Chooser
from scheduler.analysis.tuning.step_loads import cell_problem, farthest
from scheduler.catalog.profile.profile import PoolCosts, Profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.workload.schema import Engine

GAPS_MAY_COST = 0.01
MOST_ALIKE = 2


@dataclass(frozen=True, slots=True)
class Budgets:
    """What the user allows. `forced_sizes`: the pool must hold 1 and max_num_seqs (they count).

    A server that drafts (`tokens_per_request` above 1) keeps a graph for every number of requests it admits,
    where so many are allowed: every request that a batch is padded by costs all its drafts.
    """

    graphs: int
    max_memory_bytes: float | None = None
    max_capture_s: float | None = None
    forced_sizes: bool = True
    align: int = 1
    candidates: CandidateRule = "all"
    tokens_per_request: int = 1


@dataclass(frozen=True, slots=True)
class SizeRules:
    """Budgets made concrete for one engine and profile: candidates, required sizes, prices, limits.

    `capture_s` and `most_by_largest` are indexed by capture size. `reach` says which size may at most follow
    another one (0: be the first), where the graphs allowed are enough for that.
    """

    max_num_seqs: int
    graphs: int
    candidates: tuple[int, ...]
    forced: tuple[int, ...]
    capture_s: Floats | None
    max_capture_s: float | None
    most_by_largest: Floats | None
    reach: Mapping[int, int] | None = None

    def allows(self, pool: GraphPool) -> bool:
        """Tell whether a pool keeps within every budget and holds the required sizes."""
        sizes = pool.sizes
        if len(sizes) > self.graphs or not set(self.forced) <= set(sizes):
            return False
        if sizes and sizes[-1] > self.candidates[-1]:
            return False
        if sizes and self.most_by_largest is not None and len(sizes) > self.most_by_largest[sizes[-1]]:
            return False
        if self.capture_s is None or self.max_capture_s is None:
            return True
        return float(sum(self.capture_s[size] for size in sizes)) <= self.max_capture_s * (1 + 1e-9)

    def holding(self, sizes: Sequence[int]) -> SizeRules:
        """Return the rules with further sizes that a pool must hold; the same where no budget has room."""
        held = tuple(sorted({*self.forced, *sizes}))
        more = replace(self, forced=held, candidates=tuple(sorted({*self.candidates, *sizes})))
        return more if more.allows(GraphPool(held)) else self

    def problem(self, loads: Sequence[Load]) -> SizeProblem:
        """Return the loads, by cell of the candidates, cut at them; the required sizes are kept."""
        return cell_problem(loads, self.candidates, self.forced)

    def best(self, problem: SizeProblem, graphs: int | None = None) -> Choice:
        """Return the best sizes within the budgets, at most `graphs`; gaps bounded where they can be."""
        graphs = self.graphs if graphs is None else graphs
        free = self._best(problem, graphs)
        if self.reach is None:
            return free
        with suppress(InputError):
            found = self._best(without_wide_gaps(problem, self.reach), graphs)
            cost = problem.cost(found.sizes)
            # Too few graphs for narrow gaps up to where the batches are: wide gaps are the lesser evil.
            if np.isfinite(found.cost) and cost <= free.cost * (1 + GAPS_MAY_COST):
                return Choice(found.sizes, cost)
        with suppress(InputError):
            found = self._best(without_wide_gaps(problem, self._near()), graphs)
            if np.isfinite(found.cost):
                return Choice(found.sizes, problem.cost(found.sizes))
        return free

    def _near(self) -> dict[int, int]:
        """Return which candidate may at most follow another in decode steps, however cheap padding is."""
        decode = [size for size in self.candidates if size <= self.max_num_seqs]
        return {
            before: max((size for size in decode if size <= farthest(before)), default=self.candidates[-1])
            for before in (0, *decode[:-1])
        }

    def _best(self, problem: SizeProblem, graphs: int) -> Choice:
        if self.capture_s is None or self.max_capture_s is None:
            return choose(problem, graphs, self.most_by_largest)
        if self.most_by_largest is None:
            return choose_within_budget(problem, graphs, self.capture_s, self.max_capture_s).choice
        # So many graphs fit with each largest size: the best of each number is the best of all.
        found = []
        for count in range(max(len(self.forced), 1), graphs + 1):
            fitting = [size for size in problem.candidates if self.most_by_largest[size] >= count]
            if fitting and fitting[-1] >= max(self.forced, default=0):
                part = problem.up_to(fitting[-1])
                found.append(choose_within_budget(part, count, self.capture_s, self.max_capture_s).choice)
        if not self.forced:
            found.append(Choice((), problem.cost(())))
        return min(found, key=lambda choice: (choice.cost, choice.sizes))

    def near(self, problem: SizeProblem, sizes: Sequence[int]) -> list[Choice]:
        """Return the cheapest pools next to `sizes` that the budgets allow."""
        usable = [size for size in sizes if size in problem.candidates]
        price = self.capture_s if self.max_capture_s is not None else None
        budget = np.inf if self.max_capture_s is None else self.max_capture_s
        found = neighbours(problem, usable, self.graphs, 64 * NEIGHBOURS, spent=price, budget=budget)
        allowed = [choice for choice in found if self.allows(GraphPool(choice.sizes))]
        return _unlike(allowed, usable)[:NEIGHBOURS]

    def chooser(self) -> Chooser:
        """Return these rules as the search takes them."""
        return Chooser(self.problem, self.best, self.near)


def _unlike(choices: Sequence[Choice], sizes: Sequence[int]) -> list[Choice]:
    """Return choices in their order, of those that add the same size the first `MOST_ALIKE`.

    Which of many sizes that no step takes makes room for it changes nothing.
    """
    seen: dict[frozenset[int], int] = {}
    kept = []
    for choice in choices:
        added = frozenset(choice.sizes) - frozenset(sizes)
        seen[added] = seen.get(added, 0) + 1
        if seen[added] <= MOST_ALIKE or not added:
            kept.append(choice)
    return kept


def size_rules(budgets: Budgets, engine: Engine, profile: Profile, piecewise: bool) -> SizeRules:
    """Return the rules for one engine; raises InputError where a budget cannot be kept or checked."""
    mixed = engine.prefill_tokens_per_step if piecewise else None
    seqs = engine.max_num_seqs
    every = budgets.tokens_per_request > 1 and budgets.graphs >= seqs
    return size_rules_for(budgets, profile, seqs, mixed, held=range(1, seqs + 1) if every else ())


def size_rules_for(
    budgets: Budgets,
    profile: Profile,
    max_num_seqs: int,
    largest_mixed: int | None,
    *,
    reach: int = 0,
    also: Sequence[int] = (),
    held: Sequence[int] = (),
) -> SizeRules:
    """Return the rules for decode batches to `max_num_seqs` and, if given, mixed steps to `largest_mixed`.

    Candidates go on to `reach`, and hold the sizes `also`, too. `held` are sizes that the pool must hold in
    place of 1 and max_num_seqs. Raises InputError where a budget cannot be kept or checked.
    """
    align, seqs = budgets.align, max_num_seqs
    ends = {-(-size // align) * align for size in held or (1, seqs)}
    forced = tuple(sorted(ends)) if budgets.forced_sizes else ()
    sizes = candidate_sizes(max(seqs, largest_mixed or 0, reach), budgets.candidates, align)
    candidates = tuple(sorted({*sizes, *forced, *(size for size in also if size % align == 0)}))
    if len(forced) > budgets.graphs:
        raise InputError(
            f"--graphs {budgets.graphs}: expected at least {len(forced)}, "
            f"for {' and '.join(map(str, forced))} are always captured; --no-forced-sizes lifts that"
        )
    costs = profile.pool
    top = candidates[-1]
    price = None if costs is None else _capture_s(costs, top, 0 if largest_mixed is None else seqs)
    most = _most_by_largest(budgets, costs, top, 0 if largest_mixed is None else seqs)
    if budgets.max_capture_s is not None and price is None:
        raise InputError("--max-capture-s: the profile has no capture times; lift the budget or add them")
    if most is not None and forced and most[forced[-1]] < len(forced):
        raise InputError(
            f"--max-memory-mib: graphs of {' and '.join(map(str, forced))} alone take more; "
            "--no-forced-sizes lifts them"
        )
    return SizeRules(seqs, budgets.graphs, candidates, forced, price, budgets.max_capture_s, most)


def _capture_s(costs: PoolCosts, top: int, twice_up_to: int) -> Floats:
    """Return seconds by size; a size that serves decode and mixed steps is captured once for each."""
    each = costs.startup_s([1])
    return np.where(np.arange(top + 1) <= twice_up_to, 2 * each, each)


def _most_by_largest(budgets: Budgets, costs: PoolCosts | None, top: int, twice_up_to: int) -> Floats | None:
    """Return how many sizes fit into the memory budget by the largest of them.

    Where sizes are captured twice, every size is taken to be: none is more than that.
    """
    if budgets.max_memory_bytes is None:
        return None
    if costs is None:
        raise InputError("--max-memory-mib: the profile has no graph memory; lift the budget or add it")
    copies = 2 if twice_up_to else 1
    each = copies * (costs.bytes_per_graph + costs.device_bytes_per_graph)
    most = [
        graphs_within_memory(budgets.max_memory_bytes, costs.memory_bytes([size] * copies), each)
        for size in range(top + 1)
    ]
    return np.array(most, np.float64)
