"""Small random workloads, and one way to run each in the program's loop and in the reference simulator."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, replace

import reference_simulator as reference
from hypothesis import strategies as st

from scheduler.engine.batching import Limits
from scheduler.engine.executor import StepParts, StepPlan
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.kv_cache import KVCache
from scheduler.engine.loop import DecodeLoop
from scheduler.engine.policies import DecodeOnly, Mixed, PrefillFirst
from scheduler.engine.records import Run

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
class PartTimes:
    """What steps ask of host and GPU: some are launched as one graph, the others kernel by kernel.

    The host's noise is a process in time: what is decided in an odd span of `span_ns` costs `slow` more.
    """

    schedule: tuple[int, int, int] = (1, 0, 0)  # ns, ns per row or chunk, ns per new request
    graph_launch: int = 2
    launch: int = 9
    gpu_after: int = 1
    gpu: StepTimes = StepTimes()
    tail: int = 1
    update: tuple[int, int] = (1, 0)  # ns, ns per row or chunk
    span_ns: int = 16
    slow: int = 0

    def __call__(self, plan: StepPlan, now_ns: int) -> reference.Parts:
        rows = plan.batch_size + len(plan.prefill)
        slow = self.slow * (now_ns // self.span_ns % 2)
        base, per_row, per_new = self.schedule
        return reference.Parts(
            schedule=base + per_row * rows + per_new * plan.new_requests + slow,
            launch=(self.graph_launch if plan.capture_size else self.launch) + slow,
            gpu_after=self.gpu_after,
            gpu=self.gpu(plan),
            tail=-1 if plan.capture_size else self.tail,
            update=self.update[0] + self.update[1] * rows,
        )


class PipelineExecutor:
    """Answers with parts, and checks what it is told about slots and times."""

    def __init__(self, times: PartTimes, options: reference.Options) -> None:
        self.times = times
        self.topology = options.topology
        self.front_in, self.front_out = options.front_in, options.front_out
        self.front_out_row_ns = options.front_out[2]
        self.slots: dict[int, int] = {}
        self.decided_ns = -1

    admit = PlainExecutor.admit
    release = PlainExecutor.release

    def parts(self, plan: StepPlan, decided_ns: int) -> StepParts:
        assert decided_ns >= self.decided_ns, "decisions in the order of time"
        self.decided_ns = decided_ns
        assert plan.batch_size + len(plan.prefill) <= len(self.slots)
        return StepParts(*self.times(plan, decided_ns))

    def front_in_ns(self, prompt_tokens: int) -> int:
        return self.front_in[0] + self.front_in[1] * prompt_tokens

    def front_out_ns(self, rows: int) -> int:
        return self.front_out[0] + self.front_out[1] * rows


@dataclass(frozen=True)
class Small:
    """One small workload with its engine, pool and step times."""

    arrival_ns: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    options: reference.Options
    times: StepTimes | PartTimes = StepTimes()
    pool: GraphPool = EAGER

    max_tokens: tuple[int, ...] | None = None

    def with_options(self, **changes) -> Small:
        return replace(self, options=replace(self.options, **changes))


def run_reference(small: Small) -> reference.Outcome:
    times = small.times

    def parts(plan: StepPlan, now_ns: int) -> reference.Parts:
        return times(plan, now_ns) if isinstance(times, PartTimes) else reference.Parts(gpu=times(plan))

    return reference.reference_run(
        small.arrival_ns,
        small.prompt_tokens,
        small.output_tokens,
        small.options,
        parts,
        small.pool,
        small.max_tokens,
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
    if isinstance(small.times, PartTimes):
        executor = PipelineExecutor(small.times, options)
    else:
        executor = AheadExecutor(small.times) if run_ahead else PlainExecutor(small.times)
    cache = KVCache(options.kv_blocks, options.block_size, options.prefix_caching, options.unhashed_first)
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
        round_trip_ns=options.round_trip_ns,
        max_tokens=small.max_tokens,
        empty_pause_ns=options.empty_pause_ns,
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
        unhashed_first=draw(st.booleans()) if extras else True,
        async_scheduling=draw(st.booleans()) if extras else False,
        start_ns=draw(st.sampled_from([0, 0, 25])) if extras else 0,
        round_trip_ns=draw(st.sampled_from([None, 0, 0, 7, 40])) if extras else None,
        empty_pause_ns=draw(st.sampled_from([0, 0, 5, 30])) if extras else 0,
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
    own_ends = extras and draw(st.booleans())
    # Some answers end by themselves, others by the request's limit.
    max_tokens = tuple(n + draw(st.sampled_from([0, 5])) for n in answers) if own_ends else None
    return Small(tuple(arrivals), tuple(prompts), tuple(answers), options, times, pool, max_tokens)


@st.composite
def small_pipelines(draw) -> Small:
    """Draw a small workload on an engine whose host and GPU work side by side, behind a front end."""
    small = draw(small_workloads(extras=True))
    few = st.integers(0, 4)
    front = draw(st.booleans())
    times = PartTimes(
        schedule=(draw(few), draw(st.integers(0, 2)), draw(few)),
        graph_launch=draw(few),
        launch=draw(st.integers(0, 25)),
        gpu_after=draw(few),
        gpu=small.times,
        tail=draw(st.sampled_from([-1, 0, 2, 9])),
        update=(draw(few), draw(st.integers(0, 1))),
        slow=draw(st.sampled_from([0, 0, 6])),
    )
    small = small.with_options(
        topology=draw(st.sampled_from(["uniproc", "multiproc"])),
        front_in=(draw(few), draw(st.integers(0, 2))) if front else (0, 0),
        front_out=(draw(few), draw(few), draw(few)) if front else (0, 0, 0),
    )
    return replace(small, times=times)
