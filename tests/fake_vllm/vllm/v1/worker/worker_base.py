"""What an executor calls: a worker that is known by name alone until it is started."""

from __future__ import annotations

import importlib
from typing import Any

from vllm.config import VllmConfig
from vllm.plugins import load_general_plugins
from vllm.v1.core.sched.output import SchedulerOutput


class Worker:
    def __init__(self, vllm_config: VllmConfig, rank: int) -> None:
        self.rank = rank
        if vllm_config.use_v2_model_runner:
            from vllm.v1.worker.gpu.model_runner import GPUModelRunner
        else:
            from vllm.v1.worker.gpu_model_runner import GPUModelRunner
        self.model_runner = GPUModelRunner(vllm_config)

    def execute_model(self, scheduler_output: SchedulerOutput) -> Any:
        return self.model_runner.execute_model(scheduler_output)

    def sample_tokens(self, grammar_output: object) -> Any:
        return self.model_runner.sample_tokens(grammar_output)


class WorkerWrapperBase:
    def __init__(self, rpc_rank: int = 0) -> None:
        self.rpc_rank = rpc_rank

    def init_worker(self, vllm_config: VllmConfig) -> None:
        load_general_plugins()
        module, _, name = vllm_config.parallel_config.worker_extension_cls.rpartition(".")
        mixed_in = (getattr(importlib.import_module(module), name),) if module else ()
        self.worker = type("Worker", (Worker, *mixed_in), {})(vllm_config, self.rpc_rank)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.worker, name)

    def execute_model(self, scheduler_output: SchedulerOutput) -> Any:
        return self.worker.execute_model(scheduler_output)
