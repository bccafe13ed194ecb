"""A second decode loop, written for tests alone: slow, plain, and independent of scheduler/engine/loop.py.

Every step visits every running request and every decision starts from nothing, so that the code reads as
the rules of docs/design.md do. It shares only the plan (`StepPlan`) and the router (`GraphPool`) with the
program, and checks the invariants of a run while it runs (I1-I12, named at each assertion). Host and GPU are
told apart by the recurrence of scheduler/engine/pipeline.py, written out once more.
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
    unhashed_first: bool = True
    async_scheduling: bool = False
    start_ns: int = 0
    round_trip_ns: int | None = None
    empty_pause_ns: int = 0
    topology: str = "uniproc"
    front_in: tuple[int, int] = (0, 0)  # ns, ns per prompt token
    front_out: tuple[int, int, int] = (0, 0, 0)  # ns, ns per row, ns per place of a row


class Parts(NamedTuple):
    """What a step asks of host and GPU; a whole duration is GPU work alone."""

    schedule: int = 0
    launch: int = 0
    gpu_after: int = 0
    gpu: int = 0
    tail: int = -1
    update: int = 0


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
    token_steps: list[list[int]]
    steps: list[Step]
    peak_blocks: int


@dataclass
class Live:
    """One request's state. `output` is read in exactly one place, where a token has been computed (I11)."""

    index: int
    prompt: int
    output: int
    arrival: int = -1
    scheduled: int = -1
    admitted: int = 0
    generated: int = 0
    computed: int = 0
    prefilling: bool = False
    blocks: int = 0
    preemptions: int = 0
    status: int = UNFINISHED
    tokens: list[int] = field(default_factory=list)
    token_steps: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Prompt and generated tokens: what a prefill has to compute."""
        return self.prompt + self.generated


@dataclass
class Flight:
    """A step that was decided and whose tokens were not yet handed over; see engine/pipeline.py."""

    plan: StepPlan
    rows: list[Live]
    decided: int
    dispatched: int
    launched: int
    gpu_end: int
    update: int
    ready: int = 0  # its tokens are there no earlier
    over: list[Live] = field(default_factory=list)  # end with this step's token
    decoding: list[Live] = field(default_factory=list)


class ReferenceSimulator:
    """Runs one workload to the end: `ReferenceSimulator(...).run()`."""

    def __init__(
        self,
        arrival_ns: Sequence[int],
        prompt_tokens: Sequence[int],
        output_tokens: Sequence[int],
        options: Options,
        parts: Callable[[StepPlan, int], Parts],
        pool: GraphPool | None = None,
        max_tokens: Sequence[int] | None = None,
    ) -> None:
        self.options = options
        self.parts = parts
        self.max_tokens = max_tokens
        self.pool = pool or GraphPool()
        lengths = zip(prompt_tokens, output_tokens, strict=True)
        self.all = [Live(i, int(p), int(n)) for i, (p, n) in enumerate(lengths)]
        first = len(self.all) if options.concurrency is None else options.concurrency
        # Seen by the scheduler at, whether after the decision of that instant, request, arrived at.
        self.future: list[tuple[int, bool, int, int]] = []
        for index, time in list(enumerate(arrival_ns))[:first]:
            self.send(index, int(time))
        self.unreleased = deque(range(first, len(self.all)))
        self.waiting: deque[Live] = deque()
        self.running: list[Live] = []
        self.ended: list[Live] = []
        self.lingering: list[Live] = []  # will end, foreseen; with slot and blocks until it is handed over
        self.flights: list[Flight] = []  # decided, not yet handed over
        # Free blocks, the next to be taken first; (request, place) where a preempted request's tokens remain.
        self.free_list: deque[tuple[int, int] | None] = deque([None] * (options.kv_blocks or 0))
        self.now = 0
        self.peak_blocks = 0
        self.steps: list[Step] = []
        self.order_seen: list[int] = []  # requests as the scheduler saw them: first come, first served
        self.admissions = 0
        # Whether an end that nobody foresaw may cost a decode more.
        self.overshoots = int(options.async_scheduling and max_tokens is not None)
        self.emitted = 0
        self.computed_tokens = 0

    # ---- time -------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Decide whenever the host may; hand over when host and GPU are done; until nothing is left."""
        depth = 2 if self.options.async_scheduling else 1
        self.advance(self.options.start_ns)
        idle = False
        busy_since = None
        launcher_free = gpu_free = 0
        while True:
            self.arrive(idle)
            plan, rows = self.decide()
            if plan is None and not self.flights:
                assert not self.waiting, "I7: idle while a request waits"
                assert not [*self.running, *self.lingering], "I7: idle while a request runs"
                if not self.future:
                    break
                self.advance(max(self.now, min(self.future)[0]))
                idle, busy_since = True, None
                continue
            idle = False
            host_free = self.now
            if plan is not None:
                flight = self.launch(plan, rows, launcher_free, gpu_free)
                launcher_free, gpu_free = flight.launched, flight.gpu_end
                self.flights.append(flight)
                busy_since = flight.decided if busy_since is None else busy_since
                host_free = flight.launched if self.options.topology == "uniproc" else flight.dispatched
            if plan is not None and len(self.flights) < depth:
                self.advance(host_free)
                continue
            oldest = self.flights.pop(0)
            self.advance(max(oldest.ready, host_free))
            assert busy_since is not None
            p = oldest.plan
            self.steps.append(
                Step(
                    busy_since, self.now - busy_since, p.kind, p.batch_size, p.capture_size or 0,
                    p.kv_tokens, p.prefill_tokens,
                )
            )  # fmt: skip
            self.hand_over(oldest)
            busy_since = self.now
            pause = 0
            if plan is None:
                busy_since = None
                if self.options.async_scheduling and (self.running or self.waiting or oldest.over):
                    pause = self.options.empty_pause_ns
            self.advance(self.now + oldest.update + pause)
        self.check_end()
        return self.outcome()

    def launch(
        self, plan: StepPlan, rows: list[tuple[Live, int]], launcher_free: int, gpu_free: int
    ) -> Flight:
        """Give a step its times, and count its tokens as computed."""
        for sequence, _ in rows:
            if sequence.scheduled < 0:
                sequence.scheduled = self.now
        parts = self.parts(plan, self.now)
        assert min(parts[:4]) >= 0, parts
        dispatched = self.now + parts.schedule
        launching = max(dispatched, launcher_free)
        launched = launching + parts.launch
        gpu_end = max(gpu_free, launching + parts.gpu_after) + parts.gpu
        if parts.tail >= 0:
            gpu_end = max(gpu_end, launched + parts.tail)
        ready = max(gpu_end, launched)
        flight = Flight(plan, [], self.now, dispatched, launched, gpu_end, parts.update, ready)
        for sequence, tokens in rows:
            sequence.computed += tokens or 1
            if tokens:
                self.computed_tokens += tokens
                if sequence.computed < sequence.length:
                    continue
                sequence.prefilling = False
            else:
                flight.decoding.append(sequence)
            sequence.generated += 1
            flight.rows.append(sequence)
            if sequence.generated == sequence.output:
                flight.over.append(sequence)
                if (
                    self.max_tokens is None
                    or sequence.output >= self.max_tokens[sequence.index]
                    or (not self.options.async_scheduling)
                ):
                    self.running.remove(sequence)
                    self.lingering.append(sequence)
        assert not any(s.prefilling for s in self.running[:-1]), "only the newest can be half prefilled"
        return flight

    def advance(self, to: int) -> None:
        """Move the clock."""
        assert to >= self.now, "I2: the clock fell"
        self.now = to

    def send(self, index: int, time: int, answered: int | None = None) -> None:
        """Let a client send a request, perhaps because another was answered."""
        base, per_token = self.options.front_in
        seen = time + base + per_token * self.all[index].prompt
        self.future.append((seen, seen == answered, index, time))

    def arrive(self, idle: bool) -> None:
        """Take in everything that can be seen by now; refuse what can never fit."""
        while self.future:
            seen, late, index, time = min(self.future)
            if seen > self.now or (late and seen == self.now and not idle):
                return
            self.future.remove((seen, late, index, time))
            sequence = self.all[index]
            sequence.arrival = time
            self.order_seen.append(index)
            if self.can_ever_fit(sequence):
                self.waiting.append(sequence)
            else:
                sequence.status = REJECTED
                self.ended.append(sequence)
                self.release_next(seen)

    def release_next(self, at: int) -> None:
        """Closed loop: whoever leaves lets the next index arrive, a round trip later."""
        if self.unreleased:
            trip = self.options.round_trip_ns
            self.send(self.unreleased.popleft(), at + (trip or 0), None if trip is None else at)

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

    def give_back(self, sequence: Live) -> None:
        """Free all blocks, the last first; the full ones can be found again as long as nobody takes them.

        What a step in flight computes fills no block yet.
        """
        if self.options.kv_blocks is not None:
            done = sequence.computed - sum(sequence in flight.decoding for flight in self.flights)
            full_blocks = done // self.options.block_size
            unhashed = [None for place in range(sequence.blocks) if place >= full_blocks]
            if self.options.unhashed_first:
                self.free_list.extendleft(unhashed)
            else:
                self.free_list.extend(unhashed)
            for place in reversed(range(min(full_blocks, sequence.blocks))):
                self.free_list.append((sequence.index, place) if self.options.prefix_caching else None)
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
        newest = max((s for s in self.lingering if s.blocks), key=lambda s: s.admitted, default=None)
        if newest and not (self.running and self.running[-1].admitted > newest.admitted):
            self.give_back(newest)  # an asynchronous scheduler does not know yet that it has ended
            return
        victim = self.running.pop()
        self.give_back(victim)
        victim.computed = 0
        victim.prefilling = False
        victim.preemptions += 1
        self.waiting.appendleft(victim)

    # ---- decisions --------------------------------------------------------------------------------------

    def decide(self) -> tuple[StepPlan | None, list[tuple[Live, int]]]:
        """Return the next step (or None) and (request, prefill tokens or 0 for a decode) of its parts."""
        admitted_before = self.admissions
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
        batch, new = len(decoding), self.admissions - admitted_before
        kv_tokens = sum(s.computed for s in decoding)
        if not chunks:
            capture = self.smallest_graph(batch)
            pieces = capture is not None and self.pool.piecewise
            pieces = pieces and (not self.pool.full or capture > self.options.max_num_seqs)
            return StepPlan(StepKind.DECODE, batch, capture, kv_tokens, (), new, pieces), parts
        kind = StepKind.MIXED if batch else StepKind.PREFILL
        total = batch + sum(chunk.tokens for chunk in chunks)
        capture = self.smallest_graph(total) if self.pool.piecewise else None
        return StepPlan(kind, batch, capture, kv_tokens, chunks, new, capture is not None), parts

    def smallest_graph(self, rows: int) -> int | None:
        """Return the smallest captured size that holds the rows; without padding only their own."""
        holding = [size for size in self.pool.sizes if size >= rows]
        if not holding or holding[0] in self.pool.failed:
            return None
        return holding[0] if self.pool.padding or holding[0] == rows else None

    def admit(self) -> None:
        """Let the oldest waiting request run, as the newest of the batch."""
        self.running.append(self.waiting.popleft())
        self.admissions += 1
        self.running[-1].admitted = self.admissions

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
            self.admit()
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
            self.admit()
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
            self.admit()
            front.prefilling = True
            self.take_back(front, cached)
            self.hold(front, cached + tokens)
            parts.append((front, tokens))
            budget -= tokens
        return parts

    # ---- the end of a step ------------------------------------------------------------------------------

    def hand_over(self, flight: Flight) -> None:
        """Give each row its token, and take leave of the answers that end."""
        rows = [sequence for sequence in flight.rows if sequence.status != COMPLETED]
        rows.sort(key=lambda sequence: sequence.admitted)
        base, per_row, per_place = self.options.front_out
        first = self.now + base + per_row * len(rows)
        for place, sequence in enumerate(rows):
            if sequence.tokens:
                first = max(first, sequence.tokens[-1] - place * per_place)
        for place, sequence in enumerate(rows):
            sequence.tokens.append(first + place * per_place)
            self.emitted += 1
            sequence.token_steps.append(len(self.steps) - 1)
            if sequence not in flight.over:
                continue
            assert len(sequence.tokens) == sequence.output, "I10: ended early"
            sequence.status = COMPLETED
            for place_of_it in (self.running, self.lingering, self.waiting):
                if sequence in place_of_it:
                    place_of_it.remove(sequence)
            self.give_back(sequence)
            self.ended.append(sequence)
            self.release_next(sequence.tokens[-1])

    # ---- checks -----------------------------------------------------------------------------------------

    def check_state(self) -> None:
        """Assert what holds between any two events."""
        ids = [s.index for s in (*self.waiting, *self.running, *self.lingering, *self.ended)]
        ids += [index for _, _, index, _ in self.future] + list(self.unreleased)
        assert sorted(ids) == list(range(len(self.all))), "I1: a request is lost or in two states"
        assert len(self.running) + len(self.lingering) <= self.options.max_num_seqs, "I5: too many running"
        order = [s.index for s in self.running] + [s.index for s in self.waiting]
        assert order == [index for index in self.order_seen if index in order], (
            "I6: not first come, first served"
        )
        used = sum(s.blocks for s in (*self.running, *self.lingering))
        assert all(s.blocks == 0 for s in (*self.waiting, *self.ended)), "I4: a block held by nobody running"
        assert self.options.kv_blocks is None or used <= self.options.kv_blocks, "I4"
        for s in self.running:
            assert s.blocks * self.options.block_size >= s.computed, "I4: tokens outside the blocks held"
        self.peak_blocks = max(self.peak_blocks, used)

    def check_end(self) -> None:
        """Assert what holds of a finished run, from the log alone (I12)."""
        assert not any((self.waiting, self.running, self.future, self.unreleased))
        done = [self.all[index] for index in self.order_seen if self.all[index].status == COMPLETED]
        assert len(done) + sum(s.status == REJECTED for s in self.all) == len(self.all), "I1"
        older_tokens = 0
        previous_start = -1
        for s in done:
            assert len(s.tokens) == s.output, "I10: tokens lost"
            assert s.tokens == sorted(s.tokens), "I2"
            assert s.arrival <= s.scheduled <= s.tokens[0] <= s.tokens[-1], "I2"
            assert s.scheduled >= previous_start, "I6: overtaken"
            assert s.preemptions <= older_tokens + self.overshoots, (
                "I8: more preemptions than tokens of older requests"
            )
            previous_start = s.scheduled
            older_tokens += s.output + self.overshoots
        assert self.emitted == sum(s.output for s in done), "I3"
        assert sum(step.prefill_tokens for step in self.steps) == self.computed_tokens, "I12"
        if self.options.policy == "decode_only":
            extra = sum(step.batch_size for step in self.steps) - self.emitted
            assert 0 <= extra <= self.overshoots * len(done), "I3"
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
            token_steps=[s.token_steps for s in self.all],
            steps=self.steps,
            peak_blocks=self.peak_blocks,
        )


def reference_run(
    arrival_ns: Sequence[int],
    prompt_tokens: Sequence[int],
    output_tokens: Sequence[int],
    options: Options,
    parts: Callable[[StepPlan, int], Parts],
    pool: GraphPool | None = None,
    max_tokens: Sequence[int] | None = None,
) -> Outcome:
    """Run the reference simulator on one workload."""
    return ReferenceSimulator(
        arrival_ns, prompt_tokens, output_tokens, options, parts, pool, max_tokens
    ).run()
