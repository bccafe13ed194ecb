"""Chunked prefill and decode within one token budget, first come, first served."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass

from vllm.config import VllmConfig
from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput


@dataclass
class Request:
    request_id: str
    prompt: int
    output: int
    computed: int = 0
    generated: int = 0
    scheduled: int = 0

    @property
    def left(self) -> int:
        return self.prompt - self.computed if self.computed < self.prompt else 1


class BlockPool:
    def __init__(self, blocks: int) -> None:
        self.free = blocks

    def get_num_free_blocks(self) -> int:
        return self.free


class KVCacheManager:
    def __init__(self, blocks: int) -> None:
        # A release that names it otherwise.
        name = "pool" if os.environ.get("FAKE_VLLM_BREAK") == "names" else "block_pool"
        setattr(self, name, BlockPool(blocks))
        self.blocks = getattr(self, name)


class Scheduler:
    def __init__(self, vllm_config: VllmConfig) -> None:
        self.vllm_config = vllm_config
        drafting = vllm_config.speculative_config
        self.drafts = drafting.num_speculative_tokens if drafting else 0
        self.requests: dict[str, Request] = {}
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.kv_cache_manager = KVCacheManager(vllm_config.cache_config.num_gpu_blocks - 1)

    def add_request(self, request: Request) -> None:
        self.requests[request.request_id] = request
        self.waiting.append(request)

    def has_requests(self) -> bool:
        return bool(self.waiting or self.running)

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        limits = self.vllm_config.scheduler_config
        budget = limits.max_num_batched_tokens
        new, cached, tokens, drafted = [], CachedRequestData(), {}, {}
        for request in self.running:
            if request.generated + request.scheduled >= request.output and request.computed >= request.prompt:
                continue  # its last token is on the way
            count = min(request.left, budget)
            if not count:
                break
            if self.drafts and request.computed >= request.prompt:
                drafted[request.request_id] = [-1] * self.drafts
                count = 1 + self.drafts
            cached.req_ids.append(request.request_id)
            cached.num_computed_tokens.append(request.computed)
            tokens[request.request_id] = count
            self._take(request, count)
            budget -= count
        while self.waiting and budget and len(self.running) < limits.max_num_seqs:
            request = self.waiting.popleft()
            count = min(request.left, budget)
            new.append(NewRequestData(request.request_id, request.computed))
            tokens[request.request_id] = count
            self._take(request, count)
            self.running.append(request)
            budget -= count
        sampled = frozenset(r.request_id for r in self.running if r.computed >= r.prompt) & tokens.keys()
        return SchedulerOutput(new, cached, tokens, sum(tokens.values()), None, sampled, drafted)

    def _take(self, request: Request, count: int) -> None:
        request.computed += count
        request.scheduled += request.computed >= request.prompt

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: object) -> list:
        gave = []
        places, sampled = model_runner_output.req_id_to_index, model_runner_output.sampled_token_ids
        for request in list(self.running):
            if request.request_id in scheduler_output.sampled:
                got = sampled[places[request.request_id]]
                del got[request.output - request.generated :]
                drafts = len(scheduler_output.scheduled_spec_decode_tokens.get(request.request_id, ()))
                request.computed -= 1 + drafts - len(got) if drafts else 0
                request.scheduled -= 1
                request.generated += len(got)
                is_last = request.generated >= request.output
                gave += [(request.request_id, False)] * (len(got) - 1)
                gave.append((request.request_id, is_last))
                if is_last:
                    self.running.remove(request)
                    del self.requests[request.request_id]
        used = sum(-(-(request.computed + 1) // 16) for request in self.running)
        self.kv_cache_manager.blocks.free = self.vllm_config.cache_config.num_gpu_blocks - 1 - used
        return gave


class AsyncScheduler(Scheduler):
    pass
