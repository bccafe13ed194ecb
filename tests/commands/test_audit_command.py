"""`run.py audit`: routes as JSON, the table, exit codes, and where its settings come from."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from command_line import call, start

VLLM = ["--engine", "vllm==0.33.0", "--max-num-seqs", "100", "--max-num-batched-tokens", "2048"]
GRID = "1,2,4,8,16,24,32,40,48,56,64,72,80,88,96,104,112,120,128,136,144,152,160,168,176,184,192,200"


def audit(*arguments: str):
    return call("audit", *arguments)


def test_the_json_holds_every_batch_and_every_number_of_tokens_and_nothing_else() -> None:
    found = audit(*VLLM, "--capture-sizes", GRID, "--mode", "full_and_piecewise", "--json")
    assert found.status == 0, found.stderr
    routes = json.loads(found.stdout)
    assert set(routes) == {"decode", "mixed"}
    assert len(routes["decode"]) == 100
    assert routes["decode"][0] == ["FULL", 1]
    assert routes["decode"][95:] == [["FULL", 96]] + 4 * [["PIECEWISE", 104]]
    assert list(routes["mixed"]) == [str(tokens) for tokens in range(1, 2049)]
    assert routes["mixed"]["200"] == ["PIECEWISE", 200]
    assert routes["mixed"]["201"] == ["NONE", 201]


def test_the_table_names_the_cliff_and_the_size_that_repairs_it() -> None:
    text = audit(*VLLM, "--capture-sizes", GRID).stdout
    assert "97–100            PIECEWISE   104" in text
    assert "43 graphs captured: 15 FULL (1–96 tokens), 28 PIECEWISE (1–200 tokens)" in text
    assert "FALLS OFF its FULL graphs: batches 97–100 to PIECEWISE" in text
    assert "add 100 to the list:" in text
    assert "88 96 100 104" in text


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--capture-sizes", GRID, "--fail-on", "none"], 0),
        (["--capture-sizes", GRID, "--fail-on", "piecewise"], 1),
        (["--capture-sizes", GRID + ",100", "--fail-on", "piecewise"], 0),
        (["--capture-sizes", "1,2,4", "--mode", "full_decode_only", "--fail-on", "none"], 1),
        (["--mode", "none", "--fail-on", "none"], 1),
        (["--fail-on", "piecewise"], 0),  # 0.33.0's own list holds max_num_seqs
        (["--engine", "vllm==0.26.0", "--fail-on", "piecewise"], 1),
    ],
)
def test_fail_on_stands_in_a_deployment_s_checks(arguments: list[str], status: int) -> None:
    found = audit(*VLLM, *arguments) if "--engine" not in arguments else audit(*VLLM[2:], *arguments)
    assert found.status == status, found.stdout + found.stderr


def test_what_a_start_up_log_does_not_say_is_asked_for_by_name(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(
        "INFO [core.py:140] Initializing a V1 LLM engine (v0.33.0) with config: model='m', "
        "compilation_config={'cudagraph_mode': <CUDAGraphMode.FULL_AND_PIECEWISE: (2, 1)>, "
        "'cudagraph_capture_sizes': [1, 2, 4, 8, 16], 'max_cudagraph_capture_size': 16}\n"
        "INFO [gpu_worker.py:513] Using V2 Model Runner\n"
        "INFO non-default args: {'max_num_seqs': 6, 'max_num_batched_tokens': 512}\n"
    )
    text = audit("--from-log", str(log)).stdout
    assert text.startswith("vLLM 0.33.0, model runner V2: mode full_and_piecewise, max_num_seqs 6,")
    assert "batches 5–6 to PIECEWISE" in text
    assert "add 6 to the list:" in text
    log.write_text(log.read_text().replace("'max_num_seqs': 6, ", ""))
    found = audit("--from-log", str(log))
    assert found.status == 2
    assert "--max-num-seqs: expected a number" in found.stderr
    assert "5–6 to PIECEWISE" in audit("--from-log", str(log), "--max-num-seqs", "6").stdout


def test_what_the_log_said_of_graphs_and_memory_stands_beside_the_rules(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    lines = [
        "INFO [core.py:140] Initializing a V1 LLM engine (v0.33.0) with config: model='m', max_num_seqs=256, "
        "max_num_batched_tokens=2048, {'cudagraph_mode': <CUDAGraphMode.FULL_AND_PIECEWISE: (2, 1)>, "
        f"'cudagraph_capture_sizes': {[1, 2, 4, *range(8, 257, 8), *range(272, 513, 16)]}}}",
        "INFO [model_runner.py:1] Profiling CUDA graph memory: "
        "PIECEWISE=51 (largest=512), FULL=35 (largest=256)",
        "INFO Estimated CUDA graph memory: 0.44 GiB total",
        "INFO Available KV cache memory: 37.99 GiB",
        "INFO GPU KV cache size: 150,745 tokens",
        "INFO Graph capturing finished in 17 secs, took 0.48 GiB",
    ]
    log.write_text("\n".join(lines) + "\n")
    text = audit("--from-log", str(log)).stdout
    assert "the log profiled 35 FULL (by the rules 35), 51 PIECEWISE (by the rules 51)\n" in text
    assert (
        "memory by the log: 0.44 GiB set aside for graphs; 0.48 GiB taken by them in 17 s; "
        "37.99 GiB for the KV cache; 150,745 KV tokens" in text
    )
    log.write_text(log.read_text().replace("FULL=35", "FULL=20").replace("(v0.33.0)", "(v0.26.0)"))
    text = audit("--from-log", str(log)).stdout
    assert "20 FULL (by the rules 35)" in text
    assert "THE RULES DO NOT FIT THIS SERVER" in text


def test_a_workload_s_pool_and_limits_are_audited(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(
        "name: w\nrequests: 5\narrivals: {process: poisson, rate_per_s: 1}\n"
        "prompt_tokens: {distribution: fixed, value: 8}\noutput_tokens: {distribution: fixed, value: 8}\n"
        "engine: {policy: mixed, max_num_seqs: 6, kv_blocks: unlimited, profile: h100-llama-3.1-8b-bf16}\n"
        "pool: {sizes: [1, 2, 4, 8, 16], mode: full_and_piecewise, engine: vllm==0.26.0}\n"
    )
    found = audit(str(file))
    assert found.status == 0, found.stderr
    assert found.stdout.startswith("vLLM 0.26.0")
    assert "5–6               PIECEWISE   8" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-num-seqs", "4"], "--engine: expected a name and release as vllm==0.33.0"),
        (["--engine", "vlm", *VLLM[2:]], "did you mean vllm?"),
        ([*VLLM, "--capture-sizes", "1,two"], "--capture-sizes: expected sizes as 1,2,4,8"),
        ([*VLLM, "--draft-tokens", "-1"], "--draft-tokens: expected 0 to 1,000, got -1"),
        ([*VLLM[:3], "0", *VLLM[4:]], "--max-num-seqs: expected 1 to"),
        ([*VLLM, "--no-padding"], "vLLM always pads"),
        (["--engine", "trtllm", *VLLM[2:], "--mode", "piecewise"], "mode: expected full_decode_only or none"),
        ([*VLLM, "--from-log", "no-such.log"], "no-such.log"),
    ],
)
def test_bad_settings_are_one_line_each(arguments: list[str], message: str) -> None:
    found = audit(*arguments)
    assert found.status == 2
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_an_audit_is_quick_and_needs_no_profile() -> None:
    least = min(_seconds() for _ in range(3))
    assert least < 1.0, "half a second where the machine does nothing else"


def _seconds() -> float:
    started = time.monotonic()
    with start("audit", *VLLM, "--json") as process:
        process.communicate()
        assert process.returncode == 0
    return time.monotonic() - started


def test_sglang_admits_48_requests_where_it_drafts_and_is_not_told():
    outcome = call(
        "audit", "--engine", "sglang==0.5.23", "--draft-tokens", "3", "--max-num-batched-tokens", "8192"
    )
    assert outcome.status == 0, outcome.stderr
    assert "max_num_seqs 48, max_num_batched_tokens 8192, 3 draft tokens" in outcome.stdout
    outcome = call("audit", "--engine", "sglang==0.5.23", "--max-num-batched-tokens", "8192")
    assert outcome.status == 2
    assert "--max-num-seqs" in outcome.stderr
