"""The GPU script itself, on a CPU: a failing step costs that step alone; the results are three files."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("torch")

RUN_ALL = [sys.executable, "-m", "evidence.gpu.run_all"]


def test_a_failing_step_costs_that_step_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*RUN_ALL, "--out", str(out), "--device", "cpu", "--quick"]
    done = subprocess.run(
        [*command, "--steps", "no-such-step,environment,pools"], capture_output=True, text=True, check=False
    )
    results = json.loads((out / "results.json").read_text())["steps"]
    assert done.returncode == 1
    assert [results[step]["status"] for step in results] == ["exit 1", "ok", "ok"]
    assert results["environment"]["result"]["facts"]["torch"]
    assert results["pools"]["result"]["tiny"]["tiny_3"]["sizes"] == 3
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "raw.tar.gz", "results.json"]
    assert "KeyError" in (out / "log.txt").read_text()
    with tarfile.open(out / "raw.tar.gz") as archive:
        assert archive.getnames() == []


def test_what_the_budget_does_not_reach_is_listed(tmp_path: Path) -> None:
    command = [*RUN_ALL, "--out", str(tmp_path / "out"), "--device", "cpu", "--quick"]
    subprocess.run([*command, "--budget-s", "1"], capture_output=True, check=False)
    steps = json.loads((tmp_path / "out" / "results.json").read_text())["steps"]
    assert len(steps) >= 10
    assert all(step["status"].startswith("not run") for step in steps.values())
