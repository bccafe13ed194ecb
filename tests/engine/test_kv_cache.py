"""Freed KV blocks keep their identity in a least-recently-used queue; ten blocks, worked out by hand."""

from __future__ import annotations

import pytest
from reference_simulator import Options
from small_loop import Small, request_table, run_loop, step_table

from scheduler.engine.kv_cache import KVCache
from scheduler.simulate import limits_of
from scheduler.workload.schema import Engine

A, B = 0, 1


def two_owners_freed() -> KVCache:
    """Ten blocks: A's four full ones are freed first, then B's three; three stay in use."""
    cache = KVCache(10, 4, prefix_caching=True)
    cache.allocate(10)
    cache.release(4, 16, owner=A)
    cache.release(3, 12, owner=B)
    return cache


def test_what_was_freed_first_is_overwritten_first_from_its_tail():
    cache = two_owners_freed()
    found = []
    for _ in range(7):
        cache.allocate(1)
        found.append((cache.reusable(A), cache.reusable(B)))
    assert found == [(3, 3), (2, 3), (1, 3), (0, 3), (0, 2), (0, 1), (0, 0)]
    assert cache.free == 0


def test_blocks_that_are_reused_leave_the_queue_and_the_rest_belongs_to_nobody():
    cache = two_owners_freed()
    cache.reuse(A, 3)
    assert (cache.free, cache.reusable(A), cache.reusable(B)) == (4, 0, 3)
    cache.allocate(1)  # the fourth of A, oldest in the queue
    assert cache.reusable(B) == 3
    cache.allocate(1)
    assert cache.reusable(B) == 2


def test_an_owner_that_returns_is_the_most_recently_used():
    cache = two_owners_freed()
    cache.reuse(A, 4)
    cache.release(4, 16, owner=A)
    cache.allocate(3)
    assert (cache.reusable(A), cache.reusable(B)) == (4, 0)


def test_a_tail_that_is_not_full_is_overwritten_before_the_full_blocks_of_its_request():
    cache = KVCache(10, 4, prefix_caching=True)
    cache.allocate(10)
    cache.release(1)
    cache.release(4, 16, owner=A)
    cache.allocate(1)
    assert cache.reusable(A) == 4


@pytest.mark.parametrize(("unhashed_first", "left_of_a"), [(True, 4), (False, 2)])
def test_a_block_without_a_hash_is_overwritten_first_in_new_releases_and_in_its_turn_in_old(
    unhashed_first, left_of_a
):
    cache = KVCache(10, 4, prefix_caching=True, unhashed_first=unhashed_first)
    cache.allocate(10)
    cache.release(4, 16, owner=A)
    cache.release(5, 15, owner=B)
    cache.allocate(2)
    assert (cache.reusable(A), cache.reusable(B)) == (left_of_a, 3)


def test_without_prefix_caching_or_limit_nothing_is_remembered():
    for cache in (KVCache(10, 4), KVCache(None, 4, prefix_caching=True)):
        cache.allocate(4)
        cache.release(4, 16, owner=A)
        assert not cache.remembers
        assert cache.reusable(A) == 0


def test_more_blocks_than_are_free_are_never_handed_out():
    cache = two_owners_freed()
    with pytest.raises(RuntimeError, match="allocated 8 KV blocks with 7 free"):
        cache.allocate(8)
    assert (cache.free, cache.used) == (7, 3)


def test_blocks_taken_meanwhile_are_computed_again():
    """Two prompts of 19 tokens fill ten blocks; at 30 ns the second gives way with 19 tokens, 4 full blocks.

    The first takes the fifth, which is not full, and a full one 40 ns later; it ends with 7 blocks. Too few
    are free for the second until then.
    """
    options = Options(
        policy="mixed", block_size=4, kv_blocks=10, max_num_batched_tokens=16, prefix_caching=True
    )
    run = run_loop(Small((0, 0), (19, 19), (10, 6), options))
    assert request_table(run)["preemptions"] == [0, 1]
    last = [step.prefill_tokens for step in step_table(run) if step.prefill_tokens][3:]
    assert last == [8], "19 + 1 tokens, of which 3 blocks of 4 are still there"


WATERMARK = Options(policy="decode_only", block_size=4, kv_blocks=10)


@pytest.mark.parametrize(("watermark", "second_starts"), [(0, 0), (2, 0), (3, 20)])
def test_the_watermark_keeps_blocks_free_while_another_request_runs(watermark, second_starts):
    """Two requests of 4 blocks: the second leaves 2 of 10 free, so a watermark of 3 makes it wait."""
    small = Small((0, 0), (13, 13), (2, 2), WATERMARK).with_options(watermark_blocks=watermark)
    assert request_table(run_loop(small))["scheduled_ns"] == [0, second_starts]


def test_the_watermark_keeps_nobody_from_an_idle_engine():
    small = Small((0,), (32,), (8,), WATERMARK).with_options(watermark_blocks=9)
    table = request_table(run_loop(small))
    assert (table["scheduled_ns"], table["status"]) == ([0], [1])


def test_a_watermark_is_a_share_of_all_blocks_rounded_down():
    profile = {key: {"base": 1, "per_request": 0} for key in ("decode_eager_ms", "decode_graph_ms")}
    engine = Engine.model_validate({"policy": "decode_only", "kv_watermark": 0.01, "profile": profile})
    assert [limits_of(engine, blocks).watermark_blocks for blocks in (99, 100, 299, None)] == [0, 1, 2, 0]
