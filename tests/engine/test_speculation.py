"""Speculative decoding against an oracle step by step, and what must hold of it exactly."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_simulator import Options, Parts
from small_loop import (
    PartTimes,
    PipelineExecutor,
    PlainExecutor,
    Small,
    StepTimes,
    gaps_of,
    request_table,
    run_loop,
    small_pipelines,
    small_workloads,
    step_table,
)
from speculative_reference import SpeculativeReference

from scheduler.engine.acceptance import Acceptance
from scheduler.engine.batching import Limits
from scheduler.engine.executor import StepKind, StepPlan
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.kv_cache import KVCache
from scheduler.engine.records import Run, Status
from scheduler.engine.speculation import Speculation, SpeculativeLoop
from scheduler.simulate import POLICIES, Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload

EXAMPLES = settings.default.max_examples * 4


@dataclass(frozen=True)
class Drafts:
    """How a small workload drafts; `gpu` and `launch` are ns of a draft, the first of them also per row."""

    draft_tokens: int = 3
    lookahead: int = 0
    rate: float = 0.6
    gpu: tuple[int, int] = (0, 0)
    launch: int = 0
    key: int = 5

    def gpu_ns(self, plan: StepPlan, rows: int) -> int:
        return self.gpu[0] + self.gpu[1] * rows

    def launch_ns(self, plan: StepPlan, rows: int) -> int:
        return self.launch

    def acceptance(self, requests: int) -> Acceptance:
        return Acceptance(self.draft_tokens, self.key, rates=[self.rate] * requests)


def run_drafting(small: Small, drafts: Drafts) -> Run:
    options, prompts = small.options, array("q", small.prompt_tokens)
    if isinstance(small.times, PartTimes):
        executor = PipelineExecutor(small.times, options)
    else:
        executor = PlainExecutor(small.times)
    cache = KVCache(options.kv_blocks, options.block_size, options.prefix_caching, options.unhashed_first)
    limits = Limits(
        options.max_num_seqs,
        options.max_num_batched_tokens,
        options.max_prefill_tokens,
        options.reserve_full_prompt,
        options.watermark_blocks,
    )
    pool = replace(small.pool, draft_tokens=drafts.draft_tokens)
    speculation = Speculation(drafts.draft_tokens, drafts.lookahead, drafts.acceptance(len(prompts)), drafts)
    batching = POLICIES[options.policy](limits, pool, cache, executor, prompts, None)
    batching.draft(drafts.draft_tokens, drafts.lookahead)

    def reject(prompt_tokens: int, output_tokens: int) -> str | None:
        if options.max_model_len and prompt_tokens + output_tokens > options.max_model_len:
            return "too long"
        peak = cache.blocks(batching.peak_tokens(prompt_tokens, output_tokens))
        return "never fits" if peak > cache.total else None

    loop = SpeculativeLoop(
        batching,
        executor,
        array("q", small.arrival_ns),
        prompts,
        array("q", small.output_tokens),
        reject=reject,
        concurrency=options.concurrency,
        round_trip_ns=options.round_trip_ns,
        max_tokens=small.max_tokens,
        empty_pause_ns=options.empty_pause_ns,
        start_ns=options.start_ns,
        async_scheduling=options.async_scheduling,
    )
    loop.draft(executor, speculation)
    run = loop.run()
    assert run.failure is None
    assert executor.slots == {}, "every slot is given back"
    assert cache.used == 0, "every block is given back"
    return run


def run_oracle(small: Small, drafts: Drafts):
    times, acceptance = small.times, drafts.acceptance(len(small.prompt_tokens))

    def parts(plan: StepPlan, now_ns: int) -> Parts:
        return times(plan, now_ns) if isinstance(times, PartTimes) else Parts(gpu=times(plan))

    def draft(plan: StepPlan) -> tuple[int, int]:
        rows = plan.batch_size + sum(chunk.is_last for chunk in plan.prefill)
        return drafts.gpu_ns(plan, rows), drafts.launch

    return SpeculativeReference(
        small.arrival_ns,
        small.prompt_tokens,
        small.output_tokens,
        small.options,
        parts,
        small.pool,
        small.max_tokens,
        draft_tokens=drafts.draft_tokens,
        lookahead=drafts.lookahead,
        accepted=lambda index, generated: acceptance.accepted(index, generated, small.output_tokens[index]),
        draft=draft,
    ).run()


@st.composite
def drafting(draw, workloads) -> tuple[Small, Drafts]:
    small = draw(workloads)
    k = draw(st.integers(1, 4))
    whole = not isinstance(small.times, PartTimes)
    drafts = Drafts(
        k,
        draw(st.sampled_from([0, k])),
        draw(st.sampled_from([0.0, 0.4, 0.8, 1.0])),
        (draw(st.integers(0, 9)), draw(st.integers(0, 2))),
        0 if whole else draw(st.integers(0, 4)),
        draw(st.integers(0, 99)),
    )
    options = small.options
    room = options.max_num_seqs * (1 + k)
    blocks = options.kv_blocks
    if blocks is not None:  # mostly room for the drafts as well, now and then too little
        blocks += draw(st.sampled_from([0, 1, 2])) + (3 * k + 1) // options.block_size
    small = small.with_options(max_num_batched_tokens=room + draw(st.integers(0, 9)), kv_blocks=blocks)
    sizes = draw(st.sets(st.integers(1, 6 * (1 + k)), max_size=5))
    return replace(small, pool=replace(small.pool, sizes=tuple(sorted(sizes)))), drafts


def assert_equal(case: tuple[Small, Drafts]) -> None:
    run, expected = run_drafting(*case), run_oracle(*case)
    assert step_table(run) == expected.steps
    for name, values in request_table(run).items():
        assert values == getattr(expected, name), name
    gaps: Counter[tuple[int, int]] = Counter()
    for tokens, steps in zip(expected.token_ns, expected.token_steps, strict=True):
        for (earlier, later), step in zip(pairwise(tokens), steps[1:], strict=True):
            gaps[later - earlier, step] += 1
    assert gaps_of(run) == gaps
    assert run.tokens_per_row == 1 + case[1].draft_tokens


@settings(max_examples=EXAMPLES)
@given(case=drafting(small_workloads(extras=True)))
def test_every_step_and_token_is_the_oracle_s(case):
    assert_equal(case)


@settings(max_examples=EXAMPLES)
@given(case=drafting(small_pipelines()))
def test_so_it_is_where_host_and_gpu_work_side_by_side(case):
    assert_equal(case)


@settings(max_examples=EXAMPLES)
@given(case=drafting(small_workloads(extras=True)))
def test_every_token_of_an_answer_comes_once(case):
    run = run_drafting(*case)
    done = run.requests.status == 1
    tokens = int(run.requests.output_tokens[done].sum())
    assert int(run.gaps.count.sum()) + int(done.sum()) == tokens
    between = (run.requests.finish_ns - run.requests.first_token_ns)[done].sum()
    assert int((run.gaps.gap_ns * run.gaps.count).sum()) == between


@settings(max_examples=EXAMPLES)
@given(small=small_workloads(extras=True), policy=st.sampled_from(["decode_only", "prefill_first", "mixed"]))
def test_nothing_drafted_is_the_plain_loop(small, policy):
    """k = 0, scheduled synchronously: every time of every request and step, though the loop is another."""
    small = small.with_options(policy=policy, async_scheduling=False, kv_blocks=None)
    run, plain = run_drafting(small, Drafts(draft_tokens=0)), run_loop(small, run_ahead=False)
    assert step_table(run) == step_table(plain)
    assert request_table(run) == request_table(plain)
    assert gaps_of(run) == gaps_of(plain)


@settings(max_examples=EXAMPLES)
@given(small=small_workloads(), k=st.integers(1, 4))
def test_nothing_accepted_is_the_plain_loop_where_verifying_costs_nothing(small, k):
    times = StepTimes(base=7, graph_base=7, per_prefill_token=2)  # whatever the rows
    small = replace(small.with_options(kv_blocks=None, policy="decode_only"), times=times)
    run, plain = run_drafting(small, Drafts(k, rate=0.0)), run_loop(replace(small, pool=GraphPool()))
    assert request_table(run) == request_table(plain)


@pytest.mark.parametrize("accepted", [0, 1, 2, 3])
def test_a_lone_request_has_one_step_per_accepted_tokens(accepted):
    """With a drafts accepted in every step, TPOT = step / (1 + a)."""
    tokens, step = 1 + 12 * 10, 40
    small = Small(
        (0,), (9,), (tokens,), Options(policy="mixed", max_num_batched_tokens=64), StepTimes(base=step)
    )
    by_place = [1.0] * accepted + [0.0] * (3 - accepted)

    class Fixed(Drafts):
        def acceptance(self, requests: int) -> Acceptance:
            return Acceptance(3, 1, by_place=by_place)

    run = run_drafting(small, Fixed())
    assert run.requests.finish_ns[0] - run.requests.first_token_ns[0] == step * (tokens - 1) // (1 + accepted)
    assert int(run.gaps.count[run.gaps.gap_ns == 0].sum()) == (tokens - 1) * accepted // (1 + accepted)


def test_asynchronously_tokens_come_before_the_next_drafts_are_proposed():
    small = Small((0,), (4,), (9,), Options(policy="mixed"), StepTimes(base=100))
    drafts = Drafts(2, rate=1.0, gpu=(30, 0))
    late, early = (
        run_drafting(small.with_options(async_scheduling=is_async), drafts) for is_async in (False, True)
    )
    assert (late.requests.first_token_ns[0], early.requests.first_token_ns[0]) == (130, 100)
    # The GPU drafts all the same: three more steps of three tokens (the last of two), 130 apart.
    assert (late.requests.finish_ns[0], early.requests.finish_ns[0]) == (130 * 4, 130 * 3 + 100)


def test_an_end_that_depends_on_acceptance_costs_a_row_more():
    """Nobody knows how much is accepted: only the last token's step is foreseen."""
    small = Small((0,), (4,), (9,), Options(policy="mixed", async_scheduling=True), StepTimes(base=100))
    steps = {rate: len(run_drafting(small, Drafts(2, rate=rate)).steps) for rate in (0.0, 1.0)}
    assert steps == {0.0: 9, 1.0: 5}  # 1 + 8 steps of one token; 1 + 3 of three, and one in vain


