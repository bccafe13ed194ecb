"""Whatever becomes of a file on its way: a right answer or clear lines, never a traceback, never silence."""

# ruff: noqa: E501  (lines of logs)

from __future__ import annotations

import gzip
import json
import math
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.errors import InputError
from scheduler.workload.inputs.door import read_input, recorded_lengths
from scheduler.workload.inputs.found import Use
from scheduler.workload.inputs.measured import measured_of
from scheduler.workload.server_logs.batches import read_server_log
from scheduler.workload.traces.read import trace_of

VLLM_LOG = """\
(APIServer pid=1) INFO 06-28 11:40:00 [utils.py:233] non-default args: {'max_num_seqs': 64, 'speculative_config': {}}
INFO [api_server.py:1] vLLM API server version 0.33.0
- Mode: FULL_AND_PIECEWISE
- Capture sizes: [1, 2, 4, 8, 16]
INFO [kv_cache_utils.py:1229] GPU KV cache size: 455,808 tokens
| Unpadded Tokens | Padded Tokens | Num Paddings | Runtime Mode | Count |
|-----------------|---------------|--------------|--------------|-------|
| 7               | 8             | 1            | FULL         | 30    |
| 500             | 512           | 12           | PIECEWISE    | 10    |
| 2048            | 2048          | 0            | NONE         | 8     |
INFO Engine 000: Iteration(5): 0 context requests, 0 context tokens, 20 generation requests, 20 generation tokens, \
iteration elapsed time: 10.99 ms, GPU KV cache usage: 12.1%
INFO Engine 000: Avg prompt throughput: 0.0 tokens/s, Avg generation throughput: 11.5 tokens/s, Running: 4 reqs, \
Waiting: 0 reqs, GPU KV cache usage: 1.0%, Prefix cache hit rate: 0.0%
INFO SpecDecoding metrics: Mean acceptance length: 2.10, Accepted: 11 tokens, Drafted: 30 tokens, \
Per-position acceptance rate: 0.700, 0.400, Avg Draft acceptance rate: 36.7%
"""
SGLANG_LOG = """\
[2025-07-18 10:00:00 DP0 TP0] Capture cuda graph bs [1, 2, 4, 8, 256]
[2025-07-18 10:00:00 DP0 TP0] Prefill batch. #new-seq: 1, #new-token: 9, #cached-token: 0, #running-req: 1
[2025-07-18 10:00:00 DP1 TP1] Decode batch. #running-req: 50, #token: 75000, token usage: 0.30, accept len: 1.50, \
cuda graph: False, gen throughput (token/s): 110.00, #queue-req: 0
[2025-07-18 10:00:01 DP0 TP0] Decode batch [7], #running-req: 9, #full token: 99, cuda graph: True, \
gen throughput (token/s): 9.1, #queue-req: 0 [repeated 3x across cluster]
"""
TENSORRT_LOG = """\
[TRT-LLM] [I] iter = 198, global_rank = 0, rank = 0, elapsed_time = 0.00506s, num_scheduled_requests: 10, \
states = {'num_ctx_requests': 0, 'num_ctx_tokens': 0, 'num_generation_tokens': 16}
[TRT-LLM] [I] iter = 199, global_rank = 0, num_scheduled_requests = 11, kv_cache_util = 0.5, host_step_time = 12.3ms, \
prev_device_step_time = 9.8ms, states = {'num_ctx_requests': 1, 'num_ctx_tokens': 128, 'num_generation_tokens': 10}
"""
PROMETHEUS = """\
# HELP vllm:iteration_tokens_total Histogram of number of tokens per engine_step.
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0"} 2.0
vllm:iteration_tokens_total_bucket{engine="0",le="8.0"} 12.0
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf"} 13.0
vllm:spec_decode_num_drafts_total{engine="0"} 4.0
vllm:spec_decode_num_accepted_tokens_total{engine="0"} 6.0
vllm:spec_decode_num_draft_tokens_total{engine="0"} 12.0
sglang:cuda_graph_passes_total{mode="decode_none"} 3.0
"""
BENCH = {
    "endpoint_type": "openai", "request_rate": "inf", "max_concurrency": 2, "completed": 2, "duration": 3.0,
    "input_lens": [100, 50, 30], "output_lens": [4, 0, 3], "ttfts": [0.5, 0.0, 0.25],
    "itls": [[0.1, 0.1, 0.1], [], [0.2, 0.2]], "start_times": [10.0, 10.5, 12.0], "errors": ["", "x", ""],
}  # fmt: skip
SGLANG_BENCH = {
    "backend": "sglang", "dataset_name": "random", "request_rate": 4.0, "max_concurrency": None,
    "input_lens": [100, 30], "output_lens": [4, 3], "ttfts": [0.5, 0.25], "itls": [[0.3], [0.2]],
    "errors": ["", ""], "accept_length": 2.5,
}  # fmt: skip
GUIDELLM = {
    "metadata": {"version": 2, "guidellm_version": "0.6.0"},
    "benchmarks": [
        {
            "config": {"strategy": {"type_": "poisson", "rate": 4.0}},
            "requests": {
                "successful": [
                    {
                        "info": {"timings": {"request_start": 9.0, "first_token_iteration": 9.5}},
                        "request_start_time": 9.0, "request_latency": 1.5, "time_to_first_token_ms": 500.0,
                        "prompt_tokens": 5, "output_tokens": 2, "cached_tokens": 3,
                    }
                ],
                "errored": [{}], "incomplete": [],
            },
        }
    ],
}  # fmt: skip
AIPERF = [
    {
        "metadata": {"request_start_ns": 1759813207532900363 + index, "benchmark_phase": "profiling",
                     "was_cancelled": index == 2, "turn_index": index},
        "metrics": {"input_sequence_length": {"value": 550, "unit": "tokens"},
                    "output_sequence_length": {"value": 25, "unit": "tokens"},
                    "time_to_first_token": {"value": 45.9, "unit": "ms"},
                    "request_latency": {"value": 0.226, "unit": "s"}},
        "error": None,
    }
    for index in range(3)
]  # fmt: skip
METRICS = [
    {"iter": 2, "iterLatencyMS": 12.5, "kvCacheStats": {"usedNumBlocks": 9, "tokensPerBlock": 64},
     "inflightBatchingStats": {"numContextRequests": 0, "numCtxTokens": 0, "numGenRequests": 4},
     "specDecodingStats": {"acceptanceLength": 2.5}},
    {"iter": 3, "inflightBatchingStats": {"numContextRequests": 1, "numCtxTokens": 100, "numGenRequests": 4}},
]  # fmt: skip
REQUEST_LOG = {"input_toks": 5, "output_toks": 3, "arrival_time": 1e9, "queued_ts": 5.0, "first_token_ts": 6.0,
               "last_token_ts": 7.5}  # fmt: skip
