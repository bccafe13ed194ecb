"""What docs/your_engine.md says of a real engine was measured; how the cost of recording is told by turns."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

import evidence
from evidence.gpu.record_cost import TURN_S, compared

DATA = Path(evidence.__file__).parent / "data" / "your_engine_h100"
PAGE = (Path(evidence.__file__).parents[1] / "docs" / "your_engine.md").read_text(encoding="utf-8")


def test_the_page_prints_what_the_command_printed():
    assert (DATA / "8b" / "calibrate.txt").read_text(encoding="utf-8") in PAGE
    for line in (DATA / "8b" / "progress.txt").read_text(encoding="utf-8").splitlines():
        assert "ready after" not in line or line in PAGE
    for name in ("qwen", "tp2", "8b_warm", "qwen_warm", "tp2_warm"):
        lines = (DATA / name / "calibrate.txt").read_text(encoding="utf-8").splitlines()
        assert lines[0] in PAGE
        assert all(line in PAGE for line in lines if line.startswith(("own", "to_64", "few")))


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "--from-log", "8b/own.json"),
        ("tune", "--from-log", "8b/own.json", "--profile", "8b/profile.json", "--graphs", "16"),
        ("validate", "--run", "turns_8b/tuned_9.json", "--profile", "8b/profile.json"),
    ],
)
def test_the_page_prints_what_audit_tune_and_validate_print(words):
    command = [sys.executable, str(DATA.parents[2] / "run.py"), *words]
    told = subprocess.run(command, cwd=DATA, capture_output=True, text=True, timeout=120, check=True).stdout
    lines = told.split("#   sizes")[0].rstrip().splitlines()
    if words[0] == "validate":  # the page cuts it to some lines
        lines = [line for line in lines if line.startswith(("tuned_9", "TPOT mean", "ITL p50", "verdict"))]
    assert "\n".join(lines) in PAGE or (words[0] == "validate" and all(line in PAGE for line in lines))


def test_the_page_gives_one_eager_step():
    mean_s = json.loads((DATA / "eager_latency.json").read_text(encoding="utf-8"))["avg_latency"]
    assert f"printed {mean_s:.3f} s" in PAGE
    assert f"`--eager-ms {mean_s / 128 * 1e3:.1f}`" in PAGE


def test_the_page_gives_what_the_hooks_alone_cost():
    alone = {row["batch"]: row for row in json.loads((DATA / "record_cost.json").read_text())["hooks_alone"]}
    assert f"{alone[64]['engine_thread_us']:.0f} µs of the engine's thread" in PAGE
    assert f"({alone[256]['engine_thread_us']:.0f} at 256 requests)" in PAGE


@pytest.mark.parametrize("cost_us", [0.0, 40.0])
def test_a_cost_is_found_beneath_a_drift_larger_than_it(cost_us):
    drawn = random.Random(4)  # noqa: S311
    turn = int(TURN_S * 1e6)
    spans, seen, at = [], [], 0.0
    for number in range(60):
        is_on = number % 2 == 0
        if is_on:
            spans.append([number * turn, (number + 1) * turn])
        while at < (number + 1) * turn:
            drift = 1 + 0.3 * at / (60 * turn)  # 30 % slower at the end
            at += 2_000 * drift + drawn.gauss(0, 60) + (cost_us if is_on else 0.0)
            seen.append(round(at))
    found = compared(seen, spans)
    assert found["cost_us"] == pytest.approx(cost_us, abs=3 * found["standard_error_us"])
    assert found["standard_error_us"] < 12


def test_a_recorder_left_on_before_does_not_count_as_on_now():
    turn = int(TURN_S * 1e6)
    start = 100 * turn
    spans = [[turn, turn], *([start + 2 * i * turn, start + (2 * i + 1) * turn] for i in range(10))]
    seen = list(range(start, start + 20 * turn, 2_000))
    found = compared(seen, spans)
    assert {is_on for is_on, _, _ in found["each_turn"]} == {0, 1}
    assert found["cost_us"] == pytest.approx(0.0, abs=1.0)
