"""A second decode loop, written for tests alone: slow, plain, and independent of scheduler/engine/loop.py.

Every step visits every running request and every decision starts from nothing, so that the code reads as
the rules of docs/design.md do. It shares only the plan (`StepPlan`) and the router (`GraphPool`) with the
program, and checks the invariants of a run while it runs (I1-I12, named at each assertion).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.engine.graph_pool import GraphPool

UNFINISHED, COMPLETED, REJECTED = 0, 1, 2


@dataclass
class Options:
    """The engine's settings; `kv_blocks` None is an unlimited cache, `concurrency` None an open loop."""

    policy: str = "decode_only"
    max_num_seqs: int = 4
    max_num_batched_tokens: int = 64
    max_prefill_tokens: int = 64
    block_size: int = 4
    kv_blocks: int | None = None
    max_model_len: int | None = None
    reserve_full_prompt: bool = False
    concurrency: int | None = None
    watermark_blocks: int = 0
    prefix_caching: bool = False
    async_scheduling: bool = False
    start_ns: int = 0


class Step(NamedTuple):
    """One executed step; `capture_size` is 0 without a graph."""

    start_ns: int
    duration_ns: int
    kind: int
    batch_size: int
    capture_size: int
    kv_tokens: int
    prefill_tokens: int


@dataclass
class Outcome:
    """What happened, per request (index order) and per step (time order)."""

    arrival_ns: list[int]
    scheduled_ns: list[int]
    first_token_ns: list[int]
    finish_ns: list[int]
    preemptions: list[int]
    status: list[int]
    token_ns: list[list[int]]
    steps: list[Step]
    peak_blocks: int


