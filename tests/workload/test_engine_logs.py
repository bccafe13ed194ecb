"""Logs of real servers become histograms; a malformed line is named with its number."""

from __future__ import annotations

import gzip
import json

import pytest

from scheduler.errors import InputError
from scheduler.workload.inputs.door import read_engine_log as read_found_log
from scheduler.workload.inputs.door import read_input
from scheduler.workload.server_logs.batches import read_engine_log

VLLM_START = """\
INFO 11-20 10:00:00 [utils.py:233] non-default args: {'model': 'M', 'max_num_seqs': 64, 'block_size': 16}
INFO 11-20 10:00:20 [core.py:96] with compilation_config={'cudagraph_mode': \
<CUDAGraphMode.FULL_AND_PIECEWISE: (2, 1)>, 'cudagraph_capture_sizes': [1, 2, 4, 8, 16, 24, 32]}
INFO 11-20 10:00:30 [kv_cache_utils.py:1229] GPU KV cache size: 455,808 tokens
INFO 11-20 10:00:40 [gpu_model_runner.py:4587] Graph capturing finished in 7 secs, took 0.50 GiB
"""
PREFIX = "(APIServer pid=1) INFO 11-20 10:01:00 [cuda_graph.py:117] "
VLLM_TABLE = [
    "**CUDAGraph Config Settings:**",
    "",
    "- Mode: FULL_AND_PIECEWISE",
    "- Capture sizes: [1, 2, 4, 8, 16, 24, 32]",
    "",
    "**CUDAGraph Stats:**",
    "",
    "| Unpadded Tokens | Padded Tokens | Num Paddings | Runtime Mode | Count |",
    "|-----------------|---------------|--------------|--------------|-------|",
    "| 7               | 8             | 1            | FULL         | 30    |",
    "| 40              | 40            | 0            | NONE         | 5     |",
    "| 500             | 500           | 0            | NONE         | 3     |",
    "| 20              | 24            | 4            | PIECEWISE    | 2     |",
    "| 12              | 12            | 0            | NONE         | 1     |",
    "",
]
SGLANG = """\
[2026-11-20 10:00:00] server_args=ServerArgs(model_path='M', max_running_requests=None, decode_log_interval=20, page_size=1)
[2026-11-20 10:00:09 TP0] Capture target decode CUDA graph begin. backend=full, num_tokens_per_req=1, bs=[1, 2, 4, 8], avail mem=10.00 GB
[2026-11-20 10:00:10 TP0] Capture target decode CUDA graph end. elapsed=0.89 s, mem usage=0.15 GB, avail mem=9.00 GB.
[2026-11-20 10:00:11 TP0] max_total_num_tokens=62593, chunked_prefill_size=2048, max_prefill_tokens=16384, max_running_requests=2048, context_len=4096
[2026-11-20 10:01:00 TP0] Prefill batch, #new-seq: 1, #new-token: 9, #cached-token: 0, #running-req: 1, #queue-req: 1, cuda graph: False
[2026-11-20 10:01:01 TP0] Decode batch, #running-req: 2, #token: 84, token usage: 0.00, cuda graph: True, gen throughput (token/s): 3.62, #queue-req: 1
[2026-11-20 10:01:02 TP0] Decode batch [77], #running-req: 41, #full token: 99, cuda graph: False, gen throughput (token/s): 9.1, #queue-req: 0
[2026-11-20 10:01:03 TP0] Decode batch, #running-req: 2, #token: 85, token usage: 0.00, cuda graph: True, gen throughput (token/s): 3.62, #queue-req: 1
[2026-11-20 10:01:04 TP0] Decode batch, #running-req: 0, #token: 0, cuda graph: True, gen throughput (token/s): 0.0, #queue-req: 0
"""  # noqa: E501


