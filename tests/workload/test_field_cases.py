"""Cases from the field: what people's own files hold is read, and the right value is the answer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command_line import ROOT, call

from scheduler.errors import InputError
from scheduler.workload.inputs.door import read_engine_log, read_input, read_measured, read_trace
from scheduler.workload.inputs.found import Sending
from scheduler.workload.inputs.head import Told

CASES = Path(os.environ.get("GRAPHPOOL_SHARED", ROOT.parent / "shared")) / "cases"
PROFILE = "h100-llama-3.1-8b-bf16"


@pytest.fixture(scope="module")
def cases() -> Path:
    if not CASES.is_dir():
        pytest.skip("the field cases are not beside the repository (GRAPHPOOL_SHARED)")
    return CASES


def tuned(log, graphs, out):
    outcome = call("tune", "--from-log", log, "--profile", PROFILE, "--graphs", graphs, "--out", out)
    assert outcome.status == 0, outcome.stderr
    return json.loads((out / "tune.json").read_text(encoding="utf-8")), outcome.stdout


def test_the_best_is_never_worse_than_the_servers_own_sizes(cases, tmp_path):
    answer, _ = tuned(cases / "01-vllm-29825-table" / "simple.log", 5, tmp_path)
    assert answer["current"]["mean_step_ms"] == pytest.approx(8.566, abs=0.001)
    assert answer["mean_step_ms"] <= answer["current"]["mean_step_ms"]
    assert 8 in answer["sizes"]  # above the largest logged batch, and cheaper than a graph of 6
    log = read_engine_log(cases / "01-vllm-29825-table" / "server.log")
    assert (log.decode_steps, log.mixed_steps) == ({9: 120, 127: 200}, {500: 10, 2048: 8})


def test_padded_sizes_outside_the_list_prove_speculation(cases, tmp_path):
    folder = cases / "02-vllm-specdecode-table"
    log = read_engine_log(folder / "server_with_args.log")
    assert (log.tokens_per_request, log.decode_steps) == (6, {1: 31})
    answer, text = tuned(folder / "server_with_args.log", 6, tmp_path)
    assert "--cudagraph-capture-sizes 6 12 18 24 30 36 " in text
    few, text = tuned(folder / "server_with_args.log", 3, tmp_path)
    assert "--cudagraph-capture-sizes 6 36 420 " in text
    assert few["forced_sizes"] == [1, 6]  # requests, that is 6 and 36 tokens
    unsaid = read_engine_log(folder / "server.log")
    assert (unsaid.tokens_per_request, unsaid.multiple_of) == (None, 6)
    answer, text = tuned(folder / "server.log", 3, tmp_path)
    assert all(size % 6 == 0 for size in answer["sizes"])
    assert "1 + k may be 3 or 6" in text
    told = read_engine_log(folder / "server.log", Told(max_num_seqs=6, draft_tokens=5))
    assert (told.tokens_per_request, told.decode_steps) == (6, {1: 31})


def test_vllm_iterations_are_steps_with_times(cases):
    found = read_input(cases / "03-vllm-31193-iterations" / "server.log")
    assert found.log is not None
    assert (found.log.decode_steps, found.log.mixed_steps) == ({20: 4}, {831: 1})
    times = found.log.decode_times[20, None]
    assert (times.count, times.least_ms, times.most_ms) == (4, 10.79, 10.99)
    assert found.log.mixed_times[831].mean_ms == 24.10


def test_tensorrt_llm_iterations_count_scheduled_requests(cases):
    folder = cases / "05-trtllm-iter-log-3914"
    log = read_engine_log(folder / "server.log")
    assert (log.decode_steps, log.mixed_steps) == ({10: 1, 11: 1}, {138: 1})
    assert log.decode_times[10, None].mean_ms == pytest.approx(5.060911178588867)
    assert log.decode_times[11, None].mean_ms == pytest.approx(9.8)
    assert log.mixed_times[138].mean_ms == pytest.approx(5.121)
    metrics = read_engine_log(folder / "metrics.jsonl")
    assert (metrics.decode_steps, metrics.mixed_steps) == ({4: 1}, {104: 1})
    assert metrics.decode_times[4, None].mean_ms == 12.5


def test_sglang_lines_give_kv_lengths_and_the_servers_own_step_times(cases, tmp_path):
    path = cases / "06-sglang-13023" / "server.log"
    log = read_engine_log(path)
    assert log.kv_tokens[46] == pytest.approx(34901 / 46)
    assert log.decode_times[46, False].mean_ms == pytest.approx(31.79, abs=0.01)
    assert log.decode_times[28, True].mean_ms == pytest.approx(25.77, abs=0.01)
    answer, text = tuned(path, 3, tmp_path)
    assert "this log's own steps took 22–32 ms; the profile says 9–16 ms: it is not this server's" in text
    assert "1,024" not in text
    assert answer["own_times"]["ratio"] > 2


def test_failed_requests_of_a_benchmark_are_left_out_and_counted(cases):
    folder = cases / "09-vllm-bench-failed"
    assert len(read_trace(folder / "good.json")) == len(read_measured(folder / "good.json").requests) == 40
    failed = read_input(folder / "failed.json")
    assert failed.requests is not None
    assert len(failed.requests) == 38
    assert failed.left_out == ("left out 2 requests: failed (Internal Server Error) (first: request 7)",)
    assert len(read_measured(folder / "failed.json").requests) == 38
    assert read_input(folder / "appended.json").read[0].startswith("run 2 of 2")
    assert len(read_measured(folder / "appended.json#1").requests) == 40
    with pytest.raises(InputError, match=r"appended\.json#3: expected a number from 1 to 2"):
        read_input(folder / "appended.json#3")
    with pytest.raises(InputError, match=r"(?s)vllm bench serve result.*no start_times"):
        read_measured(folder / "old.json")


def test_a_result_without_start_times_says_what_it_is_and_how_it_was_sent(cases):
    folder = cases / "10-sglang-bench-jsonl"
    one = read_input(folder / "one_run.jsonl")
    assert one.format == "sglang.bench_serving result"
    assert one.requests is not None
    assert one.requests.sending == Sending(rate_per_s=4.0)
    assert "no start_times, so when requests arrived is unknown: SGLang never writes them" in one.lacks
    last = read_input(folder / "sglang_0101_30_random.jsonl")
    assert last.requests is not None
    assert last.requests.sending == Sending(rate_per_s=8.0)


def test_aiperf_and_guidellm_give_arrivals_lengths_and_latencies(cases):
    aiperf = read_measured(cases / "11-aiperf-jsonl" / "profile_export.jsonl")
    assert len(aiperf.requests) == 20
    assert aiperf.requests.arrival_ns[:2].tolist() == [0, 346_966_795]
    assert aiperf.requests.prompt_tokens[0] == 550
    assert aiperf.ttft_ms[0] == pytest.approx(45.926409106271656)
    assert aiperf.e2el_ms[0] == pytest.approx(226.25123164955176)
    guidellm = read_input(cases / "12-guidellm-json" / "benchmarks.json")
    assert guidellm.title == "GuideLLM report 0.6.0"
    measured = read_measured(cases / "12-guidellm-json" / "benchmarks.json")
    assert len(measured.requests) == 20
    assert measured.e2el_ms[0] == pytest.approx(225.926, abs=0.01)
    assert measured.ttft_ms[0] == pytest.approx(45.926, abs=0.01)


@pytest.mark.parametrize("name", ["w1", "w2", "w3", "w4", "w5"])
def test_a_key_for_what_is_not_modelled_points_to_the_page(cases, tmp_path, name):
    outcome = call(cases / "25-features" / f"{name}.yaml", "--out", tmp_path / "o")
    if name == "w4" and outcome.status == 0:
        return  # piecewise became a mode of the pool
    assert outcome.status == 2
    assert len(outcome.errors) == 1
    assert "docs/not_modelled.md" in outcome.errors[0]


@pytest.mark.parametrize("name", ["compose", "docker-json", "json-message", "ray", "ray-mixed"])
def test_logs_are_read_as_collectors_store_them(cases, name):
    log = read_engine_log(cases / "28-log-wrappers" / f"{name}.log")
    rows = {9: 120, 127: 200}
    if name == "ray":
        rows = {size: 7 * count for size, count in rows.items()}
    if name == "ray-mixed":
        rows[127] = 7 * 200
    assert log.decode_steps == rows
    assert any("Ray folded" in line for line in log.left_out) == name.startswith("ray")


def test_row_with_a_repeat_suffix_keeps_the_best_list(cases, tmp_path):
    answer, _ = tuned(cases / "28-log-wrappers" / "ray-mixed.log", 4, tmp_path)
    assert answer["sizes"] == [1, 24, 127, 500]


def test_a_log_that_contradicts_its_list_says_so_first(cases, tmp_path):
    answer, text = tuned(cases / "30-slime-77-dp" / "server.log", 3, tmp_path)
    first, second = text.splitlines()[:2]
    assert first.startswith("THE LOG CONTRADICTS ITS LIST: 160 of 160 logged decode steps of at most 256")
    assert "DP attention counts all 8 ranks: 370 requests together are above 256" in second
    assert answer["current"]["mean_step_ms"] == pytest.approx(answer["no_graphs_mean_step_ms"])


def test_llmservingsim_arrivals_are_nanoseconds(cases):
    trace = read_trace(cases / "33-llmservingsim-jsonl" / "requests.jsonl")
    assert trace.arrival_ns.tolist() == [0, 42_833_000]
    assert trace.prompt_tokens.tolist() == [27_369, 1_390]
    assert trace.format_name == "LLMServingSim JSONL"
