"""What cannot work, or would do nothing, is refused in one line before anything is simulated."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from command_line import ROOT, call, spawn

CHAT = ROOT / "workloads" / "chat.yaml"
RUN = (CHAT, "--no-plots", "--replications", "1", "--set", "requests=40")


@pytest.fixture(autouse=True)
def no_simulation(monkeypatch):
    monkeypatch.setattr("scheduler.commands.run.compare", lambda *_, **__: pytest.fail("it simulated"))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--out", ""), "--out: expected a folder, got nothing"),
        (("--seed", "-1"), "--seed: expected 0 to 2^63 − 1, got -1"),
        (("--window", "5s"), "--window: expected only with --timeline FILE"),
        (("--device", "cpu"), "--device: expected only with --executor torch"),
        (("--model", "tiny"), "--model: expected only with --executor torch"),
        (("--step-log", "x"), "--step-log: expected only with --executor torch or log"),
        (("--pool", "1,1"), "--pool 1,1: expected each capture size once, got 1 twice"),
        (("--set", "engine.profile=./no.json"), "--set engine.profile: no.json: no such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_an_option_that_cannot_work_is_one_line_that_names_it(words, error):
    outcome = call(*RUN, *words)
    assert (outcome.status, outcome.stdout, outcome.errors) == (2, "", [f"error: {error}"])


def test_an_unusable_timeline_path_is_found_before_the_run(tmp_path):
    outcome = call(*RUN, "--timeline", tmp_path, "--out", tmp_path / "out")
    expected = f"error: {tmp_path}: expected a file that may be replaced, got a folder"
    assert (outcome.status, outcome.errors) == (2, [expected])
    assert not list(tmp_path.iterdir())


def test_more_requests_than_memory_holds_are_refused_before_they_are_drawn():
    outcome = call(CHAT, "--set", "requests=10000000", "--replications", "10000")
    expected = "error: --replications: expected at most 100,000,000 requests in all, got 10,000,000 × 10,000"
    assert (outcome.status, outcome.errors) == (2, [expected])


@pytest.mark.parametrize("sizes", ['{"sizes": [1], "sizes": [2]}', '{"sizes": [2, 2]}'])
def test_a_pool_file_that_says_something_twice_is_refused(tmp_path, sizes):
    path = tmp_path / "pool.json"
    path.write_text(sizes, encoding="utf-8")
    outcome = call(*RUN, "--pool", path)
    assert outcome.status == 2
    assert len(outcome.errors) == 1
    assert "twice" in outcome.errors[0]


@pytest.mark.parametrize("context", ["0", "-5", "100000000000"])
def test_profile_show_refuses_a_context_that_no_sequence_has(context):
    outcome = call("profile", "show", "h100-llama-3.1-8b-bf16", f"--context={context}", "--no-plots")
    assert (outcome.status, len(outcome.errors)) == (2, 1)
    assert outcome.errors[0].startswith("error: --context: expected 1 to ")


# Standard output.


@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_an_output_that_takes_nothing_is_one_line_and_2(tmp_path, where):
    script = f'exec "$0" run.py profile show h100-llama-3.1-8b-bf16 --no-plots {where}'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: standard output: ")


def test_an_output_of_another_encoding_still_gets_the_signs():
    outcome = spawn(
        "profile", "show", "h100-llama-3.1-8b-bf16", "--no-plots", PYTHONIOENCODING="ascii", PYTHONUTF8="0"
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    assert not outcome.stdout.isascii()


def test_ctrl_c_while_the_program_loads_ends_with_130_and_no_traceback(tmp_path):
    (tmp_path / "cyclopts.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "run.py", "--help"],
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "loading\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - begun < 5
    assert (process.returncode, stderr) == (130, "interrupted\n")
