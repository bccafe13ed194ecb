"""Which executor a run uses, and how one is opened per variant: real execution, or a step log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scheduler.engine.executor import Executor
from scheduler.errors import InputError
from scheduler.executors.step_log import (
    RecordingExecutor,
    Section,
    log_executor,
    read_step_log,
    write_step_log,
)


@dataclass(slots=True)
class Execution:
    """Opens an executor per variant and replication, and keeps what each executed step took.

    `facts` describe what executes, as JSON values; `sections` are the step log so far.
    """

    open: Callable[[str, int], Executor]
    facts: dict[str, object]
    sections: list[Section] = field(default_factory=list)

    def executor(self, variant: str, replication: int) -> Executor:
        """Return the executor of one run; its steps are recorded."""
        section = Section(variant, replication, self.facts)
        self.sections.append(section)
        return RecordingExecutor(self.open(variant, replication), section)

    def write_log(self, path: Path) -> None:
        """Write the step log that `--executor log` repeats."""
        write_step_log(path, self.sections)

    def fact(self, key: str, otherwise: str) -> str:
        """Return one of the facts where it is a text."""
        found = self.facts.get(key)
        return found if isinstance(found, str) else otherwise

    @property
    def failed_sizes(self) -> dict[int, str]:
        """The capture sizes whose recording failed, with the first error of each."""
        failed = self.facts.get("graphs_failed")
        if not isinstance(failed, dict):  # a step log may hold anything
            return {}
        return {int(size): str(error) for size, error in failed.items() if size.isascii() and size.isdigit()}


def logged_execution(path: Path) -> Execution:
    """Return the execution that repeats a step log; raises InputError for what is not one."""
    sections = read_step_log(path)
    facts = dict(next(iter(sections.values())).executor)
    return Execution(lambda variant, replication: log_executor(sections, variant, replication), facts)


def torch_execution(
    *,
    model: str,
    device: str,
    max_num_seqs: int,
    max_context: int,
    capture_sizes: Sequence[int],
    prefilled: bool,
    progress: Callable[[str], None] = lambda line: None,
) -> Execution:
    """Return real execution through torch; raises InputError where torch, the device or memory is missing."""
    from scheduler.executors.real.availability import require_device

    require_device(device)
    from scheduler.executors.real.torch_session import open_session

    try:
        session = open_session(
            model=model,
            device=device,
            max_num_seqs=max_num_seqs,
            max_context=max_context,
            capture_sizes=capture_sizes,
            prefilled=prefilled,
            progress=lambda key: progress(str(key)),
        )
    except RuntimeError as error:  # torch's errors, of memory and of devices, are RuntimeErrors
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"--device {device}: {model} could not be set up: {reason[0]}") from error
    return Execution(lambda variant, replication: session.executor(), session.describe())