def written(tmp_path, text, name="server.log"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("prefix", [PREFIX, ""])
def test_vllm_tables_are_split_into_decode_and_mixed_steps(tmp_path, prefix):
    table = "\n".join(prefix + line for line in VLLM_TABLE)
    log = read_engine_log(written(tmp_path, VLLM_START + table + "\n" + table + "\n"))
    assert log.format == "vllm"
    assert log.decode_steps == {7: 60, 40: 10}  # 40 ≤ max_num_seqs: a decode step above the largest graph
    assert log.mixed_steps == {12: 2, 20: 4, 500: 6}
    assert any("2 vLLM tables, 82 steps" in note for note in log.notes)
    assert any("16 steps without a graph above the largest size" in note for note in log.notes)


def test_vllm_start_up_lines_give_sizes_mode_memory_and_limits(tmp_path):
    facts = read_engine_log(written(tmp_path, VLLM_START + "\n".join(VLLM_TABLE))).facts
    assert facts.capture_sizes == (1, 2, 4, 8, 16, 24, 32)
    assert (facts.mode, facts.kv_tokens, facts.capture_s) == ("FULL_AND_PIECEWISE", 455_808, 7.0)
    assert facts.graph_bytes == 1 << 29
    assert (facts.max_num_seqs, facts.block_size, facts.engine) == (64, 16, "vllm")


def test_without_max_num_seqs_large_steps_without_a_graph_count_as_mixed(tmp_path):
    path = written(tmp_path, "\n".join(VLLM_TABLE))
    assert read_engine_log(path).decode_steps == {7: 30}
    assert read_engine_log(path, max_num_seqs=40).decode_steps == {7: 30, 40: 5}


def test_an_eager_vllm_server_logs_decode_steps_without_a_mode(tmp_path):
    rows = [*VLLM_TABLE[7:9], "| 3 | 3 | 0 | CUDAGraphMode.NONE | 9 |"]
    assert read_engine_log(written(tmp_path, "\n".join(rows))).decode_steps == {3: 9}


def test_sglang_lines_are_samples_of_running_requests(tmp_path):
    log = read_engine_log(written(tmp_path, SGLANG))
    assert log.format == "sglang"
    assert log.decode_steps == {2: 2, 41: 1}
    assert log.mixed_steps == {}
    assert any("one step in 20" in note for note in log.notes)
    assert any("66.7% of them replayed" in note for note in log.notes)


def test_sglang_start_up_lines_give_sizes_memory_and_limits(tmp_path):
    facts = read_engine_log(written(tmp_path, SGLANG)).facts
    assert facts.capture_sizes == (1, 2, 4, 8)
    assert (facts.kv_tokens, facts.capture_s, facts.max_num_seqs) == (62_593, 0.89, 2048)
    assert facts.graph_bytes == round(0.15 * (1 << 30))
    assert facts.block_size == 1


def test_older_sglang_names_its_captures_otherwise(tmp_path):
    old = (
        "[TP0] Capture cuda graph bs [1, 2, 4]\n"
        "[TP3] Capture cuda graph end. Time elapsed: 7.22 s. avail mem=0.53 GB. mem usage=0.93 GB.\n"
        "[TP0] Capture cuda graph end. Time elapsed: 7.23 s. mem usage=0.91 GB. avail mem=0.53 GB.\n"
        "[TP0] Decode batch. #running-req: 4, #token: 64\n"
    )
    log = read_engine_log(written(tmp_path, old))
    assert log.facts.capture_sizes == (1, 2, 4)
    assert (log.facts.capture_s, log.facts.graph_bytes) == (7.23, round(0.93 * (1 << 30)))
    assert log.decode_steps == {4: 1}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_keeps_sizes_with_zero_steps(tmp_path, newline):
    path = tmp_path / "steps.csv"
    path.write_bytes(newline.join(["\ufeffbatch_size,steps", "3,10", "", "1,0", "8,2"]).encode())
    log = read_engine_log(path)
    assert (log.format, log.decode_steps) == ("csv", {1: 0, 3: 10, 8: 2})


def test_logs_may_be_gzipped(tmp_path):
    path = tmp_path / "server.log.gz"
    path.write_bytes(gzip.compress(SGLANG.encode()))
    assert read_engine_log(path).decode_steps == {2: 2, 41: 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size,steps\n1,2\n2,x\n", ":3: expected batch_size,steps as two whole numbers, got '2,x'"),
        ("batch_size,steps\n1,2,3\n2,1\n", ":2: expected batch_size,steps as two whole numbers"),
        ("batch_size,steps\n0,2\n1,1\n", ":2: batch_size: expected 1 to 1,000,000, got 0"),
        ("batch_size,steps\n4,-2\n1,1\n", ":2: expected batch_size,steps as two whole numbers"),
        ("batch_size,steps\n4,2\n4,1\n", ":3: batch_size 4 is given twice, first in line 2"),
        ("batch_size,steps\n4,0\n", "expected at least one row with steps above 0"),
        ("batch_size,steps\n", "expected at least one row with steps above 0"),
        ("", "the file is empty"),
        ("hello\n", "found none of them"),
        ("steps,batch_size\n1,2\n", "found none of them"),
        ("Decode batch, #running-req: many\nx\n", "line 1: expected #running-req: a number"),
        ("| 7 | 8 | 1 | FULL | lots |\nx\n", "line 1: expected a row"),
        ("Iteration(1): a generation\n", "line 1: expected Iteration(N): …"),
        ("iter = 1, num_scheduled_requests = 2\n", "line 1: expected iter = N, num_scheduled"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, text, message):
    with pytest.raises(InputError) as error:
        read_engine_log(written(tmp_path, text))
    assert message in str(error.value)
    assert "server.log" in str(error.value)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_engine_log(tmp_path / "nothing.log")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("| 7 | 8 | 1 | FULL | lots |", "expected a row"),
        ("| 7 | 8 | 3 | FULL | 1 |", "expected padded = unpadded"),
        ("| 7 | 8 | 1 | FULL", "expected a row"),  # cut off by whatever else wrote to the same pipe
        ("| 7 | 8 | 1 | HALF | 30 |", "expected a row"),
    ],
)
def test_a_line_that_looks_like_data_is_counted_and_shown(tmp_path, row, why):
    log = read_engine_log(written(tmp_path, "\n".join([*VLLM_TABLE, row, "x"])))
    assert log.decode_steps == {7: 30}
    assert log.left_out[0] == "1 line looks like data but was not understood and left out"
    assert log.left_out[1].startswith(f"line 16: {why}")


