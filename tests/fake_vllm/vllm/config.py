"""The settings of an engine, as VllmConfig holds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class CUDAGraphMode(Enum):
    NONE = 0
    PIECEWISE = 1
    FULL = 2
    FULL_AND_PIECEWISE = (2, 1)


@dataclass
class CompilationConfig:
    cudagraph_mode: CUDAGraphMode | None = None
    cudagraph_capture_sizes: list[int] | None = None
    max_cudagraph_capture_size: int | None = None


@dataclass
class CacheConfig:
    num_gpu_blocks: int = 40_000
    block_size: int = 16
    enable_prefix_caching: bool = True
    gpu_memory_utilization: float = 0.9


@dataclass
class SchedulerConfig:
    max_num_seqs: int
    max_num_batched_tokens: int
    async_scheduling: bool = True


@dataclass
class ParallelConfig:
    distributed_executor_backend: str = "uni"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    data_parallel_rank: int = 0
    worker_extension_cls: str = ""


@dataclass
class ModelConfig:
    model: str
    max_model_len: int
    enforce_eager: bool


@dataclass
class SpeculativeConfig:
    num_speculative_tokens: int
    method: str = "eagle"
    rejection_sample_method: str = "synthetic"
    synthetic_acceptance_rates: tuple[float, ...] = ()


@dataclass
class VllmConfig:
    model_config: ModelConfig
    scheduler_config: SchedulerConfig
    compilation_config: CompilationConfig = field(default_factory=CompilationConfig)
    cache_config: CacheConfig = field(default_factory=CacheConfig)
    parallel_config: ParallelConfig = field(default_factory=ParallelConfig)
    speculative_config: SpeculativeConfig | None = None
    use_v2_model_runner: bool = True
