"""`calibrate --engine vllm` with the vLLM on paper: runs, profile, checks, resumed after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_engine import ROOT, environment

from scheduler.catalog.importers.recorded_run import MODES, read_recorded
from scheduler.catalog.profile.file import load_profile
from scheduler.commands.calibrate_engine import Check, _over_turns
from scheduler.live.calibration import unseen_lists
from scheduler.live.work import traffic_rate, traffic_requests, work_of

WORDS = ("calibrate", "--engine", "vllm", "--model", "/models/paper-8b")
LIMITS = ("--max-num-seqs", "16", "--max-num-batched-tokens", "256")


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), *WORDS, *LIMITS, "--minutes", "1", "--out", str(out), *more]


def start(folder: Path, out: Path, *more: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(out, *more),
        env=environment(folder, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )


def children_of(out: Path) -> list[int]:
    """Return the processes whose command line names a file below `out`."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes()
        except OSError:
            continue
        if b"scheduler.live.child" in words and str(out).encode() in words:
            found.append(int(place.parent.name))
    return found


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """Kill a calibration in its second engine, start it again, let it end."""
    folder = tmp_path_factory.mktemp("calibrate")
    out = folder / "mine"
    killed = start(folder, out)
    end = time.monotonic() + 90
    while not (out / "raw" / "none.events.jsonl").exists():
        assert killed.poll() is None, killed.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    again = start(folder, out, "--check-pools")
    stdout, stderr = again.communicate(timeout=200)
    assert again.returncode == 0, stderr
    return out, stdout, stderr


@pytest.mark.slow
def test_it_leaves_runs_that_can_be_imported_and_a_profile(calibrated):
    out, stdout, _ = calibrated
    own, none, eager = (read_recorded(out / f"{name}.json") for name in ("own", "none", "eager"))
    assert own.engine.capture_sizes == (1, 2, 4, 8, 16, 24, 32)
    assert {MODES[mode] for mode in own.steps.mode} == {"full", "piecewise", "compiled"}
    assert {MODES[mode] for mode in none.steps.mode} == {"compiled"}
    assert {MODES[mode] for mode in eager.steps.mode} == {"eager"}
    batches = {span.batch for span in own.spans if span.part == "cell"}
    assert {1, 2, 4, 8, 16} <= batches
    for span in own.spans:
        if span.part == "cell" and span.prompt_tokens == 128:
            here = own.of_span(span) & (own.steps.chunks == 0)
            assert (own.steps.requests[here] == span.batch).sum() >= 15, span
    assert len(own.traffic) == 2
    facts = json.loads((out / "own.json").read_text(encoding="utf-8"))
    assert facts["mixed"]
    assert facts["start_up"]["graph_memory_gib"] == 0.25
    profile = load_profile(str(out / "profile.json"))
    assert profile.identity.model == "paper-8b"
    assert profile.name == "calibrated-paper-8b"
    assert profile.identity.engine == "vLLM"
    assert not profile.identity.engine_version.startswith("vLLM")
    assert profile.launch("compiled").ms > profile.launch("full").ms
    assert "calibrated in" in stdout


@pytest.mark.slow
def test_a_killed_one_goes_on_with_what_is_finished(calibrated):
    out, _, stderr = calibrated
    assert f"own: taken over from {out / 'own.json'}" in stderr
    assert "none: ready after" in stderr
    assert children_of(out) == []


@pytest.mark.slow
def test_unseen_lists_are_executed_and_held_against_the_profile(calibrated):
    out, stdout, _ = calibrated
    result = json.loads((out / "calibration.json").read_text(encoding="utf-8"))
    checked = [(check["run"], check["traffic"]) for check in result["checks"]]
    lists = ("own_again", "to_4", "few")
    # The own list's traffics are repeated, all lists by turns; what there is no time for is left out.
    assert checked[:2] == [("own", "chat"), ("own", "even")]
    assert {run for run, traffic in checked if traffic == "chat"} == {"own", *lists}
    assert set(checked) <= {(run, traffic) for run in ("own", *lists) for traffic in ("chat", "even")}
    assert len(set(checked)) == len(checked)
    assert read_recorded(out / "to_4.json").engine.capture_sizes == (1, 2, 4)
    for check in result["checks"]:
        both = check["mean_tpot_ms"]
        assert check["tpot_error"] == pytest.approx(both["predicted"] / both["measured"] - 1)
        assert 0.4 < both["predicted"] / both["measured"] < 1.6  # sleeps on a busy machine are no measurement
        assert ("tpot_against_own" in check) == (check["run"] in ("to_4", "few"))
    assert "TPOT against own_again" in stdout
    assert "to_4 (3 sizes), chat" in stdout


@pytest.mark.slow
def test_the_engines_arguments_are_passed_through_and_other_ones_start_anew(calibrated):
    out, _, _ = calibrated
    spec = json.loads((out / "raw" / "own.spec.json").read_text(encoding="utf-8"))
    assert spec["arguments"][-4:] == list(LIMITS)
    assert "dummy" in spec["arguments"]
    run = start(out.parent, out, "--", "--max-model-len", "many")
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 2
    assert "error: engine own ended early, status 2" in stderr
    assert "invalid int value: 'many'" in stderr
    assert "Traceback" not in stderr