STEP_LOG = '{"variant": "graphs", "replication": 0, "executor": {}, "steps": 2}\n[5000000, 0, 3, 4, 90, 0]\n[9, 2, 1, 0, 9, 5]\n'


def lines_of(*objects):
    return "".join(json.dumps(value) + "\n" for value in objects)


JSON_FILES = {
    "bench": lines_of(BENCH, BENCH),
    "sglang bench": lines_of(SGLANG_BENCH),
    "guidellm": json.dumps(GUIDELLM, indent=1),
    "aiperf": lines_of(*AIPERF),
    "metrics lines": lines_of(*METRICS),
    "metrics array": json.dumps(METRICS),
    "request log": lines_of(REQUEST_LOG, REQUEST_LOG),
    "llmservingsim": lines_of({"input_toks": 7, "output_toks": 6, "arrival_time_ns": 5},
                              {"session_id": "a", "arrival_time_ns": 5, "sub_requests": [{"input_toks": 1}]}),
    "docker": lines_of(*({"log": f"{line}\n", "stream": "stderr"} for line in VLLM_LOG.splitlines())),
    "step log": STEP_LOG,
    "mooncake": lines_of({"timestamp": 5, "input_length": 7, "output_length": 3, "hash_ids": [1, 2]}),
}  # fmt: skip
FILES = JSON_FILES | {
    "vllm log": VLLM_LOG,
    "sglang log": SGLANG_LOG,
    "tensorrt log": TENSORRT_LOG,
    "prometheus": PROMETHEUS,
    "steps": "scheduled_us,requests,tokens,chunks,mode,output_us\n0,2,128,64 64,PIECEWISE,27477\n9,2,2,,FULL,28000\n",
    "histogram": "batch_size,steps\n3,10\n8,2\n",
    "measured": "arrival_s,prompt_tokens,output_tokens,ttft_ms,e2el_ms\n0,5,3,10,40\n1,6,2,11,30\n",
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,5,3\n",
}


