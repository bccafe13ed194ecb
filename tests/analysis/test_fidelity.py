"""Predicted against executed: real steps, their log, and the loop that must decide the same on both."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from scheduler.analysis.fidelity.executed import (
    VariantDifference,
    predict_and_execute,
    relative_errors,
    same_steps,
)
from scheduler.catalog.profile.file import load_profile
from scheduler.catalog.profile.inline import InlineProfile
from scheduler.catalog.profile.profile import LowHigh
from scheduler.engine.graph_pool import GraphPool
from scheduler.executors.model.by_profile import cost_model
from scheduler.report.calibration import difference_lines, fidelity_lines
from scheduler.simulate import Variant, high_end, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Workload
from tests.shipped import DEFAULT_PROFILE

POOL = Variant("graphs", GraphPool((1, 2, 4, 8)), "eager")
EAGER = Variant("eager", GraphPool(), "eager")


def workload(policy: str = "decode_only", **engine: Any) -> Workload:
    profile = {
        "decode_eager_ms": {"base": 0.5, "per_request": 0.02},
        "decode_graph_ms": {"base": 0.4, "per_request": 0.02},
        "prefill_ms": {"base": 0.5, "per_token": 0.01},
    }
    return Workload.model_validate(
        {
            "name": "small",
            "requests": 40,
            "arrivals": {"process": "poisson", "rate_per_s": 300},
            "prompt_tokens": {"distribution": "uniform", "min": 4, "max": 30},
            "output_tokens": {"distribution": "geometric", "mean": 12, "max": 30},
            "engine": {"policy": policy, "max_num_seqs": 8, "kv_blocks": "unlimited", "profile": profile}
            | engine,
        }
    )


def profile_of(work: Workload) -> InlineProfile:
    assert isinstance(work.engine.profile, InlineProfile)
    return work.engine.profile


@pytest.mark.parametrize(
    ("policy", "engine"),
    [
        ("decode_only", {}),
        ("decode_only", {"kv_blocks": 14, "block_size": 8}),  # tight: preemptions
        ("prefill_first", {"max_prefill_tokens": 24}),
        ("mixed", {"max_num_batched_tokens": 24, "kv_blocks": 20, "block_size": 8}),
        ("mixed", {"max_num_batched_tokens": 24, "async_scheduling": True}),
    ],
)
def test_every_policy_runs_for_real_and_decides_the_same_on_the_logged_times(
    policy: str, engine: dict[str, Any]
) -> None:
    pytest.importorskip("torch")
    from scheduler.executors.real.torch_session import open_session

    work = workload(policy, **engine)
    requests = draw_requests(work)
    session = open_session(
        model="tiny",
        device="cpu",
        max_num_seqs=8,
        max_context=int((requests.prompt_tokens + requests.output_tokens).max()),
        capture_sizes=(1, 2, 4, 8),
        buckets=(64,),
        prefilled=policy == "decode_only",
    )
    result = predict_and_execute(work, requests, profile_of(work), [POOL, EAGER], session.executor)
    for variant in result.variants:
        assert variant.failure is None
        assert variant.same_decisions
        assert variant.executed["steps"] == len(variant.section.steps)
        replayed = any(step.capture_size for step in variant.section.steps)
        assert replayed == (variant.name == "graphs")
    assert {row.metric for row in result.differences} >= {"mean_itl_ms", "output_throughput"}
    assert len(difference_lines(result.differences)) == len(result.differences)
    record = result.record()
    assert set(record["variants"]) == {"graphs", "eager"}
    json.dumps(record, allow_nan=False)


def test_a_model_that_is_executed_has_no_error_and_differences_agree() -> None:
    work = workload()
    requests, profile = draw_requests(work), profile_of(work)
    for variant in (POOL, EAGER):
        result = predict_and_execute(
            work,
            requests,
            profile,
            [variant],
            lambda: cost_model(profile, "eager"),
        )
        (found,) = result.variants
        assert found.same_decisions
        assert list(found.error.values()) == pytest.approx([0.0] * len(found.error), abs=1e-12)
        lines = fidelity_lines(found)
        assert any("p99_itl_ms" in line for line in lines)
        assert any("yes" in line for line in lines)


@pytest.mark.parametrize(("policy", "has_high"), [("mixed", True), ("decode_only", False)])
def test_prompts_are_issued_by_the_host_so_both_ends_of_its_time_are_predicted(
    policy: str, has_high: bool
) -> None:
    work = workload(policy)
    profile = load_profile(DEFAULT_PROFILE)
    predicted = predict_and_execute(
        work, draw_requests(work), profile, [POOL], lambda: cost_model(profile, "eager")
    ).variants[0]
    assert predicted.predicted["replay_share"] == 1.0  # of its decode steps
    assert (predicted.predicted_high is not None) is has_high
    if predicted.predicted_high is not None:
        assert predicted.predicted_high["mean_itl_ms"] > predicted.predicted["mean_itl_ms"]
        assert any("high end" in line for line in fidelity_lines(predicted))


def test_a_range_of_what_preparing_a_step_takes_matters_to_graphs_too() -> None:
    work, profile = workload(), load_profile(DEFAULT_PROFILE)
    run = simulate(work, draw_requests(work), profile, POOL)
    assert high_end(profile, POOL, [run]) is None
    host = profile.host.model_copy(update={"step_ms": LowHigh(low=0.1, high=0.3)})
    assert high_end(profile.model_copy(update={"host": host}), POOL, [run]) == replace(POOL, bound="high")


def test_runs_that_differ_in_one_route_are_not_the_same() -> None:
    work = workload()
    requests, profile = draw_requests(work), profile_of(work)
    run = simulate(work, requests, profile, POOL)
    assert same_steps(run.steps, simulate(work, requests, profile, POOL).steps)
    changed = run.steps.capture_size.copy()
    changed[3] += 1
    assert not same_steps(run.steps, replace(run.steps, capture_size=changed))
    assert not same_steps(run.steps, simulate(work, requests, profile, EAGER).steps)


def test_errors_are_relative_to_what_was_measured() -> None:
    assert relative_errors({"a": 2.0, "b": 0.0, "c": 1.0}, {"a": 3.0, "b": 1.0}) == {"a": 0.5}


def test_a_wrong_sign_and_a_tie_are_called_so() -> None:
    wrong = VariantDifference("vllm", "few", "mean_itl_ms", 0.05, -0.03)
    assert "WRONG SIGN" in difference_lines([wrong])[0]
    assert "a tie" in difference_lines([replace(wrong, measured=0.005, predicted=-0.005)])[0]
    assert "(" not in difference_lines([replace(wrong, predicted=0.01)])[0]
