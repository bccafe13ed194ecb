"""Loads made of simulated steps: token weights, and costs equal to those the simulator charges."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.analysis.tuning.step_loads import decode_load, mixed_load, step_histogram
from scheduler.catalog.profile.file import load_profile
from scheduler.catalog.profile.inline import InlineProfile
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
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


def test_a_step_counts_once_for_each_request_in_it():
    histogram = step_histogram([RUN, RUN], 4, 64)
    profile = InlineProfile.model_validate(
        {"decode_eager_ms": {"base": 9, "per_request": 1}, "decode_graph_ms": {"base": 4, "per_request": 1}}
    )
    load = decode_load(histogram, cost_model(profile, "fallback"), [2, 4])
    assert histogram.decode_count.tolist() == [0, 0, 4, 2, 0]
    assert load.weights.tolist() == [0, 0, 8, 6, 0]
    assert load.eager_ns[[2, 3]].tolist() == [11e6, 12e6]
    assert load.graph_ns[2, [2, 4]].tolist() == [6e6, 8e6]
    assert load.graph_ns[3, 4] == 8e6


def test_steps_with_prompts_are_grouped_by_total_tokens_and_large_ones_left_out():
    histogram = step_histogram([RUN], 4, 64)
    assert np.flatnonzero(histogram.mixed_count).tolist() == [12]
    assert histogram.mixed_count[12] == 2
    assert histogram.mixed_batch[12] == 1.0


def test_decode_costs_are_the_simulators_at_the_mean_kv_tokens():
    profile = load_profile(DEFAULT_PROFILE)
    model = cost_model(profile, "fallback")
    load = decode_load(step_histogram([RUN], 4, 64), model, [1, 2, 3, 4])
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
    load = mixed_load(step_histogram([run], 4, 64), model, [12, 16, 32, 64])
    mixed = StepPlan(MIXED, 2, None, 300, (PrefillChunk(-1, 10, 0, True),))
    alone = StepPlan(PREFILL, 0, None, 0, (PrefillChunk(-1, 30, 0, True),))
    assert load.weights[[12, 30]].tolist() == [2 * 3, 1]
    for tokens, plan in ((12, mixed), (30, alone)):
        assert load.eager_ns[tokens] == pytest.approx(model.run(plan), abs=1)
        for size in (s for s in (12, 16, 32, 64) if s >= tokens):
            charged = model.run(plan._replace(capture_size=size))
            assert load.graph_ns[tokens, size] == pytest.approx(charged, abs=1)


def test_a_size_beyond_the_profiles_table_cannot_be_chosen():
    profile = InlineProfile.model_validate(
        {"decode_eager_ms": {"base": 9, "per_request": 1}, "decode_graph_ms": {"table": [4, 5, 6]}}
    )
    load = decode_load(step_histogram([RUN], 4, 64), cost_model(profile, "fallback"), [3, 4])
    assert np.isfinite(load.graph_ns[:, 3]).all()
    assert np.isnan(load.graph_ns[:, 4]).all()