def test_blocks_are_held_for_drafts_and_look_ahead():
    small = Small((0,), (4,), (2,), Options(policy="mixed", block_size=1), StepTimes())
    assert run_drafting(small, Drafts(3, 0)).peak_kv_blocks == 4 + 4
    assert run_drafting(small, Drafts(3, 3)).peak_kv_blocks == 4 + 4 + 3


def test_a_step_takes_the_graph_that_holds_its_tokens():
    pool = GraphPool((4, 12), piecewise=True, rules="vllm==0.33.0")
    small = Small((0, 0, 0, 0), (1,) * 4, (9,) * 4, Options(max_num_seqs=4), StepTimes(), pool)
    run = run_drafting(small, Drafts(3, rate=0.0))
    found = {
        (batch, size)
        for batch, size in zip(run.steps.batch_size.tolist(), run.steps.capture_size.tolist(), strict=True)
    }
    assert found == {(4, 0)}  # 16 tokens
    one = replace(small, arrival_ns=(0,), prompt_tokens=(1,), output_tokens=(9,))
    assert set(run_drafting(one, Drafts(3, rate=0.0)).steps.capture_size.tolist()) == {4}


# Who accepts what.


def test_acceptance_is_geometric_and_hangs_on_request_and_place_alone():
    acceptance = Acceptance(5, 7, rates=[0.7, 0.4])
    for request, rate in enumerate((0.7, 0.4)):
        drawn = [acceptance.accepted(request, place, 40_000) for place in range(40_000)]
        shares = np.bincount(drawn, minlength=6) / len(drawn)
        expected = [rate**n * (1 - rate) for n in range(5)] + [rate**5]
        np.testing.assert_allclose(shares, expected, atol=0.012)
    again = Acceptance(5, 7, rates=[0.7, 0.4])
    assert [again.accepted(1, place, 50) for place in range(49, -1, -1)] == drawn[49::-1]


