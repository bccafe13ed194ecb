"""The tuner in the closed loop: the pool decides how large batches grow, the batches which pool is best.

Every pool serves the same requests from half to twice their rate, at both ends of a host range, and is judged
by its worst loss there against the workload's own pool. Many are tried on a few requests; the best few then
meet more of them; the winner is confirmed on requests that the search never met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.analysis.comparison.loads import first_requests
from scheduler.analysis.comparison.pools import NamedPool, named_pool, workload_pool
from scheduler.analysis.tuning.budgets import Budgets, SizeRules, size_rules
from scheduler.analysis.tuning.choose import Choice, Load, candidate_sizes
from scheduler.analysis.tuning.padding import kv_per_request
from scheduler.analysis.tuning.pool_runs import (
    Detail,
    DrawnRequests,
    Evaluator,
    Judged,
    judged,
    loads_of,
)
from scheduler.analysis.tuning.pool_search import Evaluated, PoolSearch
from scheduler.analysis.tuning.step_loads import (
    LEAST_TOGETHER,
    graphs_to_be_near,
    has_graph_time,
    is_near,
    padding_reach,
    unmet_sizes,
)
from scheduler.catalog.dispatch.engines import PLAIN_RULES
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.executors.model.by_profile import cost_model
from scheduler.workload.schema import Workload

PRESETS = ("vllm", "sglang", "trtllm", "lmdeploy", "powers_of_two")
CURVE_GRAPHS = (0, 2, 4, 8, 12, 16, 24, 32, 48, 64)
FEW_REQUESTS = 400  # of a coarse pass
MANY_REQUESTS = 1_000
FINALISTS = 3
ITERATIONS = 3
NO_LOSS = 0.01  # a difference below this is called none
# Of the steps' time at a load, that a neighbour must save there; a further one is tried for so much in all.
WORTH_TRYING = 0.001
MARGIN = 0.005  # what the search allows, for the few requests it sees are not all there are
MOST_PAID = 0.01
TRAP = 10.0  # what a pool's score is above that loses at some load
# How many lists a search tries, about.
LISTS_IN_ANY_MODE, LISTS_OF_A_MODE = 6, 12
SEARCHING, FINALS = "trying lists", "the best lists on more requests"


@dataclass(slots=True)
class Tuning:
    """What the search found: every pool tried, the winner, the workload's own pool, the curve's pools.

    `gained` is the most that any finalist gains in the mean over the loads, losing at none, as a share.
    """

    evaluator: Evaluator
    budgets: Budgets
    rules: dict[bool, SizeRules]
    samples: list[DrawnRequests]
    search: PoolSearch
    best: Evaluated
    own: NamedPool
    presets: list[NamedPool]
    curve: list[Evaluated] = field(default_factory=list)
    gained: float = 0.0

    def rules_for(self, pool: GraphPool) -> SizeRules:
        """Return the rules of the pool's mode."""
        return self.rules[pool.piecewise]

    @property
    def largest_total(self) -> int:
        """The tokens up to which steps with prompts are counted."""
        return largest_total(self.rules)


def largest_total(rules: dict[bool, SizeRules]) -> int:
    """Return the largest candidate of any mode."""
    return max(each.candidates[-1] for each in rules.values())


