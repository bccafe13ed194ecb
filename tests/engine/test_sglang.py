"""SGLang's scheduler: what its own code decides (see tests/evidence), and no block lost on any workload."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_loop import AheadExecutor, PlainExecutor, StepTimes

from scheduler.catalog.profile.file import load_profile
from scheduler.engine.batching import Limits
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.kv_cache import KVCache
from scheduler.engine.loop import DecodeLoop
from scheduler.engine.prefix_cache import PrefixCache
from scheduler.engine.records import Run
from scheduler.engine.sglang import DECAY, FIRST_RATIO, LEAST_RATIO, Sglang
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Workload

TIMES = StepTimes(base=5, graph_base=5, per_row=1, per_prefill_token=1)


def run_of(
    prompts: list[int],
    answers: list[int],
    longest: list[int],
    cache: KVCache,
    *,
    foreseen: bool = False,
    overlap: bool = False,
    arrivals: list[int] | None = None,
    chunk: int = 8,
    step: int = 16,
    seqs: int = 4,
    ahead: bool = False,
) -> tuple[Run, Sglang]:
    executor = AheadExecutor(TIMES) if ahead else PlainExecutor(TIMES)
    columns = [array("q", column) for column in (arrivals or [0] * len(prompts), prompts, answers)]
    batching = Sglang(Limits(seqs, chunk, step), GraphPool(), cache, executor, columns[1], None)
    batching.answers(longest, foreseen)
    loop = DecodeLoop(
        batching,
        executor,
        *columns,
        reject=lambda prompt, answer: None,
        max_tokens=longest,
        async_scheduling=overlap,
        run_ahead=ahead,
    )
    run = loop.run()
    assert executor.slots == {}, "every slot is given back"
    assert cache.used == 0, "every page is given back"
    return run, batching


@st.composite
def workloads(draw):
    count = draw(st.integers(1, 8))
    some = lambda most: draw(st.lists(st.integers(1, most), min_size=count, max_size=count))  # noqa: E731
    prompts, answers = some(12), some(14)
    longest = [n + draw(st.sampled_from([0, 0, 4, 30])) for n in answers]
    page = draw(st.sampled_from([1, 2, 4]))
    most = max(p + n + page + 2 for p, n in zip(prompts, longest, strict=True))
    return {
        "prompts": prompts,
        "answers": answers,
        "longest": longest,
        "foreseen": draw(st.booleans()),
        "overlap": draw(st.booleans()),
        "chunk": page * draw(st.integers(1, 5)),
        "step": draw(st.integers(page, 30)),
        "seqs": draw(st.integers(1, 5)),
        "arrivals": sorted(draw(st.integers(0, 60)) for _ in range(count)),
    }, (-(-most // page) + draw(st.integers(0, 4)), page)


@given(workloads(), st.booleans())
def test_every_answer_ends_and_nothing_is_lost_whatever_is_shared(drawn, shares):
    what, (pages, page) = drawn
    cache = (
        PrefixCache(pages, page, lambda request: range(what["prompts"][request] // page))
        if shares
        else KVCache(pages, page, prefix_caching=True)
    )
    run, _ = run_of(cache=cache, **what)
    assert (run.requests.status == 1).all()
    assert run.peak_kv_blocks <= pages
    assert sum(run.gaps.count) == sum(what["answers"]) - len(what["answers"])


@given(workloads())
def test_running_ahead_changes_no_time(drawn):
    what, (pages, page) = drawn
    runs = [run_of(cache=KVCache(pages, page), ahead=ahead, **what)[0] for ahead in (False, True)]
    for column in ("first_token_ns", "finish_ns", "preemptions"):
        assert getattr(runs[0].requests, column).tolist() == getattr(runs[1].requests, column).tolist()
    assert runs[0].steps.duration_ns.tolist() == runs[1].steps.duration_ns.tolist()


@pytest.mark.parametrize(("foreseen", "together"), [(True, 1), (False, 2)])
def test_admission_reserves_all_or_a_share_of_what_running_answers_may_need(foreseen, together):
    """Two requests of 4 + 20 tokens on 45 pages: beside 0.7 · 19 tokens for the first the second fits."""
    run, _ = run_of([4, 4], [20, 20], [20, 20], KVCache(45, 1), foreseen=foreseen, arrivals=[0, 10], seqs=4)
    assert run.steps.batch_size.max() == together
    assert (run.requests.preemptions == 0).all()


def test_the_share_falls_with_every_decode_step_to_its_least():
    _, batching = run_of([4], [11], [11], KVCache(1000, 1))
    assert batching.ratio == pytest.approx(FIRST_RATIO - 10 * DECAY)
    for ahead in (False, True):
        _, batching = run_of([4], [700], [700], KVCache(1000, 1), ahead=ahead)
        assert batching.ratio == LEAST_RATIO == pytest.approx(0.098)


def test_a_chunk_and_a_step_have_budgets_of_their_own():
    run, _ = run_of([8, 8, 8], [1, 1, 1], [1, 1, 1], KVCache(1000, 1), chunk=8, step=24)
    assert run.steps.prefill_tokens.tolist() == [8, 8, 8]
    run, _ = run_of([8, 8, 8], [1, 1, 1], [1, 1, 1], KVCache(1000, 1), chunk=24, step=10)
    assert run.steps.prefill_tokens.tolist() == [16, 8], "a step ends once its budget is spent, not before"


def test_prompts_are_found_by_those_admitted_after_their_results_came():
    def shared(request: int) -> range:
        return range(8)

    run, batching = run_of(
        [8, 8, 8], [3, 3, 3], [3, 3, 3], PrefixCache(100, 1, shared), chunk=16, step=16, arrivals=[0, 0, 40]
    )
    assert run.steps.prefill_tokens[run.steps.prefill_tokens > 0].tolist() == [16, 1]
    assert batching.hit_tokens == 7


@pytest.mark.parametrize("seed", range(3))
def test_what_is_reserved_falls_by_every_step_that_follows_another_at_once(seed):
    """Host and GPU apart, little room, so that who is admitted when hangs on the reserved share."""
    profile = "h100-vllm-0.26-llama-3.1-8b-bf16"
    workload = Workload.model_validate(
        {
            "name": "little-room",
            "seed": seed,
            "requests": 60,
            "arrivals": {"process": "poisson", "rate_per_s": 20},
            "prompt_tokens": {"distribution": "uniform", "min": 1, "max": 100},
            "output_tokens": {"distribution": "geometric", "mean": 80, "max": 400},
            "engine": {"policy": "sglang", "kv_blocks": 200, "ends": "eos", "profile": profile},
        }
    )
    requests, variant = draw_requests(workload), Variant("graphs", GraphPool((1, 4, 16)), "fallback")
    at_once, one_by_one = (
        simulate(workload, requests, load_profile(profile), variant, run_ahead=ahead)
        for ahead in (True, False)
    )
    np.testing.assert_array_equal(at_once.requests.scheduled_ns, one_by_one.requests.scheduled_ns)
    np.testing.assert_array_equal(at_once.requests.finish_ns, one_by_one.requests.finish_ns)
    np.testing.assert_array_equal(at_once.steps.start_ns, one_by_one.steps.start_ns)