def test_a_longer_draft_accepts_what_the_shorter_did_and_perhaps_more():
    few, many = (Acceptance(k, 3, rates=[0.6]) for k in (2, 6))
    for place in range(500):
        assert min(many.accepted(0, place, 500), 2) == few.accepted(0, place, 500)


def test_n_grams_accept_nothing_where_nothing_matches():
    acceptance = Acceptance(4, 11, rates=[0.9], matches=[0.3])
    drawn = np.array([acceptance.accepted(0, place, 40_000) for place in range(40_000)])
    assert (drawn > 0).mean() == pytest.approx(0.3 * 0.9, abs=0.01)
    assert drawn[drawn > 0].mean() == pytest.approx(sum(0.9**n for n in range(4)), abs=0.03)


def test_rates_by_place_are_conditional():
    acceptance = Acceptance(3, 2, by_place=[0.8, 0.5, 0.0])
    drawn = np.array([acceptance.accepted(4, place, 40_000) for place in range(40_000)])
    shares = [(drawn > n).mean() for n in range(3)]
    assert shares == pytest.approx([0.8, 0.4, 0.0], abs=0.01)


def test_every_pool_meets_the_same_luck():
    """Graphs make steps faster; how many each request takes alone does not change."""
    small = Small((0, 0), (3, 5), (30, 40), Options(max_num_seqs=2), StepTimes(base=50, graph_base=9))
    eager, graphs = (run_drafting(replace(small, pool=GraphPool(sizes)), Drafts(3)) for sizes in ((), (4, 8)))
    assert eager.steps.batch_size.tolist() == graphs.steps.batch_size.tolist()
    assert eager.steps.kv_tokens.tolist() == graphs.steps.kv_tokens.tolist()
    assert (eager.steps.kind == StepKind.DECODE).all()


