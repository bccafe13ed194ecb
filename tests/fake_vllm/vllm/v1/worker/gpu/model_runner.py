"""Launches steps on a GPU that is a clock."""

from __future__ import annotations

import time
from dataclasses import dataclass

from vllm.config import CUDAGraphMode, VllmConfig
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.worker.gpu.cudagraph_utils import ModelCudaGraphManager

LAUNCH_S = {"FULL": 0.0006, "PIECEWISE": 0.0012, "NONE": 0.0024}


@dataclass
class ModelRunnerOutput:
    req_id_to_index: dict[str, int]
    sampled_token_ids: list[list[int]]


class AsyncOutput:
    def __init__(self, done_at: float, output: ModelRunnerOutput) -> None:
        self.done_at, self.output = done_at, output

    def get_output(self) -> ModelRunnerOutput:
        time.sleep(max(0.0, self.done_at - time.monotonic()))
        return self.output


class Speculator:
    """Drafts for the rows of a step; half of them are accepted in the next, by turns."""

    def propose(self, requests: int) -> None:
        time.sleep(0.0003)


class GPUModelRunner:
    def __init__(self, vllm_config: VllmConfig) -> None:
        self.vllm_config = vllm_config
        self._gpu_free = 0.0
        drafting = vllm_config.speculative_config
        self._width = 1 + (drafting.num_speculative_tokens if drafting else 0)
        self._step: tuple[str, int] = ("NONE", 0)
        self._rows = 0
        self._decision: SchedulerOutput | None = None
        self.speculative_config = vllm_config.speculative_config
        self._choose(vllm_config)

    def _choose(self, config: VllmConfig) -> None:
        self.cudagraph_manager = ModelCudaGraphManager(config)
        self.speculator = Speculator() if config.speculative_config else None

    def _propose(self, requests: int) -> None:
        if self.speculator is not None:
            self.speculator.propose(requests)

    def _dispatch(self, requests: int, tokens: int) -> tuple[CUDAGraphMode, int]:
        alike = tokens == requests * self._width
        found = self.cudagraph_manager.dispatch(requests, tokens, 1 if alike else None)
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
        self._step, self._decision = (mode.name, width), scheduler_output
        return None

    def _sampled(self) -> ModelRunnerOutput:
        """Return a token for each row that samples, and 0, 1, … accepted drafts more by turns."""
        decision = self._decision
        names = list(decision.num_scheduled_tokens)
        sampled = []
        for name in names:
            drafts = len(decision.scheduled_spec_decode_tokens.get(name, ()))
            self._rows += drafts > 0
            tokens = 1 + self._rows % (drafts + 1) if drafts else 1
            sampled.append([7] * tokens if name in decision.sampled else [])
        return ModelRunnerOutput({name: place for place, name in enumerate(names)}, sampled)

    def sample_tokens(self, grammar_output: object) -> AsyncOutput:
        mode, width = self._step
        begun = time.monotonic()
        time.sleep(LAUNCH_S[mode] / 2)
        work = 0.0016 + 0.00001 * width
        self._gpu_free = max(self._gpu_free, begun) + work
        if mode != "FULL":
            self._gpu_free = max(self._gpu_free, time.monotonic() + 0.0001)
        output = self._sampled()
        self._propose(len(output.sampled_token_ids))
        return AsyncOutput(self._gpu_free, output)
