"""Results of benchmark tools: every completed request with its values, every other one counted."""

from __future__ import annotations

import json

import pytest

from scheduler.errors import InputError
from scheduler.workload.bench_results.cells import failure
from scheduler.workload.inputs.door import read_input, read_measured, read_trace
from scheduler.workload.inputs.found import Sending


@pytest.fixture
def written(tmp_path):
    def write(text, name="result.json"):
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        return path

    return write


BENCH = {
    "endpoint_type": "openai", "request_rate": 3.5, "burstiness": 0.5, "max_concurrency": None,
    "completed": 2, "duration": 1, "request_throughput": 1, "total_input_tokens": 1, "total_output_tokens": 1,
    "input_lens": [5, 6], "output_lens": [3, 2], "ttfts": [0.1, 0.2], "itls": [[0.01, 0.02], [0.03]],
    "start_times": [8.0, 7.5], "errors": ["", ""],
}  # fmt: skip


def test_vllm_requests_are_in_the_order_of_arrival_with_their_latencies(written):
    measured = read_measured(written(BENCH))
    assert measured.requests.arrival_ns.tolist() == [0, 500_000_000]
    assert measured.requests.prompt_tokens.tolist() == [6, 5]
    assert measured.e2el_ms.tolist() == pytest.approx([230, 130])
    assert measured.makespan_s == pytest.approx(0.63)


@pytest.mark.parametrize(
    ("changes", "sending"),
    [
        ({}, Sending(rate_per_s=3.5, burstiness=0.5)),
        ({"request_rate": "inf", "max_concurrency": 9}, Sending(concurrency=9)),
        ({"request_rate": float("inf"), "max_concurrency": 9}, Sending(concurrency=9)),
        ({"request_rate": "inf"}, Sending()),
        ({"request_rate": "trace"}, None),
        ({"ramp_up_strategy": "linear"}, None),
    ],
)
def test_how_the_client_sent_is_read(written, changes, sending):
    found = read_input(written(BENCH | changes))
    assert found.requests is not None
    assert found.requests.sending == sending


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input_lens": None}, "vllm bench serve result: missing input_lens, the list of every request"),
        ({"ttfts": [0.1]}, "expected 2 entries, as input_lens has; got ttfts 1"),
        ({"output_lens": [3, 2.5]}, "request 1: output_lens: expected a whole number of tokens"),
        ({"ttfts": [0.1, -1]}, "request 1: expected 0 ≤ TTFT ≤ E2EL"),
        ({"errors": ["a", "b"]}, "expected at least one completed request, got none"),
        ({"start_times": [0, 1e12]}, "expected arrivals within 1,000,000,000 s"),
    ],
)
def test_what_is_wrong_with_a_result_is_said_with_its_format(written, changes, said):
    result = {key: value for key, value in (BENCH | changes).items() if value is not None}
    with pytest.raises(InputError) as caught:
        read_input(written(result))
    assert any(said in line for line in caught.value.lines)
    assert "result.json" in caught.value.lines[0]


def test_a_pretty_printed_result_is_the_same(written):
    path = written(json.dumps(BENCH, indent=2) + "\n" + json.dumps(BENCH, indent=2))
    assert read_input(path).read[0].startswith("run 2 of 2")
    with pytest.raises(InputError, match=r"result\.json:\d+: expected JSON: .*cut off"):
        read_input(written(json.dumps(BENCH, indent=2)[:-9]))


def test_a_detailed_result_that_was_cut_off_is_one_line(written):
    with pytest.raises(InputError) as caught:
        read_input(written(json.dumps(BENCH)[:-9]))
    assert len(caught.value.lines) == 1
    assert "cut off" in caught.value.lines[0]


AIPERF = {
    "metadata": {"request_start_ns": 1759813207532900363, "benchmark_phase": "profiling"},
    "metrics": {"input_sequence_length": {"value": 5, "unit": "tokens"},
                "output_sequence_length": {"value": 3, "unit": "tokens"},
                "request_latency": {"value": 0.25, "unit": "s"},
                "time_to_first_token": {"value": 100000, "unit": "us"}},
    "error": None,
}  # fmt: skip