ROWS = "| 7 | 8 | 1 | FULL | 30 |\n| 20 | 24 | 4 | PIECEWISE | 2 |"


@pytest.mark.parametrize(
    "wrapped",
    [
        json.dumps([{"textPayload": f"{VLLM_TABLE[7]}\n{ROWS}"}, {"textPayload": "hello"}]),
        json.dumps({"streams": [{"stream": {}, "values": [["1", line] for line in ROWS.splitlines()]}]}),
        json.dumps({"log": json.dumps({"message": ROWS}), "raw": json.dumps({"message": ROWS})}),
        json.dumps([{"textPayload": ROWS}], indent=2),
        "".join(f"2026-01-01T00:00:00Z stdout F \x1b[36m{line}\x1b[0m\n" for line in ROWS.splitlines()),
        f"kernel: message repeated 1 times: [ {ROWS.splitlines()[0]}]\n{ROWS.splitlines()[1]}",
    ],
    ids=["array", "loki", "nested twice", "pretty", "cri and colours", "rsyslog"],
)
def test_however_a_log_was_collected_its_rows_are_read_once(tmp_path, wrapped):
    log = read_found_log(written(tmp_path, wrapped))
    assert (log.decode_steps, log.mixed_steps) == ({7: 30}, {20: 2})


def test_folded_messages_count_as_often_as_they_came(tmp_path):
    row, other = ROWS.splitlines()
    text = f"x: message repeated 3 times: [ {row}]\n{other}\nMay 5 host last message repeated 4 times\n"
    log = read_engine_log(written(tmp_path, text))
    assert (log.decode_steps, log.mixed_steps) == ({7: 90}, {20: 10})


