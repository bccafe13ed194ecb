"""Ctrl-C at any step: the run ends between two steps, with records that add up."""

from __future__ import annotations

import os
import signal
from array import array

import numpy as np
import pytest

from scheduler.engine.batching import Limits
from scheduler.engine.executor import ExecutorError, StepPlan
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.interrupt import HeldInterrupt
from scheduler.engine.kv_cache import KVCache
from scheduler.engine.loop import DecodeLoop, Run
from scheduler.engine.policies import Mixed
from scheduler.engine.records import Status

REQUESTS, PROMPT, ANSWER, STEP_NS = 6, 5, 8, 10
STEPS = 19  # of the whole run


class Pressing:
    """Takes 10 ns a step, and presses Ctrl-C (or fails) in one of them."""

    def __init__(self, at_step: int, failure: Exception | None = None) -> None:
        self.steps = 0
        self.at_step = at_step
        self.failure = failure

    def admit(self, slot, admission) -> None:
        pass

    def release(self, slot) -> None:
        pass

    def run(self, plan: StepPlan) -> int:
        self.steps += 1
        if self.steps == self.at_step:
            if self.failure is not None:
                raise self.failure
            os.kill(os.getpid(), signal.SIGINT)
        return STEP_NS


def run_with(executor: Pressing) -> Run:
    prompts = array("q", [PROMPT] * REQUESTS)
    batching = Mixed(Limits(3, 8), GraphPool((1, 2)), KVCache(None, 4), executor, prompts, None)
    arrivals = array("q", range(0, 15 * REQUESTS, 15))
    answers = array("q", [ANSWER] * REQUESTS)
    return DecodeLoop(batching, executor, arrivals, prompts, answers, reject=lambda *_: None).run()


def assert_adds_up(run: Run) -> None:
    requests = run.requests
    done = requests.status == Status.COMPLETED
    started = requests.first_token_ns >= 0
    assert ((requests.finish_ns >= 0) == done).all()
    assert (started | ~done).all()
    steps = run.steps
    assert {len(getattr(steps, name)) for name in ("start_ns", "kind", "batch_size", "kv_tokens")} == {
        len(steps)
    }
    assert (steps.start_ns[1:] >= (steps.start_ns + steps.duration_ns)[:-1]).all()
    assert int(run.gaps.count.sum()) == int(steps.batch_size.sum())


@pytest.mark.parametrize("at_step", range(1, STEPS + 1))
def test_an_interrupted_run_adds_up_whenever_ctrl_c_comes(at_step):
    executor = Pressing(at_step)
    run = run_with(executor)
    whole = run_with(Pressing(0))
    assert (whole.failure, len(whole.steps)) == (None, STEPS)
    assert run.failure == "interrupted"
    assert_adds_up(run)
    assert len(run.steps) == at_step, "the step in which it came is finished, none follows"
    np.testing.assert_array_equal(run.steps.start_ns, whole.steps.start_ns[: len(run.steps)])


@pytest.mark.parametrize("at_step", range(1, STEPS + 1, 3))
def test_a_failed_step_leaves_the_steps_before_it(at_step):
    run = run_with(Pressing(at_step, ExecutorError("out of memory")))
    assert run.failure == "out of memory"
    assert len(run.steps) == at_step - 1
    assert_adds_up(run)


def test_the_usual_handling_of_ctrl_c_is_back_after_a_run():
    run_with(Pressing(4))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_takes_effect_at_once():
    with HeldInterrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.came


def test_a_worker_that_ignores_ctrl_c_goes_on_ignoring_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with HeldInterrupt():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
