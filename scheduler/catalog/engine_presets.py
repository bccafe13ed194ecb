"""What each serving engine runs with when its users set nothing: policy, limits, pool and flags.

A value that was not read in the engine's code or documentation is named in `assumed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from scheduler.catalog.pool_presets import (
    LMDEPLOY,
    MINI_SGLANG,
    NANO_VLLM,
    SGLANG,
    TRTLLM,
    VLLM,
)
from scheduler.errors import InputError

Policy = Literal["decode_only", "prefill_first", "mixed", "sglang"]
PoolMode = Literal["decode_only", "full_and_piecewise"]


@dataclass(frozen=True, slots=True)
class EnginePreset:
    """An engine's defaults, in the words of the workload file's `engine:` and `pool:` sections.

    `max_num_batched_tokens` bounds a mixed step, `max_prefill_tokens` a step of prompts alone; with policy
    sglang they bound the chunk of one prompt and the step.
    `reserve_full_prompt`: a request is admitted only when its whole prompt fits the KV cache.
    `unhashed_blocks`: whether freed blocks that nobody can find again are the next to be taken, or wait their
    turn. `null_block`: one KV block is never used. `empty_pause_ms`: how long the engine pauses after a
    decision that found nothing to run while requests exist.
    `overlap`: the host prepares the next step while the GPU runs this one. `assumed` names the fields
    not read in the engine; `differs` says where the engine does more than this simulator models.
    """

    name: str
    policy: Policy
    max_num_seqs: int
    max_num_batched_tokens: int
    max_prefill_tokens: int
    block_size: int
    pool: str
    pool_mode: PoolMode
    reserve_full_prompt: bool
    overlap: bool
    prefix_caching: bool
    engine: str
    release: str
    source: str
    unhashed_blocks: Literal["first", "last"] = "last"
    null_block: bool = False
    empty_pause_ms: float = 0.0
    assumed: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()


_VLLM_SOURCE = (
    "vllm/engine/arg_utils.py, get_batch_defaults; vllm/config/scheduler.py; docs/design/cuda_graphs.md; "
    "vllm/v1/core/block_pool.py, free_blocks and null_block; vllm/v1/engine/core.py, _process_engine_step"
)
_SGLANG_SOURCE = (
    "sglang/srt/arg_groups/{cuda_graph_hook,memory_hook}.py; sglang/srt/arg_groups/fields/schedule.py; "
    "sglang/srt/managers/{scheduler,schedule_policy,schedule_batch}.py"
)
_TRTLLM_SOURCE = "tensorrt_llm/llmapi/llm_args.py"


_ASSUMED_OF_OLD = (
    "max_num_seqs", "max_num_batched_tokens", "block_size", "pool", "pool_mode", "reserve_full_prompt",
    "overlap", "null_block", "empty_pause_ms",
)  # fmt: skip


def _vllm(
    name: str,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    pool: str = "vllm",
    unhashed_blocks: Literal["first", "last"] = "first",
    release: str = VLLM,
    assumed: tuple[str, ...] = ("block_size",),
) -> EnginePreset:
    """Return vLLM V1 as `vllm serve` starts it on a class of GPU (optimisation level 2)."""
    return EnginePreset(
        name=name,
        policy="mixed",
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_prefill_tokens=max_num_batched_tokens,
        block_size=16,
        pool=pool,
        pool_mode="full_and_piecewise",
        reserve_full_prompt=True,
        overlap=True,
        prefix_caching=True,
        engine="vllm",
        release=release,
        source=_VLLM_SOURCE,
        unhashed_blocks=unhashed_blocks,
        null_block=True,
        empty_pause_ms=1.0,
        assumed=assumed,
        differs=("steps above the largest size run compiled code without a graph, not plain eager",),
    )


def _sglang(name: str, pool: str, chunked_prefill_size: int) -> EnginePreset:
    """Return SGLang as `launch_server` starts it: prompts in steps of their own, ahead of decoding."""
    return EnginePreset(
        name=name,
        policy="sglang",
        max_num_seqs=2048,
        max_num_batched_tokens=chunked_prefill_size,
        max_prefill_tokens=16384,
        block_size=1,
        pool=pool,
        pool_mode="decode_only",
        reserve_full_prompt=True,
        overlap=True,
        prefix_caching=True,
        engine="sglang",
        release=SGLANG,
        source=_SGLANG_SOURCE,
        differs=(
            "max_num_seqs is the least that SGLang derives from KV memory (2048 to 4096)",
            "the token in flight of a request that is sent back is kept, not computed again",
        ),
    )


def _trtllm(name: str, pool: str) -> EnginePreset:
    """Return TensorRT-LLM's PyTorch backend as `trtllm-serve` starts it, padding on or off."""
    return EnginePreset(
        name=name,
        policy="mixed",
        max_num_seqs=2048,
        max_num_batched_tokens=8192,
        max_prefill_tokens=8192,
        block_size=32,
        pool=pool,
        pool_mode="decode_only",
        reserve_full_prompt=True,
        overlap=True,
        prefix_caching=True,
        engine="trtllm",
        release=TRTLLM,
        source=_TRTLLM_SOURCE,
        assumed=("max_num_seqs", "max_num_batched_tokens", "block_size", "overlap", "prefix_caching"),
        differs=("by default prompts are not chunked, and the KV cache of the whole answer is reserved",),
    )


