"""Model runner V2's choice of a graph."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from vllm.config import CUDAGraphMode, VllmConfig


@dataclass(frozen=True)
class BatchExecutionDescriptor:
    cg_mode: CUDAGraphMode
    num_tokens: int
    num_reqs: int | None = None


class CudaGraphManager:
    def __init__(self, config: VllmConfig) -> None:
        self.mode = config.compilation_config.cudagraph_mode
        self.sizes = sorted(config.compilation_config.cudagraph_capture_sizes or ())

    def dispatch(
        self, num_reqs: int, num_tokens: int, uniform_token_count: int | None, num_active_loras: int = 0
    ) -> BatchExecutionDescriptor:
        index = bisect_left(self.sizes, num_tokens)
        if self.mode is CUDAGraphMode.NONE or index == len(self.sizes):
            return BatchExecutionDescriptor(CUDAGraphMode.NONE, num_tokens, num_reqs)
        kind = CUDAGraphMode.FULL if uniform_token_count == 1 else CUDAGraphMode.PIECEWISE
        return BatchExecutionDescriptor(kind, self.sizes[index], num_reqs)


class ModelCudaGraphManager(CudaGraphManager):
    pass
