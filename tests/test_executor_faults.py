"""Executors that fail, captures that fail, steps that hang for long: what is left adds up and says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call

from scheduler.engine.executor import Admission, ExecutorError, StepPlan
from scheduler.errors import InputError
from scheduler.executors.execution import Execution
from scheduler.executors.step_log import write_step_log
from scheduler.report.tables import read_tables

STEP_NS = 1_000_000
UNFINISHED, COMPLETED, REJECTED = 0, 1, 2
WORKLOAD = """\
name: faults
requests: 12
arrivals: {process: constant, rate_per_s: 100}
prompt_tokens: {distribution: fixed, value: 10}
output_tokens: {distribution: fixed, value: 8}
engine:
  policy: mixed
  max_num_seqs: 8
  kv_blocks: 40
  max_model_len: 30
  profile:
    decode_eager_ms: {base: 1, per_request: 0}
    decode_graph_ms: {base: 1, per_request: 0}
    prefill_ms: {base: 1, per_token: 0}
pool: {sizes: [1, 2, 4, 8]}
"""


class Scripted:
    """Takes 1 ms a step; raises at the n-th call of one method, or takes 1,000 times as long in one step."""

    def __init__(
        self, method: str = "", at_call: int = 0, error: Exception | None = None, long_step: int = 0
    ) -> None:
        self.method, self.at_call, self.error, self.long_step = method, at_call, error, long_step
        self.calls = {"admit": 0, "release": 0, "run": 0}

    def admit(self, slot: int, admission: Admission) -> None:
        self._count("admit")

    def release(self, slot: int) -> None:
        self._count("release")

    def run(self, plan: StepPlan) -> int:
        self._count("run")
        return STEP_NS * (1000 if self.calls["run"] == self.long_step else 1)

    def _count(self, method: str) -> None:
        self.calls[method] += 1
        if self.error is not None and (method, self.calls[method]) == (self.method, self.at_call):
            raise self.error


Runner = Callable[..., tuple[Any, Path]]


@pytest.fixture
def run_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Run the main job on an executor per variant and replication; return the outcome and its folder."""

    def run(
        executor: Callable[[str, int], Any], *words: str, facts: dict[str, Any] | None = None
    ) -> tuple[Any, Path]:
        execution = Execution(executor, {"executor": "scripted", **(facts or {})})
        monkeypatch.setattr("scheduler.commands.run.execution_opener", lambda *_: lambda requests: execution)
        path = tmp_path / "faults.yaml"
        path.write_text(WORKLOAD, encoding="utf-8")
        outcome = call(path, "--no-plots", "--warmup", "0", "--out", tmp_path / "out", *words)
        write_step_log(tmp_path / "steps.jsonl", execution.sections)
        return outcome, tmp_path / "out"

    return run