def tune(
    evaluator: Evaluator,
    samples: list[DrawnRequests],
    budgets: Budgets,
    *,
    requests: int = FEW_REQUESTS,
    prunes: bool = True,
) -> Tuning:
    """Search the best pool for the samples within the budgets; see pool_search for how.

    Every list meets so many `requests`. With `prunes` one that is sure to lose is not run at all loads, nor
    neighbours that save next to nothing; what is found is the same without, but for such neighbours.
    Where the workload's list also serves mixed steps, both modes compete: one list for all steps, and
    graphs for decode steps alone. Raises InputError for budgets that cannot be kept.
    """
    workload, profile = evaluator.workload, evaluator.profile
    engine = workload.engine
    own = workload_pool(workload.pool, engine, profile, "own")
    # A server whose attention has no FULL graphs cannot be told to capture them.
    modes = [True, False] if own.pool.piecewise and own.pool.full else [own.pool.piecewise]
    rules = {piecewise: size_rules(budgets, engine, profile, piecewise) for piecewise in modes}
    few, many = (_cut(samples[:1], evaluator, count) for count in (requests, MANY_REQUESTS))
    lists = LISTS_IN_ANY_MODE + LISTS_OF_A_MODE * len(modes)
    evaluator.plan.expected |= {
        SEARCHING: lists * evaluator.work(few),
        FINALS: (FINALISTS + 2) * evaluator.work(many),
    }
    evaluator.plan.enter(SEARCHING)
    can_be_near = budgets.graphs >= graphs_to_be_near([engine.max_num_seqs])
    judge = _Judge(evaluator, few, own.pool, largest_total(rules), prunes=prunes)
    search = PoolSearch(judge.evaluate, judge.complete)
    reference = search.value(judge.reference, "own pool")
    kv_per_row = kv_per_request([histogram for _, histogram in reference.detail.histograms])
    model = cost_model(profile, "fallback")
    # What no load met is not dropped; where the budgets leave no room for it, nothing is advised.
    unmet = unmet_sizes(own.pool.sizes, reference.detail.together, engine.max_num_seqs)
    unmet = tuple(size for size in unmet if has_graph_time(model, size))
    is_idle = reference.detail.together < LEAST_TOGETHER
    for piecewise in modes:
        held = {*rules[piecewise].forced, *unmet}
        if is_idle or budgets.graphs >= graphs_to_be_near(held):  # else there is no room for what was met
            rules[piecewise] = rules[piecewise].holding(unmet)
    for piecewise in modes:
        pool = replace(own.pool, piecewise=piecewise)
        reach = padding_reach(model, rules[piecewise].candidates, pool, kv_per_row, engine.max_num_seqs)
        rules[piecewise] = replace(rules[piecewise], reach=reach)
    judge.loads = lambda found: loads_of(profile, found.detail, found.pool, rules[found.pool.piecewise])
    for piecewise in () if is_idle else modes:
        chooser = rules[piecewise].chooser()
        label = "one list for decode and mixed steps" if piecewise else "decode steps alone"
        empty = replace(own.pool.with_sizes(()), piecewise=piecewise)
        for start, name in ((empty, "from no graphs"), (own.pool, "from own pool")):
            if start.piecewise == piecewise and evaluator.cost(start) is not None:
                search.iterate(start, chooser, f"{label}, {name}" if len(modes) > 1 else name, ITERATIONS)

    def allowed(pool: GraphPool) -> bool:
        near = pool == own.pool or not can_be_near or is_near(pool.sizes, engine.max_num_seqs)
        return pool.padding and near and rules[pool.piecewise].allows(pool)

    presets = _presets(workload, profile, own)
    search.values([(named.pool, named.name) for named in presets[: 1 if is_idle else None]])
    extended = _extended(own.pool, engine.prefill_tokens_per_step)
    if extended != own.pool and allowed(extended):
        search.value(extended, "own pool up to the token budget")
    pick = _Pick(evaluator, own.pool, search.completed)
    best = pick.best(found for pool, found in search.tried.items() if allowed(pool))
    if is_idle:
        best = best or reference
        return Tuning(evaluator, budgets, rules, samples, search, best, own, presets)
    if best is None:
        raise InputError("no pool within the budgets leaves room for the KV cache; allow fewer graphs")
    curves: dict[bool, list[Evaluated]] = {}
    for piecewise in modes:
        in_mode = [f for pool, f in search.tried.items() if allowed(pool) and pool.piecewise == piecewise]
        leader = pick.best(in_mode)
        if leader is not None:
            curves[piecewise] = _curve(search, leader, rules[piecewise])
    best = pick.best(found for pool, found in search.tried.items() if allowed(pool)) or best
    chosen = rules[best.pool.piecewise]
    worth = _worth_trying(best, chosen) if prunes else lambda choice: True
    search.try_neighbours(best, chosen.chooser(), worth, WORTH_TRYING)
    found = [found for pool, found in search.tried.items() if allowed(pool)]
    evaluator.plan.enter(FINALS)
    best, gained = _final(evaluator, many, pick, found, own.pool, judge)
    curve = curves[best.pool.piecewise]
    return Tuning(evaluator, budgets, rules, samples, search, best, own, presets, curve, gained)