def test_running_requests_of_any_vllm_are_samples_with_kv_and_steady_step_times(tmp_path):
    line = (
        "INFO metrics.py:1] {}Avg prompt throughput: {} tokens/s, Avg generation throughput: {} tokens/s, "
        "Running: {} reqs, {}, GPU KV cache usage: {}%\n"
    )
    text = "GPU KV cache size: 1,000 tokens\n" + "".join(
        line.format(*values)
        for values in [
            ("Engine 000: ", "0.0", "400.0", 4, "Waiting: 0 reqs", "20.0"),
            ("Engine 000: ", "0.0", "200.0", 4, "Waiting: 0 reqs", "40.0"),  # steady, without prompts
            ("Engine 001: ", "9.0", "300.0", 2, "Waiting: 1 reqs", "1.0"),
            ("", "0.0", "0.0", 0, "Swapped: 0 reqs, Pending: 0 reqs", "0.0"),  # V0
        ]
    )
    log = read_engine_log(written(tmp_path, text))
    assert log.decode_steps == {2: 1, 4: 2}
    assert log.kv_tokens == {4: pytest.approx(75), 2: pytest.approx(5)}
    assert log.decode_times[4, None].mean_ms == pytest.approx(20)
    assert log.ranks == 2


def test_acceptance_gives_the_width_of_a_request(tmp_path):
    text = "\n".join(
        [
            *VLLM_TABLE[:4],
            "| 12 | 12 | 0 | FULL | 5 |",
            "SpecDecoding metrics: Mean acceptance length: 2.00, Accepted: 30 tokens, Drafted: 90 tokens, "
            "Per-position acceptance rate: 0.6, 0.3, 0.1, Avg Draft acceptance rate: 33.3%",
        ]
    )
    log = read_engine_log(written(tmp_path, text))
    assert (log.tokens_per_request, log.accepted_length) == (4, 2.0)
    assert log.decode_steps == {3: 5}


def test_a_step_time_of_sglang_counts_accepted_tokens_and_no_prompts(tmp_path):
    line = "[x DP0] Decode batch. #running-req: {}, #token: 90, accept len: 2.00, cuda graph: True, gen throughput (token/s): {}\n"  # noqa: E501
    prefill = "[x DP0] Prefill batch. #new-seq: 1, #new-token: 9, #running-req: 1\n"
    log = read_engine_log(written(tmp_path, line.format(3, 600) + prefill + line.format(3, 60)))
    assert log.decode_times[3, True].mean_ms == pytest.approx(10)
    assert log.decode_steps == {3: 2}
    assert "1 lines after a prompt left out of the step times: its time is in them" in log.left_out


def test_a_device_time_of_tensorrt_llm_is_that_of_the_step_before(tmp_path):
    line = (
        "[TRT-LLM] [I] iter = {}, global_rank = 0, num_scheduled_requests = {}, host_step_time = 9ms, "
        "prev_device_step_time = {}, states = {{'num_ctx_requests': 0, 'num_ctx_tokens': 0}}\n"
    )
    steps = [(1, 5, "N/A"), (2, 6, "11ms"), (3, 0, "12ms"), (4, 7, "1456ms"), (5, 7, "13ms")]
    log = read_engine_log(written(tmp_path, "".join(line.format(*step) for step in steps)))
    assert log.decode_steps == {5: 1, 6: 1, 7: 2}
    assert {batch: times.mean_ms for (batch, _), times in log.decode_times.items()} == {5: 11, 6: 12, 7: 13}


PROMETHEUS = """\
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0"} 2.0
vllm:iteration_tokens_total_bucket{engine="0",le="8.0"} 12.0
vllm:iteration_tokens_total_bucket{engine="0",le="512.0"} 15.0
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf"} 16.0
vllm:iteration_tokens_total_bucket{engine="1",le="8.0"} 5.0
vllm:spec_decode_num_drafts_total{engine="0"} 4.0
vllm:spec_decode_num_accepted_tokens_total{engine="0"} 6.0
vllm:spec_decode_num_draft_tokens_total{engine="0"} 12.0
"""


