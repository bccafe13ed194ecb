"""Gaps between sizes: what a batch that nobody met would pay for, by hand and on random curves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from scheduler.analysis.tuning.budgets import SizeRules
from scheduler.analysis.tuning.choose import Load, best_by_count, size_problem
from scheduler.analysis.tuning.padding import most_padding, without_wide_gaps
from scheduler.analysis.tuning.step_loads import farthest, graphs_to_be_near, is_near, padding_reach
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.executors.model.by_profile import cost_model
from scheduler.workload.schema import Workload


def model_of(graph, eager):
    content = {
        "name": "padding",
        "requests": 1,
        "arrivals": {"process": "poisson", "rate_per_s": 1},
        "prompt_tokens": {"distribution": "fixed", "value": 1},
        "output_tokens": {"distribution": "fixed", "value": 2},
        "engine": {
            "policy": "decode_only",
            "max_num_seqs": len(graph),
            "kv_blocks": "unlimited",
            "profile": {
                "decode_graph_ms": {"table": list(map(float, graph))},
                "decode_eager_ms": {"table": list(map(float, eager))},
            },
        },
        "pool": {"sizes": [1]},
    }
    profile: Profile = Workload.model_validate(content).engine.profile
    return cost_model(profile, "fallback")


def test_the_batch_that_pays_most_is_found_with_and_without_a_graph():
    model = model_of([4, 5, 6, 7, 8, 9, 10, 12], [20] * 8)
    every = GraphPool(tuple(range(1, 9)))
    share, batch = most_padding(every, GraphPool((1, 4, 8)), model, 0.0, 8, 8)
    assert (share, batch) == (pytest.approx(12 / 8 - 1), 5)
    share, batch = most_padding(every, GraphPool((1, 4)), model, 0.0, 8, 8)
    assert (share, batch) == (pytest.approx(20 / 8 - 1), 5)
    assert most_padding(GraphPool((1, 4, 8)), every, model, 0.0, 8, 8) == (0.0, 0)
    assert most_padding(every, every, model, 0.0, 8, 8) == (0.0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_within_reach_costs_a_batch_more_than_a_twentieth(seed):
    random = np.random.default_rng(seed)
    most = int(random.integers(20, 100))
    graph = 4 + np.cumsum(random.uniform(0, 0.12, most))
    model = model_of(graph, graph + 9)
    own = GraphPool(tuple(range(1, most + 1)))
    met = int(random.integers(2, 12))  # no load tells anything of larger batches
    weights = np.zeros(most + 1)
    weights[1 : met + 1] = 1.0
    load = Load.of(weights, np.append(0.0, graph), np.append(0.0, graph + 9))
    free = size_problem([load], own.sizes, forced=(1, most))
    reach = padding_reach(model, own.sizes, own, 0.0, most)
    bounded = without_wide_gaps(free, reach)
    for choice in best_by_count(bounded, most):
        if choice is not None and np.isfinite(choice.cost):
            share, batch = most_padding(own, own.with_sizes(choice.sizes), model, 0.0, most, most)
            assert share <= 0.05 + 1e-9, batch
            assert all(after <= farthest(before) for before, after in pairwise((0, *choice.sizes)))
    loose = best_by_count(free, 3)[-1]
    assert most_padding(own, own.with_sizes(loose.sizes), model, 0.0, most, most)[0] > 0.05


@pytest.mark.parametrize("sizes", [[256], [64], [88, 96, 104, 112, 120, 128], [8], []])
def test_the_fewest_graphs_that_leave_no_neighbours_too_far_apart(sizes):
    fewest = graphs_to_be_near(sizes)
    chain, last = [1], 1
    for size in sorted(sizes):
        while farthest(last) < size:
            last = farthest(last)
            chain.append(last)
        last = size
        chain.append(size)
    assert fewest == len(chain)
    assert is_near(chain, 256)
    if len(sizes) == 1:  # a list of one less has a gap somewhere
        most = 1
        for _ in range(fewest - 2):
            most = farthest(most)
        assert farthest(most) >= sizes[0] > most or fewest == 2


def test_few_graphs_still_leave_no_neighbours_too_far_apart():
    """Of so few that gaps of a twentieth cannot be, and a list that this traffic alone would not choose."""
    model = model_of(np.linspace(4, 40, 128), np.linspace(14, 50, 128))
    rules = SizeRules(128, 6, tuple(range(1, 129)), (1, 128), None, None, None)
    pool = GraphPool(rules.candidates)
    rules = replace(rules, reach=padding_reach(model, rules.candidates, pool, 0.0, 128))
    weights = np.zeros(130)
    weights[1:5] = 1.0
    graph = np.tile(np.append(0.0, np.linspace(4, 40, 128)), (130, 1))
    load = Load.of(weights, graph, np.append(0.0, np.linspace(14, 50, 129)))
    assert is_near(rules.best(rules.problem([load])).sizes, 128)
