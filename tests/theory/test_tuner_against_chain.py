"""The search finds the true optimum where the truth is known: the Markov chain, every pool enumerated."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from markov_chain import loop_law, routed_times

from scheduler.analysis.tuning.choose import Load, choose, size_problem
from scheduler.analysis.tuning.neighbours import neighbours
from scheduler.analysis.tuning.pool_search import Chooser, Evaluated, PoolSearch
from scheduler.engine.graph_pool import GraphPool

CAP = 8
NS = 1e9


def step_times(kind):
    batch = np.arange(CAP + 1.0)
    if kind == "line":
        return 6 + 0.3 * batch, 12 + 0.2 * batch
    if kind == "steep":
        return 3 + 1.0 * batch, 9 + 1.0 * batch
    jumps = np.array([0, 0.9, -0.4, 1.3, 0.0, 1.8, -0.2, 1.1, 0.3])
    return 5 + 0.5 * batch + jumps, 11 + 0.4 * batch


SCENARIOS = [
    pytest.param(*scenario, marks=[pytest.mark.slow] if scenario[2] == 0.8 else [])
    for scenario in product(["line", "steep", "jumps"], [16, 64], [0.3, 0.6, 0.8], [2, 3])
]


@pytest.mark.parametrize(("kind", "mean_tokens", "load", "graphs"), SCENARIOS)
def test_the_found_pool_is_within_half_a_percent_of_the_best_of_all_pools(kind, mean_tokens, load, graphs):
    graph_ms, eager_ms = step_times(kind)
    # The load is that of a full batch with its own graph; a pool without one may be overloaded.
    rate = load * CAP / (graph_ms[CAP] * 1e-3) / mean_tokens

    def evaluate(pool):
        times = routed_times(pool.sizes, graph_ms * 1e-3, eager_ms * 1e-3, CAP)
        if rate * mean_tokens * times[CAP] / CAP > 0.88:
            # (Nearly) no steady state: as bad as a pool can be, all its batches full.
            share = np.eye(CAP + 1)[CAP]
            return Evaluated(pool, np.inf, lambda: [Load.of(share * CAP, graph_ms, eager_ms)])
        law = loop_law(rate, mean_tokens, times, CAP)
        weights = law.step_share * np.arange(CAP + 1)
        return Evaluated(pool, law.mean_latency, lambda: [Load.of(weights, graph_ms, eager_ms)])

    chooser = Chooser(
        problem=lambda loads: size_problem(loads, range(1, CAP + 1)),
        best=lambda problem: choose(problem, graphs),
        near=lambda problem, sizes: neighbours(problem, sizes, graphs, 16),
    )
    search = PoolSearch(lambda pools: [evaluate(pool) for pool in pools])
    search.iterate(GraphPool(), chooser, "from eager")
    best = search.best(lambda pool: len(pool.sizes) <= graphs)
    search.try_neighbours(best, chooser)
    best = search.best(lambda pool: len(pool.sizes) <= graphs)
    truth = min(
        evaluate(GraphPool(sizes)).score
        for count in range(graphs + 1)
        for sizes in combinations(range(1, CAP + 1), count)
    )
    assert np.isfinite(truth)
    assert best.score <= truth * 1.005
    assert len(search.tried) < sum(1 for c in range(graphs + 1) for _ in combinations(range(CAP), c))


def test_there_are_enough_scenarios():
    assert sum(not scenario.marks for scenario in SCENARIOS) >= 20


def test_a_search_names_its_cycle():
    pools = {(): (2,), (2,): (3,), (3,): (2,)}
    chooser = Chooser(
        problem=lambda loads: loads[0],
        best=lambda sizes: type("Choice", (), {"sizes": pools[sizes]})(),
        near=lambda problem, sizes: [],
    )
    search = PoolSearch(
        lambda pools: [Evaluated(pool, float(len(pool.sizes)), lambda p=pool: [p.sizes]) for pool in pools]
    )
    search.iterate(GraphPool(), chooser, "toy")
    assert search.endings == ["toy: a cycle of 2 pools after 3 steps"]
    assert [pool.sizes for pool in search.tried] == [(), (2,), (3,)]
    assert search.best(lambda pool: bool(pool.sizes)).pool.sizes == (2,)