def test_prometheus_buckets_are_batches_and_counters_acceptance(tmp_path):
    log = read_found_log(written(tmp_path, PROMETHEUS))
    assert (log.decode_steps, log.mixed_steps) == ({1: 2, 8: 15}, {512: 3})
    assert (log.accepted_length, log.tokens_per_request) == (2.5, 4)
    assert log.left_out == ("1 steps above the largest bucket left out",)
    sglang = 'sglang:cuda_graph_passes_total{mode="decode_cuda_graph"} 9.0\nsglang:cuda_graph_passes_total{mode="decode_none"} 1.0\n'  # noqa: E501
    found = read_input(written(tmp_path, sglang))
    assert "10 SGLang decode steps, 90.0% of them replayed a graph" in found.read
    with pytest.raises(InputError, match="--from-log needs batches"):
        read_found_log(written(tmp_path, sglang))


def test_own_steps_are_read_as_a_log(tmp_path):
    header = json.dumps({"variant": "a", "replication": 0, "executor": {}, "steps": 2})
    path = written(tmp_path, f"{header}\n[5000000, 0, 3, 4, 90, 0]\n[9000000, 2, 1, 0, 9, 5]\n")
    log = read_found_log(path)
    assert (log.decode_steps, log.mixed_steps) == ({3: 1}, {6: 1})
    assert log.decode_times[3, True].mean_ms == 5
    assert log.kv_tokens == {3: 30}


def test_recorded_steps_have_the_time_in_which_nothing_else_ran(tmp_path):
    rows = ["0,2,128,64 64,PIECEWISE,20000", "16000,3,3,,FULL,26000", "40000,3,3,,NONE,47000"]
    path = written(tmp_path, "\n".join(["scheduled_us,requests,tokens,chunks,mode,output_us", *rows]))
    log = read_found_log(path)
    assert (log.decode_steps, log.mixed_steps, log.without_graph) == ({3: 2}, {128: 1}, {3: 1})
    assert {key: times.mean_ms for key, times in log.decode_times.items()} == {(3, True): 6, (3, False): 7}
    bad = path.read_text().replace("16000,3", "16000,x")
    with pytest.raises(InputError, match=r"server\.log:3: requests: expected a whole number"):
        read_found_log(written(tmp_path, bad))


def test_json_behind_a_collectors_prefix_loses_no_row(tmp_path):
    parts = (VLLM_START, "\n".join(VLLM_TABLE))
    objects = [json.dumps({"level": "INFO", "message": part}) for part in parts]
    for prefix in ("vllm-1  | ", "2026-11-20T09:11:00.1Z stderr F ", "2026-11-20T09:11:00.1Z ", ""):
        log = read_engine_log(written(tmp_path, "".join(f"{prefix}{line}\n" for line in objects)))
        assert (log.decode_steps, log.mixed_steps) == ({7: 30, 40: 5}, {12: 1, 20: 2, 500: 3})
        assert log.facts.max_num_seqs == 64


def test_escaped_line_ends_of_a_message_part_its_rows(tmp_path):
    escaped = "level=info msg=" + '"' + "\\n".join([*VLLM_START.splitlines(), *VLLM_TABLE]) + '"'
    log = read_engine_log(written(tmp_path, escaped))
    assert (log.decode_steps, log.mixed_steps) == ({7: 30, 40: 5}, {12: 1, 20: 2, 500: 3})


def test_a_request_that_a_server_logs_as_json_is_no_wrapper(tmp_path):
    said = 'INFO api: --speculative-config {"method": "eagle", "num_speculative_tokens": 3}'
    assert read_engine_log(written(tmp_path, "\n".join((said, *VLLM_TABLE)))).facts.draft_tokens == 3


