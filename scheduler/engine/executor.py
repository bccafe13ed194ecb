"""The one seam between the loop and what a step takes: modelled, measured or read from a log."""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from scheduler.engine.decode_times import DecodeTimes


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
    of tokens in the KV cache of the decoded sequences when the step starts. `new_requests` joined the batch
    in this decision, for the first time or again. `piecewise`: the graph is a PIECEWISE one, launched piece
    by piece with attention between; its size counts tokens. `draft_tokens` are verified beside the one token
    of each decoded sequence, all of the step together.
    """

    kind: StepKind
    batch_size: int
    capture_size: int | None
    kv_tokens: int
    prefill: tuple[PrefillChunk, ...] = ()
    new_requests: int = 0
    piecewise: bool = False
    draft_tokens: int = 0

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens computed in this step."""
        chunks = self.prefill
        if len(chunks) < 2:
            return chunks[0].tokens if chunks else 0
        return sum(chunk.tokens for chunk in chunks)


new_plan = tuple.__new__  # StepPlan(…) in half the time: its own __new__ is a call of Python code


class Admission(NamedTuple):
    """What an executor may know of a request that joins the batch (never its true output length)."""

    request: int
    prompt_tokens: int
    generated_tokens: int


class ExecutorError(Exception):
    """A step could not be executed; the run ends with a partial, marked result and exit status 3."""


class SlotWatcher(Protocol):
    """Is told which request occupies which slot of the batch."""

    def admit(self, slot: int, admission: Admission) -> None:
        """Take note that a request starts to occupy a slot of the batch."""

    def release(self, slot: int) -> None:
        """Take note that the slot's request finished or was preempted."""


class Executor(SlotWatcher, Protocol):
    """Executes steps one after the other: a step's whole duration is all that the loop learns of it."""

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


class StepParts(NamedTuple):
    """What one step asks of the host and of the GPU, in whole nanoseconds.

    The GPU's work ends at max(start + `gpu_ns`, end of launching + `tail_ns`), where it starts when the step
    before it has ended, but no earlier than `gpu_after_ns` after launching began.
    """

    schedule_ns: int
    """Host: from the decision until launching begins."""
    launch_ns: int
    """The launching thread is busy so long."""
    gpu_after_ns: int
    """From the beginning of launching until the GPU may begin."""
    gpu_ns: int
    """The GPU's work."""
    tail_ns: int
    """From the end of launching until the GPU is done, at least (kernels launched one by one); −1 where the
    end of launching does not bind (one graph)."""
    update_ns: int
    """Host: from the handing over of the step's tokens until the next decision may be made."""


Topology = Literal["uniproc", "multiproc"]


@runtime_checkable
class PipelinedExecutor(SlotWatcher, Protocol):
    """An executor that tells host and GPU apart, so that the loop can overlap them as the engine does.

    `topology` says who launches: the scheduler's own thread (`uniproc`) or a worker's (`multiproc`).
    The front end stands between client and scheduler: a request is visible to the scheduler `front_in_ns`
    after it arrived; the tokens of a step that yields `rows` of them reach the client `front_out_ns(rows)`
    after they were handed over, each further row `front_out_row_ns` later than the row before it.
    All are whole nanoseconds, 0 or more.
    """

    topology: Topology
    front_out_row_ns: int

    def parts(self, plan: StepPlan, decided_ns: int) -> StepParts:
        """Return what the step takes; `decided_ns` is the virtual time of its decision.

        Called once per step, in the order of the decisions: host noise is a process in virtual time, the same
        for every variant of a run.
        """
        ...

    def front_in_ns(self, prompt_tokens: int) -> int:
        """Return the time from a request's arrival until the scheduler can see it."""
        ...

    def front_out_ns(self, rows: int) -> int:
        """Return the time from the hand-over of a step's `rows` tokens until the client has the first."""
        ...


@runtime_checkable
class PredictablePipeline(PipelinedExecutor, Protocol):
    """A pipelined executor that can say in advance how the parts of equal decode steps come about."""

    def decode_times(self, plan: StepPlan) -> DecodeTimes:
        """Return the parts of decode steps like `plan` by KV tokens and time of decision.

        It answers what `parts` would, and is asked in the same order.
        """
        ...
