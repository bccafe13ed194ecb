"""Launches steps on a GPU that is a clock."""

from __future__ import annotations

import time

from vllm.config import CUDAGraphMode, VllmConfig
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.worker.gpu.cudagraph_utils import ModelCudaGraphManager

LAUNCH_S = {"FULL": 0.0006, "PIECEWISE": 0.0012, "NONE": 0.0024}


class AsyncOutput:
    def __init__(self, done_at: float) -> None:
        self.done_at = done_at

    def get_output(self) -> str:
        time.sleep(max(0.0, self.done_at - time.monotonic()))
        return "tokens"


class GPUModelRunner:
    def __init__(self, vllm_config: VllmConfig) -> None:
        self.vllm_config = vllm_config
        self._gpu_free = 0.0
        self._step: tuple[str, int] = ("NONE", 0)
        self._choose(vllm_config)

    def _choose(self, config: VllmConfig) -> None:
        self.cudagraph_manager = ModelCudaGraphManager(config)

    def _dispatch(self, requests: int, tokens: int) -> tuple[CUDAGraphMode, int]:
        found = self.cudagraph_manager.dispatch(requests, tokens, 1 if tokens == requests else None)
        return found.cg_mode, found.num_tokens

    def execute_model(
        self, scheduler_output: SchedulerOutput, intermediate_tensors: object = None, dummy_run: bool = False
    ) -> str | None:
        tokens = scheduler_output.total_num_scheduled_tokens
        if not tokens:
            return "nothing"
        time.sleep(0.0001)
        mode, width = self._dispatch(len(scheduler_output.num_scheduled_tokens), tokens)
        time.sleep(LAUNCH_S[mode.name] / 2)
        self._step = (mode.name, width)
        return None

    def sample_tokens(self, grammar_output: object) -> AsyncOutput:
        mode, width = self._step
        begun = time.monotonic()
        time.sleep(LAUNCH_S[mode] / 2)
        work = 0.0016 + 0.00001 * width
        self._gpu_free = max(self._gpu_free, begun) + work
        if mode != "FULL":
            self._gpu_free = max(self._gpu_free, time.monotonic() + 0.0001)
        return AsyncOutput(self._gpu_free)
