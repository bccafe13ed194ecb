"""The program's loop against the reference simulator: every timestamp of every request and step."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from reference_simulator import Options
from small_loop import (
    Small,
    gaps_of,
    request_table,
    run_loop,
    run_reference,
    small_pipelines,
    small_workloads,
    step_table,
)

# What this test has found: a preempted request that found its half full last block again as if it were full;
HALF_FULL_BLOCK = Small(
    (0,) * 7,
    (12, 1, 1, 1, 1, 11, 3),
    (5, 1, 1, 1, 1, 2, 1),
    Options(
        policy="mixed",
        max_num_seqs=2,
        max_num_batched_tokens=3,
        block_size=2,
        kv_blocks=7,
        prefix_caching=True,
    ),
)
# running ahead past a slot that an early decision could not yet use; and, with early decisions, the oldest
# request preempted because one that had just finished still held its blocks.
SLOT_FREED_AFTER_THE_DECISION = Small(
    (0,) * 9, (1,) * 9, (1, 1, 1, 1, 1, 1, 1, 3, 1), Options(max_num_seqs=2, async_scheduling=True)
)
BLOCKS_OF_THE_FINISHED = Small(
    (0, 0, 0),
    (1, 12, 1),
    (14, 1, 1),
    Options(max_num_seqs=2, block_size=1, kv_blocks=15, async_scheduling=True),
)
EXAMPLES = settings.default.max_examples * 4


@pytest.mark.parametrize("run_ahead", [False, True], ids=["one step at a time", "running ahead"])
@settings(max_examples=EXAMPLES)
@given(small=small_workloads())
@example(small=Small((0, 0, 0), (3, 3, 3), (9, 9, 1), Options(kv_blocks=5, block_size=2)))
@example(small=Small((0, 10, 10), (1, 4, 12), (1, 1, 1), Options(policy="mixed", max_num_batched_tokens=4)))
def test_loop_equals_the_reference_request_by_request_and_step_by_step(small, run_ahead):
    assert_equal_runs(small, run_ahead)


@pytest.mark.parametrize("run_ahead", [False, True], ids=["one step at a time", "running ahead"])
@settings(max_examples=EXAMPLES)
@given(small=small_workloads(extras=True))
@example(small=HALF_FULL_BLOCK)
@example(small=SLOT_FREED_AFTER_THE_DECISION)
@example(small=BLOCKS_OF_THE_FINISHED)
def test_so_it_does_with_prefix_caching_a_watermark_a_late_start_and_early_decisions(small, run_ahead):
    assert_equal_runs(small, run_ahead)


@pytest.mark.parametrize("run_ahead", [False, True], ids=["one step at a time", "running ahead"])
@settings(max_examples=EXAMPLES * 2)
@given(small=small_pipelines())
def test_so_it_does_where_host_and_gpu_work_side_by_side(small, run_ahead):
    assert_equal_runs(small, run_ahead)


def assert_equal_runs(small: Small, run_ahead: bool) -> None:
    run, expected = run_loop(small, run_ahead=run_ahead), run_reference(small)
    assert step_table(run) == expected.steps
    table = request_table(run)
    for name, values in table.items():
        assert values == getattr(expected, name), name
    if not small.options.async_scheduling:  # blocks held only for the length of a decision are not counted
        assert run.peak_kv_blocks == expected.peak_blocks
    assert gaps_of(run) == expected_gaps(expected)


def expected_gaps(expected) -> Counter[tuple[int, int]]:
    gaps: Counter[tuple[int, int]] = Counter()
    for tokens, steps in zip(expected.token_ns, expected.token_steps, strict=True):
        for (earlier, later), step in zip(pairwise(tokens), steps[1:], strict=True):
            gaps[later - earlier, step] += 1
    return gaps