def _cut(samples: Sequence[DrawnRequests], evaluator: Evaluator, count: int) -> list[DrawnRequests]:
    """Return the first `count` requests of each sample; all of them where a high percentile is asked for."""
    percentile = evaluator.objective.metric.percentile
    if percentile is not None and percentile > 90:
        return list(samples)
    return [replace(sample, requests=first_requests(sample.requests, count)) for sample in samples]


@dataclass(slots=True)
class _Judge:
    """Evaluates pools on some samples against the own pool (no graphs, where that leaves no KV block).

    With `prunes` those of several that are sure to lose by two loads, the own and the highest one, are left
    at that.
    """

    evaluator: Evaluator
    samples: Sequence[DrawnRequests]
    own: GraphPool
    largest_total: int
    with_rate: bool = False
    loads: Callable[[Evaluated], Sequence[Load]] = lambda found: []
    details: dict[GraphPool, Detail] = field(default_factory=dict)
    prunes: bool = False
    _known_loads: dict[GraphPool, Sequence[Load]] = field(default_factory=dict)

    @property
    def reference(self) -> GraphPool:
        """The pool that all are judged against."""
        return self.own if self.evaluator.cost(self.own) is not None else self.own.with_sizes(())

    def evaluate(self, pools: Sequence[GraphPool]) -> list[Evaluated]:
        """Run the pools that leave room for the KV cache, side by side where that is worth it."""
        fitting = [pool for pool in dict.fromkeys([self.reference, *pools]) if pool not in self.details]
        fitting = [pool for pool in fitting if self.evaluator.cost(pool) is not None]
        if self.prunes and len(fitting) > 1 and self.reference in self.details:
            self._run(fitting, sorted({1.0, max(self.evaluator.factors)}))
            fitting = [pool for pool in fitting if not self._is_sure_to_lose(pool)]
        self._run(fitting, self.evaluator.factors)
        return [self._evaluated(pool) for pool in pools]

    def complete(self, pool: GraphPool) -> Evaluated:
        """Run a pool at the loads that it was left out of, too."""
        self._run([pool], self.evaluator.factors)
        return self._evaluated(pool)

    def _run(self, pools: Sequence[GraphPool], factors: Sequence[float]) -> None:
        new = self.evaluator.details(
            pools, self.samples, self.largest_total, factors=factors, begun=self.details
        )
        self.details |= dict(zip(pools, new, strict=True))

    def _is_sure_to_lose(self, pool: GraphPool) -> bool:
        return self.judged(pool).worst.share > MARGIN + MOST_PAID

    def _evaluated(self, pool: GraphPool) -> Evaluated:
        detail = self.details.get(pool)
        if detail is None:
            return Evaluated(pool, np.inf, list)
        is_bound = len(detail.factors) < len(self.evaluator.factors)
        return Evaluated(pool, score(self.judged(pool)), lambda: self._loads(pool), detail, is_bound)

    def judged(self, pool: GraphPool) -> Judged:
        """Return what a pool that was run loses."""
        return judged(self.details[self.reference], self.details[pool], with_rate=self.with_rate)

    def _loads(self, pool: GraphPool) -> Sequence[Load]:
        if pool not in self._known_loads:
            self._run([pool], self.evaluator.factors)
            self._known_loads[pool] = self.loads(Evaluated(pool, 0.0, list, self.details[pool]))
        return self._known_loads[pool]


def score(found: Judged) -> float:
    """Return what the search minimizes: the mean change over the loads; far more where one of them loses.

    A list that gains much may lose a little somewhere, a quarter of what it gains in the mean, `MOST_PAID` at
    most: less than what rules it out on fresh requests.
    """
    paid = min(max(-found.mean, 0.0) / 4, MOST_PAID)
    return found.mean if found.worst.share <= MARGIN + paid else TRAP + found.worst.share


