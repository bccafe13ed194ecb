"""A step log repeats the run it was written by, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scheduler.engine.executor import Admission, ExecutorError, PrefillChunk, StepKind, StepPlan
from scheduler.errors import InputError
from scheduler.executors.step_log import (
    LogExecutor,
    RecordingExecutor,
    Section,
    log_executor,
    read_step_log,
    write_step_log,
)

PLANS = [
    StepPlan(StepKind.PREFILL, 0, None, 0, (PrefillChunk(0, 7, 0, True),)),
    StepPlan(StepKind.DECODE, 1, 2, 7),
    StepPlan(StepKind.DECODE, 1, None, 8),
]


@dataclass
class Counting:
    """Takes 10 ns more each step."""

    taken: int = 0
    calls: list[str] = field(default_factory=list)

    def admit(self, slot: int, admission: Admission) -> None:
        self.calls.append("admit")

    def release(self, slot: int) -> None:
        self.calls.append("release")

    def run(self, plan: StepPlan) -> int:
        self.taken += 10
        return self.taken


def written(path: Path) -> Path:
    sections = []
    for variant in ("graphs", "eager"):
        section = Section(variant, 0, {"device": "a “CPU”"})
        executor = RecordingExecutor(Counting(), section)
        executor.admit(0, Admission(0, 7, 0))
        for plan in PLANS:
            executor.run(plan)
        executor.release(0)
        sections.append(section)
    write_step_log(path, sections)
    return path


def test_a_log_answers_with_the_recorded_durations(tmp_path: Path) -> None:
    sections = read_step_log(written(tmp_path / "steps.jsonl"))
    assert sections["graphs", 0].executor == {"device": "a “CPU”"}
    executor = log_executor(sections, "eager", 0)
    executor.admit(0, Admission(0, 7, 0))
    assert [executor.run(plan) for plan in PLANS] == [10, 20, 30]


def test_calls_reach_the_executor_behind_a_recording() -> None:
    inner = Counting()
    executor = RecordingExecutor(inner, Section("graphs", 0))
    executor.admit(0, Admission(0, 7, 0))
    executor.release(0)
    assert inner.calls == ["admit", "release"]


def test_writing_what_was_read_gives_the_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path / "steps.jsonl")
    again = tmp_path / "again.jsonl"
    write_step_log(again, read_step_log(first).values())
    assert again.read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
    "plan",
    [
        StepPlan(StepKind.DECODE, 1, 2, 7),
        StepPlan(StepKind.PREFILL, 0, None, 0, (PrefillChunk(0, 8, 0, True),)),
        StepPlan(StepKind.PREFILL, 0, 8, 0, (PrefillChunk(0, 7, 0, True),)),
    ],
)
def test_a_run_that_differs_is_refused_at_the_step(tmp_path: Path, plan: StepPlan) -> None:
    executor = LogExecutor(read_step_log(written(tmp_path / "steps.jsonl"))["graphs", 0])
    with pytest.raises(ExecutorError, match="step 0 was"):
        executor.run(plan)


def test_a_run_longer_than_the_log_is_refused(tmp_path: Path) -> None:
    executor = LogExecutor(read_step_log(written(tmp_path / "steps.jsonl"))["graphs", 0])
    for plan in PLANS:
        executor.run(plan)
    with pytest.raises(ExecutorError, match="ends after 3 steps"):
        executor.run(PLANS[1])


def test_a_variant_the_log_lacks_is_named_with_what_it_holds(tmp_path: Path) -> None:
    sections = read_step_log(written(tmp_path / "steps.jsonl"))
    with pytest.raises(InputError, match=r"no variant 'vllm'.*graphs \(replication 0\), eager"):
        log_executor(sections, "vllm", 0)


GOOD = '{"format": "graphpool step log 1"}\n'
HEADER = '{"variant": "a", "replication": 0, "executor": {}, "steps": 1}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no steps"),
        ("nothing\n", "line 1: expected one JSON value"),
        ('{"format": "other"}\n', "line 1: expected"),
        (GOOD, "holds no steps"),
        (GOOD + "[1,0,1,0,1,0]\n", "line 2: expected a section header"),
        (GOOD + '{"variant": 1}\n', "line 2: expected a header"),
        (GOOD + HEADER, "the header says 1 steps, 0 follow"),
        (GOOD + HEADER + "[1,0,1,0,1,0]\n" + HEADER + "[1,0,1,0,1,0]\n", "line 4: the section appears twice"),
        (GOOD + HEADER + "[1,0,1,0,1]\n", "line 3: expected"),
        (GOOD + HEADER + "[-1,0,1,0,1,0]\n", "line 3: expected"),
        (GOOD + HEADER + "[1.5,0,1,0,1,0]\n", "line 3: expected"),
        (GOOD + HEADER + "[true,0,1,0,1,0]\n", "line 3: expected"),
        (GOOD + "[" * 5000 + "\n", "line 2: expected one JSON value"),
    ],
)
def test_what_is_no_step_log_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message.replace("[", r"\[")) as error:
        read_step_log(path)
    assert len(error.value.lines) == 1


def test_a_missing_log_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_step_log(tmp_path / "none.jsonl")
