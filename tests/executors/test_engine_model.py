"""The cost model of a version 2 profile: parts by hand, noise in virtual time, and what equal steps take."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.catalog.profile.engine import EngineProfile, SpeedComponent
from scheduler.engine.executor import PipelinedExecutor, PrefillChunk, StepKind, StepPlan
from scheduler.executors.model.engine_model import EngineCostModel
from scheduler.executors.model.host_noise import HostNoise
from tests.recorded_engine import paper_profile

PROFILE = paper_profile(noisy=False)
DECODE = StepPlan(StepKind.DECODE, 8, 16, 1_000)
MIXED = StepPlan(StepKind.MIXED, 8, 64, 1_000, (PrefillChunk(0, 40, 100, True),), piecewise=True)


def changed(profile: EngineProfile, **host) -> EngineProfile:
    value = profile.model_dump(mode="json", exclude_defaults=True)
    value["host"].update(host)
    return EngineProfile.model_validate(value)


def test_the_parts_of_a_decode_step_in_a_graph_by_hand():
    parts = EngineCostModel(PROFILE, "fallback").parts(DECODE, 0)
    assert parts.schedule_ns == round(1e6 * (0.4 + 0.015 * 8 + 1e-5 * 1_000))
    assert parts.update_ns == round(1e6 * (0.15 + 0.006 * 8 + 4e-6 * 1_000))
    assert (parts.launch_ns, parts.gpu_after_ns, parts.tail_ns) == (1_600_000, 900_000, -1)
    assert parts.gpu_ns == round(1e6 * (3.2 + 0.005 * 8 + 5e-5 * 1_000))  # 16 padded, 8 live


def test_the_parts_of_a_step_with_prompts_by_hand():
    parts = EngineCostModel(PROFILE, "fallback").parts(MIXED, 0)
    assert parts.schedule_ns == round(1e6 * (0.4 + 0.015 * 9 + 0.5 + 0.06 + 0.0005 * 40 + 1e-5 * 1_000))
    assert parts.update_ns == round(1e6 * (0.15 + 0.006 * 9 + 0.01 + 4e-6 * 1_000))
    assert (parts.launch_ns, parts.tail_ns) == (6_000_000, 300_000)
    assert parts.gpu_ns == round(1e6 * (3.5 + 0.005 * 9 + 5e-5 * 1_000 + 2e-6 * 40 * 120))


def test_without_a_graph_only_the_launch_differs_and_eager_stands_in_for_itself():
    eager_too = changed(PROFILE, launch={"compiled": {"ms": 14}, "eager": {"ms": 20}, "full": {"ms": 1.6}})
    plan = DECODE._replace(capture_size=None)
    compiled, eager = (EngineCostModel(eager_too, how).parts(plan, 0) for how in ("fallback", "eager"))
    assert (compiled.launch_ns, eager.launch_ns) == (14_000_000, 20_000_000)
    assert compiled._replace(launch_ns=0) == eager._replace(launch_ns=0)
    # A launch that was not measured is its nearest kin's.
    assert EngineCostModel(PROFILE, "eager").parts(plan, 0).launch_ns == 14_000_000


def test_a_launch_after_others_is_slower_until_it_was_done_a_few_times():
    host = {"launch": {"full": {"ms": 2, "cold": 0.4, "warm_steps": 2}, "compiled": {"ms": 10, "cold": 0.2}}}
    model = EngineCostModel(changed(PROFILE, **host), "fallback")
    none = DECODE._replace(capture_size=None)
    plans = [DECODE, none, DECODE, DECODE, none]
    launches = [model.parts(plan, 0).launch_ns / 1e6 for plan in plans]
    assert launches[0] == 2  # warm
    assert launches[1] == pytest.approx(10 * (1 + 0.2 * 0.1))
    assert launches[2:4] == pytest.approx([2 * 1.2, 2 * 1.1])
    warmth = (0.9 * 0.9 + 0.1) * 0.9 * 0.9
    assert launches[4] == pytest.approx(10 * (1 + 0.2 * (1 - warmth)))


def test_equal_steps_one_after_the_other_take_the_slower_of_host_and_gpu():
    model = EngineCostModel(PROFILE, "fallback")
    assert model.decode_ms("graph", 1, 0) == pytest.approx(3.0 + 0.005)
    assert model.decode_ms("fallback", 1, 0) == pytest.approx(0.4 + 0.15 + 0.021 + 14)
    assert isinstance(model, PipelinedExecutor)


def test_a_range_scales_the_host_and_leaves_the_gpu():
    ranged = paper_profile(noisy=False).model_dump(mode="json", exclude_defaults=True)
    ranged["host"]["range"] = {"low": 0.5, "high": 1.0}
    profile = EngineProfile.model_validate(ranged)
    low, high = (EngineCostModel(profile, "fallback", bound).parts(DECODE, 0) for bound in ("low", "high"))
    assert (low.launch_ns, low.gpu_ns) == (high.launch_ns // 2, high.gpu_ns)
    assert profile.has_range
    assert profile.of_its_host() == PROFILE
    assert EngineCostModel(PROFILE, "fallback").parts(DECODE, 0) == high


def test_noise_belongs_to_the_instant_whoever_asks_and_in_whatever_order():
    profile = paper_profile()
    one, two = EngineCostModel(profile, "fallback"), EngineCostModel(profile, "eager")
    for model in (one, two):
        model.vary(profile, np.random.default_rng(7), has_graphs=True)
    instants = [0, 5_000_000, 90_000_000_000, 1_000_000]
    drawn = [one.parts(DECODE, at) for at in instants]
    assert [two.parts(DECODE, at) for at in reversed(instants)][::-1] == drawn
    assert len({parts.launch_ns for parts in drawn}) == len(instants)
    assert {parts.gpu_ns for parts in drawn} == {one.parts(DECODE, 1).gpu_ns}  # the GPU does not vary


def test_the_host_s_speed_has_the_spread_and_the_memory_that_were_asked_for():
    components = (SpeedComponent(spread=0.06, tau_ms=50), SpeedComponent(spread=0.08, tau_ms=800))
    noise = HostNoise(components, np.random.default_rng(3))
    step_ns = 25_000_000
    values = np.array([noise.log_slowness(step_ns * index) for index in range(40_000)])
    assert values.mean() == pytest.approx(0, abs=0.01)
    assert values.std() == pytest.approx(0.1, rel=0.08)
    for lag in (2, 32):
        expected = sum(part.spread**2 * np.exp(-25 * lag / part.tau_ms) for part in components)
        assert np.mean(values[lag:] * values[:-lag]) == pytest.approx(expected, rel=0.15)


def test_traffic_of_years_neither_fills_the_memory_nor_takes_long():
    noise = HostNoise((SpeedComponent(spread=0.1, tau_ms=30.0),), np.random.default_rng(3))
    assert abs(noise.log_slowness(10**18)) < 1.0
    assert len(noise._processes[0]._values) <= (1 << 17) + 1025


def test_what_lies_beyond_the_widest_step_is_said():
    model = EngineCostModel(PROFILE, "fallback")
    chunk = PrefillChunk(0, 2_000, 0, True)
    model.parts(StepPlan(StepKind.PREFILL, 0, None, 0, (chunk,)), 0)
    assert model.extrapolations() == ["steps of more than 512 tokens"]