@dataclass(slots=True)
class _Pick:
    """Chooses among evaluated pools: by score, and of those that are no different the cheapest."""

    evaluator: Evaluator
    own: GraphPool
    completed: Callable[[Evaluated], Evaluated]

    def best(self, evaluated: Iterable[Evaluated]) -> Evaluated | None:
        """Return the best pool: of those within what is called no difference, the one with fewest graphs."""
        left = [found for found in evaluated if np.isfinite(found.score)]
        while True:
            least = min((found.score for found in left), default=0.0)
            near = [found for found in left if found.score <= least + MARGIN]
            if not any(found.is_bound for found in near):
                return min(near, key=self._price, default=None)
            left = [self.completed(found) if found.score <= least + MARGIN else found for found in left]

    def several(self, evaluated: Iterable[Evaluated], count: int) -> list[Evaluated]:
        """Return the best pools, one after the other."""
        left, chosen = list(evaluated), list[Evaluated]()
        while len(chosen) < count:
            best = self.best(left)
            if best is None:
                break
            chosen.append(best)
            left = [found for found in left if found.pool != best.pool]
        return chosen

    def _price(self, found: Evaluated) -> tuple[object, ...]:
        pool, cost = found.pool, self.evaluator.cost(found.pool)
        start_up = cost.capture_s if cost is not None else None
        memory = cost.graph_memory_bytes if cost is not None else None
        # A change of mode needs a reason.
        return pool.mode != self.own.mode, len(pool.sizes), start_up or 0.0, memory or 0, pool.sizes


def _final(
    evaluator: Evaluator,
    many: Sequence[DrawnRequests],
    pick: _Pick,
    found: Sequence[Evaluated],
    own: GraphPool,
    coarse: _Judge,
) -> tuple[Evaluated, float]:
    """Return the best of the finalists on many requests, the highest rate counted, too; and what it gains.

    That is the most that any of them gains in the mean without losing at some load.
    """
    finalists = pick.several(found, FINALISTS)
    cheapest = [each for each in found if each.score < TRAP]
    if cheapest:  # the best by score alone has most to give where the few requests misled
        least = min(cheapest, key=lambda each: each.score)
        finalists += [least] if least not in finalists else []
    judge = _Judge(evaluator, many, own, coarse.largest_total, with_rate=True, loads=coarse.loads)
    judged_again = judge.evaluate([each.pool for each in finalists])
    gained = max((-each.score for each in judged_again if each.score < TRAP), default=0.0)
    return pick.best(judged_again) or finalists[0], gained


def _worth_trying(best: Evaluated, rules: SizeRules) -> Callable[[Choice], bool]:
    """Return whether a pool next to the best may gain: its steps are cheaper at some load and of some kind.

    By the steps that came with the best pool, as much as makes a difference once batches follow the steps.
    """
    loads = best.loads()
    problems = [rules.problem([load]) for load in loads]
    before = [problem.cost_of_usable(best.pool.sizes) for problem in problems]
    least = WORTH_TRYING * sum(before) / max(len(best.detail.histograms), 1)

    def worth(choice: Choice) -> bool:
        costs = zip(before, problems, strict=True)
        return any(cost - problem.cost_of_usable(choice.sizes) >= least for cost, problem in costs)

    return worth


def _presets(workload: Workload, profile: Profile, own: NamedPool) -> list[NamedPool]:
    """Return the workload's own pool and the engines', each distinct pool once."""
    found = {own.pool: own}
    for name in PRESETS:
        named = named_pool(name, workload.engine, profile)
        pool = own.pool.with_sizes(named.pool.sizes)
        if not named.pool.padding:
            pool = replace(pool, padding=False, rules=PLAIN_RULES)
        found.setdefault(pool, NamedPool(name, pool, named.origin))
    return list(found.values())


def _extended(own: GraphPool, budget: int) -> GraphPool:
    """Return the own pool with sizes up to the token budget, for steps with prompts."""
    if not own.piecewise or not own.sizes:
        return own
    further = (size for size in candidate_sizes(budget, "kernel") if size > own.sizes[-1])
    return own.with_sizes((*own.sizes, *further))


def _curve(search: PoolSearch, best: Evaluated, rules: SizeRules) -> list[Evaluated]:
    """Evaluate the best choice of every number of graphs by the winner's own batches, fewest first."""
    unlimited = replace(rules, most_by_largest=None, max_capture_s=None)
    problem = unlimited.problem(best.loads())
    pools = [(best.pool.with_sizes(()), "no graphs")]
    for graphs in sorted({*CURVE_GRAPHS, rules.graphs}):
        if max(len(rules.forced), 1) <= graphs <= max(CURVE_GRAPHS[-1], rules.graphs):
            choice = unlimited.best(problem, graphs)
            pools.append((best.pool.with_sizes(choice.sizes), f"best {graphs} for the winner's batches"))
    return search.values(pools)
