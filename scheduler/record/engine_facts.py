"""What a running vLLM engine says of itself: the settings a profile needs, as `NAME.json` has them."""

from __future__ import annotations

import time
from typing import Any

# What was tried where; the others have all the hooks by reading their source, or are not known.
TRIED = {"0.26.0": "tried on GPUs, model runner V2, one and two processes, with EAGLE"}
READ = ("0.27.0", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0")


def _release(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:3])


def is_known(version: str) -> bool:
    """Tell whether a release of vLLM was tried or read."""
    return _release(version) in (*TRIED, *READ)


def standing(version: str) -> str:
    """Say how well a release of vLLM is known to the hooks."""
    release = _release(version)
    if release in TRIED:
        return TRIED[release]
    if release in READ:
        return "its source was read, it was not tried"
    return f"not known; known are {', '.join((*TRIED, *READ))}"


def engine_facts(config: Any, version: str) -> dict[str, object]:
    """Return the contents of `NAME.json` for a VllmConfig; what a release does not have is left out."""
    compilation, cache, limits, parallel, model = (
        getattr(config, name, None)
        for name in (
            "compilation_config",
            "cache_config",
            "scheduler_config",
            "parallel_config",
            "model_config",
        )
    )
    mode = str(getattr(compilation, "cudagraph_mode", None)).rsplit(".", 1)[-1]
    sizes = getattr(compilation, "cudagraph_capture_sizes", None) if mode not in ("NONE", "None") else None
    backend = getattr(parallel, "distributed_executor_backend", None)
    engine = {
        "model": getattr(model, "model", None),
        "capture_sizes": sorted(int(size) for size in sizes or ()),
        "cudagraph_mode": "NONE" if mode == "None" else mode,
        "num_gpu_blocks": getattr(cache, "num_gpu_blocks", None),
        "block_size": getattr(cache, "block_size", None),
        "max_num_seqs": getattr(limits, "max_num_seqs", None),
        "max_num_batched_tokens": getattr(limits, "max_num_batched_tokens", None),
        "async_scheduling": bool(getattr(limits, "async_scheduling", False)),
        "v2_runner": bool(getattr(config, "use_v2_model_runner", False)),
        "prefix_caching": bool(getattr(cache, "enable_prefix_caching", False)),
        "executor": backend if isinstance(backend, str) else getattr(backend, "__name__", None),
        "version": f"vLLM {version}",
        "args": {
            "max_model_len": getattr(model, "max_model_len", None),
            "gpu_memory_utilization": getattr(cache, "gpu_memory_utilization", None),
            "enforce_eager": bool(getattr(model, "enforce_eager", False)),
            "tensor_parallel_size": getattr(parallel, "tensor_parallel_size", 1),
            "pipeline_parallel_size": getattr(parallel, "pipeline_parallel_size", 1),
        },
    }
    if (drafting := _drafting(getattr(config, "speculative_config", None))) is not None:
        engine["speculation"] = drafting
    return {
        "engine": engine,
        "cells": [],
        "prefills": [],
        "mixed": [],
        "traffic": [],
        "recorder": {
            "standing": standing(version),
            "clock": "microseconds of CLOCK_MONOTONIC",
            "monotonic_ns": time.monotonic_ns(),
            "unix_ns": time.time_ns(),
        },
    }


def _drafting(settings: Any) -> dict[str, object] | None:
    """Return how an engine drafts, None where it does not."""
    if settings is None:
        return None
    names = ("method", "num_speculative_tokens", "rejection_sample_method", "synthetic_acceptance_rates")
    return {name: getattr(settings, name) for name in names if getattr(settings, name, None) is not None}
