"""Ctrl-C wherever it may come: status 130 within two seconds, complete files or none, never a traceback.

During a simulation: test_cli; between two steps: engine/test_interrupt; in a sweep: commands/.
"""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from command_line import ROOT, call, start, wait_until_busy

CHAT = ROOT / "workloads" / "chat.yaml"
RUN = (CHAT, "--replications", "1", "--set", "requests=40")


def press(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("picture", ["report.plots.over_time", "report.html.write_report"])
def test_ctrl_c_while_drawing_leaves_the_numbers_whole_and_ends_with_130(tmp_path, monkeypatch, picture):
    monkeypatch.setattr(f"scheduler.{picture}", press)
    begun = time.monotonic()
    outcome = call(*RUN, "--out", tmp_path)
    assert time.monotonic() - begun < 20
    assert (outcome.status, outcome.stdout, outcome.errors) == (130, "", ["interrupted"])
    names = {path.name for path in tmp_path.iterdir()}
    assert {"requests.npz", "steps.npz", "results.json", "summary.json"} <= names
    drawn = {"report.plots.over_time": "over_time.png", "report.html.write_report": "report.html"}
    assert drawn[picture] not in names
    assert not [name for name in names if ".tmp" in name]
    records = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert all(record["completed"] == 40 for record in records)


def test_ctrl_c_while_tuning_ends_with_130_within_two_seconds_and_writes_nothing(tmp_path):
    words = ("tune", CHAT, "--graphs", "8", "--set", "requests=2e4")
    with start(*words, "--out", tmp_path / "out") as process:
        assert wait_until_busy(process), process.stderr.read()
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        stdout, stderr = process.communicate(timeout=30)
        took = time.monotonic() - begun
    assert (process.returncode, stdout) == (130, "")
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert took < 2
    assert not (tmp_path / "out" / "tune.json").exists()


def test_ctrl_c_in_a_worker_free_sweep_ends_with_130_within_two_seconds(tmp_path):
    words = ("sweep", CHAT, "--over", "arrivals.rate_per_s=2:12:2", "--set", "requests=2e4", "--workers", "1")
    with start(*words, "--no-plots", "--out", tmp_path / "out") as process:
        assert wait_until_busy(process), process.stderr.read()
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, stderr = process.communicate(timeout=30)
        took = time.monotonic() - begun
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert took < 2
