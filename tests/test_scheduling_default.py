"""Who says nothing of `async_scheduling` gets the engine that was measured."""

from __future__ import annotations

import pytest

from scheduler.catalog.profile.file import load_profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.simulate import Variant, decides_ahead, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Workload
from tests.recorded_engine import paper_profile

WHOLE_STEPS = load_profile("h100-llama-3.1-8b-bf16")
PIPELINE = paper_profile(noisy=False)
SYNCHRONOUS = PIPELINE.model_copy(update={"scheduling": "sync"})


def workload(policy: str = "mixed", **engine) -> Workload:
    return Workload.model_validate(
        {
            "name": "who-decides",
            "requests": 40,
            "arrivals": {"process": "poisson", "rate_per_s": 20},
            "prompt_tokens": {"distribution": "fixed", "value": 100},
            "output_tokens": {"distribution": "fixed", "value": 30},
            "engine": {"policy": policy, "kv_blocks": 20_000, "profile": "made-up", **engine},
        }
    )


@pytest.mark.parametrize(
    ("profile", "engine", "expected"),
    [
        (PIPELINE, {}, True),
        (SYNCHRONOUS, {}, False),
        (WHOLE_STEPS, {}, False),
        (PIPELINE, {"async_scheduling": False}, False),
        (WHOLE_STEPS, {"async_scheduling": True}, True),
        (PIPELINE, {"policy": "prefill_first"}, False),
    ],
)
def test_the_workload_decides_else_the_profile(profile, engine, expected):
    assert decides_ahead(workload(**engine).engine, profile) is expected


def test_left_out_is_as_said_and_shorter_steps_than_without():
    variant = Variant("graphs", GraphPool((8, 16, 32)), "fallback")

    def end_ns(**engine) -> int:
        one = workload(**engine)
        return int(simulate(one, draw_requests(one), PIPELINE, variant).requests.finish_ns.sum())

    assert end_ns() == end_ns(async_scheduling=True) < end_ns(async_scheduling=False)
