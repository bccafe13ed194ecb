"""`run.py sweep` as a person runs it: the same files however it is computed, stopped or taken up again."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from sweep_cases import SMALL, run_sweep_command, start_sweep, write_workload

from scheduler import cli
from scheduler.analysis.workers import WorkersLostError
from scheduler.commands.options import SweepOptions
from scheduler.commands.sweep import run_sweep

RATES = "arrivals.rate_per_s=10:30:10"


def test_processes_and_this_process_write_the_same_bytes(tmp_path):
    workload = write_workload(tmp_path)
    for workers in (1, 2):
        status, _, stderr = run_sweep_command(
            workload, "--over", RATES, "--find-max-rate", "--replications", 2, "--workers", workers,
            "--out", tmp_path / f"out{workers}", cwd=tmp_path,
        )  # fmt: skip
        assert status == 0, stderr
    for name in ("sweep.json", "sweep.csv", "max_rate.json"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()


def wait_for_parts(folder, count, process):
    for _ in range(600):
        if len(list(folder.glob("*.json"))) >= count or process.poll() is not None:
            break
        time.sleep(0.02)
    assert process.poll() is None, "the sweep ended before it could be stopped: make it longer"


def processes_of_session(session):
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (
                    os.getsid(int(entry.name)) == session
                    and "Z" not in (entry / "stat").read_text().split()[2]
                ):
                    pids.append(int(entry.name))
            except (OSError, IndexError):
                continue
    return pids


LONGER = SMALL.replace("requests: 200", "requests: 2000")
LONG_SWEEP = ("--over", "arrivals.rate_per_s=10:25:5", "--replications", 2)  # 16 simulations


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    status, _, stderr = run_sweep_command(
        write_workload(folder, LONGER), *LONG_SWEEP, "--workers", 1, "--out", "out", cwd=folder
    )
    assert status == 0, stderr
    assert len(json.loads((folder / "out" / "sweep.json").read_text())) == 16
    return folder / "out"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_loses_nothing_counts_nothing_twice_and_leaves_no_process(tmp_path, whole, stop):
    out = tmp_path / "out"
    arguments = [write_workload(tmp_path, LONGER), *LONG_SWEEP, "--workers", 2, "--out", out]
    with start_sweep(*arguments, cwd=tmp_path) as process:
        # A part lies on disk a moment before its worker tells of it: of five, two workers have told of three.
        wait_for_parts(out / "sweep_parts", 5, process)
        started = time.monotonic()
        process.send_signal(stop)
        _, stderr = process.communicate(timeout=20)
    if stop is signal.SIGINT:
        assert process.returncode == 130
        assert time.monotonic() - started < 5
        assert "interrupted" in stderr
        assert "Traceback" not in stderr
        partial = json.loads((out / "sweep.json").read_text())
        assert all(record["partial"] for record in partial)
        assert 3 <= len(partial) < 16
    for _ in range(100):
        if not processes_of_session(process.pid):
            break
        time.sleep(0.1)
    assert processes_of_session(process.pid) == []
    done = parts_written(out)
    assert 3 <= len(done) < 16
    status, _, stderr = run_sweep_command(*arguments, cwd=tmp_path)
    assert status == 0, stderr
    assert f"{16 - len(done)} simulations computed, {len(done)} taken from earlier runs" in stderr
    assert done.items() <= parts_written(out).items()
    for name in ("sweep.json", "sweep.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def parts_written(out):
    return {path.name: path.stat().st_mtime_ns for path in (out / "sweep_parts").glob("[!.]*.json")}


def test_a_bad_point_gives_status_2_and_the_others_are_complete(tmp_path):
    status, stdout, stderr = run_sweep_command(
        write_workload(tmp_path), "--over", "engine.max_num_seqs=4,0,8", "--replications", 2, "--workers", 1,
        "--out", tmp_path / "out", cwd=tmp_path,
    )  # fmt: skip
    assert status == 2
    assert "error: engine.max_num_seqs=0: --over engine.max_num_seqs: expected a whole number" in stderr
    assert "Traceback" not in stderr
    assert stdout.count("graphs") == 2
    records = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert sum("error" in record for record in records) == 1
    assert len(records) == 1 + 2 * 2 * 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "expected --over KEY=V1,V2,… or --find-max-rate"),
        (["--over", "engine.max_seqs=1,2"], "did you mean"),
        (["--over", "pool=vllm,vlm"], "did you mean vllm"),
        (["--over", "pool=vllm", "--pool", "vllm"], "expected each pool once, got vllm twice"),
        (["--over", "seed=1,2", "--workers", "0"], "--workers: expected 1 to 1,024, got 0"),
        (
            ["--over", "seed=1,2", "--workers", "2", "--dask", "tcp://127.0.0.1:1"],
            "only one of --workers and --dask",
        ),
        (["--find-max-rate", "--slo-share", "0"], "--slo-share: expected a share"),
        (["--find-max-rate", "--set", "slo=null"], "--find-max-rate: expected an slo"),
        (
            ["--find-max-rate", "--set", "arrivals={process: closed_loop, concurrency: 4}"],
            "got the process closed_loop",
        ),
    ],
)
def test_a_sweep_that_cannot_be_is_one_line_and_no_file(tmp_path, monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "sweep", str(write_workload(tmp_path)), *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    stderr = capsys.readouterr().err
    assert line in stderr
    assert all(text.startswith("error: ") for text in stderr.splitlines())
    assert not (tmp_path / "results").exists()


def test_swept_pools_are_variants_and_eager_runs_once(tmp_path):
    status, _, stderr = run_sweep_command(
        write_workload(tmp_path), "--over", 'pool="1,2,4",[8],vllm', "--replications", 2, "--workers", 1,
        "--out", tmp_path / "out", cwd=tmp_path,
    )  # fmt: skip
    assert status == 0, stderr
    assert "8 simulations computed" in stderr
    records = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [record["pool"] for record in records] == [
        name for name in ("pool-1-2-4", "pool-8", "vllm", "eager") for _ in range(2)
    ]
    assert {record["num_graphs"] for record in records if record["pool"] == "pool-8"} == {1}


def sweep_of_two(folder, **more):
    """Sweep two seeds of the small workload; return the exit status."""
    options = SweepOptions(over=("seed=1,2",), replications=2, workers=1, out=folder / "out", **more)
    return run_sweep(write_workload(folder), options)


def test_json_is_one_document_of_flat_records_and_rows(tmp_path, capsys):
    assert sweep_of_two(tmp_path, find_max_rate=True, json=True, plots=False) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert found["max_rates"] == json.loads((tmp_path / "out" / "max_rate.json").read_text())
    assert [(row["seed"], row["variant"]) for row in found["max_rates"]] == [
        (1, "graphs"), (1, "eager"), (2, "graphs"), (2, "eager"),
    ]  # fmt: skip
    gains = [row["gain_over_eager"] for row in found["max_rates"] if row["variant"] == "graphs"]
    assert all(gain > 0 for gain in gains)


def test_a_swept_rate_is_no_axis_of_the_rate_search(tmp_path, capsys):
    options = SweepOptions(
        over=(RATES,), find_max_rate=True, replications=2, workers=1, out=tmp_path / "out", plots=False
    )
    assert run_sweep(write_workload(tmp_path), options) == 0
    rows = json.loads((tmp_path / "out" / "max_rate.json").read_text())
    assert [row["variant"] for row in rows] == ["graphs", "eager"]
    assert "Highest rate (requests/s) at which 99 % of the requests meet the SLO" in capsys.readouterr().out


def test_lost_workers_are_status_3_and_what_is_done_is_kept(tmp_path, monkeypatch, capsys):
    assert sweep_of_two(tmp_path, plots=False) == 0

    def lost(*_):
        raise WorkersLostError("a process died")

    monkeypatch.setattr("scheduler.commands.sweep.carry_out", lost)
    assert sweep_of_two(tmp_path, plots=False) == 3
    assert "the workers were lost (a process died); what is finished is kept" in capsys.readouterr().err
    records = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert len(records) == 8
    assert all(record["partial"] for record in records)


def test_a_run_without_steady_state_shows_no_latency(tmp_path, capsys):
    workload = write_workload(tmp_path, SMALL.replace("requests: 200", "requests: 1500"))
    options = SweepOptions(
        over=("arrivals.rate_per_s=20,90",), replications=2, workers=1, out=tmp_path / "out", plots=False
    )
    assert run_sweep(workload, options) == 0
    lines = capsys.readouterr().out.splitlines()
    (over,) = [line for line in lines if line.startswith("90") and "eager" in line]
    (under,) = [line for line in lines if line.startswith("20") and "eager" in line]
    assert "OVERLOADED, queue grows by" in over
    assert over.split()[2:4] == ["–", "–"]
    assert "–" not in under


def test_the_pictures_are_drawn_unless_told_otherwise(tmp_path):
    options = SweepOptions(over=(RATES,), replications=2, workers=1, out=tmp_path / "out")
    assert run_sweep(write_workload(tmp_path), options) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"sweep.png", "pareto.png"}