def test_lists_are_held_against_the_own_one_in_the_turns_that_both_had():
    """A last round without the own list's turn counts for a list's mean, not for the difference."""

    def check(run: str, turn: int, measured: float, predicted: float) -> Check:
        other = (1.0, 1.0)
        return Check(run, "chat", 10, 3, (measured, predicted), other, other, turn)

    own = [check("own_again", 0, 10.0, 8.0)]
    own_again, few = _over_turns([*own, check("few", 0, 12.0, 10.0), check("few", 1, 40.0, 10.0)])
    assert own_again.against_own is None
    assert few.mean_tpot_ms == (26.0, 10.0)
    assert few.against_own == pytest.approx((0.2, 0.25))
    assert _over_turns([check("few", 1, 40.0, 10.0)])[0].against_own is None


def test_an_engine_that_does_not_start_is_told_with_its_log(tmp_path):
    run = start(tmp_path, tmp_path / "out", FAKE_VLLM_BREAK="start")
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 2
    assert "own.log" in stderr
    assert "RuntimeError: Engine core initialization failed: out of memory" in stderr


def test_an_engine_that_does_not_record_is_told(tmp_path):
    run = start(tmp_path, tmp_path / "out", FAKE_VLLM_BREAK="names")
    _, stderr = run.communicate(timeout=90)
    assert run.returncode == 2
    assert "engine own: its steps were not recorded" in stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--minutes", "0.1"), "--minutes: expected 1 to 600, got 0.1"),
        (("--max-num-seqs", "0"), "--max-num-seqs: expected 1 to 1,000,000, got 0"),
        (("--out", "x.json"), "--out: expected a folder with --engine, got x.json"),
    ],
)
def test_bad_options_are_told_before_anything_starts(tmp_path, words, expected):
    out = () if "--out" in words else ("--out", "o")
    run = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *WORDS, *out, *words],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (run.returncode, run.stderr.strip()) == (2, f"error: {expected}")


def test_without_vllm_it_says_what_to_do(tmp_path):
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = subprocess.run(
        command(tmp_path / "o"), env=variables, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert run.returncode == 2
    assert "--engine vllm: this Python has no vllm" in run.stderr


def test_work_keeps_to_the_engines_limits():
    for seqs, budget, length, kv in ((256, 2_048, 8_192, 450_000), (8, 64, 512, 2_000), (1, 16, 200, 400)):
        for kind in ("graphs", "none", "eager", "check"):
            for item in work_of(kind, seqs, budget, length, kv, (1, 2, 4, 8)):
                for batch, prompt, answer in item.get("cells", ()):
                    assert 1 <= batch <= seqs
                    assert prompt + answer <= length
                    assert batch * prompt < kv
                for tokens, _ in item.get("prompts", ()):
                    assert tokens < length
                for batch, _, lengths, _ in item.get("mixed", ()):
                    assert batch < seqs
                    assert max(lengths) + batch <= budget


def test_cells_just_above_captured_sizes_show_what_padding_costs():
    work = work_of("graphs", 256, 2_048, 8_192, 450_000, (1, 2, 4, 8, 16, 32, 64, 128, 256))
    batches = {batch for item in work for batch, _, _ in item.get("cells", ())}
    assert {17, 33, 65, 129, 160, 192, 224, 256} <= batches


def test_traffic_is_the_same_for_every_engine_and_fits_its_slots():
    rate = traffic_rate("even", 96, {1: 0.004, 32: 0.01, 96: 0.02})
    assert rate * 256 * 0.01 < 96 / 2
    spec = {"rate": rate, "requests": 50, "seed": 2, "prompt": 32, "output": 256}
    drawn = traffic_requests(spec, 4_000)
    assert drawn == traffic_requests(spec, 4_000)
    assert len(drawn) == 50
    spec |= {"prompt": [5.9, 0.8, 4_000], "output": [150, 1_000]}
    assert max(prompt + output for _, prompt, output in traffic_requests(spec, 300)) <= 300


def test_traffic_leaves_an_engine_whose_prompts_are_slow_unsaturated():
    """A small model decodes in 3 ms, but its host launches a prompt without a graph for 25 ms."""
    step_s, prompt_s = {64: 0.0024}, {16: 0.008, 512: 0.0125, 768: 0.025, 2_048: 0.017}
    assert traffic_rate("chat", 256, step_s) * 0.025 > 2  # what steps with prompts would take of a second
    assert traffic_rate("chat", 256, step_s, prompt_s) * 0.025 == pytest.approx(2 / 3, rel=0.01)
    assert traffic_rate("even", 256, step_s, prompt_s) * 0.0125 == pytest.approx(2 / 3, rel=0.01)
    assert traffic_rate("chat", 256, {64: 0.02}, prompt_s) == traffic_rate("chat", 256, {64: 0.02})


def test_unseen_lists_are_unlike_the_own_one():
    lists = unseen_lists((1, 2, 4, 8, 16, 32, 64), 64)
    assert lists == {"to_16": (1, 2, 4, 8, 16), "few": (1, 4, 16, 64)}
    assert unseen_lists((1,), 1) == {"to_1": (1,), "few": (1,)}
