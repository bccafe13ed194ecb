"""The same sweep on a real Dask cluster on loopback, one worker killed in the middle: the same file."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from sweep_cases import REPOSITORY, SMALL, run_sweep_command, start_sweep, write_workload

from scheduler.analysis.workers import open_workers
from scheduler.errors import InputError

pytest.importorskip("distributed", reason="needs the extra cluster")

PATIENCE_S = 60
LONGER = SMALL.replace("requests: 200", "requests: 4000")
SWEEP = ("--over", "arrivals.rate_per_s=10:25:5", "--replications", 3)  # 24 simulations


def started(folder, module, *arguments):
    log = (folder / f"{module}-{len(list(folder.iterdir()))}.log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "DASK_DISTRIBUTED__WORKER__DAEMON": "False"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    return process, log


def wait_for(log, pattern, process):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = re.search(pattern, Path(log.name).read_text())
        if found:
            return found
        assert process.poll() is None, "a Dask process ended before it was ready"
        time.sleep(0.05)
    raise AssertionError(f"no {pattern!r} within {PATIENCE_S} s")


@contextmanager
def cluster(folder):
    """Yield the scheduler's address and two worker processes of one thread each, on loopback alone."""
    folder.mkdir()
    loopback = ("--host", "127.0.0.1", "--no-dashboard")
    scheduler, log = started(folder, "distributed.cli.dask_scheduler", *loopback, "--port", "0")
    processes, logs = [scheduler], [log]
    try:
        address = wait_for(log, r"Scheduler at:\s+(tcp://127\.0\.0\.1:[0-9]+)", scheduler)[1]
        for _ in range(2):
            worker, log = started(
                folder, "distributed.cli.dask_worker", address, *loopback,
                "--no-nanny", "--nthreads", "1", "--memory-limit", "0",
            )  # fmt: skip
            processes.append(worker)
            logs.append(log)
        for worker, log in zip(processes[1:], logs[1:], strict=True):
            wait_for(log, r"Registered to:\s+tcp", worker)
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for log in logs:
            log.close()


def parts(out):
    return len(list((out / "sweep_parts").glob("[!.]*.json")))


def test_a_cluster_that_loses_a_worker_midway_gives_the_same_file(tmp_path):
    workload = write_workload(tmp_path, LONGER)
    out = tmp_path / "cluster"
    with cluster(tmp_path / "dask") as (address, workers):
        arguments = [workload, *SWEEP, "--dask", address, "--out", out]
        with start_sweep(*arguments, cwd=tmp_path) as process:
            deadline = time.monotonic() + PATIENCE_S
            while not parts(out) and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
            workers[0].kill()
            done = parts(out)
            stdout, stderr = process.communicate(timeout=PATIENCE_S)
        assert workers[1].poll() is None
    assert process.returncode == 0, stderr
    assert 1 <= done < 24
    status, local_stdout, local_stderr = run_sweep_command(
        workload, *SWEEP, "--workers", 1, "--out", tmp_path / "local", cwd=tmp_path
    )
    assert status == 0, local_stderr
    assert stdout == local_stdout
    assert len(json.loads((out / "sweep.json").read_text())) == 24
    for name in ("sweep.json", "sweep.csv"):
        assert (out / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_a_dead_address_is_told_at_once_and_leaves_no_traceback(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        begun = time.monotonic()
        words = (write_workload(tmp_path, SMALL), *SWEEP, "--dask", address, "--out", tmp_path / "out")
        status, stdout, stderr = run_sweep_command(*words, cwd=tmp_path)
    assert time.monotonic() - begun < 10
    assert (status, stdout, stderr.count("\n")) == (2, "", 1), stderr


def test_an_address_where_no_scheduler_answers_is_one_line(monkeypatch):
    monkeypatch.setattr("scheduler.analysis.workers.DASK_PATIENCE_S", 0.3)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(InputError) as caught, open_workers(None, address):
            pass
    (line,) = caught.value.lines
    assert line.startswith(f"--dask {address}: expected the address of a Dask scheduler")
