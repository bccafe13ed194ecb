"""Work in a copy of the process: the same files, the same errors, and no copy left behind."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from scheduler.report.beside import in_a_copy


@pytest.fixture
def forks() -> None:
    """Skip where no copy is made: on one CPU, outside Linux, or beside threads that other tests left."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if threading.active_count() > 1 or cpus < 2:
        pytest.skip("no copy is made here: one CPU, another system, or further threads")


@pytest.mark.usefixtures("forks")
def test_the_work_is_done_in_another_process_by_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "who"
    with in_a_copy(lambda: path.write_text(str(os.getpid()))):
        pass
    assert int(path.read_text()) != os.getpid()


@pytest.mark.usefixtures("forks")
def test_what_goes_wrong_in_the_copy_is_raised_here() -> None:
    def fail() -> None:
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"), in_a_copy(fail):
        pass


@pytest.mark.usefixtures("forks")
def test_an_interrupted_block_ends_the_copy_which_cleans_up(tmp_path: Path) -> None:
    started, cleaned = tmp_path / "started", tmp_path / "cleaned"

    def work() -> None:
        try:
            started.touch()
            time.sleep(60)
        finally:
            cleaned.touch()

    def interrupted() -> None:
        with in_a_copy(work):
            while not started.exists():
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert cleaned.exists()


def test_beside_another_thread_the_work_is_done_here(tmp_path: Path) -> None:
    path = tmp_path / "who"
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with in_a_copy(lambda: path.write_text(str(os.getpid()))):
            assert int(path.read_text()) == os.getpid()
    finally:
        done.set()
        thread.join()
