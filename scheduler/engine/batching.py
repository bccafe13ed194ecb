"""The waiting queue, the running batch, and what every step policy does with them.

A policy learns that a request has stopped; it never reads how long the answer will be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from scheduler.catalog.dispatch.table import Route
from scheduler.engine.executor import Admission, SlotWatcher, StepKind, StepPlan, new_plan
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.kv_cache import NOTHING, Found, KVCache
from scheduler.engine.request import Drafted, Running


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a step, as in the workload file's `engine` section."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_prefill_tokens: int = 2048
    reserve_full_prompt: bool = False
    watermark_blocks: int = 0  # kept free at admissions while anything else runs (vLLM)
    long_prefill_token_threshold: int = 0  # most of one prompt in a step beside others; 0: no such limit
    prefill_schedule_interval: int = 1  # steps from one with prompts to the next (vLLM)


DECODE: Final = StepKind.DECODE  # looked up once per step
_NO_GRAPH: tuple[int | None, bool] = (None, False)


def _looked_up(route: Route) -> tuple[int | None, bool]:
    return _NO_GRAPH if route.kind == "NONE" else (route.tokens, route.kind == "PIECEWISE")


class Batching:
    """The waiting queue, the running batch and what a policy may do with them.

    Decoding requests are kept as sums: their number, their KV tokens, and how many of them cross a
    block border at each phase of the step count. `decode_steps` counts steps in which they advanced.
    """

    # Read and written all the time: in slots, for CPython looks up more than 30 attributes in a dict slowly.
    __slots__ = (
        "_admissions",
        "_border",
        "_decode_routes",
        "_has_hits",
        "_may_find",
        "_mixed_routes",
        "_slots",
        "arrivals_matter",
        "asked_tokens",
        "block_size",
        "cached_tokens",
        "decode_steps",
        "decoding",
        "draft_tokens",
        "drafts",
        "generated",
        "hit_tokens",
        "joined",
        "kv_cache",
        "kv_tokens",
        "limits",
        "lookahead_tokens",
        "on_preempt",
        "pool",
        "preempted",
        "prompt_tokens",
        "results_lag",
        "running",
        "tokens_in_flight",
        "unfinished",
        "unseen_tokens",
        "waiting",
        "watcher",
    )

    cached_after_prefill = 1  # tokens a resumed answer's newest token is ahead of the KV cache

    def __init__(
        self,
        limits: Limits,
        pool: GraphPool,
        kv_cache: KVCache,
        watcher: SlotWatcher | None,
        prompt_tokens: Sequence[int],
        cached_tokens: Sequence[int] | None,
    ) -> None:
        self.drafts = False  # see `draft`
        self.draft_tokens = self.lookahead_tokens = 0
        self.limits = limits
        self.pool = pool
        self.kv_cache = kv_cache
        self.watcher = watcher
        self.block_size = kv_cache.block_size
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = cached_tokens
        self.waiting: deque[int] = deque()
        self.running: dict[int, Running] = {}
        self.unfinished: list[Running] = []  # prompts computed in part, in the order of the batch
        self.decoding = 0
        self.decode_steps = 0
        self.kv_tokens = 0
        self.generated: dict[int, int] = {}  # answers of preempted requests so far
        # Is told who gave way; of one still in the batch, which has ended, only blocks were taken.
        self.on_preempt: Callable[[Running], None] = lambda request: None
        # How many of a request's tokens a decode step in flight computes.
        self.tokens_in_flight: Callable[[Running], int] = lambda request: 0
        # How many of its tokens the scheduler has not seen yet, a prompt's first among them.
        self.unseen_tokens: Callable[[Running], int] = lambda request: 0
        self.results_lag = 1  # decisions from that of a step to the first that knows its results
        self.joined: list[Running] = []  # admitted in this decision
        self.preempted = False  # whether this decision preempted anyone
        self.arrivals_matter = False  # even where they cannot join at once
        # Prompt tokens of requests when they were first admitted, and how many of them were cached.
        self.asked_tokens = self.hit_tokens = 0
        self._has_hits = cached_tokens is not None or kv_cache.knows_contents
        self._may_find = self._has_hits or kv_cache.remembers
        self._admissions = 0
        self._border = [0] * self.block_size
        self._slots = list(range(limits.max_num_seqs - 1, -1, -1))
        table = pool.table(limits.max_num_seqs, self.token_budget(limits))
        # (graph or None, whether it is a PIECEWISE one), by decoding requests and by tokens with prompts
        self._decode_routes = [_NO_GRAPH, *(_looked_up(route) for route in table.decode)]
        self._mixed_routes = [_NO_GRAPH, *(_looked_up(route) for route in table.mixed)]
        self.begin()

    def begin(self) -> None:
        """Set what a policy keeps beside the queue and the batch, with the rest set already."""

    def draft(self, tokens: int, lookahead_tokens: int) -> None:
        """Let each decoding request verify so many drafted `tokens` a step and advance by its own number.

        `lookahead_tokens` are the KV slots that the drafter writes ahead. Before the first decision.
        """
        self.drafts = True
        self.draft_tokens, self.lookahead_tokens = tokens, lookahead_tokens

    def decide(self) -> StepPlan | None:
        """Return the next step, or None where nothing can run."""
        raise NotImplementedError

    def token_budget(self, limits: Limits) -> int:
        """Return the most tokens that a step with prompts computes."""
        return limits.max_num_batched_tokens

    def peak_tokens(self, prompt_tokens: int, output_tokens: int) -> int:
        """Return the most KV tokens a request holds: all but the last token, which is never read.

        Where it drafts: is given room for, drafts in flight and look-ahead included.
        """
        return prompt_tokens + max(output_tokens - 1, 0) + self._drafts_ahead()

    def _drafts_ahead(self) -> int:
        # Two steps may be in flight, each computing draft tokens beyond the one that is certain.
        return 2 * self.draft_tokens + self.lookahead_tokens + 1 if self.drafts else 0

    def arrival_could_join(self) -> bool:
        """Return whether the next arrival may join at the next decision: nobody waits, a slot is free."""
        return self.arrivals_matter or (not self.waiting and len(self.running) < self.limits.max_num_seqs)

    # What happens to one request.

    def join_decoding(self, request: Running, cached: int) -> None:
        """Let a request with `cached` tokens in the KV cache decode from the next decode step on."""
        request.is_decoding = True
        self.decoding += 1
        self.kv_tokens += cached
        if self.drafts:
            request.cached = cached
            return
        request.origin = origin = cached - self.decode_steps
        self._border[-origin % self.block_size] += 1

    def stop(self, request: Running) -> None:
        """Let a running request take no further part in steps; it keeps slot and blocks until it leaves."""
        if request.is_decoding:
            if not self.drafts:
                origin, size = request.origin, self.block_size
                request.cached = cached = origin + self.decode_steps
                self._border[-origin % size] -= 1
                request.blocks = -(-cached // size)
            self.decoding -= 1
            self.kv_tokens -= request.cached
        request.has_stopped = True
        if self.watcher is not None:
            self.watcher.release(request.slot)

    def leave(self, request: Running, tokens_in_flight: int = 0, returns: bool = False) -> None:
        """Take a stopped request out of the batch and give its slot and blocks back.

        The block that `tokens_in_flight`, its newest tokens, will fill has no hash yet (vLLM's cache_blocks).
        """
        del self.running[request.index]
        if request.blocks:
            self.kv_cache.release(request.blocks, request.cached - tokens_in_flight, request.index, returns)
        self._slots.append(request.slot)

    def forget(self, request: Running) -> None:
        """Drop a preempted request from the queue: the token that was in flight turned out to be its last."""
        self.waiting.remove(request.index)
        del self.generated[request.index]

    def generated_by(self, request: Running) -> int:
        """Return how many tokens a running request has produced so far."""
        if self.drafts or not request.is_decoding:
            return request.generated
        return request.origin + self.decode_steps - request.prompt_tokens + self.cached_after_prefill

    def step_of_token(self, request: Running, number: int) -> int:
        """Return the decode step in which a decoding request's token of a number comes, 1 being the first."""
        return number - request.origin + request.prompt_tokens - self.cached_after_prefill

    # What the policies share.

    def _find(self, index: int, target: int) -> Found:
        """Return what a waiting request finds in the cache of its first `target` tokens."""
        recorded = 0  # the hit that a trace tells of; the last prompt token is always computed
        if self.cached_tokens is not None:
            recorded = min(self.cached_tokens[index], self.prompt_tokens[index] - 1)
        return self.kv_cache.find(index, target, recorded)

    def _may_admit(self, blocks: int) -> bool:
        """Return whether a waiting request that needs `blocks` finds them, above the watermark."""
        kept_free = self.limits.watermark_blocks if self.running else 0
        return blocks + kept_free <= self.kv_cache.free

    def _admit(self, index: int, found: Found, blocks: int) -> Running:
        """Give a waiting request a slot, what was `found` for it and new blocks, `blocks` in all."""
        self._admissions = admission = self._admissions + 1
        prompt_tokens = self.prompt_tokens[index]
        if self._has_hits and index not in self.generated:
            self.asked_tokens += prompt_tokens
            self.hit_tokens += found.tokens
        generated = self.generated.pop(index, 0) if self.generated else 0
        slot = self._slots.pop()
        kind = Drafted if self.drafts else Running
        request = kind(index, slot, prompt_tokens, generated, admission)
        request.blocks = blocks
        if found is not NOTHING:
            request.cached = found.tokens
        if self._has_hits or found.blocks:
            self.kv_cache.take(index, found)
        self.kv_cache.allocate(blocks - found.blocks)
        self.running[index] = request
        self.joined.append(request)
        if self.watcher is not None:
            self.watcher.admit(slot, Admission(index, prompt_tokens, generated))
        return request

    def _preempt_newest(self) -> None:
        newest_first = reversed(self.running.values())
        request = next(other for other in newest_first if other.blocks or not other.has_stopped)
        self.preempted = True
        tokens_in_flight = self.tokens_in_flight(request)
        if request.has_stopped:
            # An asynchronous scheduler does not know yet that it has ended and takes its blocks too.
            self.kv_cache.release(request.blocks, request.cached - tokens_in_flight, request.index, False)
            request.blocks = 0
            self.on_preempt(request)
            return
        self.generated[request.index] = self.generated_by(request)
        self.stop(request)
        self.leave(request, tokens_in_flight, returns=True)
        if request in self.unfinished:
            self.unfinished.remove(request)
        self.waiting.appendleft(request.index)
        self.on_preempt(request)

    def _begin_decision(self) -> None:
        self.joined.clear()
        self.preempted = False

    def _grow_decoding(self) -> None:
        """Give each decoding request the block its next token needs, preempting the newest for room."""
        if self.drafts:
            return self._grow_drafting()
        phase = self.decode_steps % self.block_size
        needed = self._border[phase]
        if needed > self.kv_cache.free:
            needed = self._preempt_for(phase)
        if needed:
            self.kv_cache.allocate(needed)
        return None

    def _grow_drafting(self) -> None:
        """Give each decoding request the blocks of its next tokens, in the order of the batch."""
        for row in self.drafting_requests():
            tokens = row.cached_if_accepted(self.draft_tokens) + self.lookahead_tokens
            if tokens > row.blocks * self.block_size and not self._make_room_to_verify(row):
                return  # and everyone newer has given way before it

    def _preempt_for(self, phase: int) -> int:
        """Preempt until those left find a block each at their border; return how many they still lack."""
        taken = 0
        while self._border[phase] - taken > self.kv_cache.free:
            # Those before have taken all that was free, cached blocks too, before somebody gives way.
            taken += self.kv_cache.free
            self.kv_cache.allocate(self.kv_cache.free)
            self._preempt_newest()
        return max(self._border[phase] - taken, 0)

    def _make_room(self, request: Running, blocks: int) -> bool:
        """Take blocks for a running request, preempting the newest for room; False where that is itself."""
        while blocks > self.kv_cache.free:
            self._preempt_newest()
            if self.running.get(request.index) is not request:
                return False
        self.kv_cache.allocate(blocks)
        return True

    def _make_room_to_decode(self, request: Running) -> bool:
        """Take what a request's next decode step needs; False where it gave way itself."""
        if self.drafts:
            return self._make_room_to_verify(cast(Drafted, request))
        crosses = (request.origin + self.decode_steps) % self.kv_cache.block_size == 0
        return not crosses or self._make_room(request, 1)

    def _make_room_to_verify(self, request: Drafted) -> bool:
        """Take the blocks of the next step's tokens as if all in flight were accepted."""
        if self.running.get(request.index) is not request:
            return False
        tokens = request.cached_if_accepted(self.draft_tokens) + self.lookahead_tokens
        blocks = max(self.kv_cache.blocks(tokens) - request.blocks, 0)
        if not self._make_room(request, blocks):
            return False
        request.blocks += blocks
        return True

    def steps_ahead(self, most_steps: int, decided: int = 1) -> int:
        """Return how many decode steps like the one just decided find free blocks and let nobody in.

        Up to `most_steps`, and as long as no arrival can join (`arrival_could_join`). So many of them are
        `decided`: the newest one, which has its blocks, or none.
        """
        kv_cache = self.kv_cache
        if self.waiting and (self.preempted or kv_cache.remembers or self.arrivals_matter):
            return decided  # admission was not tried, or what a waiting request needs may change
        if self.unfinished:
            return decided  # prompts are held, for a number of steps
        free, size = kv_cache.free, self.block_size
        if self.decoding * (most_steps // size + 1) <= free:
            return most_steps
        for step in range(decided, most_steps):
            free -= self._border[(self.decode_steps + step) % size]
            if free < 0:
                return step
        return most_steps

    def advance(self, steps: int) -> None:
        """Count `steps` decode steps as done; blocks for all but the first are taken here."""
        done = self.decode_steps
        if steps > 1:
            rounds, rest = divmod(steps - 1, self.block_size)
            border = self._border
            begin = (done + 1) % self.block_size
            # The phases of the rest, which may go on at the front of the list.
            end, wrapped = begin + rest, begin + rest - self.block_size
            blocks = sum(border[begin:end])
            if wrapped > 0:
                blocks += sum(border[:wrapped])
            if rounds:
                blocks += rounds * self.decoding
            if blocks:
                self.kv_cache.allocate(blocks)
        self.decode_steps = done + steps
        self.kv_tokens += self.decoding * steps

    @property
    def next_kv_blocks(self) -> int:
        """Blocks in use once each decoding request has that of its next token."""
        return self.kv_cache.used + self._border[self.decode_steps % self.block_size]

    def decode_on(self, steps: int) -> None:
        """Decide `steps` more decode steps like the newest one, see `steps_ahead`, and count them as done."""
        self.kv_cache.allocate(self._border[self.decode_steps % self.block_size])
        self.advance(steps)

    # Where it drafts.

    def drafting_requests(self) -> list[Drafted]:
        """Return the requests that decode in the next step, in the order of the batch."""
        running = self.running.values()
        return [cast(Drafted, row) for row in running if row.is_decoding and not row.has_stopped]

    def extend(self, request: Drafted, tokens: int) -> None:
        """Count the tokens that a decode step just launched yields for a request."""
        request.cached += tokens
        request.generated += tokens
        request.unseen += tokens
        request.computing += 1
        self.kv_tokens += tokens

    def _mixed_route(self, tokens: int) -> tuple[int | None, bool]:
        """Return the graph of a step of `tokens` tokens with prompts, and whether it is a PIECEWISE one."""
        return self._mixed_routes[tokens] if tokens < len(self._mixed_routes) else _NO_GRAPH

    def _decode_step(self) -> StepPlan:
        decoding = self.decoding
        size, piecewise = self._decode_routes[decoding]
        drafts = decoding * self.draft_tokens
        return new_plan(
            StepPlan, (DECODE, decoding, size, self.kv_tokens, (), len(self.joined), piecewise, drafts)
        )
