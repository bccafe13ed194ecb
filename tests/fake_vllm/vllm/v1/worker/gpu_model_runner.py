"""Model runner V1: another dispatcher, asked twice."""

from __future__ import annotations

import time

from vllm.config import CUDAGraphMode, VllmConfig
from vllm.v1.cudagraph_dispatcher import CudagraphDispatcher
from vllm.v1.worker.gpu.model_runner import GPUModelRunner as RunnerV2


class GPUModelRunner(RunnerV2):
    def _choose(self, config: VllmConfig) -> None:
        self.cudagraph_dispatcher = CudagraphDispatcher(config)

    def _propose(self, requests: int) -> None:
        if self.speculative_config is not None:
            self.propose_draft_token_ids(requests)

    def propose_draft_token_ids(self, requests: int) -> None:
        time.sleep(0.0003)

    def _dispatch(self, requests: int, tokens: int) -> tuple[CUDAGraphMode, int]:
        self.cudagraph_dispatcher.dispatch(tokens)
        mode, descriptor = self.cudagraph_dispatcher.dispatch(
            tokens, uniform_decode=tokens == requests * self._width
        )
        return mode, descriptor.num_tokens
