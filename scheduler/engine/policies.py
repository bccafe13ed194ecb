"""The step policies: who decodes and who prefills in the next step.

Three engines' habits: `DecodeOnly` (a decode instance), `PrefillFirst` (SGLang, nano-vllm) and `Mixed`
(vLLM V1, TensorRT-LLM in-flight batching).
"""

from __future__ import annotations

from scheduler.engine.batching import Batching, Limits
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan, new_plan
from scheduler.engine.kv_cache import NOTHING
from scheduler.engine.request import Running


class DecodeOnly(Batching):
    """A decode instance: requests arrive prefilled, their KV comes with them."""

    __slots__ = ()
    cached_after_prefill = 0

    def peak_tokens(self, prompt_tokens: int, output_tokens: int) -> int:
        """Return the most KV tokens a request holds: its prompt and every token of its answer."""
        return prompt_tokens + output_tokens + self._drafts_ahead()

    def decide(self) -> StepPlan | None:
        """Decode everyone who is running and everyone who can join."""
        self._begin_decision()
        self._grow_decoding()
        if self.waiting and not self.preempted:
            self._admit_waiting()
        return self._decode_step() if self.decoding else None

    def _admit_waiting(self) -> None:
        waiting, running, most = self.waiting, self.running, self.limits.max_num_seqs
        ahead = 1 + self.draft_tokens + self.lookahead_tokens
        while waiting and len(running) < most:
            index = waiting[0]
            cached = self.prompt_tokens[index]
            if self.generated:
                cached += self.generated.get(index, 0)
            blocks = -(-(cached + ahead) // self.block_size)
            if not self._may_admit(blocks):
                return
            waiting.popleft()
            self.join_decoding(self._admit(index, NOTHING, blocks), cached)


class PrefillFirst(Batching):
    """Waiting prompts are prefilled in steps of their own before decoding goes on."""

    __slots__ = ()

    def token_budget(self, limits: Limits) -> int:
        """Return the most prompt tokens of one prefill step."""
        return limits.max_prefill_tokens

    def decide(self) -> StepPlan | None:
        """Prefill whoever can join; decode when nobody can."""
        self._begin_decision()
        chunks = self._prefill_chunks()
        if chunks:
            tokens = sum(chunk.tokens for chunk in chunks)
            size, piecewise = self._mixed_route(tokens)
            return StepPlan(StepKind.PREFILL, 0, size, 0, chunks, len(self.joined), piecewise)
        self._grow_decoding()
        return self._decode_step() if self.decoding else None

    def _prefill_chunks(self) -> tuple[PrefillChunk, ...]:
        budget = self.limits.max_prefill_tokens
        chunks: list[PrefillChunk] = []
        if self.unfinished:
            budget -= self._prefill(self.unfinished[0], budget, chunks)
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            index = self.waiting[0]
            target = self.prompt_tokens[index] + self.generated.get(index, 0)
            blocks = self.kv_cache.blocks(target + self.lookahead_tokens)
            found = self._find(index, target) if self._may_find else NOTHING
            if not self._may_admit(blocks - found.blocks + found.free):
                break
            self.waiting.popleft()
            request = self._admit(index, found, blocks)
            budget -= self._prefill(request, budget, chunks)
        return tuple(chunks)

    def _prefill(self, request: Running, budget: int, chunks: list[PrefillChunk]) -> int:
        tokens = min(request.target - request.cached, budget)
        is_last = request.cached + tokens == request.target
        chunks.append(PrefillChunk(request.index, tokens, request.cached, is_last))
        request.cached += tokens
        if self.kv_cache.knows_contents:
            self.kv_cache.fill(request.index, request.cached)
        self.unfinished = [] if is_last else [request]
        return tokens


class Mixed(Batching):
    """One token budget per step: running decodes first, then chunks of waiting prompts (vLLM V1).

    Without `long_prefill_token_threshold` at most one prompt is unfinished at any time and it is the newest
    running request, because the next prompt is admitted only with budget left over. With it several can be;
    all but the newest then get as many tokens as the threshold lets them have.

    Rules: vllm/v1/core/sched/scheduler.py, schedule, of 0.33.0.
    """

    __slots__ = (
        "holds_prompts",
        "interval",
        "is_paced",
        "last_prefill_step",
        "prompt_steps",
        "some_had_to_wait",
    )

    def begin(self) -> None:
        """See Batching."""
        self.interval = self.limits.prefill_schedule_interval
        self.is_paced = self.interval > 1 or self.limits.long_prefill_token_threshold > 0
        self.arrivals_matter = self.interval > 1
        self.prompt_steps = 0  # steps without decodes
        self.last_prefill_step = -self.interval
        self.some_had_to_wait = False  # the newest step that could admit left requests in the queue
        self.holds_prompts = False

    def decide(self) -> StepPlan | None:
        """Fill the budget with decodes, then with prompt chunks in arrival order."""
        self._begin_decision()
        if self.is_paced:
            return self._decide_paced()
        self._grow_decoding()
        most = self.limits.max_num_batched_tokens
        budget = most - self.decoding * (1 + self.draft_tokens)
        chunks: list[PrefillChunk] = []
        if self.unfinished and budget > 0:
            budget = self._continue_prompt(self.unfinished[0], budget, chunks)
        if self.waiting and not self.preempted:
            self._admit_waiting(budget, most, chunks)
        return self._plan(chunks)

    def _decide_paced(self) -> StepPlan | None:
        """Decide with a threshold for long prompts, or with steps in which prompts are held."""
        step = self.decode_steps + self.prompt_steps + 1
        # Not where the newest step that could admit left requests in the queue, nor where nobody decodes.
        self.holds_prompts = (
            step - self.last_prefill_step < self.interval
            and not self.some_had_to_wait
            and len(self.running) > len(self.unfinished)
        )
        threshold = self.limits.long_prefill_token_threshold
        if not threshold or len(self.running) + len(self.waiting) <= 1:
            threshold = self.limits.max_num_batched_tokens  # one request alone has all of them
        chunks: list[PrefillChunk] = []
        budget = self._go_on_in_order(threshold, chunks)
        begun = len(chunks)
        if not self.preempted:
            self._admit_waiting(budget, threshold, chunks)
            if not self.holds_prompts:
                self.some_had_to_wait = bool(self.waiting)
        if begun or any(not chunk.is_last or chunk.tokens > 1 for chunk in chunks):
            self.last_prefill_step = step
        return self._plan(chunks)

    def _go_on_in_order(self, threshold: int, chunks: list[PrefillChunk]) -> int:
        """Give everyone in the batch, oldest first, blocks and tokens; return what the budget has left."""
        budget = self.limits.max_num_batched_tokens
        for request in [*self.running.values()]:
            if request.index not in self.running or budget <= 0:
                break
            if request.has_stopped:
                continue
            if request.is_decoding:
                budget -= 1 + self.draft_tokens
                self._make_room_to_decode(request)
            elif not self.holds_prompts:
                tokens = min(request.target - request.cached, threshold, budget)
                blocks = (
                    self.kv_cache.blocks(request.cached + tokens + self.lookahead_tokens) - request.blocks
                )
                if self._make_room(request, blocks):
                    request.blocks += blocks
                    chunks.append(self._chunk(request, tokens))
                    budget -= tokens
        return budget

    def _continue_prompt(self, request: Running, budget: int, chunks: list[PrefillChunk]) -> int:
        """Compute more of the newest request's prompt; where no block is free for it, it gives way."""
        tokens = min(request.target - request.cached, budget)
        blocks = self.kv_cache.blocks(request.cached + tokens + self.lookahead_tokens) - request.blocks
        if not self._make_room(request, blocks):
            return budget
        request.blocks += blocks
        chunks.append(self._chunk(request, tokens))
        return budget - tokens

    def _plan(self, chunks: list[PrefillChunk]) -> StepPlan | None:
        if not chunks:
            return self._decode_step() if self.decoding else None
        kind = StepKind.MIXED
        if not self.decoding:
            kind = StepKind.PREFILL
            self.prompt_steps += 1
        drafts = self.decoding * self.draft_tokens
        total_tokens = self.decoding + drafts
        for chunk in chunks:
            total_tokens += chunk.tokens
        size, piecewise = self._mixed_route(total_tokens)
        joined = len(self.joined)
        return new_plan(
            StepPlan,
            (kind, self.decoding, size, self.kv_tokens, tuple(chunks), joined, piecewise, drafts),
        )

    def _admit_waiting(self, budget: int, threshold: int, chunks: list[PrefillChunk]) -> None:
        kv_cache, limits, waiting, running = self.kv_cache, self.limits, self.waiting, self.running
        while waiting and budget > 0 and len(running) < limits.max_num_seqs:
            index = waiting[0]
            target = self.prompt_tokens[index]
            if self.generated:
                target += self.generated.get(index, 0)
            found = self._find(index, target) if self._may_find else NOTHING
            if self.holds_prompts and found.tokens < target - 1:
                return
            tokens = min(target - found.tokens, threshold, budget)
            blocks = kv_cache.blocks(found.tokens + tokens + self.lookahead_tokens)
            needed = max(kv_cache.blocks(target), blocks) if limits.reserve_full_prompt else blocks
            if not self._may_admit(needed - found.blocks + found.free):
                return
            waiting.popleft()
            chunks.append(self._chunk(self._admit(index, found, blocks), tokens))
            budget -= tokens

    def _chunk(self, request: Running, tokens: int) -> PrefillChunk:
        cached = request.cached
        request.cached = computed = cached + tokens
        is_last = computed == request.target
        chunk = new_plan(PrefillChunk, (request.index, tokens, cached, is_last))
        if self.kv_cache.knows_contents:
            self.kv_cache.fill(request.index, computed)
        if not is_last:
            if request not in self.unfinished:
                self.unfinished.append(request)
        elif self.unfinished and request in self.unfinished:
            self.unfinished.remove(request)
        return chunk