def read(folder: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz", allow_pickle=False) as table:
        return dict(table)


def assert_adds_up(folder: Path) -> None:
    """Requests, tokens and time balance in what was recorded of every variant and replication."""
    requests, saved = read(folder, "requests"), read_tables(folder)
    records = {record["variant"]: record for record in json.loads((folder / "summary.json").read_text())}
    nested = json.loads((folder / "results.json").read_text())
    assert requests["variants"].tolist() == [variant["name"] for variant in nested["variants"]]
    assert set(records) == set(requests["variants"].tolist())
    runs = {
        (v, r) for v, r in zip(requests["variant"].tolist(), requests["replication"].tolist(), strict=True)
    }
    for variant, replication in runs:
        mine = (requests["variant"] == variant) & (requests["replication"] == replication)
        run = saved[str(requests["variants"][variant])][replication]
        status = requests["status"][mine]
        assert len(status) == 12, "every request has a row"
        counts = nested["variants"][variant]["replications"][replication]
        by_status = [counts["unfinished"], counts["completed"], counts["rejected"]]
        assert np.bincount(status, minlength=3).tolist() == by_status
        first, finish = (requests[f"{name}_ns"][mine] for name in ("first_token", "finish"))
        assert ((finish >= 0) == (status == COMPLETED)).all()
        assert (first[status == COMPLETED] >= 0).all()
        decoded = int(run.steps.batch_size.sum())
        assert int(run.gaps.count.sum()) == decoded, "a decoded token ends a gap"
        assert decoded >= 7 * int((status == COMPLETED).sum()), (
            "eight tokens: one of the prefill, seven decoded"
        )
        start, duration = run.steps.start_ns, run.steps.duration_ns
        assert (start[1:] >= (start + duration)[:-1]).all()
        if len(start):
            assert finish.max() <= int(start[-1] + duration[-1])


ERRORS = [
    (ExecutorError("device lost"), "device lost"),
    (
        RuntimeError("CUDA error: an illegal memory access\nmore lines"),
        "RuntimeError: CUDA error: an illegal",
    ),
    (MemoryError(), "MemoryError"),
    (KeyError("slot 3"), "KeyError: 'slot 3'"),
]


@pytest.mark.parametrize(("error", "said"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])
@pytest.mark.parametrize(("method", "at_call"), [("run", 1), ("run", 9), ("admit", 3), ("release", 2)])
def test_whatever_an_executor_raises_ends_with_3_and_a_marked_partial_result(
    run_with, method, at_call, error, said
):
    outcome, folder = run_with(lambda variant, replication: Scripted(method, at_call, error))
    assert outcome.status == 3
    assert "Traceback" not in outcome.stderr
    warning = next(line for line in outcome.stdout.splitlines() if "PARTIAL RESULT" in line)
    assert said in warning
    assert "more lines" not in outcome.stdout
    records = json.loads((folder / "summary.json").read_text())
    assert [record["variant"] for record in records] == ["graphs"], "what was not begun is not there"
    assert all(record["partial"] is True for record in records)
    nested = json.loads((folder / "results.json").read_text())
    assert nested["partial"] is True
    assert nested["failure"].startswith(said)
    assert_adds_up(folder)


def test_a_failure_in_a_later_run_leaves_the_earlier_ones_whole(run_with):
    def executor(variant: str, replication: int) -> Scripted:
        return Scripted("run", 9, RuntimeError("lost") if (variant, replication) == ("eager", 1) else None)

    outcome, folder = run_with(executor, "--replications", "3")
    assert outcome.status == 3
    variants = json.loads((folder / "results.json").read_text())["variants"]
    ends = {v["name"]: [r["unfinished"] for r in v["replications"]] for v in variants}
    assert ends["graphs"] == [0, 0, 0]
    assert ends["eager"][0] == 0
    assert len(ends["eager"]) == 2
    assert ends["eager"][1] > 0
    assert_adds_up(folder)


def test_bad_input_found_by_an_executor_stays_bad_input(run_with):
    error = InputError("engine.profile: the table ends at 4")
    outcome, folder = run_with(lambda *_: Scripted("run", 5, error))
    assert (outcome.status, outcome.errors) == (2, ["error: engine.profile: the table ends at 4"])
    assert not folder.exists()


def test_a_step_that_takes_1000_times_longer_delays_what_follows_and_nothing_else(run_with):
    """Requests come every 10 ms and take 8 ms; the fourth is at its third token when a step takes 1 s."""
    outcome, folder = run_with(lambda *_: Scripted(long_step=27), "--replications", "1")
    assert outcome.status == 0
    assert_adds_up(folder)
    requests, gaps = read(folder, "requests"), read(folder, "gaps")
    graphs = requests["variant"] == 0
    assert (requests["status"] == COMPLETED).all()
    took = (requests["finish_ns"] - requests["arrival_ns"])[graphs]
    assert took[:3].tolist() == [8 * STEP_NS] * 3
    assert took[3] == 1007 * STEP_NS
    # The other eight come meanwhile; seven join at once, the eighth when a slot is free.
    assert (gaps["gap_ns"][gaps["variant"] == 0] == 1000 * STEP_NS).sum() == 1
    assert requests["scheduled_ns"][graphs][4:11].tolist() == [int(requests["scheduled_ns"][graphs][4])] * 7
    assert "PARTIAL" not in outcome.stdout


FAILED = {
    "graphs_failed": {"8": "oom: OutOfMemoryError: 2 GiB", "2": "not tried after running out of memory"}
}


def test_failed_captures_are_on_the_card_and_no_step_counts_as_replayed_in_them(run_with, tmp_path):
    words = ("--replications", "1", "--full")
    outcome, folder = run_with(lambda *_: Scripted(long_step=5), *words, facts=FAILED)
    assert outcome.status == 0
    on_the_card, line = [line for line in outcome.stdout.splitlines() if "capture failed" in line]
    assert on_the_card.startswith("caution   graphs: capture failed for 2 8")
    assert line == (
        "warning: graphs: capture failed for 2 8 (oom: OutOfMemoryError: 2 GiB); "
        "steps of these sizes ran without a graph."
    )
    assert "batch sizes 2, 5–8 have no graph" in outcome.stdout
    steps = read(folder, "steps")
    graphs = (steps["variant"] == 0) & (steps["kind"] == 0)
    assert set(steps["capture_size"][graphs].tolist()) == {0, 1, 4}
    without = (steps["capture_size"] == 0) & graphs
    assert set(steps["batch_size"][without].tolist()) <= {2, 5, 6, 7, 8}
    nested = json.loads((folder / "results.json").read_text())["variants"][0]
    assert nested["capture_sizes"] == [1, 2, 4, 8]
    assert nested["failed_captures"] == [2, 8]
    assert nested["replications"][0]["replay_share"] == pytest.approx(1 - without.sum() / graphs.sum())


def test_a_log_of_a_run_with_failed_captures_repeats_it(run_with, tmp_path, monkeypatch):
    outcome, _ = run_with(lambda *_: Scripted(long_step=5), "--replications", "1", facts=FAILED)
    monkeypatch.undo()
    words = ("--no-plots", "--warmup", "0", "--executor", "log", "--step-log", tmp_path / "steps.jsonl")
    again = call(tmp_path / "faults.yaml", *words, "--out", tmp_path / "again")
    assert (again.status, again.stdout) == (0, outcome.stdout)


def test_a_real_session_goes_on_without_the_graphs_that_failed(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from scheduler.executors.real.replay import CaptureError
    from scheduler.executors.real.traced_graphs import TracedGraphs

    record = TracedGraphs.capture

    def capture(self, key, step, bound):
        if key.batch == 2:
            raise CaptureError("illegal", RuntimeError("an operation a graph may not hold"))
        return record(self, key, step, bound)

    monkeypatch.setattr(TracedGraphs, "capture", capture)
    path = tmp_path / "few.yaml"
    text = WORKLOAD.replace("policy: mixed", "policy: decode_only").replace("[1, 2, 4, 8]", "[1, 2, 3]")
    text = text.replace("max_num_seqs: 8", "max_num_seqs: 3").replace("rate_per_s: 100", "rate_per_s: 1e6")
    path.write_text(text, encoding="utf-8")
    words = ("--executor", "torch", "--model", "tiny", "--no-plots", "--warmup", "0", "--full")
    outcome = call(path, *words, "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.stderr
    assert "capture failed for 2 (illegal: RuntimeError: an operation a graph may not hold)" in outcome.stdout
    steps = read(tmp_path / "out", "steps")
    assert 2 not in steps["capture_size"].tolist()
    assert 3 in steps["capture_size"].tolist()


def test_a_device_that_cannot_be_set_up_is_one_line_and_no_file(tmp_path, monkeypatch):
    pytest.importorskip("torch")

    def lost(**_: Any) -> None:
        raise RuntimeError("CUDA error: device is busy\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr("scheduler.executors.real.torch_session.open_session", lost)
    path = tmp_path / "few.yaml"
    path.write_text(WORKLOAD, encoding="utf-8")
    outcome = call(path, "--executor", "torch", "--model", "tiny", "--out", tmp_path / "out")
    expected = "error: --device cpu: tiny could not be set up: CUDA error: device is busy"
    assert (outcome.status, outcome.errors) == (2, [expected])
    assert not (tmp_path / "out").exists()
