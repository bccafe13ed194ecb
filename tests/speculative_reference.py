"""The reference simulator with speculative decoding: requests advance by 1 + accepted tokens per step.

Written for tests alone, as `reference_simulator.py` is: every step visits every request, all that a
scheduler may know of tokens in flight is worked out anew from `Drafting.in_flight`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from reference_simulator import COMPLETED, Flight, Live, ReferenceSimulator

from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan


@dataclass(eq=False)
class Drafting(Live):
    """A request; `in_flight` holds what each decode step yields for it whose tokens were not handed over."""

    in_flight: list[int] = field(default_factory=list)
    __eq__, __hash__ = object.__eq__, object.__hash__


class SpeculativeReference(ReferenceSimulator):
    """See the module; `draft(plan)` gives (GPU, launch) in ns."""

    def __init__(
        self,
        *arguments,
        draft_tokens: int,
        lookahead: int,
        accepted: Callable[[int, int], int],
        draft: Callable[[StepPlan], tuple[int, int]],
        **keywords,
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.width = 1 + draft_tokens
        self.lookahead = lookahead
        self.accepted = accepted
        self.draft = draft
        self.all = [Drafting(s.index, s.prompt, s.output) for s in self.all]
        self.yields: dict[int, list[tuple[Drafting, int]]] = {}  # of each flight

    # KV blocks.

    def can_ever_fit(self, sequence: Live) -> bool:
        total = sequence.prompt + sequence.output
        if self.options.max_model_len and total > self.options.max_model_len:
            return False
        peak = total + 2 * (self.width - 1) + self.lookahead + (self.options.policy == "decode_only")
        return self.options.kv_blocks is None or self.blocks_of(peak) <= self.options.kv_blocks

    def slots_for_a_step(self, s: Drafting) -> int:
        """All that is in flight counts as accepted; then a step of its own, and what the drafter writes."""
        seen = s.computed - sum(s.in_flight)
        return seen + self.width * (len(s.in_flight) + 1) + self.lookahead

    def give_back(self, sequence: Live) -> None:
        done, sequence.computed = sequence.computed, sequence.computed - sum(sequence.in_flight)
        flights, self.flights = self.flights, []
        super().give_back(sequence)
        self.flights, sequence.computed = flights, done

    def make_room_for_decodes(self) -> bool:
        preempted = False
        for s in list(self.running):
            while (
                s in self.running and self.blocks_of(self.slots_for_a_step(s)) - s.blocks > self.free_blocks()
            ):
                self.preempt_newest()
                preempted = True
            if s not in self.running:
                break
            self.hold(s, self.slots_for_a_step(s))
        return preempted

    # Decisions.

    def decide(self):
        if self.options.async_scheduling:
            self.leave_out_whoever_surely_ends()
        admitted_before = self.admissions
        parts = {
            "decode_only": self.decide_decode_only,
            "prefill_first": self.decide_prefill_first,
            "mixed": self.decide_mixed,
        }[self.options.policy]()
        self.check_state()
        if not parts:
            return None, []
        chunks = tuple(
            PrefillChunk(s.index, tokens, s.computed, s.computed + tokens == s.length)
            for s, tokens in parts
            if tokens
        )
        decoding = [s for s, tokens in parts if not tokens]
        batch, new = len(decoding), self.admissions - admitted_before
        kv_tokens, drafts = sum(s.computed for s in decoding), batch * (self.width - 1)
        if not chunks:
            capture = self.smallest_graph(batch * self.width)
            pieces = capture is not None and self.pool.piecewise
            pieces = pieces and (not self.pool.full or capture > self.options.max_num_seqs * self.width)
            return StepPlan(StepKind.DECODE, batch, capture, kv_tokens, (), new, pieces, drafts), parts
        kind = StepKind.MIXED if batch else StepKind.PREFILL
        total = batch * self.width + sum(chunk.tokens for chunk in chunks)
        capture = self.smallest_graph(total) if self.pool.piecewise else None
        return StepPlan(kind, batch, capture, kv_tokens, chunks, new, capture is not None, drafts), parts

    def leave_out_whoever_surely_ends(self) -> None:
        for s in list(self.running):
            limit = s.output if self.max_tokens is None else self.max_tokens[s.index]
            if not s.prefilling and s.generated - sum(s.in_flight) + len(s.in_flight) >= limit:
                self.running.remove(s)
                self.lingering.append(s)

    def decide_decode_only(self):
        preempted = self.make_room_for_decodes()
        while not preempted and self.waiting and self.slot_is_free():
            front = self.waiting[0]
            if not self.finds_room(front.length + self.width + self.lookahead):
                break
            self.admit()
            front.computed = front.length
            self.hold(front, front.length + self.width + self.lookahead)
        return [(s, 0) for s in self.running]

    def decide_prefill_first(self):
        budget = self.options.max_prefill_tokens
        parts = []
        for s in self.running:
            if s.prefilling:
                parts.append((s, min(s.length - s.computed, budget)))
                budget -= parts[-1][1]
        while self.waiting and budget > 0 and self.slot_is_free():
            front = self.waiting[0]
            if not self.finds_room(front.length + self.lookahead):
                break
            self.admit()
            front.prefilling = True
            self.take_back(front, self.tokens_left_in_cache(front))
            self.hold(front, front.length + self.lookahead)
            parts.append((front, min(front.length - front.computed, budget)))
            budget -= parts[-1][1]
        if parts:
            return parts
        self.make_room_for_decodes()
        return [(s, 0) for s in self.running]

    def decide_mixed(self):
        budget = self.options.max_num_batched_tokens
        parts = []
        preempted = False
        for s in list(self.running):
            if s not in self.running:
                break
            if s.prefilling and not budget:
                continue  # the decodes of this step take the whole budget
            tokens = min(s.length - s.computed, budget) if s.prefilling else self.width
            assert 1 <= tokens <= budget, "the budget holds every running request"
            slots = s.computed + tokens + self.lookahead if s.prefilling else self.slots_for_a_step(s)
            while s in self.running and self.blocks_of(slots) - s.blocks > self.free_blocks():
                self.preempt_newest()
                preempted = True
            if s not in self.running:
                break
            self.hold(s, slots)
            parts.append((s, tokens if s.prefilling else 0))
            budget -= tokens
        while not preempted and self.waiting and budget > 0 and self.slot_is_free():
            front = self.waiting[0]
            cached = self.tokens_left_in_cache(front)
            tokens = min(front.length - cached, budget)
            slots = cached + tokens + self.lookahead
            whole = front.length if self.options.reserve_full_prompt else 0
            if not self.finds_room(max(whole, slots)):
                break
            self.admit()
            front.prefilling = True
            self.take_back(front, cached)
            self.hold(front, slots)
            parts.append((front, tokens))
            budget -= tokens
        return parts

    # Steps.

    def launch(self, plan, rows, launcher_free, gpu_free):
        for s, _ in rows:
            if s.scheduled < 0:
                s.scheduled = self.now
        parts = self.parts(plan, self.now)
        dispatched = self.now + parts.schedule
        launching = max(dispatched, launcher_free)
        launched = launching + parts.launch
        gpu_end = max(gpu_free, launching + parts.gpu_after) + parts.gpu
        if parts.tail >= 0:
            gpu_end = max(gpu_end, launched + parts.tail)
        ready = max(gpu_end, launched)
        draft_gpu, draft_launch = self.draft(plan)
        launched += draft_launch
        gpu_end = max(gpu_end + draft_gpu, launched)
        if not self.options.async_scheduling:
            ready = gpu_end
        flight = Flight(plan, [], self.now, dispatched, launched, gpu_end, parts.update, ready)
        yields = self.yields[id(flight)] = []
        for s, tokens in rows:
            if tokens:
                s.computed += tokens
                self.computed_tokens += tokens
                if s.computed < s.length:
                    continue
                s.prefilling = False
                s.generated += 1
                yields.append((s, 1))
            else:
                flight.decoding.append(s)
                left = s.output - s.generated
                n = min(1 + self.accepted(s.index, s.generated), left) if left > 0 else 0
                s.computed += n
                s.generated += n
                s.in_flight.append(n)
                yields.append((s, n))
            if yields[-1][1] and s.generated == s.output:
                flight.over.append(s)
        flight.rows = [s for s, n in yields if n]
        return flight

    def hand_over(self, flight):
        yields = dict(self.yields.pop(id(flight)))
        for s in flight.decoding:
            assert s.in_flight[0] == yields[s], "steps are handed over in order"
            s.in_flight.pop(0)
        rows = sorted(flight.rows, key=lambda s: s.admitted)
        base, per_row, per_place = self.options.front_out
        first = self.now + base + per_row * len(rows)
        for place, s in enumerate(rows):
            if s.tokens:
                first = max(first, s.tokens[-1] - place * per_place)
        for place, s in enumerate(rows):
            s.tokens += [first + place * per_place] * yields[s]
            s.token_steps += [len(self.steps) - 1] * yields[s]
            self.emitted += yields[s]
            if s not in flight.over:
                continue
            assert len(s.tokens) == s.output, "ended early"
            s.status = COMPLETED
            for place_of_it in (self.running, self.lingering, self.waiting):
                if s in place_of_it:
                    place_of_it.remove(s)
            self.give_back(s)
            self.ended.append(s)
            self.release_next(s.tokens[-1])

    def check_end(self) -> None:
        done = [s for s in self.all if s.status == COMPLETED]
        assert not any(
            (self.waiting, self.running, self.lingering, self.future, self.unreleased, self.yields)
        )
        assert self.emitted == sum(s.output for s in done) == sum(len(s.tokens) for s in done)
        for s in done:
            assert s.arrival <= s.scheduled <= s.tokens[0]
            assert s.tokens == sorted(s.tokens)
