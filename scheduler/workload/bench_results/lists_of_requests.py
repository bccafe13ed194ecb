"""Results that hold lists, one entry per request: `vllm bench serve` and SGLang's `bench_serving`.

Read in vLLM 0.26.0 to 0.33.0 (vllm/benchmarks/serve.py: benchmark, main) and SGLang 0.5.23
(sglang/benchmark/serving.py, formerly sglang/bench_serving.py). Both append further runs to a file, one
JSON object each. A failed request has an error, 0 output tokens, a TTFT of 0 and no gaps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scheduler.errors import InputError
from scheduler.workload.bench_results.cells import RowBuilder, count_of, failure, number, positive, tokens
from scheduler.workload.inputs.found import Found, Sending
from scheduler.workload.inputs.runs import chosen_run

VLLM = "vllm bench serve result"
SGLANG = "sglang.bench_serving result"
VLLM_COMMAND = "vllm bench serve --save-result --save-detailed"
SGLANG_COMMAND = "python -m sglang.bench_serving --output-file FILE.jsonl --output-details"
NEEDED = ("input_lens", "output_lens")
# Keys that one of the two writes and the other does not.
_SGLANG_KEYS = ("sharegpt_output_len", "random_range_ratio", "dataset_name", "server_info")


def is_bench_result(keys: frozenset[str]) -> bool:
    """Tell by its keys whether an object is a run of either tool, detailed or not."""
    totals = {"completed", "duration", "total_input_tokens", "total_output_tokens"}
    return keys >= set(NEEDED) or (keys >= totals and "request_throughput" in keys)


def read_bench_result(path: Path, run: int | None, objects: Sequence[Mapping[str, Any]]) -> Found:
    """Read one run of a result file; raises InputError."""
    result, note = chosen_run(path, run, objects)
    is_sglang = any(key in result for key in _SGLANG_KEYS) and "endpoint_type" not in result
    name, command = (SGLANG, SGLANG_COMMAND) if is_sglang else (VLLM, VLLM_COMMAND)
    missing = [key for key in NEEDED if not isinstance(result.get(key), list)]
    if missing:
        raise InputError(
            f"{path}: {name}: missing {' and '.join(missing)}, the list of every request: written only by "
            f"`{command}`"
        )
    lists = _lists(path, name, result)
    builder = RowBuilder(path, name)
    for index in range(len(lists["input_lens"])):
        try:
            _add(builder, index, {key: values[index] for key, values in lists.items()})
        except ValueError as error:
            builder.problem(index, error)
    rows = builder.built(_sending(result))
    lacks = []
    if not rows.arrival_ns:
        why = "SGLang never writes them" if is_sglang else f"`{command}` of vLLM 0.26.0 and later writes them"
        lacks.append(f"no start_times, so when requests arrived is unknown: {why}")
    if not rows.e2el_ms:
        lacks.append(f"no ttfts and itls, so latencies are unknown: `{command}` writes them")
    return Found(
        path,
        name,
        command,
        requests=rows,
        read=(*note, f"{len(rows):,} completed requests{_sent_text(rows.sending)}", *_speculation(result)),
        left_out=builder.left_out,
        lacks=tuple(lacks),
    )


def _lists(path: Path, name: str, result: Mapping[str, Any]) -> dict[str, list[Any]]:
    keys = (*NEEDED, "ttfts", "itls", "latencies", "start_times", "errors", "cached_tokens")
    lists = {key: result[key] for key in keys if isinstance(result.get(key), list)}
    wanted = len(lists["input_lens"])
    wrong = {key: len(values) for key, values in lists.items() if len(values) != wanted}
    if wrong:
        found = ", ".join(f"{key} {length:,}" for key, length in wrong.items())
        raise InputError(f"{path}: {name}: expected {wanted:,} entries, as input_lens has; got {found}")
    return lists


def _add(builder: RowBuilder, index: int, row: Mapping[str, Any]) -> None:
    error = row.get("errors")
    if error:
        builder.leave_out(index, f"failed ({failure(error)})")
        return
    if row["output_lens"] == 0 or row["input_lens"] == 0:
        builder.leave_out(index, "failed (no tokens)")
        return
    ttft_ms = e2el_ms = math.nan
    if "ttfts" in row and "itls" in row:
        gaps = row["itls"]
        if not isinstance(gaps, list):
            raise ValueError("itls: expected a list")
        ttft_ms = 1e3 * number(row, "ttfts")
        e2el_ms = ttft_ms + 1e3 * math.fsum(number({"itls": gap}, "itls") for gap in gaps)
    builder.add(
        index,
        tokens(row, "input_lens"),
        tokens(row, "output_lens"),
        start_s=number(row, "start_times") if "start_times" in row else None,
        ttft_ms=ttft_ms,
        e2el_ms=e2el_ms,
        cached=tokens(row, "cached_tokens", 0) if row.get("cached_tokens") is not None else None,
    )


def _sending(result: Mapping[str, Any]) -> Sending | None:
    """Return how the client sent, or None where the file does not say (as with ramps and traces)."""
    if result.get("ramp_up_strategy") is not None:
        return None
    if result.get("request_rate") in ("inf", math.inf):
        return Sending(concurrency=count_of(result.get("max_concurrency")))
    rate = positive(result.get("request_rate"))
    shape = positive(result.get("burstiness"), 1e6) or 1.0
    return None if rate is None else Sending(rate_per_s=rate, burstiness=shape)


def _sent_text(sending: Sending | None) -> str:
    if sending is None:
        return ""
    if sending.rate_per_s is not None:
        return f", sent at {sending.rate_per_s:g}/s"
    return f", {sending.concurrency} at a time" if sending.concurrency else ", all sent at once"


def _speculation(result: Mapping[str, Any]) -> tuple[str, ...]:
    for key in ("spec_decode_acceptance_length", "accept_length"):
        value = positive(result.get(key), 1e4)
        if value and value > 1:
            return (
                f"speculative decoding: {value:.2f} tokens to a request and step were accepted; the measured "
                "gaps are between groups of tokens",
            )
    return ()
