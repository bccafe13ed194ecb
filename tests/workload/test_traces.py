from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from scheduler.errors import InputError
from scheduler.workload.traces.read import inter_arrival_cv, rate_per_s, read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
SHARED = Path(os.environ.get("GRAPHPOOL_SHARED", Path(__file__).parents[2].parent / "shared"))


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str = "trace.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def rows_of(trace):
    columns = (trace.arrival_ns, trace.prompt_tokens, trace.output_tokens)
    return list(zip(*(column.tolist() for column in columns), strict=True))


MS = 1_000_000
S = 1_000 * MS
FORMATS = {
    "Azure CSV": AZURE + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
    "BurstGPT CSV": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,374,44,418,Conversation log\n9.314579,GPT-4,396,109,505,API log\n",
    "BurstGPT CSV with sessions": "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,"
    'Total tokens,Log Type\n5,a,0.5,ChatGPT,374,44,418,"Conversation log"\n9.314579,b,1,G,396,109,505,a\n',
    "Vidur CSV": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.314579,396,109\n",
    "ServeGen CSV": "request_id,timestamp,input_tokens,output_tokens,client_id\n"
    "0,1.0,374,44,65\n1,5.314579,396,109,1\n",
    "request CSV": "arrival_ns,prompt_tokens,output_tokens\n0,374,44\n4314579000,396,109\n",
    "Mooncake JSONL": '{"timestamp": 1000, "input_length": 374, "output_length": 44, "hash_ids": [0, 1]}\n'
    '{"timestamp": 5314.579, "input_length": 396, "output_length": 109, "hash_ids": [0, 2]}\n',
    "Bailian JSONL": '{"chat_id": 1, "parent_chat_id": -1, "timestamp": 61.0, "input_length": 374, '
    '"output_length": 44, "type": "text", "turn": 1, "hash_ids": [1]}\n'
    '{"chat_id": 2, "parent_chat_id": 1, "timestamp": 65.314579, "input_length": 396, "output_length": 109}',
    "request JSONL": '{"request_id": "bench-0", "input_toks": 374, "output_toks": 44, '
    '"arrival_time": 1787267980.0, "queued_ts": 27536.6}\n'
    '{"input_toks": 396, "output_toks": 109, "arrival_time": 1787267984.314579}\n',
    "request JSONL of engine times": '{"queued_ts": 27536.25, "input_toks": 374, "output_toks": 44}\n'
    '{"queued_ts": 27540.564579, "input_toks": 396, "output_toks": 109}\n',
    "request JSONL of lengths": '{"timestamp": 1, "prompt_len": 374, "output_len": 44}\n'
    '{"timestamp": 5314579e-6, "prompt_len": 396, "output_len": 109}\n',
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognised_by_its_first_line(name, write):
    trace = read_trace(write(FORMATS[name]))
    assert name.startswith(trace.format_name)
    assert rows_of(trace) == [(0, 374, 44), (4_314_579_000, 396, 109)]
    assert "2 rows over 4.315 s" in trace.lines[0]


@pytest.mark.parametrize("name", FORMATS)
def test_packing_line_ends_and_blank_lines_change_nothing(name, write):
    plain = rows_of(read_trace(write(FORMATS[name])))
    crlf = "\ufeff" + FORMATS[name].replace("\n", "\r\n\r\n").rstrip() + "  "
    assert rows_of(read_trace(write(crlf))) == plain
    assert rows_of(read_trace(write(gzip.compress(crlf.encode()), "not_named_gz.csv"))) == plain
    two_members = b"".join(gzip.compress(line.encode()) for line in FORMATS[name].splitlines(keepends=True))
    assert rows_of(read_trace(write(two_members))) == plain


@pytest.mark.parametrize(
    ("first", "second", "gap_ns"),
    [
        ("2023-11-16 18:15:46.680", "2023-11-16 18:15:46.681", MS),
        ("2023-11-16 18:15:46.680000", "2023-11-16 18:15:46.680001", 1_000),
        ("2023-11-16 18:15:46.6800000", "2023-11-16 18:15:46.6800001", 100),
        ("2024-05-10 00:00:00+00:00", "2024-05-10 00:00:00.009930+00:00", 9_930_000),
        ("2024-02-28T23:59:59.5Z", "2024-02-29T00:00:00.25+00:00", 750 * MS),
        ("2023-12-31 23:59:59.999+0530", "2024-01-01 00:00:00.000+05:30", MS),
        ("2023-11-16 18:15:46", "2023-11-17 18:15:46", 86_400 * S),
    ],
)
def test_wall_clock_times_are_exact_to_the_nanosecond(first, second, gap_ns, write):
    trace = read_trace(write(f"{AZURE}{first},1,1\n{second},1,1\n"))
    assert trace.arrival_ns.tolist() == [0, gap_ns]


def test_seconds_are_exact_where_a_float_is_not(write):
    # As floats, the difference of these two is 4.76837158203125e-07 s; exactly, it is 300 ns.
    trace = read_trace(
        write("arrival_s,prompt_tokens,output_tokens\n1787267980.0827403,1,1\n1787267980.0827406,1,1")
    )
    assert trace.arrival_ns.tolist() == [0, 300]


def test_digits_below_a_nanosecond_are_rounded_half_even(write):
    header = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    times = ["0", "0.0000000005", "0.0000000015", "2.5e-9", "0.00000000250001", "1e-300"]
    trace = read_trace(write(header + "".join(f"{time},1,1\n" for time in times)))
    assert trace.arrival_ns.tolist() == [0, 0, 0, 2, 2, 3]


def test_whole_numbers_written_as_decimals_are_whole(write):
    trace = read_trace(write(AZURE + "0.5,12.0, 7 \n"))
    assert rows_of(trace) == [(0, 12, 7)]


def test_unsorted_rows_are_sorted_stably_and_said(write):
    header = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    trace = read_trace(write(header + "\n3,1,1\n1,2,1\n3,3,1\n1,4,1\n"))
    assert rows_of(trace) == [(0, 2, 1), (0, 4, 1), (2 * S, 1, 1), (2 * S, 3, 1)]
    assert "the file goes back in time 2 times (first: line 4): sorted by time" in trace.lines
    assert "50% of the requests arrive together with an earlier one: served in file order" in trace.lines


def test_sorted_rows_without_ties_say_nothing_about_order(write):
    trace = read_trace(write(FORMATS["Vidur CSV"]))
    assert len(trace.lines) == 2


def test_rows_with_zero_lengths_are_dropped_and_counted(write):
    trace = read_trace(write(AZURE + "1,5,0\n2,5,6\n3,0,6\n4,0,0\n5,7,8\n"))
    assert rows_of(trace) == [(0, 5, 6), (3 * S, 7, 8)]
    assert "5 rows, 2 of them used, over 3 s, 0.3333 requests/s" in trace.lines[0]
    assert "dropped 2 rows with 0 output tokens (first: line 2)" in trace.lines
    assert "dropped 1 row with 0 prompt tokens (first: line 4)" in trace.lines


def test_one_row_is_a_trace(write):
    trace = read_trace(write(AZURE + "2023-11-16 18:15:46.6805900,374,44"), time_scale=1e300)
    assert rows_of(trace) == [(0, 374, 44)]
    assert "1 row at one instant" in trace.lines[0]


def test_time_scale_multiplies_every_gap(write):
    path = write("arrival_ns,prompt_tokens,output_tokens\n7,1,1\n10,1,1\n12,1,1\n17,1,1\n")
    assert read_trace(path, 2).arrival_ns.tolist() == [0, 6, 10, 20]
    assert read_trace(path, 0.5).arrival_ns.tolist() == [0, 2, 2, 5]  # 1.5 and 2.5 go to the even 2
    assert "(every gap times 0.5)" in read_trace(path, 0.5).lines[0]


@pytest.mark.parametrize("time_scale", [0, -1, float("nan"), float("inf")])
def test_time_scale_is_a_number_above_zero(time_scale, write):
    with pytest.raises(InputError, match="time_scale: expected a finite number above 0"):
        read_trace(write(FORMATS["Vidur CSV"]), time_scale)


def test_cached_tokens_are_read_where_present(write):
    csv = "cached_tokens,arrival_s,prompt_tokens,output_tokens\n3,1,5,1\n0,0.5,9,2\n"
    assert read_trace(write(csv)).cached_tokens.tolist() == [0, 3]
    line = '{{"timestamp": {}, "input_length": 600, "output_length": 9, "hash_ids": [1, 2]{}}}\n'
    jsonl = line.format(0, "") + line.format(1, ', "cached_tokens": 512')
    trace = read_trace(write(jsonl))
    assert trace.cached_tokens.tolist() == [0, 512]
    assert not any("overstated" in said for said in trace.lines)
    assert read_trace(write(line.format(0, ""))).cached_tokens is None


def test_prefix_blocks_say_that_prefill_is_overstated(write):
    line = '{{"timestamp": {}, "input_length": {}, "output_length": 9, "hash_ids": {}}}\n'
    prompts = [(0, 1000, [1, 2]), (1, 1000, [1, 9]), (2, 1000, [5, 2]), (3, 900, [1, 2])]
    trace = read_trace(write("".join(line.format(*prompt) for prompt in prompts)))
    # Leading blocks seen before: 512 tokens of the second prompt, none of the third, all 900 of the last.
    share = (512 + 900) / 3900
    assert any(
        said.endswith(f"prefill is overstated by up to {share:.0%} of the prompt tokens")
        for said in trace.lines
    )
    vidur = "arrived_at,num_prefill_tokens,num_decode_tokens,session_id,block_hash_ids\n0.0,32,8,7,11|22\n"
    assert any("prefill is overstated" in said for said in read_trace(write(vidur)).lines)


def test_file_names_say_nothing_about_the_format(write):
    assert read_trace(write(FORMATS["Mooncake JSONL"], "azure.csv.gz")).format_name == "Mooncake JSONL"


def test_regular_arrivals_have_no_variation():
    arrival_ns = np.arange(5) * 250 * MS
    assert inter_arrival_cv(arrival_ns) == 0
    assert rate_per_s(arrival_ns) == 4
    assert inter_arrival_cv(arrival_ns[:1]) is None
    assert rate_per_s(np.zeros(3, dtype=np.int64)) is None


# Published statistics: rows, span in s, prompt and output mean / p50 / p99 / max, requests per s, CV.
PUBLISHED = {
    "AzureLLMInferenceTrace_conv.csv.gz": (
        19_366, 3_502, (1155, 1020, 4142, 14050), (211, 129, 601, 1000), 5.53, 1.09,
    ),
    "mooncake_conversation_trace.jsonl.gz": (
        12_031, 3_537, (12035, 6909, 85400, 126195), (343, 350, 1119, 2000), 3.40, 3.03,
    ),
    "servegen_deepseek-r1_1h_sample.csv.gz": (
        12_933, 3_600, (764, 295, 14385, 39387), (822, 525, 5504, 25476), 3.59, 1.23,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_production_traces_give_their_published_statistics(name):
    path = SHARED / "traces" / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside the repository (GRAPHPOOL_SHARED)")
    rows, span_s, prompt, output, rate, variation = PUBLISHED[name]
    trace = read_trace(path)
    assert len(trace) == rows
    assert trace.arrival_ns[-1] / S == pytest.approx(span_s, abs=1)
    for tokens, published in ((trace.prompt_tokens, prompt), (trace.output_tokens, output)):
        measured = [tokens.mean(), *np.percentile(tokens, [50, 99]), tokens.max()]
        assert measured == pytest.approx(published, abs=0.6)
    assert rate_per_s(trace.arrival_ns) == pytest.approx(rate, abs=0.005)
    assert inter_arrival_cv(trace.arrival_ns) == pytest.approx(variation, abs=0.005)


def test_a_vllm_request_log_is_a_trace():
    path = SHARED / "calibration" / "llmservingsim_rtx4090_llama31_8b_vllm_requests.jsonl"
    if not path.is_file():
        pytest.skip("the vLLM request log is not beside the repository (GRAPHPOOL_SHARED)")
    trace = read_trace(path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert trace.prompt_tokens.tolist() == [record["input_toks"] for record in records]
    seconds = np.array([record["arrival_time"] for record in records])
    np.testing.assert_allclose(trace.arrival_ns / S, seconds - seconds[0], atol=1e-6)
