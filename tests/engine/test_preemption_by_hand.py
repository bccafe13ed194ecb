"""Preemption worked out by hand: ten KV blocks of four tokens, every step 10 ns, as vLLM's own tests do."""

from __future__ import annotations

from reference_simulator import Options
from small_loop import Small, gaps_of, request_table, run_loop, step_table

DECODE, PREFILL, MIXED = 0, 1, 2
TEN_BLOCKS = {"block_size": 4, "kv_blocks": 10}


def two_requests(prompt_tokens: int, output_tokens: int, **options) -> Small:
    return Small((0, 0), (prompt_tokens,) * 2, (output_tokens,) * 2, Options(**TEN_BLOCKS, **options))


def steps_of(run) -> list[tuple[int, int, int, int]]:
    return [(s.kind, s.batch_size, s.kv_tokens, s.prefill_tokens) for s in step_table(run)]


def test_decode_only_preempts_the_newest_at_a_block_border_and_resumes_it_when_blocks_are_free():
    # 17 tokens take 5 blocks each: all ten. At 20 cached tokens both need a sixth; the newest gives way.
    run = run_loop(two_requests(16, 8))
    assert request_table(run)["finish_ns"] == [80, 120]
    assert request_table(run)["preemptions"] == [0, 1]
    together = [(DECODE, 2, 2 * (16 + i), 0) for i in range(4)]
    first_alone = [(DECODE, 1, 20 + i, 0) for i in range(4)]
    assert steps_of(run) == together + first_alone + first_alone
    # The preempted answer has its tokens at 10, 20, 30, 40 | 90, 100, 110, 120.
    assert {gap: n for (gap, _), n in gaps_of(run).items() if gap != 10} == {50: 1}
    assert run.peak_kv_blocks == 10


def test_prefill_first_recomputes_prompt_and_answer_of_a_preempted_request_in_one_prefill():
    # 19 prompt tokens take 5 blocks each; the second decode step needs a sixth block for both.
    run = run_loop(two_requests(19, 6, policy="prefill_first"))
    assert request_table(run)["first_token_ns"] == [10, 10]
    assert request_table(run)["finish_ns"] == [60, 100]
    assert request_table(run)["preemptions"] == [0, 1]
    assert steps_of(run) == [
        (PREFILL, 0, 0, 38),
        (DECODE, 2, 38, 0),
        *[(DECODE, 1, 20 + i, 0) for i in range(4)],
        (PREFILL, 0, 0, 21),  # 19 prompt tokens and the 2 tokens it already had
        *[(DECODE, 1, 21 + i, 0) for i in range(3)],
    ]


def test_mixed_preempts_the_newest_and_admits_nobody_in_the_same_decision():
    run = run_loop(two_requests(19, 6, policy="mixed", max_num_batched_tokens=32))
    assert request_table(run)["first_token_ns"] == [10, 20]
    assert request_table(run)["finish_ns"] == [60, 110]
    assert request_table(run)["preemptions"] == [0, 1]
    assert steps_of(run) == [
        (PREFILL, 0, 0, 32),  # 19 of the first, 13 of the second
        (MIXED, 1, 19, 6),
        *[(DECODE, 1, 20 + i, 0) for i in range(4)],
        (PREFILL, 0, 0, 20),
        *[(DECODE, 1, 20 + i, 0) for i in range(4)],
    ]


def test_mixed_admits_a_chunk_that_fits_although_the_whole_prompt_does_not():
    # At 40 ns a chunk of 15 fits the 4 free blocks, its fifth block does not come: preempted again.
    run = run_loop(two_requests(19, 6, policy="mixed", max_num_batched_tokens=16))
    assert request_table(run)["finish_ns"] == [70, 120]
    assert request_table(run)["preemptions"] == [0, 2]
    assert [step[3] for step in steps_of(run)] == [16, 16, 6, 0, 15, 0, 15, 5, 0, 0, 0, 0]


def test_reserving_the_full_prompt_avoids_the_second_preemption_and_starts_later():
    run = run_loop(two_requests(19, 6, policy="mixed", max_num_batched_tokens=16, reserve_full_prompt=True))
    assert request_table(run)["finish_ns"] == [70, 130]
    assert request_table(run)["preemptions"] == [0, 1]
    assert [step[3] for step in steps_of(run)] == [16, 16, 6, 0, 0, 0, 0, 16, 4, 0, 0, 0, 0]


def test_prefix_caching_recomputes_only_the_block_that_was_not_full():
    # Preempted at 30 ns with 19 tokens cached: 4 full blocks. The first request takes the fifth. From then on
    # the second would need 5 blocks and finds 4, its own; when it is back it computes tokens 17 to 20 alone.
    run = run_loop(two_requests(19, 6, policy="mixed", max_num_batched_tokens=16, prefix_caching=True))
    assert request_table(run)["finish_ns"] == [70, 120]
    assert request_table(run)["preemptions"] == [0, 1]
    assert [step[3] for step in steps_of(run)] == [16, 16, 6, 0, 0, 0, 0, 4, 0, 0, 0, 0]


def test_a_request_that_can_never_fit_is_refused_at_once_and_blocks_nobody():
    options = Options(**TEN_BLOCKS, max_num_seqs=1)
    run = run_loop(Small((0, 0, 0), (4, 33, 4), (2, 8, 2), options))
    assert request_table(run)["status"] == [1, 2, 1]
    assert request_table(run)["finish_ns"] == [20, -1, 40]
    assert list(run.requests.reasons) == [1]


def test_a_request_that_fills_the_whole_cache_is_served():
    for policy, output_tokens in (("decode_only", 8), ("prefill_first", 9), ("mixed", 9)):
        options = Options(**TEN_BLOCKS, policy=policy)
        run = run_loop(Small((0,), (32,), (output_tokens,), options))
        assert request_table(run)["status"] == [1], policy
        assert run.peak_kv_blocks == 10, policy


def test_several_victims_of_one_decision_return_oldest_first():
    # Five requests of 2 blocks each take all ten. At 30 ns all need a third block: the last two give way.
    # The first ends at 40 ns and leaves room for one: the fourth, which has been there longer than the fifth.
    options = Options(**TEN_BLOCKS, max_num_seqs=5)
    table = request_table(run_loop(Small((0,) * 5, (5,) * 5, (4, 5, 5, 5, 5), options)))
    assert table["preemptions"] == [0, 0, 0, 1, 1]
    assert table["finish_ns"] == [40, 50, 50, 60, 70]
