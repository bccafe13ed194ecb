"""The compiled decode loop is the interpreted one, byte for byte, and never one of other sources."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from array import array
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT

from scheduler import compiled
from scheduler.catalog.profile.inline import InlineProfile
from scheduler.engine.batching import Limits
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.kv_cache import KVCache
from scheduler.engine.loop import DecodeLoop
from scheduler.engine.policies import DecodeOnly
from scheduler.executors.model.by_profile import cost_model

LOOP = """
import scheduler.compiled
print(scheduler.compiled.how)
import scheduler.engine.loop as loop
print(loop.__file__)
"""


def python(folder: Path, *words: str, switch: str = "", status: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "tests")])}
    environment[compiled.SWITCH] = switch
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, env=environment, cwd=folder
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def runs(switch: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(python(ROOT, "-m", "many_runs", switch=switch))
    return found


def test_compiled_and_interpreted_runs_are_the_same_bytes():
    if compiled.how != compiled.COMPILED:
        pytest.skip(f"the decode loop runs {compiled.how}")
    fast, slow = runs(""), runs("1")
    assert fast["how"] == compiled.COMPILED
    assert slow["how"] == f"interpreted: {compiled.SWITCH} is set"
    assert len(fast["digests"]) > 80
    assert len(set(fast["digests"].values())) > 60, "the runs differ from each other"
    assert fast["digests"] == slow["digests"]


@pytest.fixture
def copy(tmp_path) -> Path:
    """Return a copy of the package with an extension beside the loop that nobody may load."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.stamp")
    shutil.copytree(ROOT / "scheduler", tmp_path / "scheduler", ignore=ignored)
    (tmp_path / "scheduler" / "engine" / f"loop{EXTENSION_SUFFIXES[0]}").write_bytes(b"no extension")
    return tmp_path


def stamp(copy: Path) -> Path:
    return copy / "scheduler" / compiled.stamp().name


def right_digest(copy: Path) -> str:
    code = "import scheduler.compiled as c; print(c.digest(c.modules().values()))"
    return python(copy, "-c", code).strip()


def assert_runs_the_source(copy: Path, how: str, **words: str) -> None:
    said, file = python(copy, "-c", LOOP, **words).splitlines()
    assert said == how
    assert file == str(copy / "scheduler" / "engine" / "loop.py")


def test_an_extension_without_a_stamp_is_not_loaded(copy):
    assert_runs_the_source(copy, "interpreted: nothing was compiled for this Python")


def test_an_extension_of_other_sources_is_not_loaded(copy):
    stamp(copy).write_text(right_digest(copy))
    with (copy / "scheduler" / "engine" / "ledger.py").open("a") as source:
        source.write("\n")
    assert_runs_the_source(copy, compiled.STALE)


def test_nor_where_a_module_was_added_or_removed(copy):
    stamp(copy).write_text(right_digest(copy))
    (copy / "scheduler" / "engine" / "lottery.py").write_text('"""A policy."""\n')
    assert_runs_the_source(copy, compiled.STALE)


def test_the_command_says_that_it_runs_by_changed_sources(copy):
    stamp(copy).write_text("another digest\n")
    code = "from scheduler.cli import main; main()"
    words = [sys.executable, "-c", code, "--version"]
    environment = {**os.environ, "PYTHONPATH": str(copy), compiled.SWITCH: ""}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=copy)
    assert (done.returncode, done.stderr) == (0, f"note: {compiled.STALE}\n")


def test_the_switch_runs_the_sources(copy):
    stamp(copy).write_text(right_digest(copy))
    assert_runs_the_source(copy, f"interpreted: {compiled.SWITCH} is set", switch="1")


def test_an_extension_of_these_sources_is_what_is_loaded(copy):
    """By the broken extension, which only then stops the import."""
    stamp(copy).write_text(right_digest(copy))
    assert python(copy, "-c", LOOP, status=1).strip() == compiled.COMPILED


def test_every_module_left_out_is_there_and_has_its_reason():
    assert all(reason for reason in compiled.LEFT_OUT.values())
    for name in compiled.LEFT_OUT:
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()
        assert name not in compiled.modules()


def test_ctrl_c_reaches_a_batch_job_that_needs_no_event():
    """All requests are there at once: from then on the loop is one long decision after another."""
    requests = 60_000
    line = {"base": 4, "per_request": 0}
    profile = InlineProfile.model_validate({"decode_eager_ms": line, "decode_graph_ms": line})
    executor = cost_model(profile, "fallback")
    prompts, answers = array("q", [40]) * requests, array("q", range(1, requests + 1))
    batching = DecodeOnly(Limits(8), GraphPool((8,)), KVCache(None, 16), None, prompts, None)
    loop = DecodeLoop(batching, executor, array("q", [0]) * requests, prompts, answers, reject=None)
    pressed: list[float] = []

    def press(_number: int, _frame: object) -> None:
        pressed.append(time.monotonic())
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        run = loop.run()
        waited_s = time.monotonic() - pressed[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert run.failure == "interrupted"
    assert 0 < loop.ledger.ended < requests
    assert waited_s < 10
