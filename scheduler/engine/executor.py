"""The one seam between the loop and what a step takes: modelled, measured or read from a log."""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import NamedTuple, Protocol, runtime_checkable


class StepKind(IntEnum):
    """What a step computes."""

    DECODE = 0
    PREFILL = 1
    MIXED = 2


class PrefillChunk(NamedTuple):
    """A piece of one prompt computed in a step, on top of `cached_tokens` already in the KV cache."""

    request: int
    tokens: int
    cached_tokens: int
    is_last: bool


class StepPlan(NamedTuple):
    """One engine iteration, decided before it starts.

    `batch_size` counts the sequences decoded (0 in a pure prefill step); `capture_size` is the graph
    (rows for a decode step, total tokens for a piecewise mixed step) or None; `kv_tokens` is the number
    of tokens in the KV cache of the decoded sequences when the step starts.
    """

    kind: StepKind
    batch_size: int
    capture_size: int | None
    kv_tokens: int
    prefill: tuple[PrefillChunk, ...] = ()

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens computed in this step."""
        return sum(chunk.tokens for chunk in self.prefill)


class Admission(NamedTuple):
    """What an executor may know of a request that joins the batch (never its true output length)."""

    request: int
    prompt_tokens: int
    generated_tokens: int


class ExecutorError(Exception):
    """A step could not be executed; the run ends with a partial, marked result and exit status 3."""


class Executor(Protocol):
    """Executes steps. `admit` and `release` name the batch slot a request occupies."""

    def admit(self, slot: int, admission: Admission) -> None:
        """Take note that a request starts to occupy a slot of the batch."""

    def release(self, slot: int) -> None:
        """Take note that the slot's request finished or was preempted."""

    def run(self, plan: StepPlan) -> int:
        """Execute one step and return its duration in whole nanoseconds; raises ExecutorError."""
        ...


@runtime_checkable
class PredictableExecutor(Executor, Protocol):
    """An executor whose step times are a function of the plan, so equal steps can be run ahead."""

    def run_ahead(self, plan: StepPlan, most_steps: int, horizon_ns: int, durations: array[int]) -> int:
        """Run decode steps like `plan`, the KV tokens growing by `batch_size` each.

        Stop after `most_steps`, or after the first step that ends at or beyond `horizon_ns` from the
        start. Append each duration to `durations`; return their sum.
        """
        ...