_PRESETS: dict[str, EnginePreset] = {
    preset.name: preset
    for preset in (
        _vllm("vllm-h100", 1024, 8192),
        _vllm("vllm-default", 256, 2048),
        _vllm("vllm-b200", 1024, 16384, pool="vllm-b200"),
        # Freed blocks in the order of releases to 0.22; all else as 0.33.0 has it.
        *(
            _vllm(name, seqs, tokens, "vllm", "last", "vLLM 0.19.0", _ASSUMED_OF_OLD)
            for name, seqs, tokens in (
                ("vllm-0.19-h100", 1024, 8192),
                ("vllm-0.19-default", 256, 2048),
            )
        ),
        _sglang("sglang", "sglang", 8192),
        _sglang("sglang-h100", "sglang-256", 8192),
        _sglang("sglang-l40", "sglang-32", 4096),
        _trtllm("trtllm", "trtllm-nopad"),
        _trtllm("trtllm-padded", "trtllm"),
        EnginePreset(
            name="nano-vllm",
            policy="prefill_first",
            max_num_seqs=512,
            max_num_batched_tokens=16384,
            max_prefill_tokens=16384,
            block_size=256,
            pool="nano-vllm",
            pool_mode="decode_only",
            reserve_full_prompt=True,
            overlap=False,
            prefix_caching=True,
            engine="nano-vllm",
            release=NANO_VLLM,
            source="nanovllm/config.py; nanovllm/engine/scheduler.py",
        ),
        EnginePreset(
            name="mini-sglang",
            policy="prefill_first",
            max_num_seqs=256,
            max_num_batched_tokens=8192,
            max_prefill_tokens=8192,
            block_size=1,
            pool="mini-sglang",
            pool_mode="decode_only",
            reserve_full_prompt=True,
            overlap=True,
            prefix_caching=True,
            engine="mini-sglang",
            release=MINI_SGLANG,
            source="python/minisgl/scheduler/config.py; python/minisgl/engine/config.py",
            assumed=("overlap", "reserve_full_prompt"),
        ),
        EnginePreset(
            name="lmdeploy",
            policy="prefill_first",
            max_num_seqs=256,
            max_num_batched_tokens=8192,
            max_prefill_tokens=8192,
            block_size=64,
            pool="lmdeploy",
            pool_mode="decode_only",
            reserve_full_prompt=True,
            overlap=True,
            prefix_caching=False,
            engine="lmdeploy",
            release=LMDEPLOY,
            source="lmdeploy/pytorch/backends/cuda/graph_runner.py",
            assumed=(
                "max_num_seqs", "max_num_batched_tokens", "max_prefill_tokens", "block_size",
                "reserve_full_prompt", "overlap", "prefix_caching",
            ),
            differs=("a size is captured when it is first met, not at start-up",),
        ),
    )
}  # fmt: skip


def engine_preset_names() -> list[str]:
    """Return the names that `engine_preset` knows."""
    return list(_PRESETS)


def engine_preset(name: str) -> EnginePreset:
    """Return an engine's defaults by name; raises InputError for an unknown name, with close ones."""
    if name in _PRESETS:
        return _PRESETS[name]
    close = get_close_matches(name, _PRESETS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(_PRESETS)}"
    raise InputError(f"unknown engine preset {name!r}: {hint} (run.py preset list)")
