"""The selfcheck: everything real on a CPU, the launch model alone without torch."""

from __future__ import annotations

from importlib import util
from typing import Any

import pytest

from scheduler.commands.options import SelfcheckOptions
from scheduler.commands.selfcheck import run_selfcheck
from scheduler.errors import InputError
from scheduler.executors.selfcheck.report import MlpSettings, Report
from scheduler.executors.selfcheck.selfcheck import selfcheck

TINY = MlpSettings(
    sizes=(16, 32, 32, 16),
    batch=8,
    iterations=20,
    warm_up=2,
    launch_bound_width=16,
    launch_bound_batch=1,
    gpu_bound_width=64,
    gpu_bound_batch=8,
    gpu_bound_iterations=10,
    soak_replays=50,
)


def test_without_torch_the_launch_model_is_shown_and_nothing_is_said_to_have_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert run_selfcheck(SelfcheckOptions()) == 4
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("SKIPPED: nothing was checked")
    lines: list[str] = []
    report = selfcheck(say=lines.append)
    text = "\n".join(lines)
    assert "passed" not in text
    assert report["passed"] is None
    assert report["device"] is None
    assert "pip install -e '.[torch]'" in text
    assert "1.36x" in text
    assert [row["speed_up"] for row in report["launch_model"]] == pytest.approx([1.0, 2.6])


def test_without_torch_a_device_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs torch"):
        selfcheck(device="cpu")


def test_on_a_cpu_every_check_holds_and_every_limit_is_shown() -> None:
    pytest.importorskip("torch")
    lines: list[str] = []
    report = selfcheck(force_cpu=True, settings=TINY, say=lines.append)
    failed = [check for check in report["checks"] if check["passed"] is False]
    assert failed == []
    names = {check["name"] for check in report["checks"]}
    assert {
        "replay equals eager at the captured size",
        "padded batches agree with unpadded ones",
        "tokens equal eager at the captured size",
        "changed shape",
        "rebound input is not seen",
        "host branch is baked in",
        "host sync",
        "out of memory",
        "dropout with the default generator",
        "capture in pieces",
        "no memory drift",
    } <= names
    text = "\n".join(lines)
    assert "traced replay on CPU" in text
    assert "CUDA graph" not in text
    mlp: dict[str, Any] = report["mlp"]
    assert mlp["max_difference"] == 0.0
    assert mlp["speed_up"] == pytest.approx(mlp["eager_ms"] / mlp["replay_ms"])


def test_a_failed_check_fails_the_report() -> None:
    report = Report(lambda line: None)
    report.check("good", True, "")
    report.note("neither", "")
    assert report.passed
    report.check("bad", False, "")
    assert not report.passed
    assert not report.as_json()["passed"]
