"""The step policies: who decodes and who prefills in the next step.

Three engines' habits: `DecodeOnly` (a decode instance), `PrefillFirst` (SGLang, nano-vllm) and `Mixed`
(vLLM V1, TensorRT-LLM in-flight batching).
"""

from __future__ import annotations

from typing import Any

from scheduler.engine.batching import Batching, Limits
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.engine.kv_cache import NOTHING
from scheduler.engine.request import Running


class DecodeOnly(Batching):
    """A decode instance: requests arrive prefilled, their KV comes with them."""

    cached_after_prefill = 0

    def peak_tokens(self, prompt_tokens: int, output_tokens: int) -> int:
        """Return the most KV tokens a request holds: its prompt and every token of its answer."""
        return prompt_tokens + output_tokens

    def decide(self) -> StepPlan | None:
        """Decode everyone who is running and everyone who can join."""
        self._begin_decision()
        self._grow_decoding()
        if self.waiting and not self.preempted:
            self._admit_waiting()
        return self._decode_step() if self.decoding else None

    def _admit_waiting(self) -> None:
        while self.waiting and len(self.running) < self.limits.max_num_seqs:
            index = self.waiting[0]
            cached = self.prompt_tokens[index] + self.generated.get(index, 0)
            blocks = self.kv_cache.blocks(cached + 1)
            if not self._may_admit(blocks):
                return
            self.waiting.popleft()
            self.join_decoding(self._admit(index, NOTHING, blocks), cached)


class PrefillFirst(Batching):
    """Waiting prompts are prefilled in steps of their own before decoding goes on."""

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
            blocks = self.kv_cache.blocks(target)
            found = self.kv_cache.find(index, target, self._recorded(index))
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

    def __init__(self, *what: Any) -> None:
        super().__init__(*what)
        self.interval = self.limits.prefill_schedule_interval
        self.others_may_be_newer = self.interval > 1 or self.limits.long_prefill_token_threshold > 0
        self.step = 0  # the newest step that computed anything
        self.last_prefill_step = -self.interval
        self.some_had_to_wait = False  # the newest step that could admit left requests in the queue
        self.holds_prompts = False

    def decide(self) -> StepPlan | None:
        """Fill the budget with decodes, then with prompt chunks in arrival order."""
        self._begin_decision()
        if self.interval > 1:
            self.holds_prompts = self._is_time_of_decodes()
        threshold = self._threshold()
        chunks: list[PrefillChunk] = []
        if self.unfinished and self.others_may_be_newer and not self.holds_prompts:
            self._make_room(threshold)
        self._grow_decoding()
        budget = self.limits.max_num_batched_tokens - self.decoding
        if self.unfinished and not self.holds_prompts:
            budget = self._continue_prompts(budget, threshold, chunks)
        begun = len(chunks)
        if not self.preempted:
            if self.waiting:
                self._admit_waiting(budget, threshold, chunks)
            if not self.holds_prompts:
                self.some_had_to_wait = bool(self.waiting)
        return self._plan(chunks, begun)

    def arrival_could_join(self) -> bool:
        """Return whether the next arrival may join at the next decision, or changes when prompts are held."""
        return self.interval > 1 or super().arrival_could_join()

    def steps_ahead(self, most_steps: int) -> int:
        """See Batching; while prompts are held the next step may be another."""
        if self.interval > 1 and (self.waiting or self.unfinished):
            return 1
        return super().steps_ahead(most_steps)

    def advance(self, steps: int) -> None:
        """See Batching."""
        super().advance(steps)
        self.step += steps - 1

    def _is_time_of_decodes(self) -> bool:
        """Return whether prompts are held: too few steps ago one was computed, and somebody decodes.

        Not where the newest step that could admit left requests in the queue.
        """
        too_early = self.step + 1 - self.last_prefill_step < self.interval
        return too_early and not self.some_had_to_wait and len(self.running) > len(self.unfinished)

    def _threshold(self) -> int:
        """Return the most tokens of one prompt in this step; one request alone has all of them."""
        threshold = self.limits.long_prefill_token_threshold
        if not threshold or len(self.running) + len(self.waiting) <= 1:
            return self.limits.max_num_batched_tokens
        return threshold

    def _make_room(self, threshold: int) -> None:
        """Preempt the newest until the blocks that decodes and unfinished prompts need are there."""
        while self.unfinished:
            needed = self._border[self.decode_steps % self.kv_cache.block_size]
            budget = self.limits.max_num_batched_tokens - self.decoding
            for request in self.unfinished:
                tokens = min(request.target - request.cached, threshold, budget)
                needed += self.kv_cache.blocks(request.cached + tokens) - request.blocks
                budget -= tokens
            if needed <= self.kv_cache.free:
                return
            self._preempt_newest()

    def _continue_prompts(self, budget: int, threshold: int, chunks: list[PrefillChunk]) -> int:
        for request in self.unfinished[:]:
            if budget <= 0:
                break
            tokens = min(request.target - request.cached, threshold, budget)
            if not self._extend(request, tokens):
                self._preempt_newest()
                break
            chunks.append(self._chunk(request, tokens))
            budget -= tokens
        return budget

    def _plan(self, chunks: list[PrefillChunk], begun: int) -> StepPlan | None:
        if not chunks:
            if not self.decoding:
                return None
            self.step += 1
            return self._decode_step()
        self.step += 1
        if begun or any(not chunk.is_last or chunk.tokens > 1 for chunk in chunks):
            self.last_prefill_step = self.step
        kind = StepKind.MIXED if self.decoding else StepKind.PREFILL
        total_tokens = self.decoding + sum(chunk.tokens for chunk in chunks)
        size, piecewise = self._mixed_route(total_tokens)
        joined = len(self.joined)
        return StepPlan(kind, self.decoding, size, self.kv_tokens, tuple(chunks), joined, piecewise)

    def _admit_waiting(self, budget: int, threshold: int, chunks: list[PrefillChunk]) -> None:
        kv_cache = self.kv_cache
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            index = self.waiting[0]
            target = self.prompt_tokens[index] + self.generated.get(index, 0)
            found = kv_cache.find(index, target, self._recorded(index))
            if self.holds_prompts and found.tokens < target - 1:
                return
            tokens = min(target - found.tokens, threshold, budget)
            blocks = kv_cache.blocks(found.tokens + tokens)
            needed = kv_cache.blocks(target) if self.limits.reserve_full_prompt else blocks
            if not self._may_admit(needed - found.blocks + found.free):
                return
            self.waiting.popleft()
            request = self._admit(index, found, blocks)
            chunks.append(self._chunk(request, tokens))
            budget -= tokens

    def _extend(self, request: Running, tokens: int) -> bool:
        blocks = self.kv_cache.blocks(request.cached + tokens) - request.blocks
        if blocks > self.kv_cache.free:
            return False
        self.kv_cache.allocate(blocks)
        request.blocks += blocks
        return True

    def _chunk(self, request: Running, tokens: int) -> PrefillChunk:
        is_last = request.cached + tokens == request.target
        was_unfinished = request in self.unfinished
        chunk = PrefillChunk(request.index, tokens, request.cached, is_last)
        request.cached += tokens
        self.kv_cache.fill(request.index, request.cached)
        if is_last and was_unfinished:
            self.unfinished.remove(request)
        elif not is_last and not was_unfinished:
            self.unfinished.append(request)
        return chunk
