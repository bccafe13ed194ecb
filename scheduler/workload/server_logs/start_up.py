"""Start-up lines of vLLM and SGLang: what was captured, how long it took, what it left for the KV cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

GIB = 1 << 30
MOST_SIZES = 100_000


@dataclass(frozen=True, slots=True)
class StartUpFacts:
    """What a server said of itself when it started; None where it did not.

    `mode` is vLLM's CUDA graph mode, `runner` its model runner (v1 or v2), `full_graphs` and
    `piecewise_graphs` how many it captures; `estimated_graph_bytes` is what it set aside for them, `kv_bytes`
    what the KV cache got. With several ranks the largest memory and time and the smallest
    KV cache are kept.
    """

    engine: str | None = None
    capture_sizes: tuple[int, ...] | None = None
    mode: str | None = None
    kv_tokens: int | None = None
    graph_bytes: int | None = None
    capture_s: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    draft_tokens: int | None = None
    decode_log_interval: int | None = None
    version: str | None = None
    runner: Literal["v1", "v2"] | None = None
    full_graphs: int | None = None
    piecewise_graphs: int | None = None
    estimated_graph_bytes: int | None = None
    kv_bytes: int | None = None

    @property
    def are_known(self) -> bool:
        """Whether a server said anything; limits alone stand in other files, too."""
        said = (self.engine, self.capture_sizes, self.mode, self.graph_bytes, self.version)
        return any(fact is not None for fact in said)


_WHOLE = r"['\"]?\s*[:=]\s*(\d{1,15})\b"
_SIZES = re.compile(
    r"(?:Capture sizes:|cudagraph_capture_sizes['\"]?\s*[:=]|Capture cuda graph bs|cuda_graph_bs['\"]?\s*[:=]"
    r"|Capture target decode CUDA graph begin\b.*?\bbs=)\s*\[([0-9,\s]*)\]"
)
_MODE = re.compile(r"(?:- Mode:|cudagraph_mode['\"]?\s*[:=])\s*['\"<]?(?:CUDAGraphMode\.)?([A-Z_]{3,30})\b")
# Releases before 0.12 print the number of a mode, or those of its decode and mixed steps.
_OLD_MODE = re.compile(r"cudagraph_mode['\"]?\s*[:=]\s*(\d|[\[(]\d, ?\d[\])])(?=[,}\s)]|$)")
_OLD_MODES = {
    "0": "NONE",
    "1": "PIECEWISE",
    "2": "FULL",
    "20": "FULL_DECODE_ONLY",
    "21": "FULL_AND_PIECEWISE",
}
_STARTS = ("vLLM API server version", "LLM engine (v", "server_args=ServerArgs(")
_VLLM_CAPTURE = re.compile(r"Graph capturing finished in ([0-9.]{1,15}) secs?, took ([0-9.]{1,15}) GiB")
_VLLM_KV = re.compile(r"GPU KV cache size: ([0-9,]{1,20}) tokens")
_SGLANG_CAPTURE = re.compile(
    r"Capture (?:cuda graph end\. Time elapsed:\s*|target decode CUDA graph end\. elapsed=)([0-9.]{1,15}) s"
)
_SGLANG_MEMORY = re.compile(r"mem usage=([0-9.]{1,15}) GB")
_SGLANG_KV = re.compile(r"(?:max_total_num_tokens=|KV Cache is allocated\..*?#tokens: ?)(\d{1,15})")
_LIMITS = {
    "max_num_seqs": re.compile(r"\b(?:max_num_seqs|max_running_requests)" + _WHOLE),
    "max_num_batched_tokens": re.compile(r"\b(?:max_num_batched_tokens|chunked_prefill_size)" + _WHOLE),
    "block_size": re.compile(r"\b(?:block_size|page_size)" + _WHOLE),
    "draft_tokens": re.compile(r"\b(?:num_speculative_tokens|num_spec_tokens)" + _WHOLE),
    "decode_log_interval": re.compile(r"\bdecode_log_interval" + _WHOLE),
}
# SGLang counts the token that is verified beside the drafted ones.
_SGLANG_WIDTH = re.compile(r"\bspeculative_num_draft_tokens" + _WHOLE)
_VERSION = re.compile(
    r"(?:vLLM (?:API )?server version|LLM engine \(|TensorRT[- ]LLM version:?)\s*v?(\d[\w.+-]{0,40})",
    re.IGNORECASE,
)
# Runner V1 logs from gpu_model_runner.py, V2 from gpu/model_runner.py, and says so when it starts.
_RUNNER = re.compile(r"(Using V2 Model Runner|[\[ /]model_runner\.py:\d)|(\bgpu_model_runner\.py:\d)")
_GRAPHS = {
    "full_graphs": re.compile(r"Profiling CUDA graph memory:.*?\bFULL=(\d{1,9})"),
    "piecewise_graphs": re.compile(r"Profiling CUDA graph memory:.*?\bPIECEWISE=(\d{1,9})"),
}
_ESTIMATE = re.compile(r"Estimated CUDA graph memory: ([0-9.]{1,15}) GiB|([0-9.]{1,15}) GiB \(estimated\)")
_KV_BYTES = re.compile(r"Available KV cache memory: ([0-9.]{1,15}) GiB")
_MARKS = (
    "apture", "apturing", "KV ", "max_num", "max_running", "cudagraph", "cuda_graph", "Mode:", "max_total",
    "page_size", "block_size", "num_speculative", "num_spec_tokens", "num_draft_tokens", "version",
    "LLM engine (", "Model Runner", "model_runner.py", "CUDA graph",
)  # fmt: skip


class StartUpReader:
    """Collects start-up facts line by line; lines of other kinds cost a few substring tests."""

    def __init__(self) -> None:
        self._engine: str | None = None
        self._sizes: tuple[int, ...] | None = None
        self._mode: str | None = None
        self._kv_tokens: list[int] = []
        self._graph_bytes: list[int] = []
        self._capture_s: list[float] = []
        self._limits: dict[str, int] = {}
        self._version: str | None = None
        self._runner: Literal["v1", "v2"] | None = None
        self._estimates: list[int] = []
        self._kv_bytes: list[int] = []

    @staticmethod
    def is_start(line: str) -> bool:
        """Whether a server says here that it starts."""
        return any(mark in line for mark in _STARTS)

    def read(self, line: str) -> None:
        """Take what a line says; a number that makes no sense is passed over."""
        if not any(mark in line for mark in _MARKS):
            return
        sizes = _SIZES.search(line)
        if sizes:
            found = {int(word) for word in re.findall(r"\d{1,9}", sizes[1])}
            if 0 < len(found) <= MOST_SIZES:
                self._sizes = tuple(sorted(found - {0}))
        mode = _MODE.search(line)
        if mode:
            self._mode = mode[1]
        old_mode = _OLD_MODE.search(line)
        if old_mode:
            self._mode = _OLD_MODES.get(re.sub(r"\D", "", old_mode[1]), self._mode)
        width = _SGLANG_WIDTH.search(line)
        if width and int(width[1]) > 0:
            self._limits["draft_tokens"] = int(width[1]) - 1
        for name, pattern in _LIMITS.items():
            limit = pattern.search(line)
            if limit and int(limit[1]) > 0:
                self._limits[name] = int(limit[1])
        version = _VERSION.search(line)
        if version:
            self._version = version[1].rstrip(".-+")
        self._read_capture(line)
        self._read_vllm(line)
        for pattern, engine in ((_VLLM_KV, "vllm"), (_SGLANG_KV, "sglang")):
            tokens = pattern.search(line)
            if tokens:
                self._engine = engine
                self._kv_tokens.append(int(tokens[1].replace(",", "") or 0))

    def _read_capture(self, line: str) -> None:
        vllm, sglang = _VLLM_CAPTURE.search(line), _SGLANG_CAPTURE.search(line)
        memory = _SGLANG_MEMORY.search(line) if sglang else None
        seconds = vllm or sglang
        if seconds:
            self._engine = "vllm" if vllm else "sglang"
            self._capture_s.append(_number(seconds[1]))
        amount = vllm[2] if vllm else memory[1] if memory else None
        if amount is not None:
            self._graph_bytes.append(round(_number(amount) * GIB))

    def _read_vllm(self, line: str) -> None:
        runner = _RUNNER.search(line)
        if runner:
            self._runner = "v2" if runner[1] else "v1"
        for name, pattern in _GRAPHS.items():
            graphs = pattern.search(line)
            if graphs:
                self._limits[name] = int(graphs[1])
        for pattern, amounts in ((_ESTIMATE, self._estimates), (_KV_BYTES, self._kv_bytes)):
            amount = pattern.search(line)
            if amount:
                number = next(group for group in amount.groups() if group is not None)
                amounts.append(round(_number(number) * GIB))

    def facts(self) -> StartUpFacts:
        """Return what was said, over all ranks."""
        return StartUpFacts(
            self._engine,
            self._sizes,
            self._mode,
            min(self._kv_tokens, default=None),
            max(self._graph_bytes, default=None),
            max(self._capture_s, default=None),
            version=self._version,
            runner=self._runner,
            estimated_graph_bytes=max(self._estimates, default=None),
            kv_bytes=min(self._kv_bytes, default=None),
            **self._limits,
        )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
