"""Requests running and waiting: one count for picture, timeline and validation, that of the slots."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.analysis.fidelity.measured import Ticks, validate
from scheduler.analysis.metrics import waiting_and_running
from scheduler.engine.executor import Admission, StepPlan
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import Status
from scheduler.executors.model.by_profile import cost_model
from scheduler.report.over_time import over_time
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.inputs.measured import Measured
from scheduler.workload.schema import Workload

POOL = Variant("graphs", GraphPool((1, 2, 4, 8)), "fallback")


def tight(policy: str, **engine: object) -> Workload:
    """Requests that preempt each other: twelve at once want more blocks than there are."""
    profile = {
        "decode_eager_ms": {"base": 9, "per_request": 0.1},
        "decode_graph_ms": {"base": 4, "per_request": 0.1},
        "prefill_ms": {"base": 1, "per_token": 0.02},
    }
    return Workload.model_validate(
        {
            "name": "tight",
            "requests": 150,
            "arrivals": {"process": "poisson", "rate_per_s": 25},
            "prompt_tokens": {"distribution": "uniform", "min": 20, "max": 200},
            "output_tokens": {"distribution": "geometric", "mean": 60, "max": 200},
            "engine": {
                "policy": policy,
                "max_num_seqs": 12,
                "max_num_batched_tokens": 64,
                "kv_blocks": 60,
                "profile": profile,
            }
            | engine,
        }
    )


class SlotCounter:
    """Executes step by step and counts, from what it is told of slots, who runs in each."""

    def __init__(self, workload: Workload) -> None:
        self.model = cost_model(workload.engine.profile, "fallback")
        self.slots: set[int] = set()
        self.running: list[int] = []

    def admit(self, slot: int, admission: Admission) -> None:
        self.slots.add(slot)

    def release(self, slot: int) -> None:
        self.slots.discard(slot)

    def run(self, plan: StepPlan) -> int:
        self.running.append(len(self.slots))
        return self.model.run(plan)


@pytest.mark.parametrize("engine", [{}, {"async_scheduling": True}])
@pytest.mark.parametrize("policy", ["decode_only", "prefill_first", "mixed"])
def test_who_runs_holds_a_slot_and_who_was_preempted_waits(policy: str, engine: dict[str, object]) -> None:
    work = tight(policy, **engine)
    requests = draw_requests(work)
    counter = SlotCounter(work)
    run = simulate(work, requests, work.engine.profile, POOL, executor=counter)
    assert run.requests.preemptions.sum() > 20
    at = run.steps.start_ns
    waiting, running = waiting_and_running(run, at)
    records = run.requests
    came = (records.status != Status.REJECTED)[:, None] & (records.arrival_ns[:, None] <= at)
    there = (came & (records.finish_ns[:, None] > at)).sum(axis=0)
    # An asynchronous scheduler still holds the slots of answers that have just ended.
    assert running.tolist() == np.minimum(counter.running, there).tolist()
    assert (waiting + running).tolist() == there.tolist()
    ahead = simulate(work, requests, work.engine.profile, POOL)
    assert np.array_equal(waiting_and_running(ahead, at), (waiting, running))
    before_and_after = waiting_and_running(run, [-1, int(records.finish_ns.max())])
    assert np.array_equal(before_and_after, np.zeros((2, 2)))


def test_the_picture_over_time_and_the_validation_show_the_same_count() -> None:
    work = tight("prefill_first")
    requests = draw_requests(work)
    run = simulate(work, requests, work.engine.profile, POOL)
    seen = over_time(run, slices=40)
    at_s = seen.edges_s[1:]
    zeros = np.zeros(len(at_s))
    some = np.full(len(requests), 1_000.0)
    measured = Measured(requests, some, some)
    validation = validate(work, work.engine.profile, POOL, measured, Ticks(at_s, zeros, zeros, zeros))
    assert np.array_equal(validation.timelines["running"][1], seen.running)
    assert np.array_equal(validation.timelines["waiting"][1], seen.waiting)
    assert seen.waiting.max() > 0
