"""The chosen sizes are the best there are: compared with every pool on small cases."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest

from scheduler.analysis.tuning.budgets import SizeRules
from scheduler.analysis.tuning.choose import (
    Load,
    best_by_count,
    candidate_sizes,
    choose,
    size_problem,
)
from scheduler.analysis.tuning.choose_within_budget import choose_within_budget, graphs_within_memory
from scheduler.analysis.tuning.neighbours import neighbours
from scheduler.analysis.tuning.step_loads import farthest, is_near
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError


def pool_cost(load, sizes, routing="smallest", padding=True):
    """The same sum, step by step through the router."""
    routes = GraphPool(tuple(sizes), padding).table(len(load.weights))
    total = 0.0
    for batch in range(1, len(load.weights)):
        size = routes.decode_graph(batch)
        eager = load.eager_ns[batch]
        if size is None:
            step = eager
        else:
            graph = load.graph_ns[batch, size] if load.graph_ns.ndim == 2 else load.graph_ns[size]
            step = min(graph, eager) if routing == "cheaper" else graph
        total += load.weights[batch] * step
    return total


def random_load(random, n, top=None, two_dimensional=False):
    """Whole weights and nanoseconds, so that sums are exact; step times rise or jump about."""
    top = top or n
    weights = random.integers(0, 30, n + 1) * (random.random(n + 1) < random.uniform(0.3, 1.0))
    weights[0] = random.integers(0, 5)
    graph = random.integers(1_000, 9_000, top + 1)
    eager = random.integers(2_000, 20_000, n + 1)
    if random.random() < 0.5:
        graph, eager = np.sort(graph), np.sort(eager)
    if two_dimensional:
        graph = graph[None, :] + 7 * np.arange(n + 1)[:, None] * random.integers(0, 3)
    return Load.of(weights, graph, eager)


def every_pool(candidates, graphs, forced=()):
    for count in range(graphs + 1):
        for sizes in combinations(candidates, count):
            if set(forced) <= set(sizes):
                yield sizes


def choose_sizes(weights, graph_ns, eager_ns, graphs, *, forced=(), **rules):
    """Return the best choice of at most `graphs` of all sizes for one histogram, given by batch size."""
    load = Load.of(weights, graph_ns, eager_ns)
    every = candidate_sizes(min(len(load.weights), load.graph_ns.shape[-1]) - 1)
    return choose(size_problem([load], every, forced=forced, **rules), graphs)


@pytest.mark.parametrize("seed", range(200))
def test_the_choice_equals_brute_force(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 10))
    load = random_load(random, n, two_dimensional=seed % 3 == 0)
    routing = ["smallest", "cheaper"][seed % 2]
    padding = seed % 5 != 4
    forced = tuple(sorted({1, n})) if seed % 4 == 1 else ()
    graphs = int(random.integers(len(forced), n + 1))
    candidates = range(1, n + 1)
    problem = size_problem([load], candidates, forced=forced, routing=routing, padding=padding)
    best = choose(problem, graphs)
    truth = min(pool_cost(load, sizes, routing, padding) for sizes in every_pool(candidates, graphs, forced))
    assert best.cost == truth == pool_cost(load, best.sizes, routing, padding)
    assert len(best.sizes) <= graphs
    assert set(forced) <= set(best.sizes)


@pytest.mark.parametrize("seed", range(12))
def test_the_choice_equals_brute_force_at_fourteen_sizes(seed):
    random = np.random.default_rng(1000 + seed)
    load = random_load(random, 14)
    routing = ["smallest", "cheaper"][seed % 2]
    best = choose_sizes(load.weights, load.graph_ns, load.eager_ns, 4, routing=routing)
    assert best.cost == min(pool_cost(load, sizes, routing) for sizes in every_pool(range(1, 15), 4))


@pytest.mark.parametrize("seed", range(60))
def test_one_list_for_decode_and_mixed_steps_equals_brute_force(seed):
    random = np.random.default_rng(2000 + seed)
    decode = random_load(random, 6, top=10)
    mixed = random_load(random, 13, top=10)
    candidates = range(1, 11)
    best = choose(size_problem([decode, mixed], candidates), 3)
    truth = min(pool_cost(decode, sizes) + pool_cost(mixed, sizes) for sizes in every_pool(candidates, 3))
    assert best.cost == truth


@pytest.mark.parametrize("seed", range(150))
def test_the_choice_within_a_capture_budget_equals_brute_force(seed):
    random = np.random.default_rng(3000 + seed)
    n = int(random.integers(2, 10))
    load = random_load(random, n)
    price = np.round(random.uniform(0.05, 0.5, n + 1), 2)
    forced = (1,) if seed % 3 == 0 else ()
    graphs = int(random.integers(1, n + 1))
    budget = float(round(random.uniform(0.5, 0.3 * n + 0.5), 2))
    candidates = range(1, n + 1)
    problem = size_problem([load], candidates, forced=forced)
    found = choose_within_budget(problem, graphs, price, budget)
    feasible = [s for s in every_pool(candidates, graphs, forced) if price[list(s)].sum() <= budget + 1e-9]
    assert found.choice.cost == min(pool_cost(load, sizes) for sizes in feasible)
    assert found.lower_bound == found.choice.cost
    assert found.choice.sizes in feasible
    assert found.spent == pytest.approx(price[list(found.choice.sizes)].sum())


@pytest.mark.parametrize("seed", range(60))
def test_a_memory_budget_is_a_limit_on_the_number_of_graphs(seed):
    random = np.random.default_rng(4000 + seed)
    load = random_load(random, 8)
    first, marginal = float(random.integers(10, 60)), float(random.integers(0, 20))
    budget = float(random.integers(0, 150))
    graphs = min(8, graphs_within_memory(budget, first, marginal))
    best = choose_sizes(load.weights, load.graph_ns, load.eager_ns, graphs)
    memory = {k: 0 if k == 0 else first + (k - 1) * marginal for k in range(9)}
    feasible = [sizes for sizes in every_pool(range(1, 9), 8) if memory[len(sizes)] <= budget]
    assert best.cost == min(pool_cost(load, sizes) for sizes in feasible)


@pytest.mark.parametrize("seed", range(40))
def test_the_curve_holds_the_best_of_every_number_of_graphs(seed):
    random = np.random.default_rng(5000 + seed)
    load = random_load(random, 8)
    curve = best_by_count(size_problem([load], range(1, 9)), 10)
    assert len(curve) == 11
    for graphs, choice in enumerate(curve):
        assert choice.cost == min(pool_cost(load, s) for s in every_pool(range(1, 9), min(graphs, 8)))
    assert curve[0].sizes == ()


@pytest.mark.parametrize("seed", range(60))
def test_neighbours_are_the_cheapest_pools_one_change_away(seed):
    random = np.random.default_rng(6000 + seed)
    load = random_load(random, 9)
    forced = (9,) if seed % 2 else ()
    base = tuple(sorted({*forced, *(int(s) for s in random.choice(np.arange(1, 10), 3, replace=False))}))
    graphs = len(base) + seed % 3 % 2
    price = np.round(random.uniform(0.1, 1.0, 10), 2)
    budget = 10.0 if seed % 3 else 2.0
    problem = size_problem([load], range(1, 10), forced=forced)
    found = neighbours(problem, base, graphs, 16, spent=price, budget=budget)
    near = [
        sizes
        for sizes in every_pool(range(1, 10), graphs, forced)
        if len(set(sizes) - set(base)) <= 1 and len(set(base) - set(sizes)) <= 1 and sizes != base
        and price[list(sizes)].sum() <= budget
    ]  # fmt: skip
    costs = sorted(pool_cost(load, sizes) for sizes in near)
    assert [choice.cost for choice in found] == pytest.approx(costs[:16])
    assert {choice.sizes for choice in found} <= set(near)
    assert all(choice.cost == pytest.approx(pool_cost(load, choice.sizes)) for choice in found)


def test_times_that_do_not_rise_are_used_as_they_are():
    graph = [0, 9, 9, 9, 5, 50, 50, 50, 6]
    best = choose_sizes([0, 1, 1, 1, 1, 1, 1, 1, 1], graph, [0] + [20] * 8, 2)
    assert best.sizes == (4, 8)
    assert best.cost == 4 * 5 + 4 * 6


def test_a_size_that_never_occurs_may_be_the_best_graph():
    assert choose_sizes([0, 0, 0, 10, 0], [0, 9, 9, 9, 2], [0, 20, 20, 20, 20], 1).sizes == (4,)


def test_sizes_that_could_not_be_captured_are_never_chosen():
    best = choose_sizes([0, 1, 1, 5], [0, 2, 3, np.nan], [0, 9, 9, 9], 3)
    assert best.sizes == (1, 2)
    with pytest.raises(InputError, match="capture size 3 is required but has no step time"):
        choose_sizes([0, 1, 1, 5], [0, 2, 3, np.inf], [0, 9, 9, 9], 3, forced=[3])


def test_a_graph_slower_than_none_is_not_captured_or_not_taken():
    assert choose_sizes([0, 5, 5], [0, 30, 30], [0, 10, 20], 2).sizes == ()
    cheaper = choose_sizes([0, 5, 5], [0, 30, 12], [0, 10, 20], 1, routing="cheaper")
    assert (cheaper.sizes, cheaper.cost) == ((2,), 5 * 10 + 5 * 12)


def test_required_sizes_count_among_the_graphs():
    weights = [0, 1, 100, 1, 1]
    chosen = choose_sizes(weights, [0, 1, 2, 3, 4], [0, 9, 9, 9, 9], 3, forced=[1, 4])
    assert chosen.sizes == (1, 2, 4)
    with pytest.raises(InputError, match="1 graphs cannot hold the 2 required sizes"):
        choose_sizes(weights, [0, 1, 2, 3, 4], [0, 9, 9, 9, 9], 1, forced=[1, 4])


def test_a_price_per_size_keeps_useless_graphs_out():
    load = [0, 1, 1, 1], [0, 5, 5, 5], [0, 6, 6, 6]
    assert choose_sizes(*load, 3, extra_cost=[10, 10, 10, 10]).sizes == ()
    assert choose_sizes(*load, 3, extra_cost=[1, 1, 1, 1]).sizes == (3,)


def test_required_sizes_beyond_the_budget_are_refused():
    problem = size_problem([Load.of([0, 1, 1], [0, 1, 1], [0, 5, 5])], [1, 2], forced=[1, 2])
    with pytest.raises(InputError, match=r"required sizes \[1, 2\] alone take 4, more than the budget of 3"):
        choose_within_budget(problem, 2, [2, 2, 2], 3)


def test_candidates_are_aligned_and_hold_the_largest_batch():
    assert candidate_sizes(5) == (1, 2, 3, 4, 5)
    assert candidate_sizes(10, align=4) == (4, 8, 12)
    assert candidate_sizes(100, "stride")[-2:] == (96, 100)
    assert len(candidate_sizes(512, "stride")) == 51
    assert candidate_sizes(20, "stride", align=3) == (3, 6, 9, 18, 21)


@pytest.mark.parametrize(
    ("weights", "graph", "eager", "message"),
    [([0, 1, 1], [0, 1, 1], [0, 1], "step times end"), ([0, -1], [0, 1], [0, 1], "not negative"),
     ([0, np.nan], [0, 1], [0, 1], "finite")],
)  # fmt: skip
def test_a_load_that_makes_no_sense_is_refused(weights, graph, eager, message):
    with pytest.raises(ValueError, match=message):
        Load.of(weights, graph, eager)


def test_sixty_four_graphs_among_1024_sizes_take_less_than_two_seconds():
    random = np.random.default_rng(7)
    weights = random.integers(0, 1000, 1025)
    graph = 4_000_000 + 9_000 * np.arange(1025) + random.integers(0, 60_000, 1025)
    eager = 9_000_000 + 9_000 * np.arange(1025)
    started = time.perf_counter()
    best = choose_sizes(weights, graph, eager, 64, forced=[1, 1024])
    assert time.perf_counter() - started < 2.0
    assert len(best.sizes) == 64


def test_a_capture_budget_over_hundreds_of_sizes_is_met_and_proven():
    random = np.random.default_rng(8)
    weights = random.integers(0, 1000, 257)
    graph = 4_000_000 + 9_000 * np.arange(257) + random.integers(0, 60_000, 257)
    eager = 9_000_000 + 9_000 * np.arange(257)
    problem = size_problem([Load.of(weights, graph, eager)], range(1, 257), forced=[1, 256])
    price = 0.05 + 0.002 * np.arange(257)
    found = choose_within_budget(problem, 40, price, 4.0)
    assert found.spent <= 4.0 + 1e-9
    assert found.choice.cost == found.lower_bound
    assert found.choice.cost > choose(problem, 40).cost


def test_sizes_without_a_step_time_cost_nothing():
    """An own list may go on above what a profile's table holds."""
    problem = size_problem([Load.of([0, 1, 1, 1, 1], [0, 1, 2, 3, 4], [0, 9, 9, 9, 9])], range(1, 5))
    assert problem.cost_of_usable((1, 4, 272)) == problem.cost((1, 4))


def test_kernel_candidates_are_multiples_of_eight_above_eight():
    sizes = candidate_sizes(2048, "kernel")
    assert sizes[:8] == tuple(range(1, 9))
    assert all(size % 8 == 0 for size in sizes[8:])
    assert sizes[-1] == 2048
    assert all(after - before <= max(8, before // 16) for before, after in pairwise(sizes[8:]))


def test_a_list_keeps_its_gaps_where_graphs_suffice_and_no_trap_lies_between():
    """By the batches alone 1 and 64 would do; a batch of 2 may not be padded to 64 for that."""
    flat = np.full((65, 65), 5.0)
    load = Load.of([0, *[1] * 1, *[0] * 62, 1], flat, np.full(65, 9.0))
    wide = SizeRules(64, 8, tuple(range(1, 65)), (1, 64), None, None, None)
    near = replace(wide, reach={size: farthest(size) for size in range(65)})
    assert wide.best(wide.problem([load])).sizes == (1, 64)
    found = near.best(near.problem([load])).sizes
    assert len(found) > 2
    assert is_near(found, 64)
    few = replace(near, graphs=2)
    assert few.best(few.problem([load])).sizes == (1, 64), "too few graphs for narrow gaps"
