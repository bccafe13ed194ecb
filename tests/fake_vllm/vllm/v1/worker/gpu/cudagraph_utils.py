"""Model runner V2's choice of a graph."""

from __future__ import annotations

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
        self.compilation_config = config.compilation_config
        drafting = config.speculative_config
        self.decode_query_len = 1 + (drafting.num_speculative_tokens if drafting else 0)
        self.max_num_reqs = config.scheduler_config.max_num_seqs
        self._candidates: dict[tuple[int, int], list[BatchExecutionDescriptor]] = {}
        self._capture_descs: dict[CUDAGraphMode, list[BatchExecutionDescriptor]] = {}
        self._init_candidates()

    def _init_candidates(self) -> None:
        sizes = sorted(self.compilation_config.cudagraph_capture_sizes or ())
        if self.mode is CUDAGraphMode.NONE or not sizes:
            return
        most = self.max_num_reqs * self.decode_query_len
        full = [BatchExecutionDescriptor(CUDAGraphMode.FULL, n, n) for n in sizes if n <= most]
        pieces = [BatchExecutionDescriptor(CUDAGraphMode.PIECEWISE, n) for n in sizes]
        self._capture_descs = {CUDAGraphMode.FULL: full, CUDAGraphMode.PIECEWISE: pieces}
        for tokens in range(1, sizes[-1] + 1):
            size = next(n for n in sizes if n >= tokens)
            self._candidates[(tokens, 0)] = [graph for graph in (*full, *pieces) if graph.num_tokens == size]

    def dispatch(
        self, num_reqs: int, num_tokens: int, uniform_token_count: int | None, num_active_loras: int = 0
    ) -> BatchExecutionDescriptor:
        for graph in self._candidates.get((num_tokens, num_active_loras), ()):
            if graph.cg_mode is CUDAGraphMode.PIECEWISE or uniform_token_count:
                return graph
        return BatchExecutionDescriptor(CUDAGraphMode.NONE, num_tokens, num_reqs)


class ModelCudaGraphManager(CudaGraphManager):
    pass
