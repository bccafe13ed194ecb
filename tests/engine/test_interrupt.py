"""Ctrl-C at any step: the run ends between two steps, with records that add up."""

from __future__ import annotations

import os
import signal
from array import array
from dataclasses import fields

import numpy as np
import pytest

import scheduler.engine.loop as loop_module
from scheduler.engine.batching import Limits
from scheduler.engine.executor import ExecutorError, StepParts, StepPlan
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.interrupt import HeldInterrupt
from scheduler.engine.kv_cache import KVCache
from scheduler.engine.loop import MOST_FOLLOWING, DecodeLoop
from scheduler.engine.policies import Mixed
from scheduler.engine.records import Run, Status, StepRuns

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


class PressingPipeline:
    """Host and GPU side by side, 10 ns each; presses Ctrl-C in one of the steps."""

    topology = "uniproc"
    front_out_row_ns = 0

    def __init__(self, at_step: int) -> None:
        self.steps = 0
        self.at_step = at_step

    def admit(self, slot, admission) -> None:
        pass

    def release(self, slot) -> None:
        pass

    def parts(self, plan: StepPlan, decided_ns: int) -> StepParts:
        self.steps += 1
        if self.steps == self.at_step:
            os.kill(os.getpid(), signal.SIGINT)
        return StepParts(2, 5, 1, STEP_NS, -1, 3)

    def front_in_ns(self, prompt_tokens: int) -> int:
        return 0

    def front_out_ns(self, rows: int) -> int:
        return 0


def run_side_by_side(at_step: int, answers: array[int]) -> Run:
    executor = PressingPipeline(at_step)
    prompts = array("q", [PROMPT] * len(answers))
    arrivals = array("q", range(0, 15 * len(answers), 15))
    batching = Mixed(Limits(3, 8), GraphPool((1, 2)), KVCache(None, 4), executor, prompts, None)
    loop = DecodeLoop(batching, executor, arrivals, prompts, answers, reject=None, async_scheduling=True)
    return loop.run()


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


@pytest.mark.parametrize("at_step", range(1, 17))
def test_so_does_one_of_host_and_gpu_side_by_side(at_step):
    answers = array("q", [ANSWER, 12, 1, 3, ANSWER, 9])
    run, whole = run_side_by_side(at_step, answers), run_side_by_side(0, answers)
    assert (run.failure, whole.failure) == ("interrupted", None)
    assert_adds_up(run)
    assert at_step <= len(run.steps)
    np.testing.assert_array_equal(run.steps.start_ns, whole.steps.start_ns[: len(run.steps)])


@pytest.mark.parametrize("most_following", [1, 2, 7])
def test_how_many_steps_may_follow_each_other_until_ctrl_c_is_looked_for_changes_no_byte(
    monkeypatch, most_following
):
    answers = array("q", [ANSWER, 70, 1, 30, ANSWER, 9])
    expected = run_side_by_side(0, answers)
    monkeypatch.setattr(loop_module, "MOST_FOLLOWING", most_following)
    run = run_side_by_side(0, answers)
    for name in (field.name for field in fields(StepRuns)):
        np.testing.assert_array_equal(getattr(run.step_runs, name), getattr(expected.step_runs, name), name)
    np.testing.assert_array_equal(run.requests.finish_ns, expected.requests.finish_ns)


def test_ctrl_c_does_not_wait_for_the_end_of_a_long_answer():
    run = run_side_by_side(20, array("q", [3 * MOST_FOLLOWING]))
    assert run.failure == "interrupted"
    assert 20 <= len(run.steps) <= MOST_FOLLOWING + 20
    assert_adds_up(run)


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
