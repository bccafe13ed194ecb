"""Loads made of simulated steps: token weights, and costs equal to those the simulator charges."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.analysis.tuning.choose import Load, choose, smoothed
from scheduler.analysis.tuning.step_loads import cell_loads, cell_problem, padding_reach, step_histogram
from scheduler.catalog.profile.file import load_profile
from scheduler.catalog.profile.inline import InlineProfile
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import StepRecords
from scheduler.executors.model.by_profile import cost_model
from tests.shipped import DEFAULT_PROFILE

DECODE, PREFILL, MIXED = StepKind.DECODE, StepKind.PREFILL, StepKind.MIXED


class RunOf:
    """A run of which only the steps matter: (kind, batch size, KV tokens, prompt tokens) each."""

    def __init__(self, *rows):
        kind, batch, kv, prefill = (np.array(column) for column in zip(*rows, strict=True))
        none = np.zeros(len(rows), np.int64)
        self.steps = StepRecords(
            none, none, kind.astype(np.int8), batch.astype(np.int32), none.astype(np.int32), kv,
            prefill.astype(np.int32), none.astype(np.int8),
        )  # fmt: skip


RUN = RunOf(
    (DECODE, 2, 100, 0), (DECODE, 2, 300, 0), (DECODE, 3, 900, 0), (MIXED, 2, 250, 10), (PREFILL, 0, 0, 12),
    (MIXED, 3, 500, 900),
)  # fmt: skip


DECODE_ONLY, BOTH = GraphPool((1,)), GraphPool((1,), piecewise=True)


def test_a_step_counts_once_for_each_request_in_it():
    histogram = step_histogram([RUN, RUN], 4, 64)
    profile = InlineProfile.model_validate(
        {"decode_eager_ms": {"base": 9, "per_request": 1}, "decode_graph_ms": {"base": 4, "per_request": 1}}
    )
    (load,) = cell_loads(histogram, cost_model(profile, "fallback"), [2, 4], DECODE_ONLY)
    assert histogram.decode_count.tolist() == [0, 0, 4, 2, 0]
    assert load.weights.tolist() == [0, 8, 6, 0]  # up to 2, up to 4, above
    assert load.eager_ns[[1, 2]].tolist() == [11e6, 12e6]
    assert load.graph_ns[1, [1, 2]].tolist() == [6e6, 8e6]
    assert load.graph_ns[2, 2] == 8e6


def test_a_problem_of_cells_is_in_sizes():
    histogram = step_histogram([RUN], 4, 64)
    profile = InlineProfile.model_validate(
        {"decode_eager_ms": {"base": 9, "per_request": 1}, "decode_graph_ms": {"base": 4, "per_request": 1}}
    )
    problem = cell_problem(
        cell_loads(histogram, cost_model(profile, "fallback"), [1, 2, 4], DECODE_ONLY), [1, 2, 4], [4]
    )
    assert problem.candidates == (1, 2, 4)
    assert problem.cost([2, 4]) == 4 * 6e6 + 3 * 8e6
    assert problem.cost([4]) == 7 * 8e6
    assert problem.cost([2]) == np.inf, "4 is required"
    assert choose(problem, 2).sizes == (2, 4)


def test_steps_above_every_candidate_run_without_a_graph():
    histogram = step_histogram([RUN], 4, 64)
    profile = InlineProfile.model_validate(
        {"decode_eager_ms": {"base": 9, "per_request": 1}, "decode_graph_ms": {"base": 4, "per_request": 1}}
    )
    loads = cell_loads(histogram, cost_model(profile, "fallback"), [1, 2], DECODE_ONLY)
    assert cell_problem(loads, [1, 2]).cost([2]) == 4 * 6e6 + 3 * 12e6


def test_steps_with_prompts_are_grouped_by_total_tokens_and_large_ones_left_out():
    histogram = step_histogram([RUN], 4, 64)
    assert np.flatnonzero(histogram.mixed_count).tolist() == [12]
    assert histogram.mixed_count[12] == 2
    assert histogram.mixed_batch[12] == 1.0


def test_decode_costs_are_the_simulators_at_the_mean_kv_tokens():
    model = cost_model(load_profile(DEFAULT_PROFILE), "fallback")
    (load,) = cell_loads(step_histogram([RUN], 4, 64), model, [1, 2, 3, 4], DECODE_ONLY)
    assert load.eager_ns[2] == pytest.approx(model.run(StepPlan(DECODE, 2, None, 200)), abs=1)
    for size in (3, 4):
        assert load.graph_ns[3, size] == pytest.approx(model.run(StepPlan(DECODE, 3, size, 900)), abs=1)


@pytest.mark.parametrize("inline", [True, False])
def test_mixed_costs_are_the_simulators_in_every_piecewise_graph(inline):
    profile = load_profile(DEFAULT_PROFILE)
    if inline:
        profile = InlineProfile.model_validate(
            {
                "decode_eager_ms": {"base": 9, "per_request": 1},
                "decode_graph_ms": {"base": 4, "per_request": 1},
                "prefill_ms": {"base": 1, "per_token": 0.1},
            }
        )
    run = RunOf((MIXED, 2, 250, 10), (MIXED, 2, 350, 10), (PREFILL, 0, 0, 30))
    model = cost_model(profile, "fallback")
    sizes = [12, 16, 32, 64]
    _, load = cell_loads(step_histogram([run], 4, 64), model, sizes, BOTH)
    mixed = StepPlan(MIXED, 2, None, 300, (PrefillChunk(-1, 10, 0, True),))
    alone = StepPlan(PREFILL, 0, None, 0, (PrefillChunk(-1, 30, 0, True),))
    assert load.weights.tolist() == [0, 2 * 3, 0, 1, 0, 0]
    for cell, plan in ((1, mixed), (3, alone)):
        assert load.eager_ns[cell] == pytest.approx(model.run(plan), abs=1)
        for place in range(cell, len(sizes) + 1):
            charged = model.run(plan._replace(capture_size=sizes[place - 1]))
            assert load.graph_ns[cell, place] == pytest.approx(charged, abs=1)


def test_a_size_beyond_the_profiles_table_cannot_be_chosen():
    profile = InlineProfile.model_validate(
        {"decode_eager_ms": {"base": 9, "per_request": 1}, "decode_graph_ms": {"table": [4, 5, 6]}}
    )
    model = cost_model(profile, "fallback")
    loads = cell_loads(step_histogram([RUN], 4, 64), model, [3, 4], DECODE_ONLY)
    assert np.isfinite(loads[0].graph_ns[:, 1]).all()
    assert np.isnan(loads[0].graph_ns[:, 2]).all()
    assert cell_problem(loads, [3, 4]).candidates == (3,)


def test_neighbours_are_as_far_apart_as_padding_is_cheap():
    curve = {"table": [10.0, 10.1, 10.2, 10.3, 20.0, 20.1, 20.2, 20.3]}
    profile = InlineProfile.model_validate(
        {"decode_eager_ms": {"base": 99, "per_request": 0}, "decode_graph_ms": curve}
    )
    reach = padding_reach(cost_model(profile, "fallback"), range(1, 9), DECODE_ONLY, 0.0, 8)
    assert reach[0] == 4, "a batch of 1 in the graph of 5 would take twice as long"
    assert reach[2] == 4
    assert reach[4] == 8


def test_noise_in_a_curve_is_smoothed_before_it_is_searched():
    graph = np.zeros((4, 4))
    graph[:, 1:] = [[5.0, 6.0, 5.4]]  # 3 cannot be faster than 2
    load = smoothed(Load.of(np.ones(4), graph, np.full(4, 9.0)), [1, 2, 3])
    assert load.graph_ns[1, 1:].tolist() == pytest.approx([5.0, 5.7, 5.7])
    assert load.graph_ns[3, 3] == 5.4, "only graphs that hold the batch count"


def test_decode_steps_in_piecewise_graphs_are_priced_as_such():
    """vLLM's graphs above max_num_seqs are PIECEWISE: what only they hold pays attention apart."""
    model = cost_model(load_profile(DEFAULT_PROFILE), "fallback")
    histogram = step_histogram([RUN], 4, 64)
    full, apart = (
        cell_loads(histogram, model, [2, 4, 8], GraphPool((2, 4, 8), piecewise=True, full=full))[0]
        for full in (True, False)
    )
    for load, launch, sizes in (
        (full, "graph", (2, 4)),
        (full, "piecewise", (8,)),
        (apart, "piecewise", (4, 8)),
    ):
        for size in sizes:
            place = [2, 4, 8].index(size) + 1
            kv = 900 if size > 2 else 200
            row = 2 if size > 2 else 1
            assert load.graph_ns[row, place] == pytest.approx(model.decode_line(launch, size).ns(kv), abs=1)
    assert (apart.graph_ns[2, 2:] > full.graph_ns[2, 2]).all()
