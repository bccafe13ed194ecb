"""The arguments of an engine."""

from __future__ import annotations

import dataclasses
import os
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field

from vllm.config import (
    CompilationConfig,
    CUDAGraphMode,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.plugins import load_general_plugins


@dataclass
class AsyncEngineArgs:
    model: str = "none"
    load_format: str = "auto"
    skip_tokenizer_init: bool = False
    max_model_len: int | None = None
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 256
    enforce_eager: bool = False
    distributed_executor_backend: str = "uni"
    cudagraph_capture_sizes: list[int] | None = None
    disable_log_stats: bool = False
    worker_extension_cls: str = ""
    compilation_config: CompilationConfig = field(default_factory=CompilationConfig)

    def __post_init__(self) -> None:
        load_general_plugins()

    @staticmethod
    def add_cli_args(parser: ArgumentParser) -> ArgumentParser:
        for name in ("model", "load-format", "distributed-executor-backend"):
            parser.add_argument(f"--{name}", default="uni" if name.startswith("dist") else "none")
        for name in ("max-model-len", "max-num-seqs", "max-num-batched-tokens"):
            parser.add_argument(f"--{name}", type=int)
        parser.add_argument("--cudagraph-capture-sizes", type=int, nargs="+")
        parser.add_argument("--gpu-memory-utilization", type=float)
        parser.add_argument("--speculative-config")
        for name in ("skip-tokenizer-init", "enforce-eager", "disable-log-stats"):
            parser.add_argument(f"--{name}", action="store_true")
        return parser

    @classmethod
    def from_cli_args(cls, args: Namespace) -> AsyncEngineArgs:
        names = [field.name for field in dataclasses.fields(cls)]
        given = {name: getattr(args, name) for name in names if hasattr(args, name)}
        return cls(**{name: value for name, value in given.items() if value is not None})

    def create_engine_config(self) -> VllmConfig:
        compilation = self.compilation_config
        if self.enforce_eager:
            compilation.cudagraph_mode = CUDAGraphMode.NONE
        if compilation.cudagraph_mode is None:
            compilation.cudagraph_mode = CUDAGraphMode.FULL_AND_PIECEWISE
        own = [size for size in (1, 2, 4, 8, 16, 24, 32) if size <= 2 * self.max_num_seqs]
        drafts = int(os.environ.get("FAKE_VLLM_DRAFTS", "0"))
        sizes = self.cudagraph_capture_sizes or compilation.cudagraph_capture_sizes or own
        compilation.cudagraph_capture_sizes = sizes
        return VllmConfig(
            ModelConfig(self.model, self.max_model_len or 8192, self.enforce_eager),
            SchedulerConfig(self.max_num_seqs, self.max_num_batched_tokens),
            compilation,
            parallel_config=ParallelConfig(
                self.distributed_executor_backend, worker_extension_cls=self.worker_extension_cls
            ),
            speculative_config=SpeculativeConfig(drafts) if drafts else None,
            use_v2_model_runner=os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "1") == "1",
        )
