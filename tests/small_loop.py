"""Small random workloads, and one way to run each in the program's loop and in the reference simulator."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, replace

import reference_simulator as reference
from hypothesis import strategies as st

from scheduler.engine.batching import Limits
from scheduler.engine.executor import StepPlan
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.kv_cache import KVCache
from scheduler.engine.loop import DecodeLoop, Run
from scheduler.engine.policies import DecodeOnly, Mixed, PrefillFirst

POLICIES = {"decode_only": DecodeOnly, "prefill_first": PrefillFirst, "mixed": Mixed}


EAGER = GraphPool()


@dataclass(frozen=True)
class StepTimes:
    """Step times in whole nanoseconds: a graph costs what its captured size costs."""

    base: int = 10
    graph_base: int = 10
    per_row: int = 0
    kv_tokens_per_ns: int = 0
    per_prefill_token: int = 0
    scale: int = 1

    def __call__(self, plan: StepPlan) -> int:
        rows = plan.batch_size if plan.capture_size is None else plan.capture_size
        time = self.base if plan.capture_size is None else self.graph_base
        time += self.per_row * rows + self.per_prefill_token * plan.prefill_tokens
        if self.kv_tokens_per_ns:
            time += plan.kv_tokens // self.kv_tokens_per_ns
        return time * self.scale


class PlainExecutor:
    """Executes one step at a time and checks what it is told about slots."""

    def __init__(self, times: StepTimes) -> None:
        self.times = times
        self.slots: dict[int, int] = {}

    def admit(self, slot, admission) -> None:
        assert slot not in self.slots, "the slot is taken"
        assert admission.request not in self.slots.values(), "the request has a slot already"
        self.slots[slot] = admission.request

    def release(self, slot) -> None:
        del self.slots[slot]

    def run(self, plan: StepPlan) -> int:
        assert plan.batch_size + sum(1 for _ in plan.prefill) <= len(self.slots)
        return self.times(plan)


class AheadExecutor(PlainExecutor):
    """The same, and able to run equal steps ahead."""

    def run_ahead(self, plan: StepPlan, most_steps: int, horizon_ns: int, durations: array[int]) -> int:
        total = 0
        for step in range(most_steps):
            took = self.times(plan._replace(kv_tokens=plan.kv_tokens + step * plan.batch_size))
            durations.append(took)
            total += took
            if total >= horizon_ns:
                break
        return total


@dataclass(frozen=True)
class Small:
    """One small workload with its engine, pool and step times."""

    arrival_ns: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    options: reference.Options
    times: StepTimes = StepTimes()
    pool: GraphPool = EAGER

    def with_options(self, **changes) -> Small:
        return replace(self, options=replace(self.options, **changes))


def run_reference(small: Small) -> reference.Outcome:
    return reference.reference_run(
        small.arrival_ns, small.prompt_tokens, small.output_tokens, small.options, small.times, small.pool
    )


def run_loop(small: Small, *, run_ahead: bool = True) -> Run:
    options = small.options
    limits = Limits(
        options.max_num_seqs,
        options.max_num_batched_tokens,
        options.max_prefill_tokens,
        options.reserve_full_prompt,
        options.watermark_blocks,
    )
    prompts = array("q", small.prompt_tokens)
    executor = AheadExecutor(small.times) if run_ahead else PlainExecutor(small.times)
    cache = KVCache(options.kv_blocks, options.block_size, options.prefix_caching)
    batching = POLICIES[options.policy](limits, small.pool, cache, executor, prompts, None)

    def reject(prompt_tokens: int, output_tokens: int) -> str | None:
        if options.max_model_len and prompt_tokens + output_tokens > options.max_model_len:
            return "too long"
        peak = cache.blocks(batching.peak_tokens(prompt_tokens, output_tokens))
        return "never fits" if peak > cache.total else None

    loop = DecodeLoop(
        batching,
        executor,
        array("q", small.arrival_ns),
        prompts,
        array("q", small.output_tokens),
        reject=reject,
        concurrency=options.concurrency,
        start_ns=options.start_ns,
        async_scheduling=options.async_scheduling,
        run_ahead=run_ahead,
    )
    run = loop.run()
    assert run.failure is None
    assert executor.slots == {}, "every slot is given back"
    assert cache.used == 0, "every block is given back"
    return run


def request_table(run: Run) -> dict[str, list[int]]:
    """Return what both simulators know of each request, as plain lists."""
    requests = run.requests
    names = ("arrival_ns", "scheduled_ns", "first_token_ns", "finish_ns", "preemptions", "status")
    return {name: getattr(requests, name).tolist() for name in names}


def step_table(run: Run) -> list[reference.Step]:
    steps = run.steps
    columns = [getattr(steps, name).tolist() for name in reference.Step._fields]
    return [reference.Step(*row) for row in zip(*columns, strict=True)]


def gaps_of(run: Run) -> Counter[tuple[int, int]]:
    """Return how often each (gap, index of the step that ended it) occurs."""
    gaps: Counter[tuple[int, int]] = Counter()
    rows = zip(run.gaps.gap_ns.tolist(), run.gaps.count.tolist(), run.gaps.step.tolist(), strict=True)
    for gap, count, step in rows:
        gaps[gap, step] += count
    return +gaps


@st.composite
def small_workloads(draw, policies=tuple(POLICIES), kv=True, closed=True, extras=False) -> Small:
    """Draw up to 12 requests with many ties, short answers and tight limits."""
    count = draw(st.integers(1, 12))
    policy = draw(st.sampled_from(policies))
    block_size = draw(st.sampled_from([1, 2, 4]))
    concurrency = draw(st.sampled_from([None, None, None, 1, 2, 5])) if closed else None
    gaps = draw(st.lists(st.sampled_from([0, 0, 0, 3, 10, 20, 37, 150]), min_size=count, max_size=count))
    prompts = draw(st.lists(st.integers(1, 12), min_size=count, max_size=count))
    answers = draw(
        st.lists(
            st.one_of(st.just(1), st.integers(1, 14), st.integers(6, 14)), min_size=count, max_size=count
        )
    )
    longest = max(p + n for p, n in zip(prompts, answers, strict=True))
    # Room for the longest request and a little more: enough to admit the next, too little to keep it.
    blocks = draw(st.sampled_from([None, -2, 0, 0, 1, 2, 3, 5])) if kv else None
    arrivals = [0] * count if concurrency else [sum(gaps[: i + 1]) for i in range(count)]
    max_num_seqs = draw(st.sampled_from([1, 2, 3, 4, 5, 5]))
    options = reference.Options(
        policy=policy,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=draw(st.integers(max_num_seqs, max_num_seqs + 9)),
        max_prefill_tokens=draw(st.integers(1, 20)),
        block_size=block_size,
        kv_blocks=None if blocks is None else max(1, -(-longest // block_size) + blocks),
        max_model_len=draw(st.sampled_from([None, None, 18])) if kv else None,
        reserve_full_prompt=draw(st.booleans()),
        concurrency=min(concurrency, count) if concurrency else None,
        watermark_blocks=draw(st.sampled_from([0, 0, 1, 2])) if extras else 0,
        prefix_caching=draw(st.booleans()) if extras else False,
        async_scheduling=draw(st.booleans()) if extras else False,
        start_ns=draw(st.sampled_from([0, 0, 25])) if extras else 0,
    )
    sizes = draw(st.sets(st.integers(1, 6)))
    pool = GraphPool(tuple(sorted(sizes)), padding=draw(st.booleans()), piecewise=draw(st.booleans()))
    times = StepTimes(
        base=draw(st.integers(1, 12)),
        graph_base=draw(st.integers(1, 12)),
        per_row=draw(st.integers(0, 2)),
        kv_tokens_per_ns=draw(st.sampled_from([0, 3])),
        per_prefill_token=draw(st.integers(0, 2)),
    )
    return Small(tuple(arrivals), tuple(prompts), tuple(answers), options, times, pool)