def test_of_a_server_that_starts_twice_in_one_log_the_last_is_read_and_the_rest_counted(tmp_path):
    starts = "INFO [core.py:93] Initializing a V1 LLM engine (v0.33.0) with config: max_num_seqs={}\n"
    table = "\n".join(VLLM_TABLE) + "\n"
    smaller = table.replace("[1, 2, 4, 8, 16, 24, 32]", "[1, 2, 4, 9]").replace("| 8  ", "| 9  ")
    smaller = smaller.replace("| 1            | FULL", "| 2            | FULL").replace("| 30 ", "| 31 ")
    text = starts.format(64) + table + starts.format(48) + smaller
    log = read_engine_log(written(tmp_path, text))
    assert log.decode_steps == {7: 31, 12: 1, 40: 5}
    assert (log.facts.capture_sizes, log.facts.max_num_seqs) == ((1, 2, 4, 9), 48)
    assert log.tokens_per_request == 1  # 8, padded by the first server, is no size of the last one's
    assert log.left_out[0].startswith("41 steps left out: a server starts 2 times in this log, and start 2")
    crashed = read_engine_log(written(tmp_path, text + starts.format(8)))
    assert crashed.decode_steps == log.decode_steps
    assert "a server starts 3 times in this log, and start 2 is read" in crashed.left_out[0]


@pytest.mark.parametrize(
    ("printed", "mode"),
    [("0", "NONE"), ("1", "PIECEWISE"), ("[2,1]", "FULL_AND_PIECEWISE"), ("(2, 0)", "FULL_DECODE_ONLY")],
)
def test_old_releases_print_the_number_of_a_mode(tmp_path, printed, mode):
    config = f'compilation_config={{"level":3,"cudagraph_mode":{printed},"use_cudagraph":true}}\n'
    assert read_engine_log(written(tmp_path, config + "\n".join(VLLM_TABLE[6:]))).facts.mode == mode


def test_sglang_counts_the_verified_token_among_its_draft_tokens(tmp_path):
    text = SGLANG.replace("page_size=1)", "page_size=1, speculative_num_draft_tokens=4)")
    assert read_engine_log(written(tmp_path, text)).facts.draft_tokens == 3


def test_a_log_that_is_cut_in_its_gzip_says_so_at_the_door(tmp_path):
    path = tmp_path / "server.log.gz"
    path.write_bytes(gzip.compress((VLLM_START + "\n".join(VLLM_TABLE) * 50).encode())[:-100])
    with pytest.raises(InputError, match="the gzip data ends early"):
        read_input(path)


def test_a_log_in_utf_16_says_how_to_turn_it(tmp_path):
    path = tmp_path / "server.log"
    path.write_text(VLLM_START, encoding="utf-16")
    with pytest.raises(InputError, match="in UTF-8, got UTF-16, as PowerShell"):
        read_input(path)


def test_tables_of_collectors_are_logs_although_they_have_times(tmp_path):
    lines = [*VLLM_START.splitlines(), *VLLM_TABLE]
    for head in ("timestamp,message", "@timestamp,@message", "timestamp,_raw,host"):
        rows = "\n".join(f'1700000000,"{line}"' for line in lines)
        log = read_found_log(written(tmp_path, f"{head}\n{rows}\n", "insights.csv"))
        assert (log.decode_steps, log.mixed_steps) == ({7: 30, 40: 5}, {12: 1, 20: 2, 500: 3})


def test_journald_writes_coloured_messages_as_bytes(tmp_path):
    lines = [f"\x1b[36m(Worker pid=1)\x1b[0m {line}" for line in (*VLLM_START.splitlines(), *VLLM_TABLE)]
    text = "\n".join(json.dumps({"_PID": "1", "MESSAGE": list(line.encode())}) for line in lines)
    log = read_found_log(written(tmp_path, text))
    assert (log.decode_steps, log.mixed_steps) == ({7: 30, 40: 5}, {12: 1, 20: 2, 500: 3})
