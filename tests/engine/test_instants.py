"""Who is known at which decision, worked out by hand: closed loops, ends by themselves, the pause."""

from __future__ import annotations

import pytest
from reference_simulator import Options
from small_loop import Small, StepTimes, request_table, run_loop, step_table

from scheduler.engine.graph_pool import GraphPool
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Workload

USERS = Options(max_num_seqs=2, concurrency=2)
TEN = StepTimes(base=10)


def starts(small: Small) -> list[int]:
    return request_table(run_loop(small))["scheduled_ns"]


@pytest.mark.parametrize(
    ("round_trip_ns", "third_starts"), [(None, 10), (0, 20), (7, 20), (10, 20), (11, 30)]
)
def test_the_next_request_of_a_user_misses_the_decision_at_which_its_last_one_ended(
    round_trip_ns, third_starts
):
    """The first of two users has its one token at 10 ns; the other decodes on, in steps of 10 ns."""
    small = Small((0, 0, 0), (1, 1, 1), (1, 5, 1), USERS, TEN).with_options(round_trip_ns=round_trip_ns)
    assert starts(small) == [0, 0, third_starts]


@pytest.mark.parametrize(("round_trip_ns", "second_starts"), [(None, 10), (0, 10), (7, 17)])
def test_an_engine_that_is_idle_by_then_starts_as_soon_as_it_arrives(round_trip_ns, second_starts):
    small = Small((0, 0), (1, 1), (1, 1), USERS, TEN).with_options(round_trip_ns=round_trip_ns, concurrency=1)
    assert starts(small) == [0, second_starts]


def test_the_workload_file_s_users_are_clients():
    def third_arrives_and_starts(**arrivals: object) -> tuple[int, int]:
        workload = Workload.model_validate(
            {
                "name": "users",
                "requests": 3,
                "arrivals": {"process": "closed_loop", "concurrency": 2, **arrivals},
                "prompt_tokens": {"distribution": "fixed", "value": 1},
                "output_tokens": {"distribution": "discrete", "values": [3]},
                "engine": {
                    "policy": "decode_only",
                    "kv_blocks": "unlimited",
                    "max_num_seqs": 1,
                    "profile": {
                        "decode_eager_ms": {"base": 10, "per_request": 0},
                        "decode_graph_ms": {"base": 10, "per_request": 0},
                    },
                },
            }
        )
        variant = Variant("eager", GraphPool(), "eager")
        run = simulate(workload, draw_requests(workload), workload.engine.profile, variant)
        return int(run.requests.arrival_ns[2]), int(run.requests.scheduled_ns[2])

    ms = 1_000_000
    assert third_arrives_and_starts() == (30 * ms, 60 * ms)
    assert third_arrives_and_starts(client_round_trip_ms=45.5) == (75 * ms + ms // 2, 75 * ms + ms // 2)


ASYNC = Options(policy="mixed", async_scheduling=True)


def rows(small: Small) -> list[tuple[int, int]]:
    return [(step.batch_size, step.prefill_tokens) for step in step_table(run_loop(small))]


def test_an_answer_that_ends_by_itself_decodes_once_more_and_its_limit_is_foreseen():
    foreseen = Small((0,), (5,), (3,), ASYNC, TEN)
    assert rows(foreseen) == [(0, 5), (1, 0), (1, 0)]
    by_itself = Small((0,), (5,), (3,), ASYNC, TEN, max_tokens=(9,))
    assert rows(by_itself) == [(0, 5), (1, 0), (1, 0), (1, 0)]
    at_its_limit = Small((0,), (5,), (3,), ASYNC, TEN, max_tokens=(3,))
    assert rows(at_its_limit) == rows(foreseen)
    for small in (by_itself, at_its_limit):
        assert request_table(run_loop(small))["finish_ns"] == [30]


def test_the_step_in_vain_is_waited_for_before_the_next_request_starts():
    by_itself = Small((0, 31), (5, 5), (3, 1), ASYNC, TEN, max_tokens=(9, 9))
    assert [step.start_ns for step in step_table(run_loop(by_itself))] == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize(("arrives", "starts_at"), [(19, 25), (20, 25), (24, 25), (25, 25), (26, 26)])
def test_the_engine_pauses_after_a_decision_that_found_nothing_to_run(arrives, starts_at):
    """The first request ends at 20 ns, as the decision at 10 ns foresaw: nothing to run, a pause of 5 ns."""
    small = Small((0, arrives), (5, 5), (2, 1), ASYNC, TEN).with_options(empty_pause_ns=5)
    assert starts(small) == [0, starts_at]


def test_without_asynchronous_scheduling_there_is_no_pause():
    small = Small((0, 21), (5, 5), (2, 1), Options(policy="mixed"), TEN).with_options(empty_pause_ns=5)
    assert starts(small) == [0, 21]
