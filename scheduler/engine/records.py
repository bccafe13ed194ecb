"""What a run leaves behind: compact arrays per request and per step, and the gaps between tokens."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from scheduler.engine.executor import StepKind, StepPlan

Int64 = NDArray[np.int64]


class Status(IntEnum):
    """How a request ended. The reasons for a rejection are kept apart, in `RequestRecords.reasons`."""

    UNFINISHED = 0
    COMPLETED = 1
    REJECTED = 2


@dataclass(slots=True)
class RequestRecords:
    """One row per request; times are nanoseconds on the virtual clock, −1 where it did not happen."""

    arrival_ns: Int64
    scheduled_ns: Int64
    first_token_ns: Int64
    finish_ns: Int64
    prompt_tokens: Int64
    output_tokens: Int64
    preemptions: NDArray[np.int32]
    status: NDArray[np.int8]
    reasons: dict[int, str]


@dataclass(slots=True)
class StepRecords:
    """One row per step, in time order. `capture_size` is 0 for a step without a graph."""

    start_ns: Int64
    duration_ns: Int64
    kind: NDArray[np.int8]
    batch_size: NDArray[np.int32]
    capture_size: NDArray[np.int32]
    kv_tokens: Int64
    prefill_tokens: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.start_ns)


@dataclass(slots=True)
class KVUse:
    """KV blocks in use at the start of each run of equal steps (`time_ns` ascends)."""

    time_ns: Int64
    blocks: Int64


@dataclass(slots=True)
class TokenGaps:
    """Every gap between consecutive tokens of one request, as (gap, how many had it) pairs.

    `step` is the index of the step that emitted the later token.
    """

    gap_ns: Int64
    count: NDArray[np.int32]
    step: NDArray[np.int32]


class StepRecorder:
    """Appends steps as runs of equal plans; a run of k decode steps costs one row and k durations."""

    def __init__(self) -> None:
        self.durations: array[int] = array("q")
        self._steps: array[int] = array("q")
        self._start: array[int] = array("q")
        self._kind: array[int] = array("b")
        self._batch: array[int] = array("i")
        self._capture: array[int] = array("i")
        self._kv: array[int] = array("q")
        self._prefill: array[int] = array("i")
        self._kv_blocks: array[int] = array("q")
        self._gap: array[int] = array("q")
        self._gap_count: array[int] = array("i")
        self._gap_run: array[int] = array("i")

    def add(self, start_ns: int, plan: StepPlan, steps: int, kv_blocks: int) -> None:
        """Record `steps` equal steps whose durations were just appended to `durations`.

        `kv_blocks` is the number of KV blocks in use during the first of them.
        """
        self._steps.append(steps)
        self._start.append(start_ns)
        self._kind.append(plan.kind)
        self._batch.append(plan.batch_size)
        self._capture.append(plan.capture_size or 0)
        self._kv.append(plan.kv_tokens)
        self._prefill.append(plan.prefill_tokens if plan.prefill else 0)
        self._kv_blocks.append(kv_blocks)

    def add_gap(self, gap_ns: int, count: int) -> None:
        """Record the gap that `count` sequences saw before their token of the newest run's first step."""
        self._gap.append(gap_ns)
        self._gap_count.append(count)
        self._gap_run.append(len(self._steps) - 1)

    def step_records(self) -> StepRecords:
        """Expand the runs to one row per step."""
        steps = np.array(self._steps, np.int64)
        duration = self._recorded_durations()
        batch = np.array(self._batch, np.int32)
        first = np.cumsum(steps) - steps
        before = np.cumsum(duration) - duration
        start = before - np.repeat(before[first] if len(first) else first, steps)
        start += np.repeat(np.array(self._start, np.int64), steps)
        offset = np.arange(len(duration), dtype=np.int64) - np.repeat(first, steps)
        offset *= np.repeat(batch, steps)
        offset += np.repeat(np.array(self._kv, np.int64), steps)
        return StepRecords(
            start,
            duration,
            np.repeat(np.array(self._kind, np.int8), steps),
            np.repeat(batch, steps),
            np.repeat(np.array(self._capture, np.int32), steps),
            offset,
            np.repeat(np.array(self._prefill, np.int32), steps),
        )

    def _recorded_durations(self) -> Int64:
        """Return the durations of recorded steps; an interrupted step left one without a row."""
        return np.array(self.durations[: sum(self._steps)], np.int64)

    def kv_use(self) -> KVUse:
        """Return the KV blocks in use at the start of each run of steps."""
        return KVUse(np.array(self._start, np.int64), np.array(self._kv_blocks, np.int64))

    def token_gaps(self) -> TokenGaps:
        """Collect every gap: those recorded one by one, and the steps that continue a run."""
        steps = np.array(self._steps, np.int64)
        first = np.cumsum(steps) - steps
        continues = np.ones(int(steps.sum()), bool)
        continues[first] = False
        later = np.flatnonzero(continues)
        batch = np.repeat(np.array(self._batch, np.int32), steps)
        return TokenGaps(
            np.concatenate([np.array(self._gap, np.int64), self._recorded_durations()[later]]),
            np.concatenate([np.array(self._gap_count, np.int32), batch[later]]),
            np.concatenate([first[np.array(self._gap_run, np.int64)], later]).astype(np.int32),
        )


def duration_by_kind(steps: StepRecords, kind: StepKind) -> int:
    """Return the total nanoseconds spent in steps of one kind."""
    return int(steps.duration_ns[steps.kind == kind].sum())