def look_at(content: bytes) -> list[str] | None:
    """Read the bytes in every role they fill; return the lines of an error, None where they were read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        try:
            check(read_input(path))
        except InputError as error:
            lines = list(error.lines)
        else:
            return None
    assert lines
    assert all(str(path) in line and "\n" not in line for line in lines), lines
    return lines


def check(found):
    """What holds of everything that was read."""
    assert found.format
    assert found.command
    assert found.read or found.left_out or found.lacks or found.requests is not None, "silence"
    assert all("\n" not in line for line in found.lines)
    if Use.ARRIVALS in found.uses:
        trace = trace_of(found)
        assert trace.arrival_ns[0] == 0
        assert np.all(np.diff(trace.arrival_ns) >= 0)
        assert min(trace.prompt_tokens.min(), trace.output_tokens.min()) >= 1
        if Use.LATENCIES in found.uses:
            measured = measured_of(found)
            assert np.all((measured.ttft_ms >= 0) & (measured.ttft_ms <= measured.e2el_ms))
    if Use.LENGTHS in found.uses:
        assert all(column.min() >= 1 for column in recorded_lengths(found))
    if found.log is not None:
        log = found.log
        assert all(size >= 1 and count >= 0 for size, count in log.decode_steps.items())
        assert all(size >= 1 and count >= 0 for size, count in log.mixed_steps.items())
        times = [*log.decode_times.values(), *log.mixed_times.values()]
        assert all(spent.count > 0 and 0 <= spent.mean_ms < math.inf for spent in times)
        assert all(0 <= tokens < math.inf for tokens in log.kv_tokens.values())
        assert log.accepted_length is None or 0 <= log.accepted_length < math.inf


@pytest.mark.parametrize("name", FILES)
def test_every_sample_is_read(name):
    assert look_at(FILES[name].encode()) is None
    assert look_at(gzip.compress(FILES[name].encode())) is None


pieces = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"\n", b"\0", b"|", b"{", b"}", b"[", b"]", b",", b'"', b"\xff\xfe", b"999999999999999999999",
         b"-1", b"NaN", b"1e400", b"null", b"\x1b[31m", b" [repeated 999999999x across cluster]", b"PK\x03\x04"]
    ),
)  # fmt: skip
edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), pieces, st.booleans()), min_size=1, max_size=6
)


@given(st.sampled_from(sorted(FILES)), edits, st.booleans(), st.floats(0, 1))
def test_damaged_files_give_an_answer_or_clear_lines(name, changes, is_packed, kept):
    content = bytearray(FILES[name].encode())
    for where, length, piece, is_cut in changes:
        start = int(where * len(content))
        content[start : start + (length if is_cut else 0)] = piece
    packed = gzip.compress(bytes(content)) if is_packed else bytes(content)
    look_at(packed[: len(packed) if kept > 0.3 else int(kept * 3 * len(packed))])


values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=5),
        st.sampled_from([0, -1, 1, 1e308, 10**9, "inf", "", [], {}]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)  # fmt: skip


def paths_in(value, path=()):
    """Yield the path of every part of a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from paths_in(part, (*path, key))


def with_changed(value, path, new):
    """Return the JSON value with one part replaced, or removed where `new` is the marker."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1 and new is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = with_changed(value[path[0]], path[1:], new)
    return copy


@given(st.data())
def test_any_value_in_any_place_gives_an_answer_or_clear_lines(data):
    name = data.draw(st.sampled_from(["guidellm", "metrics array", *sorted(JSON_FILES)]))
    text = JSON_FILES[name]
    is_whole = name in ("guidellm", "metrics array")
    objects = [json.loads(text)] if is_whole else [json.loads(line) for line in text.splitlines()]
    for _ in range(data.draw(st.integers(1, 2))):
        index = data.draw(st.integers(0, len(objects) - 1))
        places = [path for path in paths_in(objects[index]) if path]
        if places:
            new = data.draw(st.one_of(st.just(...), values))
            objects[index] = with_changed(objects[index], data.draw(st.sampled_from(places)), new)
    look_at(lines_of(*objects).encode())


@given(
    st.sampled_from([VLLM_LOG, SGLANG_LOG, TENSORRT_LOG]),
    st.integers(0, 30),
    st.integers(0, 400),
    st.characters(codec="ascii", exclude_categories=["Cc"]),
)
def test_a_line_with_one_wrong_character_never_vanishes(text, line_index, at, character):
    """Every line of data is read, or counted as not understood."""
    lines = text.splitlines()
    data = [line for line in lines if any(mark in line for mark in ("| 7", "| 500", "Iteration(", "Running:",
            "SpecDecoding", "Decode batch", "Prefill batch", "num_scheduled"))]  # fmt: skip
    line = data[line_index % len(data)]
    at %= len(line)
    damaged = line[:at] + character + line[at + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.log"
        path.write_text("\n".join([*lines[:7], damaged]), encoding="utf-8")
        log = read_server_log(path)
        path.write_text("\n".join(lines[:7]), encoding="utf-8")
        before = read_server_log(path)
    assert log != before


def test_memory_stays_bounded_with_a_long_log():
    """A million lines of the same few batches cost no more than a thousand."""
    line = "Decode batch. #running-req: {}, #token: 64, cuda graph: True, gen throughput (token/s): 9.1\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.log"
        with path.open("w", encoding="utf-8") as file:
            for index in range(60_000):
                file.write(line.format(index % 50 + 1))
        tracemalloc.start()
        log = read_server_log(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert sum(log.decode_steps.values()) == 60_000
    assert peak < 3_000_000
