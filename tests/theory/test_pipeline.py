"""Host and GPU side by side with deterministic parts: what pencil and paper say.

The pipeline is a max-plus system: each time is a maximum of sums of earlier ones, so throughput is the mean
weight of its heaviest cycle (Baccelli et al., Synchronization and Linearity, 1992, chapter 3). Host work per
step is h = schedule + launch + update, GPU work g.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine.batching import Limits
from scheduler.engine.executor import ExecutorError, StepKind, StepParts, StepPlan, Topology
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.kv_cache import KVCache
from scheduler.engine.loop import DecodeLoop
from scheduler.engine.pipeline import HostAndGpu
from scheduler.engine.policies import DecodeOnly
from scheduler.engine.records import Run

STEPS = 60


@dataclass
class Scripted:
    """Step k takes `script[k % len(script)]`, with `exceptions` by k; no front end."""

    script: list[StepParts]
    topology: Topology = "uniproc"
    exceptions: dict[int, StepParts] = field(default_factory=dict)
    front_out_row_ns: int = 0
    count: int = 0

    def admit(self, slot, admission) -> None:
        pass

    def release(self, slot) -> None:
        pass

    def parts(self, plan: StepPlan, decided_ns: int) -> StepParts:
        self.count += 1
        step = self.count - 1
        return self.exceptions.get(step, self.script[step % len(self.script)])

    def front_in_ns(self, prompt_tokens: int) -> int:
        return 0

    def front_out_ns(self, rows: int) -> int:
        return 0


def graph(schedule=1, launch=2, gpu_after=1, gpu=8, tail=-1, update=1) -> StepParts:
    """Return a step that is launched as one graph, unless it has a tail."""
    return StepParts(schedule, launch, gpu_after, gpu, tail, update)


def serve(executor: Scripted, answer: int = STEPS, arrivals: tuple[int, ...] = (0,), depth: int = 2) -> Run:
    """Let requests of `answer` tokens decode."""
    prompts = array("q", [5] * len(arrivals))
    batching = DecodeOnly(Limits(8), GraphPool(), KVCache(None, 16), executor, prompts, None)
    run = DecodeLoop(
        batching,
        executor,
        array("q", arrivals),
        prompts,
        array("q", [answer] * len(arrivals)),
        reject=lambda *_: None,
        async_scheduling=depth == 2,
        record_host_and_gpu=True,
    ).run()
    assert run.failure is None
    return run


def gaps(run: Run) -> list[int]:
    """Return the times from hand-over to hand-over of a run without an idle time."""
    return run.steps.duration_ns.tolist()


few = st.integers(0, 30)


@given(schedule=few, launch=st.integers(1, 40), update=few, gpu=st.integers(1, 60), after=st.integers(0, 40))
def test_throughput_is_one_over_the_slower_of_host_and_gpu(schedule, launch, update, gpu, after):
    parts = graph(schedule, launch, min(after, launch), gpu, -1, update)
    host = schedule + launch + update
    assert set(gaps(serve(Scripted([parts])))[5:-2]) == {max(host, gpu)}


@given(schedule=few, launch=st.integers(0, 40), update=few, gpu=st.integers(1, 60), after=few)
def test_where_a_worker_launches_the_slowest_of_three_decides_or_the_way_around_every_other_step(
    schedule, launch, update, gpu, after
):
    """The queue holds two: decision, launch, GPU and update of a step fit into two periods."""
    run = serve(Scripted([graph(schedule, launch, after, gpu, -1, update)], "multiproc"), answer=400)
    ends = (run.steps.start_ns + run.steps.duration_ns).tolist()
    around = schedule + update + max(after + gpu, launch)
    assert ends[-3] - ends[-203] == max(200 * max(schedule + update, launch, gpu), 100 * around)


@given(schedule=few, launch=few, update=few, gpu=st.integers(1, 60), after=few, tail=st.integers(-1, 9))
def test_without_asynchronous_scheduling_nothing_overlaps_but_launch_and_gpu(
    schedule, launch, update, gpu, after, tail
):
    run = serve(Scripted([graph(schedule, launch, after, gpu, tail, update)]), depth=1)
    step = schedule + max(launch, after + gpu, launch + tail) + update
    assert set(gaps(run)[1:]) == {step}
    assert gaps(run)[0] == step - update


@given(schedule=few, launch=few, gpu=st.integers(1, 60), after=few)
def test_the_first_token_of_a_lone_request_waits_for_the_launch_of_its_second_step(
    schedule, launch, gpu, after
):
    parts = graph(schedule, launch, after, gpu)
    gpu_done = schedule + after + gpu
    two, one = serve(Scripted([parts]), answer=9), serve(Scripted([parts]), answer=1)
    assert two.requests.first_token_ns.tolist() == [max(gpu_done, 2 * (schedule + launch))]
    assert one.requests.first_token_ns.tolist() == [max(gpu_done, schedule + launch)]


@given(slow=st.integers(1, 60), fast=st.integers(1, 60), gpu=st.integers(1, 60), after=st.integers(0, 60))
def test_slow_and_fast_launches_in_turns_take_their_sum_or_twice_the_gpu(slow, fast, gpu, after):
    after = min(after, slow, fast)
    parts = [graph(1, launch, after, gpu) for launch in (slow, fast)]
    run = serve(Scripted(parts), answer=400)
    ends = (run.steps.start_ns + run.steps.duration_ns).tolist()
    assert ends[-3] - ends[-203] == 100 * max(slow + fast + 4, 2 * gpu)


@given(launch=st.integers(8, 40), gpu=st.integers(8, 30))
def test_a_slow_launch_delays_the_tokens_of_the_step_before_it_and_is_partly_hidden(launch, gpu):
    """At step 20 the GPU has the step before and, once launched, this one: only what exceeds both shows."""
    run = serve(Scripted([graph(gpu=gpu)], exceptions={20: graph(launch=launch, gpu=gpu)}))
    host = 1 + launch + 1
    assert gaps(run)[18] == gpu
    assert gaps(run)[19] == max(gpu, host), "the step before: the host launches and cannot take its tokens"
    assert gaps(run)[20] == max(2 * gpu - gaps(run)[19], 4), "its own tokens are there the sooner"
    assert sum(gaps(run)[19:22]) == max(3 * gpu, host + 4 + gpu - 1, host + gpu + 3)


@given(launch=st.integers(30, 60))
def test_two_slow_launches_in_a_row_cost_the_host_s_time_twice(launch):
    slow = graph(launch=launch)
    never = gaps(serve(Scripted([graph()])))
    once = gaps(serve(Scripted([graph()], exceptions={20: slow})))
    twice = gaps(serve(Scripted([graph()], exceptions={20: slow, 21: slow})))
    assert (once[19], twice[19], twice[20]) == (launch + 2, launch + 2, launch + 2)
    # The first: gaps of host, 4 and 7 instead of three of 8. The second: host instead of 8.
    assert sum(once) - sum(never) == launch + 2 + 4 + 7 - 3 * 8
    assert sum(twice) - sum(once) == launch + 2 - 8


@given(launch=st.integers(9, 40), tail=st.integers(0, 9))
def test_kernels_launched_one_by_one_end_after_their_last_launch(launch, tail):
    run = serve(Scripted([graph(launch=launch, gpu=3, tail=tail)]), answer=1)
    assert run.requests.first_token_ns.tolist() == [1 + launch + max(tail, 0)]


def test_after_an_idle_time_the_second_step_is_decided_right_after_the_first_launch():
    run = serve(Scripted([graph()]), answer=4, arrivals=(0, 1000))
    times = run.host_and_gpu
    assert times is not None
    assert times.decided_ns.tolist()[4:6] == [1000, 1003]
    assert times.launched_ns.tolist()[4:6] == [1003, 1006]
    # The third decision follows the hand-over of the first step: GPU end 1010, update 1.
    assert times.decided_ns.tolist()[6] == 1011
    assert run.steps.start_ns.tolist()[4] == 1000


@pytest.mark.parametrize("topology", ["uniproc", "multiproc"])
@pytest.mark.parametrize("depth", [1, 2])
@given(data=st.data())
def test_a_larger_part_makes_no_step_end_earlier(topology, depth, data):
    """Max-plus systems are monotone, where decisions do not hang on times: one request, no arrivals."""
    part = st.builds(StepParts, *[st.integers(0, 20)] * 4, st.integers(-1, 9), st.integers(0, 20))
    script = data.draw(st.lists(part, min_size=1, max_size=6))
    more = [
        parts._replace(
            **{
                name: getattr(parts, name) + data.draw(st.integers(0, 5))
                for name in StepParts._fields
                if name != "tail_ns"
            }
        )
        for parts in script
    ]
    ends = []
    for parts in (script, more):
        steps = serve(Scripted(parts, topology), answer=20, depth=depth).steps
        ends.append(steps.start_ns + steps.duration_ns)
    assert np.all(ends[1] >= ends[0])


class Failing(Scripted):
    """Fails at one step."""

    fails_at = 10**9

    def parts(self, plan: StepPlan, decided_ns: int) -> StepParts:
        if self.count == self.fails_at:
            raise ExecutorError("the device is gone")
        return super().parts(plan, decided_ns)


def test_of_steps_that_follow_none_counts_where_one_of_them_fails():
    plan = StepPlan(StepKind.DECODE, 2, None, 100, ())
    clocks = []
    for fails_at in (3, 10**9):
        executor = Failing([graph()])
        executor.fails_at = fails_at
        clock = HostAndGpu(executor)
        flight = clock.launch(plan, 0, 1, 0)
        if fails_at < 10**9:
            with pytest.raises(ExecutorError):
                clock.follow(flight, flight.next_ns, 5, 10**6)
            executor.fails_at = 10**9
        clocks.append(clock.launch(plan, flight.next_ns, 1, 0))
    after, plain = clocks
    assert (after.launched_ns, after.gpu_start_ns, after.gpu_end_ns) == (
        plain.launched_ns,
        plain.gpu_start_ns,
        plain.gpu_end_ns,
    )
