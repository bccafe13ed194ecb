"""A state machine that lets requests arrive, step and finish in any order, under the invariants I1-I12.

It keeps its own books and knows no answer length: a request ends when the rule `finish` says so, at any
token (I11), or when its next token would not fit the cache even alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from small_loop import POLICIES, PlainExecutor, StepTimes

from scheduler.engine.batching import Limits
from scheduler.engine.executor import StepKind
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.kv_cache import KVCache

WAITING, PREFILLING, DECODING, ENDED = "waiting", "prefilling", "decoding", "ended"


@dataclass
class Book:
    """What the machine knows of one request."""

    prompt: int
    arrived_ns: int
    state: str = WAITING
    generated: int = 0
    cached: int = 0
    started_ns: int = -1
    ended_ns: int = -1
    preemptions: int = 0


class Engine(RuleBasedStateMachine):
    """One engine with a small cache; every rule is one event of the loop."""

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        slots=st.integers(1, 5),
        spare_budget=st.integers(0, 8),
        max_prefill_tokens=st.integers(1, 12),
        block_size=st.sampled_from([1, 2, 4]),
        kv_blocks=st.integers(4, 14),
        reserve=st.booleans(),
        sizes=st.sets(st.integers(1, 6)),
    )
    def start(self, policy, slots, spare_budget, max_prefill_tokens, block_size, kv_blocks, reserve, sizes):
        self.policy = policy
        self.prompts: list[int] = []
        self.books: list[Book] = []
        self.kv_cache = KVCache(kv_blocks, block_size)
        self.executor = PlainExecutor(StepTimes())
        self.pool = GraphPool(tuple(sorted(sizes)), piecewise=True)
        limits = Limits(slots, slots + spare_budget, max_prefill_tokens, reserve)
        self.limits = limits
        self.batching = POLICIES[policy](limits, self.pool, self.kv_cache, self.executor, self.prompts, None)
        self.batching.on_preempt = self.preempted
        self.order: list[int] = []  # of admission, first time only
        self.now = self.area = self.tokens = self.decode_rows = self.computed = 0

    def preempted(self, request) -> None:
        running = [i for i, book in enumerate(self.books) if book.state in (PREFILLING, DECODING)]
        assert request.index == running[-1], "only the newest is preempted"
        book = self.books[request.index]
        book.state, book.cached = WAITING, 0
        book.preemptions += 1
        self.victims.append(request.index)
        older = sum(other.generated for other in self.books[: request.index])
        assert book.preemptions <= older, "I8: preempted without progress of anyone older"

    @rule(prompt=st.integers(1, 20))
    def arrive(self, prompt):
        capacity = self.kv_cache.total * self.kv_cache.block_size
        if self.batching.peak_tokens(prompt, 1) > capacity:
            return  # refused at arrival, and so never in any state (I8)
        self.batching.waiting.append(len(self.books))
        self.prompts.append(prompt)
        self.books.append(Book(prompt, self.now))

    @rule(duration=st.integers(1, 50))
    def step(self, duration):
        self.end_those_without_room()
        self.victims: list[int] = []
        plan = self.batching.decide()
        in_system = [book for book in self.books if book.state != ENDED]
        if plan is None:
            assert not in_system, "I7: idle while a request is in the system"
            self.now += duration
            return
        self.note_admissions()
        self.check_plan(plan)
        self.area += duration * len(in_system)
        self.now += duration
        self.hand_out(plan)

    def end_those_without_room(self):
        capacity = self.kv_cache.total * self.kv_cache.block_size
        for index, book in enumerate(self.books):
            if (
                book.state == DECODING
                and self.batching.peak_tokens(book.prompt, book.generated + 1) > capacity
            ):
                self.end(index)

    def note_admissions(self):
        assert not (self.victims and self.batching.joined) or self.policy == "prefill_first"
        for request in self.batching.joined:
            book = self.books[request.index]
            assert book.state == WAITING
            book.state = DECODING if self.policy == "decode_only" else PREFILLING
            if self.policy == "decode_only":
                book.cached = book.prompt + book.generated
            if book.started_ns < 0:
                book.started_ns = self.now
                self.order.append(request.index)
        assert self.order == sorted(self.order), "I6: first come, first served"

    def check_plan(self, plan):
        decoding = [book for book in self.books if book.state == DECODING]
        if plan.kind is not StepKind.PREFILL:
            assert plan.batch_size == len(decoding), "I3: every decoding request takes part"
            assert plan.kv_tokens == sum(book.cached for book in decoding)
        elif self.policy == "mixed":
            assert not decoding
        if plan.kind is StepKind.DECODE:
            fitting = [size for size in self.pool.sizes if size >= plan.batch_size]
            assert plan.capture_size == (fitting[0] if fitting else None), "I5"
        assert len(decoding) <= self.limits.max_num_seqs
        computed = sum(chunk.tokens for chunk in plan.prefill)
        if self.policy == "mixed":
            assert plan.batch_size + computed <= self.limits.max_num_batched_tokens
        else:
            assert computed <= self.limits.max_prefill_tokens
        for chunk in plan.prefill:
            book = self.books[chunk.request]
            assert book.state == PREFILLING
            assert (chunk.cached_tokens, chunk.tokens >= 1) == (book.cached, True)
            assert chunk.is_last == (book.cached + chunk.tokens == book.prompt + book.generated)
        self.decode_rows += plan.batch_size
        self.computed += computed

    def hand_out(self, plan):
        """Do what the loop does at a step's end, and the same in the books."""
        if plan.batch_size:
            self.batching.advance(1)
            for book in self.books:
                if book.state == DECODING:
                    book.generated += 1
                    book.cached += 1
                    self.tokens += 1
        for chunk in plan.prefill:
            book = self.books[chunk.request]
            book.cached += chunk.tokens
            if chunk.is_last:
                request = self.batching.running[chunk.request]
                request.generated += 1
                self.batching.join_decoding(request, request.target)
                book.state = DECODING
                book.generated += 1
                self.tokens += 1

    @precondition(lambda self: any(b.state == DECODING and b.generated for b in self.books))
    @rule(data=st.data())
    def finish(self, data):
        able = [i for i, book in enumerate(self.books) if book.state == DECODING and book.generated]
        self.end(data.draw(st.sampled_from(able)))

    def end(self, index: int) -> None:
        request = self.batching.running[index]
        self.batching.stop(request)
        self.batching.leave(request)
        self.books[index].state = ENDED
        self.books[index].ended_ns = self.now

    @invariant()
    def every_request_is_in_one_state(self):
        running = [i for i, book in enumerate(self.books) if book.state in (PREFILLING, DECODING)]
        waiting = [i for i, book in enumerate(self.books) if book.state == WAITING]
        assert list(self.batching.running) == running, "I1, I6"
        assert list(self.batching.waiting) == waiting, "I1, I6"
        assert sorted(self.executor.slots.values()) == running, "I1"
        assert len(running) <= self.limits.max_num_seqs, "I5"

    @invariant()
    def totals_equal_the_books(self):
        decoding = [book for book in self.books if book.state == DECODING]
        assert self.batching.decoding == len(decoding), "I12"
        assert self.batching.kv_tokens == sum(book.cached for book in decoding), "I12"
        for index, request in self.batching.running.items():
            assert self.batching.generated_by(request) == self.books[index].generated, "I10"
        for index, generated in self.batching.generated.items():
            assert generated == self.books[index].generated, "I10: preemption keeps the answer"
        assert self.tokens == sum(book.generated for book in self.books), "I3"

    @invariant()
    def blocks_balance(self):
        blocks = self.kv_cache.blocks
        held = sum(blocks(book.cached) for book in self.books if book.state == DECODING)
        for index, book in enumerate(self.books):
            if book.state == PREFILLING:
                whole = self.policy == "prefill_first"
                held += blocks(book.prompt + book.generated if whole else book.cached)
                assert self.batching.running[index].cached == book.cached
        assert self.kv_cache.used == held, "I4"
        assert self.kv_cache.used + self.kv_cache.free == self.kv_cache.total, "I4"
        assert self.kv_cache.free >= 0, "I4"

    @invariant()
    def times_are_in_order(self):
        for book in self.books:
            if book.started_ns >= 0:
                assert book.arrived_ns <= book.started_ns <= self.now, "I2"
            if book.state == ENDED:
                assert book.started_ns < book.ended_ns <= self.now, "I2"

    def teardown(self):
        if not hasattr(self, "books"):
            return
        for _ in range(10_000):
            live = [i for i, book in enumerate(self.books) if book.state != ENDED]
            if not live:
                break
            self.step(1)
            oldest = self.books[live[0]]
            if oldest.state == DECODING and oldest.generated:
                self.end(live[0])
        assert all(book.state == ENDED for book in self.books), "I8: everyone ends"
        assert self.kv_cache.used == 0, "I4: all free at the end"
        assert self.area == sum(book.ended_ns - book.arrived_ns for book in self.books), "I9: Little's law"
        if self.policy == "decode_only":
            assert self.decode_rows == self.tokens, "I3"
        else:
            assert self.computed >= sum(book.prompt for book in self.books), "I10: recompute is counted"


Engine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestEngine = Engine.TestCase
