"""The capture sizes that serving engines choose when their users choose none.

Every rule names the release whose code it mirrors. A name may carry a maximum: `vllm-256` is what the
engine captures when its own flag sets the largest size to 256.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from scheduler.catalog.dispatch import sglang, trtllm, vllm
from scheduler.catalog.dispatch.table import Settings
from scheduler.errors import InputError

GIB = 1 << 30

VLLM = "vLLM 0.33.0"
SGLANG = "SGLang 0.5.23"
TRTLLM = "TensorRT-LLM (April 2026, sizes above 128 in steps of 64)"
TRTLLM_X2 = "TensorRT-LLM (before April 2026, powers of two above 128)"
NANO_VLLM = "nano-vllm bb823b3e"
MINI_SGLANG = "mini-sglang 20fcd7f3"
LMDEPLOY = "LMDeploy 1263d5cd"
TGI = "text-generation-inference db931fcf"
LIGHTLLM = "LightLLM, snapshot of 2025-07-11"
OURS = "no engine"


@dataclass(frozen=True, slots=True)
class PoolPreset:
    """A named graph pool: ascending capture sizes and how the engine routes batches to them.

    `padding`: a batch may take the next larger graph. `piecewise`: the same sizes also serve mixed steps,
    by total tokens. `engine` and `release` say whose rule this is; `source` where it was read.
    """

    name: str
    sizes: tuple[int, ...]
    padding: bool
    piecewise: bool
    engine: str
    release: str
    source: str


@dataclass(frozen=True, slots=True)
class _Limits:
    """What an engine looks at when it makes its list; `maximum` is None where the user gave none."""

    maximum: int | None
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_bytes: int | None
    tensor_parallel: int
    draft_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Rule:
    sizes: Callable[[_Limits], Iterable[int]]
    engine: str
    release: str
    source: str
    padding: bool = True
    piecewise: bool = False
    takes_maximum: bool = True


def _settings(limits: _Limits, *, padding: bool = True, blackwell: bool = False) -> Settings:
    return Settings(
        limits.max_num_seqs,
        limits.max_num_batched_tokens,
        padding=padding,
        gpu_memory_bytes=limits.gpu_memory_bytes,
        tensor_parallel=limits.tensor_parallel,
        blackwell=blackwell,
        draft_tokens=limits.draft_tokens,
    )


def _vllm(limits: _Limits, blackwell: bool = False, fine_to: int = 0) -> tuple[int, ...]:
    settings = _settings(limits, blackwell=blackwell)
    return vllm.default_sizes(vllm.NEWEST_READ, settings, limits.maximum, fine_to)


def _sglang(limits: _Limits) -> tuple[int, ...]:
    settings = _settings(limits)
    return sglang.captured_sizes(sglang.default_sizes(settings, limits.maximum), settings)


def _trtllm(limits: _Limits, *, padding: bool = True, doublings: bool = False) -> tuple[int, ...]:
    listed = trtllm.default_sizes(limits.maximum, padding=padding, doublings=doublings)
    return trtllm.within_limits(listed, _settings(limits, padding=padding))


def _nano_vllm(limits: _Limits) -> set[int]:
    """1, 2, 4, 8, then steps of 16 to min(max_num_seqs, 512): off the grid the largest batches have none.

    The buffers hold max_num_seqs rows, so a listed size beyond them is captured with that many rows.
    """
    maximum = limits.maximum or min(limits.max_num_seqs, 512)
    return {min(size, maximum) for size in [1, 2, 4, 8, *range(16, maximum + 1, 16)]}


def _mini_sglang(limits: _Limits) -> set[int]:
    """1, 2, 4, then steps of 8 to 256 above 80 GiB of free GPU memory, else to 160.

    Total memory stands in for the free memory that the engine reads; unknown counts as 80 GiB or less.
    """
    large = limits.gpu_memory_bytes is not None and limits.gpu_memory_bytes > 80 * GIB
    maximum = limits.maximum or (256 if large else 160)
    return {1, 2, 4, *range(8, maximum + 1, 8)}


def _lmdeploy(limits: _Limits) -> set[int]:
    """Powers of two to 256, then steps of 256, and the largest batch always."""
    maximum = limits.maximum or limits.max_num_seqs
    return {size for size in [*_doublings(1, 256), *range(512, maximum + 1, 256)] if size <= maximum} | {
        maximum
    }


def _lightllm(limits: _Limits) -> set[int]:
    """Every size to 32, then steps of 16 to 256; both ends never beyond the largest batch."""
    maximum = min(limits.maximum or 256, limits.max_num_seqs)
    return {size for size in [*range(1, 33), *range(48, maximum, 16)] if size <= maximum} | {maximum}


def _doublings(first: int, last: int) -> list[int]:
    sizes = []
    while first <= last:
        sizes.append(first)
        first *= 2
    return sizes


def _powers_of_two(limits: _Limits) -> set[int]:
    maximum = limits.maximum or limits.max_num_seqs
    return {*_doublings(1, maximum), maximum}


def _every_size(limits: _Limits) -> range:
    return range(1, (limits.maximum or limits.max_num_seqs) + 1)


_VLLM_SOURCE = "vllm/config/vllm.py, VllmConfig._set_cudagraph_sizes; vllm-project/vllm pull request 57355"
_SGLANG_SOURCE = "sglang/srt/arg_groups/cuda_graph_hook.py and memory_hook.py"
_TRTLLM_SOURCE = (
    "tensorrt_llm/llmapi/llm_args.py, _generate_cuda_graph_batch_sizes; filter_cuda_graph_batch_sizes"
)

_RULES: dict[str, _Rule] = {
    "vllm": _Rule(_vllm, "vllm", VLLM, _VLLM_SOURCE, piecewise=True),
    "vllm-b200": _Rule(
        lambda limits: _vllm(limits, blackwell=True),
        "vllm",
        VLLM,
        _VLLM_SOURCE,
        piecewise=True,
        takes_maximum=False,
    ),
    "vllm-interactivity": _Rule(
        lambda limits: _vllm(limits, fine_to=32),
        "vllm",
        VLLM,
        _VLLM_SOURCE + "; --performance-mode interactivity",
        piecewise=True,
    ),
    "sglang": _Rule(_sglang, "sglang", SGLANG, _SGLANG_SOURCE),
    "trtllm": _Rule(_trtllm, "trtllm", TRTLLM, _TRTLLM_SOURCE),
    "trtllm-x2": _Rule(lambda limits: _trtllm(limits, doublings=True), "trtllm", TRTLLM_X2, _TRTLLM_SOURCE),
    "trtllm-nopad": _Rule(
        lambda limits: _trtllm(limits, padding=False), "trtllm", TRTLLM, _TRTLLM_SOURCE, padding=False
    ),
    "nano-vllm": _Rule(_nano_vllm, "nano-vllm", NANO_VLLM, "nanovllm/engine/model_runner.py"),
    "mini-sglang": _Rule(_mini_sglang, "mini-sglang", MINI_SGLANG, "python/minisgl/engine/graph.py"),
    "lmdeploy": _Rule(
        _lmdeploy, "lmdeploy", LMDEPLOY, "lmdeploy/pytorch/backends/cuda/graph_runner.py, config.py"
    ),
    "tgi": _Rule(
        lambda _: (1, 2, 4, 8, 16, 32), "tgi", TGI, "launcher/src/main.rs, --cuda-graphs", takes_maximum=False
    ),
    "lightllm": _Rule(_lightllm, "lightllm", LIGHTLLM, "lightllm/common/basemodel/cuda_graph.py"),
    "all": _Rule(_every_size, "none", OURS, "every batch size that can occur"),
    "powers_of_two": _Rule(_powers_of_two, "none", OURS, "powers of two and the largest batch"),
    "eager": _Rule(lambda _: (), "none", OURS, "no graphs at all", takes_maximum=False),
}
_ALIASES = {"none": "eager", "pow2": "powers_of_two"}


def pool_preset_names() -> list[str]:
    """Return the preset names without a maximum; all but a few also take one (`vllm-256`)."""
    return [*_RULES, *_ALIASES]


def pool_preset(
    name: str,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    gpu_memory_bytes: int | None = None,
    tensor_parallel: int = 1,
    draft_tokens: int = 0,
) -> PoolPreset:
    """Return the pool that the named engine would capture under these limits.

    `name` is a preset, or a preset and its largest size (`sglang-160`, `trtllm-nopad-256`). GPU memory
    (total, bytes) decides the maximum of `sglang` and `mini-sglang` only; None is their "unknown". An
    engine with rules of its own makes its list for `draft_tokens` per request, in its own unit; others
    count requests. Raises InputError for an unknown name, with close ones.
    """
    rule_name, maximum = _split(name)
    rule = _RULES[rule_name]
    limits = _Limits(
        maximum, max_num_seqs, max_num_batched_tokens, gpu_memory_bytes, tensor_parallel, draft_tokens
    )
    sizes = tuple(sorted(rule.sizes(limits)))
    return PoolPreset(name, sizes, rule.padding, rule.piecewise, rule.engine, rule.release, rule.source)


def _split(name: str) -> tuple[str, int | None]:
    """Take a preset name apart into the rule's name and the maximum, None where none is given."""
    plain = _ALIASES.get(name, name)
    if plain in _RULES:
        return plain, None
    with_maximum = re.fullmatch(r"([a-z0-9_-]+)-([1-9][0-9]{0,5})", name)
    if with_maximum:
        rule_name = _ALIASES.get(with_maximum[1], with_maximum[1])
        if rule_name in _RULES and _RULES[rule_name].takes_maximum:
            return rule_name, int(with_maximum[2])
    names = pool_preset_names()
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
    raise InputError(f"unknown pool preset {name!r}: {hint} (run.py preset list)")
