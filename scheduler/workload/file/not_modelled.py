"""Words of engines for what is not modelled, so that an unknown key says more than that it is unknown."""

from __future__ import annotations

import re

PAGE = "docs/not_modelled.md"
# What a key or value looks like, and the row of the page that it belongs to.
_ROWS = tuple(
    (re.compile(pattern), row)
    for pattern, row in (
        (
            r"(data|tensor|pipeline|expert|context|sequence|decode_context|prefill_context)_parallel"
            r"|\b(tp|pp|dp|ep|cp)_?(size|rank)?\b|dp_attention|moe_|world_size|num_gpus|eplb",
            "several GPUs",
        ),
        (r"disagg|replica|router|load_balanc|kv_connector|kv_transfer|prefill_instances", "several servers"),
        (r"medusa|lookahead|dspark|dflash|suffix|per_batch_size", "speculative decoding"),
        (r"lora|adapter|multimodal|mm_|encoder|guided|structured|grammar", "LoRA adapters"),
        (r"prefix_(cache|hit)|radix|session|conversation|turns", "prefixes that nobody tells of"),
        (r"swap|offload|cpu_cache|hicache|host_cache", "swapping KV blocks"),
        (r"priorit|fair|cancel|abort|timeout|deadline", "priorities"),
        (r"tokeniz|detokeniz|http|api_server|front_?end", "tokenizer"),
        (r"\b(piecewise|full)\b|cudagraph_mode", "graph modes"),
    )
)


_SPECULATION = re.compile(r"specul|draft|eagle|mtp|ngram|num_nextn|acceptance")


def not_modelled(word: object) -> str:
    """Return `; … is not modelled (page)` for a word of such a feature, else nothing.

    What has a section of its own in the file is pointed to there.
    """
    if not isinstance(word, str):
        return ""
    for pattern, row in _ROWS:
        if pattern.search(word.casefold().replace("-", "_")):
            return f"; not modelled: see {PAGE}, {row!r}"
    if _SPECULATION.search(word.casefold().replace("-", "_")):
        return "; drafting is written in its own section, engine.speculation: see docs/workloads.md"
    return ""
