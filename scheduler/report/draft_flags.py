"""Speculative decoding as flags and files to paste into engines, as each one's own code takes them.

vLLM 0.33.0: `vllm/config/speculative.py`, SpeculativeConfig. SGLang 0.5.23 (under `sglang/srt/arg_groups/`):
names in `fields/spec.py`, lines 31 to 69 and 252 to 259; in `speculative_hook.py` a chain has
num_steps + 1 draft tokens (lines 1255 to 1268), n-grams are a tree unless their breadth is 1 (1308 to 1313),
and 48 requests run unless told otherwise (1083 to 1092, 1294 to 1303). TensorRT-LLM:
`tensorrt_llm/llmapi/llm_args.py` of 2026, DecodingBaseConfig and its subclasses Eagle3, MTP, NGram and
Draft_Target; by reading.
"""

from __future__ import annotations

import json

from scheduler.workload.speculation import DraftMethod

DRAFT = "DRAFT"  # stands for the drafter's own model, as MODEL does for the target
_SGLANG: dict[DraftMethod, str] = {
    "eagle": "EAGLE",
    "mtp": "NEXTN",
    "draft_model": "STANDALONE",
    "ngram": "NGRAM",
}
_TRTLLM: dict[DraftMethod, str] = {
    "eagle": "Eagle3",
    "mtp": "MTP",
    "draft_model": "Draft_Target",
    "ngram": "NGram",
}
_NGRAM_SIZE = 4


def draft_flags(method: DraftMethod, draft_tokens: int, max_num_seqs: int) -> list[str]:
    """Return lines that turn drafting on: vLLM's command, SGLang's, and TensorRT-LLM's file; none for 0."""
    if not draft_tokens:
        return []
    return [
        _vllm(method, draft_tokens),
        _sglang(method, draft_tokens, max_num_seqs),
        "# TensorRT-LLM, in the file of --extra_llm_api_options:",
        *_trtllm(method, draft_tokens),
    ]


def _has_own_model(method: DraftMethod) -> bool:
    return method in ("eagle", "draft_model")


def _vllm(method: DraftMethod, draft_tokens: int) -> str:
    settings: dict[str, object] = {"method": method}
    if _has_own_model(method):
        settings["model"] = DRAFT
    settings["num_speculative_tokens"] = draft_tokens
    if method == "ngram":
        settings["prompt_lookup_max"] = _NGRAM_SIZE
    return f"vllm serve MODEL --speculative-config '{json.dumps(settings)}'"


def _sglang(method: DraftMethod, draft_tokens: int, max_num_seqs: int) -> str:
    flags = [f"--speculative-algorithm {_SGLANG[method]}"]
    if _has_own_model(method):
        flags.append(f"--speculative-draft-model-path {DRAFT}")
    if method == "ngram":
        flags.append("--speculative-ngram-max-bfs-breadth 1")
    else:
        flags.append(f"--speculative-num-steps {draft_tokens} --speculative-eagle-topk 1")
    flags.append(f"--speculative-num-draft-tokens {draft_tokens + 1} --max-running-requests {max_num_seqs}")
    return f"python -m sglang.launch_server --model-path MODEL {' '.join(flags)}"


def _trtllm(method: DraftMethod, draft_tokens: int) -> list[str]:
    lines = ["speculative_config:", f"  decoding_type: {_TRTLLM[method]}", f"  max_draft_len: {draft_tokens}"]
    if _has_own_model(method):
        lines.append(f"  speculative_model: {DRAFT}")
    if method == "ngram":
        lines.append(f"  max_matching_ngram_size: {_NGRAM_SIZE}")
    return lines