ALONE = """
name: alone
requests: 1
arrivals: {{process: constant, rate_per_s: 1}}
prompt_tokens: {{distribution: fixed, value: 6}}
output_tokens: {{distribution: fixed, value: 6}}
engine:
  policy: mixed
  block_size: 1
  kv_blocks: {blocks}
  profile:
    decode_eager_ms: {{base: 5, per_request: 0.1}}
    decode_graph_ms: {{base: 2, per_request: 0.1}}
    prefill_ms: {{base: 3, per_token: 0.01}}
  speculation: {{method: eagle, draft_tokens: 3, acceptance: {{rate: 0.6}}}}
"""


@pytest.mark.parametrize(("blocks", "status"), [(20, Status.REJECTED), (21, Status.COMPLETED)])
def test_who_is_rejected_hangs_on_the_room_for_drafts_and_look_ahead(tmp_path, blocks, status):
    """6 + 6 − 1 tokens, two steps' drafts of 3, a look-ahead of 3 and the one token that is certain."""
    path = tmp_path / "w.yaml"
    path.write_text(ALONE.format(blocks=blocks), encoding="utf-8")
    workload = load_workload(path)
    variant = Variant("graphs", GraphPool(sizes=(4,), draft_tokens=3), "fallback")
    run = simulate(workload, draw_requests(workload), workload.engine.profile, variant)
    assert run.requests.status.tolist() == [status]


PREFIXES = """
name: shared
seed: {seed}
requests: 60
arrivals: {{process: gamma, rate_per_s: 200, burstiness: 0.3}}
prompt_tokens: {{distribution: geometric, mean: 30, max: 90}}
output_tokens: {{distribution: geometric, mean: 25, max: 80}}
prefixes:
  system_tokens: {{distribution: fixed, value: 40}}
  system_prompts: 2
  turns: {{distribution: geometric, mean: 3, max: 6}}
  conversations: 4
engine:
  policy: mixed
  max_num_seqs: 8
  max_num_batched_tokens: {budget}
  block_size: 4
  kv_blocks: {blocks}
  prefix_caching: true
  async_scheduling: {asynchronous}
  profile:
    decode_eager_ms: {{base: 5, per_request: 0.1}}
    decode_graph_ms: {{base: 2, per_request: 0.1}}
    prefill_ms: {{base: 3, per_token: 0.01}}
  speculation: {{method: eagle, draft_tokens: {drafts}, acceptance: {{rate: 0.6, spread: 0.2}}}}
pool: {{sizes: [4, 8, 16, 32], engine: vllm==0.33.0}}
"""


@settings(max_examples=max(20, EXAMPLES // 4))
@given(
    seed=st.integers(0, 1 << 30),
    drafts=st.integers(1, 5),
    blocks=st.integers(300, 900),
    asynchronous=st.booleans(),
)
def test_tokens_and_blocks_are_conserved_where_requests_share_prefixes(
    tmp_path_factory, seed, drafts, blocks, asynchronous
):
    path = tmp_path_factory.mktemp("shared") / "w.yaml"
    text = PREFIXES.format(
        seed=seed,
        drafts=drafts,
        blocks=blocks,
        asynchronous=str(asynchronous).lower(),
        budget=48 + 8 * drafts,
    )
    path.write_text(text, encoding="utf-8")
    workload = load_workload(path)
    requests = draw_requests(workload)
    variant = Variant("graphs", GraphPool(sizes=(4, 8, 16, 32), draft_tokens=drafts), "fallback")
    run = simulate(workload, requests, workload.engine.profile, variant)
    done = run.requests.status == 1
    assert run.failure is None
    assert (done | (run.requests.status == 2)).all(), "completed, or rejected as too large for the cache"
    assert done.sum() > 30
    tokens = int(run.requests.output_tokens[done].sum())
    assert int(run.gaps.count.sum()) + int(done.sum()) == tokens
    assert (run.requests.finish_ns >= run.requests.first_token_ns)[done].all()
    assert 0 < run.peak_kv_blocks <= blocks
    assert run.prefix_use is not None
