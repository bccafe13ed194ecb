"""The tuner in the closed loop: the pool decides how large batches grow, the batches which pool is best.

The search (pool_search) runs on a few replications of the workload, or on the first part of a trace. The
winner is then confirmed on requests the search never met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.analysis.comparison.pools import NamedPool, named_pool, workload_pool
from scheduler.analysis.tuning.budgets import Budgets, SizeRules, size_rules
from scheduler.analysis.tuning.pool_runs import Detail, DrawnRequests, Evaluator, loads_of
from scheduler.analysis.tuning.pool_search import Evaluated, PoolSearch
from scheduler.catalog.dispatch.engines import PLAIN_RULES
from scheduler.catalog.pool_presets import pool_preset
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.workload.schema import Workload

PRESETS = (
    "vllm", "sglang", "trtllm", "trtllm-nopad", "nano-vllm", "mini-sglang", "lmdeploy", "tgi", "lightllm",
    "powers_of_two",
)  # fmt: skip
CURVE_GRAPHS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(slots=True)
class Tuning:
    """What the search found: every pool tried, the winner, the workload's own pool, the curve's pools."""

    evaluator: Evaluator
    budgets: Budgets
    rules: SizeRules
    samples: list[DrawnRequests]
    search: PoolSearch
    best: Evaluated
    own: NamedPool
    presets: list[NamedPool]
    curve: list[Evaluated] = field(default_factory=list)

    def rules_for(self, pool: GraphPool) -> SizeRules:
        """Return the rules of the pool's mode."""
        if pool.piecewise == self.own.pool.piecewise:
            return self.rules
        engine = self.evaluator.workload.engine
        return size_rules(self.budgets, engine, self.evaluator.profile, pool.piecewise)


def tune(evaluator: Evaluator, samples: list[DrawnRequests], budgets: Budgets) -> Tuning:
    """Search the best pool for the samples within the budgets; see pool_search for how.

    Where the workload's list also serves mixed steps, both modes compete: one list for all steps, and
    graphs for decode steps alone. Raises InputError for budgets that cannot be kept.
    """
    workload, profile = evaluator.workload, evaluator.profile
    engine = workload.engine
    own = workload_pool(workload.pool, engine, profile, "own")
    # A server whose attention has no FULL graphs cannot be told to capture them.
    modes = [True, False] if own.pool.piecewise and own.pool.full else [own.pool.piecewise]
    rules = {piecewise: size_rules(budgets, engine, profile, piecewise) for piecewise in modes}
    search = PoolSearch(lambda pools: _evaluate(evaluator, pools, samples, rules))
    for piecewise in modes:
        chooser = rules[piecewise].chooser()
        label = "one list for decode and mixed steps" if piecewise else "decode steps alone"
        empty = replace(own.pool.with_sizes(()), piecewise=piecewise)
        for start, name in ((empty, "from no graphs"), (own.pool, "from own pool")):
            if start.piecewise == piecewise and evaluator.cost(start) is not None:
                search.iterate(start, chooser, f"{label}, {name}" if len(modes) > 1 else name)

    def allowed(pool: GraphPool) -> bool:
        return pool.padding and rules[pool.piecewise].allows(pool)

    presets = _presets(workload, profile, own)
    search.values([(named.pool, named.name) for named in presets])
    best = search.best(allowed)
    if best is None or not np.isfinite(best.score):
        raise InputError("no pool within the budgets leaves room for the KV cache; allow fewer graphs")
    search.try_neighbours(best, rules[best.pool.piecewise].chooser())
    best = search.best(allowed) or best
    curve = _curve(search, best, rules[best.pool.piecewise])
    best = search.best(allowed) or best
    return Tuning(evaluator, budgets, rules[own.pool.piecewise], samples, search, best, own, presets, curve)


def _evaluate(
    evaluator: Evaluator,
    pools: Sequence[GraphPool],
    samples: Sequence[DrawnRequests],
    rules: dict[bool, SizeRules],
) -> list[Evaluated]:
    """Run the pools that leave room for the KV cache, side by side where that is worth it."""
    fitting = [pool for pool in pools if evaluator.cost(pool) is not None]
    details = dict(zip(fitting, evaluator.details(fitting, samples, rules), strict=True))
    return [_evaluated(evaluator, pool, details.get(pool), rules[pool.piecewise]) for pool in pools]


def _evaluated(evaluator: Evaluator, pool: GraphPool, detail: Detail | None, rules: SizeRules) -> Evaluated:
    if detail is None:
        return Evaluated(pool, np.inf, list)
    score = evaluator.objective.score(float(np.mean(detail.values)))
    histogram = detail.histogram
    return Evaluated(pool, score, lambda: loads_of(evaluator.profile, histogram, pool, rules), detail)


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


def _curve(search: PoolSearch, best: Evaluated, rules: SizeRules) -> list[Evaluated]:
    """Evaluate the best choice of every number of graphs by the winner's own batches, fewest first."""
    unlimited = replace(rules, most_by_largest=None, max_capture_s=None)
    problem = unlimited.problem(best.loads())
    most = min(max(CURVE_GRAPHS[-1], rules.graphs), len(problem.candidates))
    pools = [(best.pool.with_sizes(()), "no graphs")]
    powers = len(pool_preset("powers_of_two", rules.max_num_seqs, rules.max_num_seqs).sizes)
    for graphs in sorted({*CURVE_GRAPHS, rules.graphs, powers}):
        if max(len(rules.forced), 1) <= graphs <= most:
            choice = unlimited.best(problem, graphs)
            pool = best.pool.with_sizes(choice.sizes)
            pools.append((pool, f"best {graphs} for the winner's batches"))
    return search.values(pools)
