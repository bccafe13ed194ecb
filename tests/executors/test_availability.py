"""Without torch, or without a GPU, one clear line; and nothing imports torch by accident."""

from __future__ import annotations

import subprocess
import sys
from importlib import util

import pytest

from scheduler.errors import InputError
from scheduler.executors.real import availability


def test_without_torch_one_line_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        availability.require_device("cpu")
    assert len(error.value.lines) == 1
    assert "pip install -e '.[torch]'" in error.value.lines[0]


def test_without_a_gpu_one_line_names_what_to_use_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(availability, "cuda_available", lambda: False)
    with pytest.raises(InputError) as error:
        availability.require_device("cuda")
    assert len(error.value.lines) == 1
    assert "--device cpu" in error.value.lines[0]


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InputError, match="expected one of cpu, cuda"):
        availability.require_device("tpu")


def test_the_main_job_selfcheck_and_step_log_import_no_torch() -> None:
    checks = "scheduler.executors.selfcheck.selfcheck, scheduler.executors.step_log"
    modules = f"scheduler.cli, scheduler.commands.run, {checks}"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