@dataclass
class Live:
    """One request's state. `output` is read in exactly one place, where a token has been emitted (I11)."""

    index: int
    prompt: int
    output: int
    arrival: int = -1
    scheduled: int = -1
    generated: int = 0
    computed: int = 0
    prefilling: bool = False
    blocks: int = 0
    preemptions: int = 0
    status: int = UNFINISHED
    tokens: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Prompt and generated tokens: what a prefill has to compute."""
        return self.prompt + self.generated


class ReferenceSimulator:
    """Runs one workload to the end: `ReferenceSimulator(...).run()`."""

    def __init__(
        self,
        arrival_ns: Sequence[int],
        prompt_tokens: Sequence[int],
        output_tokens: Sequence[int],
        options: Options,
        duration: Callable[[StepPlan], int],
        pool: GraphPool | None = None,
    ) -> None:
        self.options = options
        self.duration = duration
        self.pool = pool or GraphPool()
        lengths = zip(prompt_tokens, output_tokens, strict=True)
        self.all = [Live(i, int(p), int(n)) for i, (p, n) in enumerate(lengths)]
        first = len(self.all) if options.concurrency is None else options.concurrency
        self.future = deque((int(t), i) for i, t in list(enumerate(arrival_ns))[:first])
        self.unreleased = deque(range(first, len(self.all)))
        self.waiting: deque[Live] = deque()
        self.running: list[Live] = []
        self.ended: list[Live] = []
        self.lingering: list[Live] = []  # ended, with slot and blocks until the next decision is made
        # Free blocks, the next to be taken first; (request, place) where a preempted request's tokens remain.
        self.free_list: deque[tuple[int, int] | None] = deque([None] * (options.kv_blocks or 0))
        self.now = 0
        self.peak_blocks = 0
        self.steps: list[Step] = []
        self.area = 0  # integral of requests in the system over time
        self.emitted = 0
        self.computed_tokens = 0

    # ---- time -------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Alternate arrivals, one decision and one step until nothing is left."""
        self.advance(self.options.start_ns)
        known_until = self.now
        while True:
            self.arrive(known_until)
            plan, parts = self.decide()
            if plan is None and (self.lingering or known_until < self.now):
                self.release_lingering()
                known_until = self.now
                self.arrive(known_until)
                plan, parts = self.decide()
            self.release_lingering()
            if plan is None:
                assert not self.waiting, "I7: idle while a request waits"
                assert not self.running, "I7: idle while a request runs"
                if not self.future:
                    break
                self.advance(self.future[0][0])
                known_until = self.now
                continue
            start = self.now
            took = self.duration(plan)
            assert took >= 0
            for sequence, _ in parts:
                if sequence.scheduled < 0:
                    sequence.scheduled = known_until
            self.advance(start + took)
            capture = plan.capture_size or 0
            self.steps.append(
                Step(start, took, plan.kind, plan.batch_size, capture, plan.kv_tokens, plan.prefill_tokens)
            )
            self.end_step(parts)
            # An asynchronous scheduler has decided on the next step when this one started.
            known_until = start if self.options.async_scheduling else self.now
            if not self.options.async_scheduling:
                self.release_lingering()
        self.check_end()
        return self.outcome()

    def advance(self, to: int) -> None:
        """Move the clock and add up the time that requests, known to the engine or not, spend here."""
        assert to >= self.now, "I2: the clock fell"
        self.area += (to - self.now) * (len(self.waiting) + len(self.running))
        for time, index in self.future:
            if time < to and self.can_ever_fit(self.all[index]):
                self.area += to - max(time, self.now)
        self.now = to

    def arrive(self, until: int) -> None:
        """Take in everything that has arrived by then; refuse what can never fit."""
        while self.future and self.future[0][0] <= until:
            time, index = self.future.popleft()
            sequence = self.all[index]
            sequence.arrival = time
            if self.can_ever_fit(sequence):
                self.waiting.append(sequence)
            else:
                sequence.status = REJECTED
                self.ended.append(sequence)
                self.release_next()

    def release_next(self) -> None:
        """Closed loop: whoever leaves lets the next index arrive at this very instant."""
        if self.unreleased:
            self.future.append((self.now, self.unreleased.popleft()))

    def can_ever_fit(self, sequence: Live) -> bool:
        total = sequence.prompt + sequence.output
        if self.options.max_model_len and total > self.options.max_model_len:
            return False
        if self.options.kv_blocks is None:
            return True
        # The last token of an answer is never written to the cache, except by decode_only's counting.
        peak = total if self.options.policy == "decode_only" else total - 1
        return self.blocks_of(peak) <= self.options.kv_blocks

    # ---- KV blocks --------------------------------------------------------------------------------------

    def blocks_of(self, tokens: int) -> int:
        return (tokens + self.options.block_size - 1) // self.options.block_size

    def free_blocks(self) -> int:
        if self.options.kv_blocks is None:
            return 10**18
        free = self.options.kv_blocks - sum(s.blocks for s in (*self.running, *self.lingering))
        assert free == len(self.free_list), "I4: blocks lost or counted twice"
        return free

    def hold(self, sequence: Live, tokens: int) -> None:
        """Let a running request hold the blocks of `tokens` tokens; the caller has checked the room."""
        while sequence.blocks < self.blocks_of(tokens):
            if self.options.kv_blocks is not None:
                self.free_list.popleft()
            sequence.blocks += 1

    def give_back(self, sequence: Live, full_blocks: int = 0) -> None:
        """Free all blocks, the last first; the leading `full_blocks` may be found again by this request."""
        if self.options.kv_blocks is not None:
            for place in reversed(range(sequence.blocks)):
                keeps = self.options.prefix_caching and place < full_blocks
                self.free_list.append((sequence.index, place) if keeps else None)
        sequence.blocks = 0

    def tokens_left_in_cache(self, sequence: Live) -> int:
        """Return the tokens in leading blocks that nobody took meanwhile; the last token is computed anew."""
        places = 0
        while (places + 1) * self.options.block_size < sequence.length and (
            (sequence.index, places) in self.free_list
        ):
            places += 1
        return places * self.options.block_size

    def take_back(self, sequence: Live, tokens: int) -> None:
        """Let an admitted request hold the blocks found again."""
        for place in range(tokens // self.options.block_size):
            self.free_list.remove((sequence.index, place))
            sequence.blocks += 1
        sequence.computed = tokens

    def preempt_newest(self) -> None:
        newest = max((s for s in self.lingering if s.blocks), key=lambda s: s.index, default=None)
        if newest and not (self.running and self.running[-1].index > newest.index):
            self.give_back(newest)  # an asynchronous scheduler does not know yet that it has ended
            return
        victim = self.running.pop()
        self.give_back(victim, victim.computed // self.options.block_size)
        victim.computed = 0
        victim.prefilling = False
        victim.preemptions += 1
        self.waiting.appendleft(victim)

    def release_lingering(self) -> None:
        for sequence in self.lingering:
            self.give_back(sequence)
        self.lingering = []

    # ---- decisions --------------------------------------------------------------------------------------

    def decide(self) -> tuple[StepPlan | None, list[tuple[Live, int]]]:
        """Return the next step (or None) and (request, prefill tokens or 0 for a decode) of its parts."""
        parts = {
            "decode_only": self.decide_decode_only,
            "prefill_first": self.decide_prefill_first,
            "mixed": self.decide_mixed,
        }[self.options.policy]()
        self.check_state()
        if not parts:
            return None, []
        assert parts[0][0] is self.running[0] or self.options.policy == "prefill_first", "I8: oldest waits"
        chunks = tuple(
            PrefillChunk(s.index, tokens, s.computed, s.computed + tokens == s.length)
            for s, tokens in parts
            if tokens
        )
        decoding = [s for s, tokens in parts if not tokens]
        batch = len(decoding)
        kv_tokens = sum(s.computed for s in decoding)
        if not chunks:
            capture = self.smallest_graph(batch)
            pieces = capture is not None and self.pool.piecewise
            pieces = pieces and (not self.pool.full or capture > self.options.max_num_seqs)
            return StepPlan(StepKind.DECODE, batch, capture, kv_tokens, piecewise=pieces), parts
        kind = StepKind.MIXED if batch else StepKind.PREFILL
        total = batch + sum(chunk.tokens for chunk in chunks)
        capture = self.smallest_graph(total) if self.pool.piecewise else None
        return StepPlan(kind, batch, capture, kv_tokens, chunks, piecewise=capture is not None), parts

    def smallest_graph(self, rows: int) -> int | None:
        """Return the smallest captured size that holds the rows; without padding only their own."""
        holding = [size for size in self.pool.sizes if size >= rows]
        if not holding or holding[0] in self.pool.failed:
            return None
        return holding[0] if self.pool.padding or holding[0] == rows else None

    def slot_is_free(self) -> bool:
        return len(self.running) + len(self.lingering) < self.options.max_num_seqs

    def finds_room(self, tokens: int) -> bool:
        """Tell whether a waiting request of `tokens` tokens may be admitted, above the watermark."""
        busy = bool(self.running or self.lingering)
        return self.blocks_of(tokens) + busy * self.options.watermark_blocks <= self.free_blocks()

    def make_room_for_decodes(self) -> bool:
        """Preempt the newest until every running request can write one token; True if any was."""
        preempted = False
        while True:
            needs = sum(self.blocks_of(s.computed + 1) - s.blocks for s in self.running)
            if needs <= self.free_blocks():
                break
            self.preempt_newest()
            preempted = True
        for sequence in self.running:
            self.hold(sequence, sequence.computed + 1)
        return preempted

    def decide_decode_only(self) -> list[tuple[Live, int]]:
        preempted = self.make_room_for_decodes()
        while not preempted and self.waiting and self.slot_is_free():
            front = self.waiting[0]
            if not self.finds_room(front.length + 1):
                break
            self.running.append(self.waiting.popleft())
            front.computed = front.length
            self.hold(front, front.length + 1)
        return [(s, 0) for s in self.running]

    def decide_prefill_first(self) -> list[tuple[Live, int]]:
        budget = self.options.max_prefill_tokens
        parts: list[tuple[Live, int]] = []
        for sequence in self.running:
            if sequence.prefilling:
                tokens = min(sequence.length - sequence.computed, budget)
                parts.append((sequence, tokens))
                budget -= tokens
        assert len(parts) <= 1
        while self.waiting and budget > 0 and self.slot_is_free():
            front = self.waiting[0]
            if not self.finds_room(front.length):
                break
            self.running.append(self.waiting.popleft())
            front.prefilling = True
            self.take_back(front, self.tokens_left_in_cache(front))
            self.hold(front, front.length)
            tokens = min(front.length - front.computed, budget)
            parts.append((front, tokens))
            budget -= tokens
        if parts:
            return parts
        self.make_room_for_decodes()
        return [(s, 0) for s in self.running]

    def decide_mixed(self) -> list[tuple[Live, int]]:
        budget = self.options.max_num_batched_tokens
        parts: list[tuple[Live, int]] = []
        preempted = False
        for sequence in list(self.running):
            if sequence not in self.running:
                break  # preempted below, and with it everyone newer
            tokens = min(sequence.length - sequence.computed, budget) if sequence.prefilling else 1
            assert 1 <= tokens <= budget, "the budget holds every running request"
            needed = self.blocks_of(sequence.computed + tokens)
            while sequence in self.running and needed - sequence.blocks > self.free_blocks():
                self.preempt_newest()
                preempted = True
            if sequence not in self.running:
                break
            self.hold(sequence, sequence.computed + tokens)
            parts.append((sequence, tokens if sequence.prefilling else 0))
            budget -= tokens
        while not preempted and self.waiting and budget > 0 and self.slot_is_free():
            front = self.waiting[0]
            cached = self.tokens_left_in_cache(front)
            tokens = min(front.length - cached, budget)
            if not self.finds_room(front.length if self.options.reserve_full_prompt else cached + tokens):
                break
            self.running.append(self.waiting.popleft())
            front.prefilling = True
            self.take_back(front, cached)
            self.hold(front, cached + tokens)
            parts.append((front, tokens))
            budget -= tokens
        return parts

    # ---- the end of a step ------------------------------------------------------------------------------

    def end_step(self, parts: list[tuple[Live, int]]) -> None:
        for sequence, tokens in parts:
            if tokens:
                sequence.computed += tokens
                self.computed_tokens += tokens
                if sequence.computed < sequence.length:
                    continue
                sequence.prefilling = False
            else:
                sequence.computed += 1
            sequence.generated += 1
            sequence.tokens.append(self.now)
            self.emitted += 1
            if sequence.generated == sequence.output:
                sequence.status = COMPLETED
                self.running.remove(sequence)
                self.lingering.append(sequence)
                self.ended.append(sequence)
                self.release_next()
        assert not any(s.prefilling for s in self.running[:-1]), "only the newest can be half prefilled"

    # ---- checks -----------------------------------------------------------------------------------------

    def check_state(self) -> None:
        """Assert what holds between any two events."""
        ids = [s.index for s in (*self.waiting, *self.running, *self.ended)]
        ids += [i for _, i in self.future] + list(self.unreleased)
        assert sorted(ids) == list(range(len(self.all))), "I1: a request is lost or in two states"
        assert len(self.running) + len(self.lingering) <= self.options.max_num_seqs, "I5: too many running"
        order = [s.index for s in self.running] + [s.index for s in self.waiting]
        assert order == sorted(order), "I6: not first come, first served"
        used = sum(s.blocks for s in (*self.running, *self.lingering))
        gone = [s for s in self.ended if s not in self.lingering]
        assert all(s.blocks == 0 for s in (*self.waiting, *gone)), "I4: a block held by nobody running"
        assert self.options.kv_blocks is None or used <= self.options.kv_blocks, "I4"
        for s in self.running:
            assert s.blocks * self.options.block_size >= s.computed, "I4: tokens outside the blocks held"
        self.peak_blocks = max(self.peak_blocks, used)

    def check_end(self) -> None:
        """Assert what holds of a finished run, from the log alone (I12)."""
        assert not any((self.waiting, self.running, self.future, self.unreleased))
        done = [s for s in self.all if s.status == COMPLETED]
        assert len(done) + sum(s.status == REJECTED for s in self.all) == len(self.all), "I1"
        older_tokens = 0
        previous_start = -1
        for s in done:
            assert len(s.tokens) == s.output, "I10: tokens lost"
            assert s.tokens == sorted(s.tokens), "I2"
            assert s.arrival <= s.scheduled <= s.tokens[0] <= s.tokens[-1], "I2"
            assert s.scheduled >= previous_start, "I6: overtaken"
            assert s.preemptions <= older_tokens, "I8: more preemptions than tokens of older requests"
            previous_start = s.scheduled
            older_tokens += s.output
        assert self.area == sum(s.tokens[-1] - s.arrival for s in done), "I9: Little's law"
        assert self.emitted == sum(s.output for s in done), "I3"
        assert sum(step.prefill_tokens for step in self.steps) == self.computed_tokens, "I12"
        if self.options.policy == "decode_only":
            assert sum(step.batch_size for step in self.steps) == self.emitted, "I3"
        else:
            # Every prefill that ran to its end emitted a token; the first by the prompt, others by recompute.
            prompts = sum(s.prompt for s in done)
            assert self.computed_tokens >= prompts, "I10"
            assert self.computed_tokens == prompts or any(s.preemptions for s in done), "I10"
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            assert before.start_ns + before.duration_ns <= after.start_ns, "I2: steps overlap"

    def outcome(self) -> Outcome:
        return Outcome(
            arrival_ns=[s.arrival for s in self.all],
            scheduled_ns=[s.scheduled for s in self.all],
            first_token_ns=[s.tokens[0] if s.tokens else -1 for s in self.all],
            finish_ns=[s.tokens[-1] if s.status == COMPLETED else -1 for s in self.all],
            preemptions=[s.preemptions for s in self.all],
            status=[s.status for s in self.all],
            token_ns=[s.tokens for s in self.all],
            steps=self.steps,
            peak_blocks=self.peak_blocks,
        )


def reference_run(
    arrival_ns: Sequence[int],
    prompt_tokens: Sequence[int],
    output_tokens: Sequence[int],
    options: Options,
    duration: Callable[[StepPlan], int],
    pool: GraphPool | None = None,
) -> Outcome:
    """Run the reference simulator on one workload."""
    return ReferenceSimulator(arrival_ns, prompt_tokens, output_tokens, options, duration, pool).run()
