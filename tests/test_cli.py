"""The command line as people meet it: exit codes, one line per error, nothing half-written, clean ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, call, spawn, start, wait_until_busy
from workload.test_bad_traces import BAD as BAD_TRACES
from workload.test_bad_workloads import CORPUS, NO_YAML
from workload_text import GOOD, INLINE

CHAT = ROOT / "workloads" / "chat.yaml"
QUICK = ("--no-plots", "--replications", "1", "--set", "requests=40")
RUNS = (
    GOOD.replace("some-shipped-name", INLINE)
    .replace("2e3", "40")
    .replace("{table: [6.3, 6.6]}", "{base: 6, per_request: 0}")
)


def assert_refused(*words: str | Path, out: Path) -> list[str]:
    """Return the error lines of a command that must end with status 2 and write nothing."""
    outcome = call(*words, "--out", out)
    assert outcome.status == 2, outcome.stdout
    assert outcome.stdout == ""
    assert outcome.errors
    assert all(line.startswith("error: ") and line.isprintable() for line in outcome.errors), outcome.stderr
    assert not out.exists(), "nothing is written for bad input"
    return [line.removeprefix("error: ") for line in outcome.errors]


# Good runs.


def test_a_good_run_ends_with_0_prints_the_card_and_leaves_no_temporary_file(tmp_path):
    outcome = spawn(CHAT, *QUICK, "--out", tmp_path)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "graphs (51 sizes)" in outcome.stdout.splitlines()[0]
    names = {path.name for path in tmp_path.iterdir()}
    assert {"summary.json", "results.json", "requests.npz", "steps.npz", "run.log"} <= names
    assert not [name for name in names if ".tmp" in name or name.startswith(".")]


def test_json_prints_summary_json_and_nothing_else(tmp_path):
    outcome = call(CHAT, *QUICK, "--json", "--out", tmp_path)
    records = json.loads(outcome.stdout)
    assert outcome.stdout == (tmp_path / "summary.json").read_text(encoding="utf-8")
    assert {"graphs", "eager"} <= {record["variant"] for record in records}
    assert all(value is not None for record in records for value in record.values())


def test_the_result_folder_is_results_name_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(CHAT, *QUICK, "--set", "name=mine").status == 0
    assert (tmp_path / "results" / "mine" / "summary.json").is_file()


def test_each_further_pool_adds_a_column(tmp_path):
    outcome = call(CHAT, *QUICK, "--pool", "1,2,4,8", "--pool", "sglang", "--json", "--out", tmp_path)
    names = [record["variant"] for record in json.loads(outcome.stdout)]
    assert names[:4] == ["graphs", "pool-1-2-4-8", "sglang", "eager"]


def test_set_overrides_what_the_file_says(tmp_path):
    outcome = call(CHAT, *QUICK, "--set", "engine.max_num_seqs=3", "--json", "--out", tmp_path)
    record = json.loads(outcome.stdout)[0]
    assert (record["max_concurrency"], record["num_prompts"]) == (3, 40)
    assert record["max_batch_size"] <= 3


def test_help_names_every_command_and_ends_with_0():
    outcome = spawn("--help")
    assert outcome.status == 0
    assert "WORKLOAD" in outcome.stdout
    assert "validate" in outcome.stdout


def test_a_reader_that_stops_reading_is_no_error(tmp_path):
    with start(CHAT, *QUICK, "--out", tmp_path) as process:
        process.stdout.close()
        errors = process.stderr.read()
        status = process.wait(timeout=60)
    assert (status, errors) == (0, "")
    assert (tmp_path / "summary.json").is_file()


# Bad input.


@pytest.mark.parametrize(("old", "new"), [row[:2] for row in CORPUS], ids=lambda text: text[:40])
def test_every_bad_workload_ends_with_2_and_no_traceback(tmp_path, old, new):
    path = tmp_path / "bad.yaml"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    lines = assert_refused(path, out=tmp_path / "out")
    assert any("bad.yaml" in line for line in lines)


@pytest.mark.parametrize("text", [row[0] for row in NO_YAML.values()], ids=NO_YAML)
def test_what_is_no_workload_ends_with_2_and_one_line(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert len(assert_refused(path, out=tmp_path / "out")) == 1


@pytest.mark.parametrize("content", [row[0] for row in BAD_TRACES.values()], ids=BAD_TRACES)
def test_every_bad_trace_ends_with_2_and_names_the_file(tmp_path, content):
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for line in assert_refused(CHAT, "--trace", path, out=tmp_path / "out"):
        assert "bad.csv" in line


def test_all_errors_of_a_file_are_told_at_once(tmp_path):
    path = tmp_path / "bad.yaml"
    text = GOOD.replace("seed: 3", "seed: -1").replace("rate_per_s: 8", "rate: 8").replace("ttft_ms", "ttft")
    path.write_text(text, encoding="utf-8")
    assert len(assert_refused(path, out=tmp_path / "out")) >= 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch.yaml"], "nosuch.yaml: no such file"),
        (["workloads/chat"], "did you mean workloads/chat.yaml?"),
        (["workloads"], "workloads"),
        (["workloads/chat.yaml", "--trace", "nosuch.csv"], "nosuch.csv"),
        (["workloads/chat.yaml", "--pool", "vlm"], "did you mean vllm"),
        (["workloads/chat.yaml", "--pool", "4,2,x"], "--pool 4,2,x"),
        (["workloads/chat.yaml", "--pool", "0,1"], "--pool 0,1"),
        (["workloads/chat.yaml", "--pool", "9" * 5000], "--pool 999"),
        (["workloads/chat.yaml", "--pool", "x" * 5000], "--pool xxx"),
        (["workloads/chat.yaml", "--pool", "x" * 5000 + ".json"], "xxx"),
        (["w" * 5000], "www"),
        (["workloads/chat.yaml", "--trace", "t" * 5000], "ttt"),
        (["workloads/chat.yaml", "--trace", "workloads"], "workloads"),
        (["workloads/chat.yaml", "--set", "engine.profile=" + "p" * 5000], "engine.profile"),
        (["workloads/chat.yaml", "--pool", ""], "--pool"),
        (["workloads/chat.yaml", "--pool", "eager"], "--pool eager"),
        (["workloads/chat.yaml", "--pool", "1,2", "--pool", "1,2"], "once"),
        (["workloads/chat.yaml", "--set", "engine.max_num_seq=3"], "did you mean 'max_num_seqs'?"),
        (["workloads/chat.yaml", "--set", "requests"], "expected KEY=VALUE"),
        (["workloads/chat.yaml", "--set", "requests=1e400"], "--set requests"),
        (["workloads/chat.yaml", "--seed", "x"], "--seed"),
        (["workloads/chat.yaml", "--seed", "-1"], "seed"),
        (["workloads/chat.yaml", "--replications", "0"], "--replications: expected 1 to 10,000, got 0"),
        (["workloads/chat.yaml", "--warmup", "1"], "--warmup: expected a share"),
        (["workloads/chat.yaml", "--warmup", "nan"], "--warmup: expected a share"),
        (["workloads/chat.yaml", "--bogus"], "--bogus"),
        (["workloads/chat.yaml", "--executor", "magic"], "--executor"),
        (["workloads/chat.yaml", "extra.yaml"], "extra.yaml"),
        ([], "WORKLOAD"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_a_bad_option_ends_with_2_and_says_what_was_expected(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(ROOT)
    lines = assert_refused(*words, out=tmp_path / "out")
    assert any(said in line for line in lines), lines


@pytest.mark.parametrize("out", ["a file", "a file/below", "/proc/graphpool-cannot-be-made"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, out):
    (tmp_path / "a file").write_text("mine", encoding="utf-8")
    outcome = call(CHAT, *QUICK, "--out", tmp_path / out)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert len(outcome.errors) == 1
    assert out.split("/")[-1] in outcome.stderr or "a file" in outcome.stderr
    assert (tmp_path / "a file").read_text(encoding="utf-8") == "mine"


def test_an_error_found_while_simulating_leaves_nothing(tmp_path):
    """A table of step times that ends below a batch size is only found when the size is reached."""
    path = tmp_path / "short.yaml"
    path.write_text(RUNS.replace("{base: 6, per_request: 0}", "{table: [6.3, 6.6]}"), encoding="utf-8")
    (line,) = assert_refused(path, "--no-plots", out=tmp_path / "out")
    assert "decode_graph_ms.table" in line


# Ends before the end.


def test_an_executor_that_fails_ends_with_3_and_marks_what_is_there(tmp_path):
    """A step log whose third step is not the one the loop decides."""
    steps = [[1_000_000, 0, 1, 1, 10, 0], [1_000_000, 0, 1, 1, 11, 0], [1_000_000, 0, 7, 8, 99, 0]]
    lines = [{"format": "graphpool step log 1"}]
    for variant in ("graphs", "eager"):
        head = {"variant": variant, "replication": 0, "executor": {"executor": "torch"}, "steps": len(steps)}
        lines += [head, *steps]
    log = tmp_path / "steps.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    workload = tmp_path / "one.yaml"
    text = RUNS.replace("requests: 40", "requests: 2").replace("prefill_first", "decode_only")
    for key in ("prompt_tokens", "output_tokens"):
        text = re.sub(rf"^{key}: .*$", f"{key}: {{distribution: fixed, value: 10}}", text, flags=re.MULTILINE)
    workload.write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    outcome = call(workload, "--executor", "log", "--step-log", log, "--no-plots", "--out", out)
    assert outcome.status == 3, outcome.stderr
    assert "PARTIAL RESULT" in outcome.stdout
    assert "Traceback" not in outcome.stderr
    records = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert all(record["partial"] and record["unfinished"] for record in records)
    with np.load(out / "steps.npz", allow_pickle=False) as table:
        assert table["duration_ns"].tolist() == [1_000_000, 1_000_000]


def test_ctrl_c_ends_with_130_within_two_seconds_and_marks_what_is_there(tmp_path):
    with start(CHAT, "--set", "requests=2e5", "--replications", "1", "--out", tmp_path) as process:
        assert wait_until_busy(process), process.stderr.read()
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        stdout, stderr = process.communicate(timeout=30)
        took = time.monotonic() - begun
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert took < 2
    assert "PARTIAL RESULT" in stdout
    records = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert all(record["partial"] for record in records)
    assert all(r["completed"] + r["rejected"] + r["unfinished"] == r["num_prompts"] for r in records)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["failure"] == "interrupted"
    assert not [path for path in tmp_path.iterdir() if ".tmp" in path.name or path.suffix == ".png"]


def test_ctrl_c_while_starting_up_ends_without_a_traceback(tmp_path):
    code = "import os, signal, sys; import scheduler.cli as cli\n"
    code += "import scheduler.workload.file.loader as loader\n"
    code += "def press(*_): os.kill(os.getpid(), signal.SIGINT)\n"
    words = ["run.py", str(CHAT), "--out", str(tmp_path / "out")]
    code += f"loader.load_workload = press; sys.argv = {words!r}; cli.main()"
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert end.returncode == 130
    assert "Traceback" not in end.stderr
    assert not (tmp_path / "out").exists()
