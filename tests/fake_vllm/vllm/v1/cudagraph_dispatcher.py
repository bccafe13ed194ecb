"""Model runner V1's choice of a graph."""

from __future__ import annotations

from typing import NamedTuple

from vllm.config import CUDAGraphMode, VllmConfig
from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager


class BatchDescriptor(NamedTuple):
    num_tokens: int
    num_reqs: int | None = None


class CudagraphDispatcher:
    def __init__(self, config: VllmConfig) -> None:
        self._manager = CudaGraphManager(config)

    def dispatch(
        self, num_tokens: int, uniform_decode: bool = False
    ) -> tuple[CUDAGraphMode, BatchDescriptor]:
        found = self._manager.dispatch(num_tokens, num_tokens, 1 if uniform_decode else None)
        return found.cg_mode, BatchDescriptor(found.num_tokens)
