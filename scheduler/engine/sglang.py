"""SGLang's scheduler: admission by what answers may still need, retraction of the shortest answers.

Rules of 0.5.23: sglang/srt/managers/scheduler.py (get_next_batch_to_run, _get_new_batch_prefill_raw,
update_running_batch), schedule_policy.py (PrefillAdder), schedule_batch.py (retract_decode),
mem_cache/prefill_budget.py and scheduler_components/new_token_ratio_tracker.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from scheduler.engine.batching import Batching, Limits
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.engine.request import Running

MOST_RESERVED = 4096  # SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION
FIRST_RATIO = 0.7  # SGLANG_INIT_NEW_TOKEN_RATIO
LEAST_RATIO = FIRST_RATIO * 0.14  # SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR
DECAY = (FIRST_RATIO - LEAST_RATIO) / 600  # SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS
RETRACT_STEPS = 20  # SGLANG_RETRACT_DECODE_STEPS


class Sglang(Batching):
    """Prompts first, in steps of their own; a request is admitted when its answer is likely to fit, too.

    Admission reserves the longest answer that the candidate may have (up to 4,096 tokens) and
    `new_token_ratio` of what the running ones may still have: 0.7, falling with every decode step to 0.098,
    estimated anew at a retraction; all of it where answers are known to run to their limit (ignore_eos). Once
    the batch is full it stays so until somebody leaves. Where decoding finds no page, those with the fewest
    tokens are sent to the back of the queue, the longest prompt first; their answers are computed again,
    their prompts may be found. A step has at most `max_num_batched_tokens` prompt tokens (the chunk), and
    takes no further prompt once it has `max_prefill_tokens`.
    """

    __slots__ = ("_computed", "batch_is_full", "ends_are_foreseen", "longest", "ratio")

    def begin(self) -> None:
        """See Batching."""
        self.ratio = FIRST_RATIO
        self.batch_is_full = False
        self.ends_are_foreseen = True
        self._computed: deque[list[tuple[Running, int]]] = deque()  # by decision; not yet in the cache

    def answers(self, limits: Sequence[int], foreseen: bool) -> None:
        """Note the longest answer that each request allows, and whether it is known to be that long."""
        page, total = self.kv_cache.block_size, self.kv_cache.total * self.kv_cache.block_size
        self.longest = [
            max(0, min(limit, total - prompt - page - 1))
            for limit, prompt in zip(limits, self.prompt_tokens, strict=True)
        ]
        self.ends_are_foreseen = foreseen

    def token_budget(self, limits: Limits) -> int:
        """Return the most prompt tokens of one step: those of a chunk, which all its prompts share."""
        return limits.max_num_batched_tokens

    def peak_tokens(self, prompt_tokens: int, output_tokens: int) -> int:
        """Return the KV tokens without which a request is never admitted: one page beyond its answer."""
        return prompt_tokens + output_tokens + self.kv_cache.block_size + 1

    def decide(self) -> StepPlan | None:
        """Compute prompts of whoever can join; decode when nobody can."""
        self._begin_decision()
        if self.kv_cache.knows_contents:
            self._cache_results()
        if self.unfinished:
            self.batch_is_full = False
        chunks = self._prompts()
        if chunks:
            tokens = sum(chunk.tokens for chunk in chunks)
            size, piecewise = self._mixed_route(tokens)
            return StepPlan(StepKind.PREFILL, 0, size, 0, tuple(chunks), len(self.joined), piecewise)
        return self._decode()

    def leave(self, request: Running, tokens_in_flight: int = 0, returns: bool = False) -> None:
        """See Batching; a batch that was full is no longer."""
        super().leave(request, tokens_in_flight, returns)
        self.batch_is_full = False

    def arrival_could_join(self) -> bool:
        """Return whether the next arrival may join at the next decision."""
        return not self.batch_is_full and super().arrival_could_join()

    def steps_ahead(self, most_steps: int, decided: int = 1) -> int:
        """See Batching; while somebody may be admitted, what is reserved for others falls step by step."""
        if self.waiting and not self.batch_is_full:
            return decided
        return super().steps_ahead(most_steps, decided)

    def advance(self, steps: int) -> None:
        """See Batching."""
        super().advance(steps)
        for _ in range(steps - 1):
            if self.ratio <= LEAST_RATIO:
                break
            self._decay()

    def decode_on(self, steps: int) -> None:
        """See Batching."""
        self._decay()
        super().decode_on(steps)

    # Prompts.

    def _prompts(self) -> list[PrefillChunk]:
        chunked = self.unfinished[0] if self.unfinished else None
        running = len(self.running) - len(self.unfinished)
        if not running:
            self.batch_is_full = False
        if (self.batch_is_full or not self.waiting) and chunked is None:
            return []
        places = self.limits.max_num_seqs - running
        if places <= 0 and chunked is None:
            self.batch_is_full = True
            return []
        page = self.kv_cache.block_size
        # Tokens that are free, or only cached, as long as this decision locks no prefix.
        free = self.kv_cache.free * page
        reserved: float = sum(self._reserved(request) for request in self.running.values())
        budget, chunk_budget = self.limits.max_prefill_tokens, self.limits.max_num_batched_tokens
        selected: list[tuple[Running, int]] = []
        if chunked is not None:
            room = min(chunk_budget, int(free - reserved))
            tokens = min(chunked.target - chunked.cached, room if room > 0 else chunk_budget)
            selected.append((chunked, tokens))
            paged = self.kv_cache.blocks(tokens) * page
            reserved += paged + page
            if chunked.cached + tokens == chunked.target:
                reserved += min(self.longest[chunked.index], MOST_RESERVED)
            budget, chunk_budget = budget - paged, chunk_budget - paged
        while self.waiting:
            if free - reserved > 0 and (budget <= 0 or chunk_budget <= 0):
                break
            if len(selected) >= places:
                self.batch_is_full = True
            if self.batch_is_full:
                break
            index = self.waiting[0]
            generated = self.generated.get(index, 0)
            target = self.prompt_tokens[index] + generated
            found = self._find(index, target)
            tokens = target - found.tokens
            still = min(max(self.longest[index] - generated, 0), MOST_RESERVED)
            if tokens + still + page >= free - found.free * page - reserved:
                self.batch_is_full = bool(selected) or running > 0
                break
            answer = min(self.longest[index], MOST_RESERVED)
            paged = self.kv_cache.blocks(tokens) * page
            if paged > chunk_budget:
                end = (found.tokens + chunk_budget // page * page) // page * page
                tokens, answer = end - found.tokens, 0
                if tokens <= 0:
                    break
                paged = self.kv_cache.blocks(tokens) * page
            self.waiting.popleft()
            free -= found.free * page
            selected.append((self._admit(index, found, found.blocks), tokens))
            reserved += paged + page + answer
            budget, chunk_budget = budget - paged, chunk_budget - paged
            if free - reserved <= 0:
                self.batch_is_full = True
                break
        if selected and not running:
            self.batch_is_full = False  # these prompts become the running batch, which is a new one
        return [self._chunk(request, tokens) for request, tokens in selected]

    def _reserved(self, request: Running) -> float:
        """Return the tokens kept free for what a running answer may still need."""
        if request in self.unfinished:
            return 0
        ratio = 1.0 if self.ends_are_foreseen else self.ratio
        return min(self.longest[request.index] - self._seen(request), MOST_RESERVED) * ratio

    def _seen(self, request: Running) -> int:
        """Return how many tokens of an answer the scheduler has seen: none that is in flight."""
        return self.generated_by(request) - self.unseen_tokens(request)

    def _chunk(self, request: Running, tokens: int) -> PrefillChunk:
        blocks = self.kv_cache.blocks(request.cached + tokens)
        self.kv_cache.allocate(blocks - request.blocks)
        request.blocks = blocks
        is_last = request.cached + tokens == request.target
        chunk = PrefillChunk(request.index, tokens, request.cached, is_last)
        request.cached += tokens
        if self._computed:
            self._computed[-1].append((request, request.cached))
        self.unfinished = [] if is_last else [request]
        return chunk

    def _cache_results(self) -> None:
        """Let others find the prompts whose results are there, and what a prompt in part has so far."""
        self._computed.append([])
        while len(self._computed) > self.results_lag:
            for request, tokens in self._computed.popleft():
                if self.running.get(request.index) is request:
                    self.kv_cache.fill(request.index, tokens)
        for request in self.unfinished:
            self.kv_cache.fill(request.index, request.cached)

    # Decodes.

    def _decode(self) -> StepPlan | None:
        finishing = any(request.has_stopped for request in self.running.values())
        if finishing:
            self.batch_is_full = False
        if not self.decoding:
            return None
        needed = self._border[self.decode_steps % self.kv_cache.block_size]
        if needed > self.kv_cache.free:
            if finishing:
                return None  # the step in flight gives back their pages
            needed = self._retract()
        else:
            self._decay()
        if needed:
            self.kv_cache.allocate(needed)
        return self._decode_step()

    def _decay(self) -> None:
        self.ratio = max(self.ratio - DECAY, LEAST_RATIO)

    def _retract(self) -> int:
        """Send back those with the fewest tokens until all others find a page; return how many they need."""
        phase = self.decode_steps % self.kv_cache.block_size
        keep = sorted(
            self.running.values(),
            key=lambda request: (self._seen(request), -request.prompt_tokens),
            reverse=True,
        )
        while len(keep) > 1:
            self._send_back(keep.pop())
            if self._border[phase] <= self.kv_cache.free:
                break
        seen = sum(map(self._seen, keep))
        longest = sum(self.longest[request.index] for request in keep)
        self.ratio = min(1.0, (seen + RETRACT_STEPS * len(keep)) / (longest + 1))
        return self._border[phase]

    def _send_back(self, request: Running) -> None:
        self.preempted = True
        tokens_in_flight = self.tokens_in_flight(request)
        self.generated[request.index] = self.generated_by(request)
        self.stop(request)
        # The cache keeps the prompt; what was generated goes at once.
        request.cached = min(request.cached, request.prompt_tokens + tokens_in_flight)
        self.leave(request, tokens_in_flight, returns=True)
        self.waiting.append(request.index)
        self.on_preempt(request)
