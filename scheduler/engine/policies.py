"""The step policies: who decodes and who prefills in the next step.

Three engines' habits: `DecodeOnly` (a decode instance), `PrefillFirst` (SGLang, nano-vllm) and `Mixed`
(vLLM V1, TensorRT-LLM in-flight batching).
"""

from __future__ import annotations

from scheduler.engine.batching import Batching, Limits
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.engine.kv_cache import KVCache
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
            self.kv_cache.allocate(blocks)
            self.join_decoding(self._admit(index), cached)


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
        if self.prefilling is not None:
            budget -= self._prefill(self.prefilling, budget, chunks)
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            index = self.waiting[0]
            target = self.prompt_tokens[index] + self.generated.get(index, 0)
            blocks = self.kv_cache.blocks(target)
            if not self._may_admit(blocks):
                break
            self.waiting.popleft()
            reused = _reusable_blocks(self.kv_cache, index, target)
            request = self._admit(index)
            request.cached = _cached_at_admission(self, index, reused)
            if reused:
                self.kv_cache.reuse(index, reused)
            self.kv_cache.allocate(blocks - reused)
            request.blocks = blocks
            budget -= self._prefill(request, budget, chunks)
        return tuple(chunks)

    def _prefill(self, request: Running, budget: int, chunks: list[PrefillChunk]) -> int:
        tokens = min(request.target - request.cached, budget)
        is_last = request.cached + tokens == request.target
        chunks.append(PrefillChunk(request.index, tokens, request.cached, is_last))
        request.cached += tokens
        self.prefilling = None if is_last else request
        return tokens


class Mixed(Batching):
    """One token budget per step: running decodes first, then chunks of waiting prompts (vLLM V1).

    At most one prompt is unfinished at any time and it is the newest running request, because the next
    prompt is admitted only with budget left over.
    """

    def decide(self) -> StepPlan | None:
        """Fill the budget with decodes, then with prompt chunks in arrival order."""
        self._begin_decision()
        self._grow_decoding()
        budget = self.limits.max_num_batched_tokens - self.decoding
        chunks: list[PrefillChunk] = []
        if self.prefilling is not None and budget > 0:
            request = self.prefilling
            tokens = min(request.target - request.cached, budget)
            if self._extend(request, tokens):
                chunks.append(self._chunk(request, tokens))
                budget -= tokens
            else:
                self._preempt_newest()
        if self.waiting and not self.preempted:
            self._admit_waiting(budget, chunks)
        return self._plan(chunks)

    def _plan(self, chunks: list[PrefillChunk]) -> StepPlan | None:
        if not chunks:
            return self._decode_step() if self.decoding else None
        kind = StepKind.MIXED if self.decoding else StepKind.PREFILL
        total_tokens = self.decoding + sum(chunk.tokens for chunk in chunks)
        size, piecewise = self._mixed_route(total_tokens)
        joined = len(self.joined)
        return StepPlan(kind, self.decoding, size, self.kv_tokens, tuple(chunks), joined, piecewise)

    def _admit_waiting(self, budget: int, chunks: list[PrefillChunk]) -> None:
        kv_cache = self.kv_cache
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            index = self.waiting[0]
            target = self.prompt_tokens[index] + self.generated.get(index, 0)
            reused = _reusable_blocks(kv_cache, index, target)
            cached = _cached_at_admission(self, index, reused)
            tokens = min(target - cached, budget)
            blocks = kv_cache.blocks(cached + tokens)
            needed = kv_cache.blocks(target) if self.limits.reserve_full_prompt else blocks
            if not self._may_admit(needed):
                return
            self.waiting.popleft()
            request = self._admit(index)
            request.cached = cached
            if reused:
                kv_cache.reuse(index, reused)
            kv_cache.allocate(blocks - reused)
            request.blocks = blocks
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
        chunk = PrefillChunk(request.index, tokens, request.cached, is_last)
        request.cached += tokens
        self.prefilling = None if is_last else request
        return chunk


def _reusable_blocks(kv_cache: KVCache, index: int, target: int) -> int:
    """Return the leading full blocks a returning request finds; the last token is always computed."""
    return min(kv_cache.reusable(index), (target - 1) // kv_cache.block_size)


def _cached_at_admission(batching: Batching, index: int, reused_blocks: int) -> int:
    cached = reused_blocks * batching.kv_cache.block_size
    if batching.cached_tokens is not None:
        # A prefix cache hit recorded in the trace; the last prompt token is always computed.
        cached = max(cached, min(batching.cached_tokens[index], batching.prompt_tokens[index] - 1))
    return cached