def aiperf(error=None, metrics=AIPERF["metrics"], **metadata):
    return {"metadata": AIPERF["metadata"] | metadata, "metrics": metrics, "error": error}


def test_aiperf_leaves_out_what_is_no_answer_and_keeps_nanoseconds(written):
    records = [
        aiperf(benchmark_phase="warmup"),
        AIPERF,
        aiperf({"type": "Timeout"}, metrics=None),
        aiperf({"code": 499}, was_cancelled=True),
        aiperf(request_start_ns=1759813207532900370, turn_index=1),
    ]
    path = written("\n".join(map(json.dumps, records)), "profile_export.jsonl")
    found = read_input(path)
    assert found.left_out == (
        "left out 1 request: phase warmup, not profiling (first: line 1)",
        "left out 1 request: failed (Timeout) (first: line 3)",
        "left out 1 request: cancelled (first: line 4)",
    )
    assert "1 requests are later turns of a conversation" in found.lacks[1]
    assert read_trace(path).arrival_ns.tolist() == [0, 7]
    measured = read_measured(path)
    assert (measured.ttft_ms[0], measured.e2el_ms[0]) == (100, 250)


def test_an_aggregate_names_the_file_to_take(written):
    with pytest.raises(InputError, match=r"AIPerf aggregate .*profile_export\.jsonl beside it"):
        read_input(written({"input_config": {}, "request_latency": {}}))


def guidellm(requests, **config):
    return {
        "metadata": {"guidellm_version": "0.7.3"},
        "benchmarks": [{"config": {"strategy": config}, "requests": requests}],
    }


GUIDELLM = {"prompt_tokens": 5, "output_tokens": 3, "request_start_time": 9.5, "request_latency": 2.0,
            "time_to_first_token_ms": 250.0}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "sending"),
    [
        ({"type_": "synchronous"}, Sending(concurrency=1)),
        ({"type_": "concurrent", "streams": 8}, Sending(concurrency=8)),
        ({"type_": "throughput", "max_concurrency": 64}, Sending(concurrency=64)),
        ({"type_": "poisson", "rate": 2.5}, Sending(rate_per_s=2.5)),
        ({"type_": "constant", "rate": 2.5}, None),
    ],
)
def test_guidellm_strategies_say_how_requests_were_sent(written, config, sending):
    found = read_input(written(guidellm({"successful": [GUIDELLM], "errored": [{}, {}]}, **config)))
    assert found.requests is not None
    assert found.requests.sending == sending
    assert found.title == "GuideLLM report 0.7.3"
    assert found.left_out == ("left out 2 requests: failed (first: request 0)",)


def test_guidellm_of_03_has_other_names(written):
    row = {
        "prompt_tokens": 5,
        "output_tokens": 3,
        "start_time": 9.5,
        "first_token_time": 9.75,
        "end_time": 11.5,
    }
    for report in (guidellm({"successful": [row]}), guidellm({"successful": [GUIDELLM]})):
        measured = read_measured(written(report))
        assert (measured.ttft_ms[0], measured.e2el_ms[0]) == (250, 2000)


def test_arrivals_of_a_sample_are_no_arrivals(written):
    report = guidellm({"successful": [GUIDELLM]})
    report["benchmarks"][0]["metrics"] = {"request_totals": {"successful": 50}}
    found = read_input(written(report))
    assert "arrivals" not in found.uses
    assert found.lacks[0].startswith("only 1 of 50 completed requests were kept")


def test_sessions_of_chained_calls_are_left_out_and_counted(written):
    rows = [
        {"input_toks": 7, "output_toks": 6, "arrival_time_ns": 5},
        {"session_id": "a", "arrival_time_ns": 5, "sub_requests": [{}, {}]},
    ]
    trace = read_trace(written("\n".join(map(json.dumps, rows)), "requests.jsonl"))
    assert len(trace) == 1
    assert any("left out 1 sessions of 2 chained calls (first: line 2)" in line for line in trace.lines)


def test_what_a_server_answered_cannot_steer_a_terminal():
    assert failure("\x1b[2J\x1b]0;title\x07boom \u202e") == "[2J ]0;title boom"
