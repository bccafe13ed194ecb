"""The step log: what every step was and how long it took, so that an executed run repeats byte for byte.

A text file of JSON lines. A header line opens each section, {"variant": …, "replication": …, "executor": …,
"steps": …}; a line per step follows: [duration_ns, kind, batch_size, capture_size, kv_tokens,
prefill_tokens], with capture_size 0 for a step without a graph. No torch is needed to read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from scheduler.engine.executor import Admission, Executor, ExecutorError, StepPlan
from scheduler.errors import InputError
from scheduler.files import replacing

FORMAT = "graphpool step log 1"
LONGEST_LINE = 100_000
Answer = TypeVar("Answer")


class LoggedStep(NamedTuple):
    """One step as it was planned, and its duration."""

    duration_ns: int
    kind: int
    batch_size: int
    capture_size: int
    kv_tokens: int
    prefill_tokens: int

    @staticmethod
    def of(plan: StepPlan, duration_ns: int) -> LoggedStep:
        """Return what the log keeps of a plan."""
        return LoggedStep(
            duration_ns,
            int(plan.kind),
            plan.batch_size,
            plan.capture_size or 0,
            plan.kv_tokens,
            plan.prefill_tokens,
        )


@dataclass(slots=True)
class Section:
    """The steps of one variant in one replication; `executor` describes what executed them, for the card."""

    variant: str
    replication: int
    executor: dict[str, object] = field(default_factory=dict)
    steps: list[LoggedStep] = field(default_factory=list)


@dataclass(slots=True)
class RecordingExecutor:
    """Passes every call on to another executor and keeps what each step took.

    Whatever goes wrong behind it (a device that is lost, memory that runs out in any library) is an
    ExecutorError from here on: the run ends with what it has, marked as partial. Bad input stays that.
    """

    inner: Executor
    section: Section

    def admit(self, slot: int, admission: Admission) -> None:
        """See Executor."""
        _or_executor_error(lambda: self.inner.admit(slot, admission))

    def release(self, slot: int) -> None:
        """See Executor."""
        _or_executor_error(lambda: self.inner.release(slot))

    def run(self, plan: StepPlan) -> int:
        """See Executor."""
        duration_ns = _or_executor_error(lambda: self.inner.run(plan))
        self.section.steps.append(LoggedStep.of(plan, duration_ns))
        return duration_ns


def _or_executor_error(call: Callable[[], Answer]) -> Answer:
    try:
        return call()
    except (ExecutorError, InputError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise ExecutorError(": ".join([type(error).__name__, *lines[:1]])) from error


@dataclass(slots=True)
class LogExecutor:
    """Answers with the durations of a logged section, and refuses a run whose steps differ from it."""

    section: Section
    _next: int = 0

    def admit(self, slot: int, admission: Admission) -> None:
        """See Executor; a log holds no requests."""

    def release(self, slot: int) -> None:
        """See Executor; a log holds no requests."""

    def run(self, plan: StepPlan) -> int:
        """Return the logged duration of this step; raises ExecutorError where the log has another or none."""
        where = f"step log, variant {self.section.variant}, replication {self.section.replication}"
        if self._next == len(self.section.steps):
            raise ExecutorError(
                f"{where}: ends after {self._next} steps, the run goes on; was the log cut short?"
            )
        logged = self.section.steps[self._next]
        planned = LoggedStep.of(plan, logged.duration_ns)
        if planned != logged:
            raise ExecutorError(
                f"{where}: step {self._next} was {_words(logged)}, this run's is {_words(planned)}; "
                "a log repeats only the workload, seed and pool it was written with"
            )
        self._next += 1
        return logged.duration_ns


def _words(step: LoggedStep) -> str:
    return (
        f"kind {step.kind}, batch {step.batch_size}, graph {step.capture_size}, "
        f"{step.kv_tokens} KV tokens, {step.prefill_tokens} prefill tokens"
    )


def write_step_log(path: Path, sections: Iterable[Section]) -> None:
    """Write the sections, atomically."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps({"format": FORMAT}) + "\n")
        for section in sections:
            header = {
                "variant": section.variant,
                "replication": section.replication,
                "executor": section.executor,
                "steps": len(section.steps),
            }
            file.write(json.dumps(header, sort_keys=True, allow_nan=False) + "\n")
            file.writelines(f"[{','.join(map(str, step))}]\n" for step in section.steps)


def read_step_log(path: Path) -> dict[tuple[str, int], Section]:
    """Read a step log by (variant, replication); raises InputError with file and line."""
    sections: dict[tuple[str, int], Section] = {}
    section: Section | None = None
    expected = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                value = _value(path, number, line)
                if number == 1:
                    if not isinstance(value, dict) or value.get("format") != FORMAT:
                        raise InputError(f'{path}: line 1: expected {{"format": "{FORMAT}"}}')
                elif isinstance(value, dict):
                    _complete(path, section, expected)
                    section, expected = _header(path, number, value)
                    if (section.variant, section.replication) in sections:
                        raise InputError(f"{path}: line {number}: the section appears twice")
                    sections[section.variant, section.replication] = section
                elif section is None:
                    raise InputError(
                        f"{path}: line {number}: expected a section header before the first step"
                    )
                else:
                    section.steps.append(_step(path, number, value))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{path}: cannot be read as a step log: {reason}") from error
    _complete(path, section, expected)
    if not sections:
        raise InputError(f"{path}: holds no steps")
    return sections


def log_executor(sections: Mapping[tuple[str, int], Section], variant: str, replication: int) -> LogExecutor:
    """Return the executor of one variant; raises InputError naming what the log holds instead."""
    if (variant, replication) not in sections:
        held = ", ".join(f"{name} (replication {index})" for name, index in sections)
        raise InputError(
            f"the step log has no variant {variant!r}, replication {replication}; it holds {held}"
        )
    return LogExecutor(sections[variant, replication])


def _value(path: Path, number: int, line: str) -> Any:
    try:
        if len(line) > LONGEST_LINE:
            raise ValueError
        return json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: line {number}: expected one JSON value per line") from None


def _header(path: Path, number: int, value: Mapping[str, Any]) -> tuple[Section, int]:
    variant, replication = value.get("variant"), value.get("replication")
    steps, executor = value.get("steps"), value.get("executor", {})
    if (
        not isinstance(variant, str)
        or not _whole(replication)
        or not _whole(steps)
        or not isinstance(executor, dict)
    ):
        raise InputError(
            f"{path}: line {number}: expected a header with variant, replication, executor and steps"
        )
    return Section(variant, int(replication), dict(executor)), int(steps)  # type: ignore[arg-type]


def _step(path: Path, number: int, value: Any) -> LoggedStep:
    if not isinstance(value, list) or len(value) != len(LoggedStep._fields) or not all(map(_whole, value)):
        raise InputError(
            f"{path}: line {number}: expected [{', '.join(LoggedStep._fields)}], whole numbers ≥ 0"
        )
    return LoggedStep(*value)


def _complete(path: Path, section: Section | None, expected: int) -> None:
    if section is not None and len(section.steps) != expected:
        raise InputError(
            f"{path}: variant {section.variant}, replication {section.replication}: "
            f"the header says {expected} steps, {len(section.steps)} follow; was the file cut?"
        )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62
