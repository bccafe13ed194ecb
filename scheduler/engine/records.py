"""What a run leaves behind: compact arrays per request and per step, and the gaps between tokens."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Int64: TypeAlias = NDArray[np.int64]


class Graph(IntEnum):
    """What a step ran in, as engines name it."""

    NONE = 0
    PIECEWISE = 1
    FULL = 2


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
    """One row per step, in time order. `capture_size` is 0 for a step without a graph; `graph` a `Graph`.

    A step lasts from the handing over of the tokens before it (after an idle time: from its decision) until
    the handing over of its own, which is the gap that its decoding requests see; steps do not overlap.
    """

    start_ns: Int64
    duration_ns: Int64
    kind: NDArray[np.int8]
    batch_size: NDArray[np.int32]
    capture_size: NDArray[np.int32]
    kv_tokens: Int64
    prefill_tokens: NDArray[np.int32]
    graph: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.start_ns)


@dataclass(slots=True)
class HostAndGpuTimes:
    """When host and GPU worked on each step, beside `StepRecords`; nanoseconds on the virtual clock.

    The host schedules from `decided_ns` and has launched at `launched_ns`; the GPU works from `gpu_start_ns`
    to `gpu_end_ns`. The step's tokens are handed over at `start_ns + duration_ns` of its row in StepRecords.
    """

    decided_ns: Int64
    launched_ns: Int64
    gpu_start_ns: Int64
    gpu_end_ns: Int64


@dataclass(frozen=True, slots=True)
class PrefixUse:
    """What a prefix cache did: prompt tokens of first admissions, those found cached, blocks overwritten."""

    asked_tokens: int
    hit_tokens: int
    evicted_blocks: int


@dataclass(slots=True)
class KVUse:
    """KV blocks in use and requests that hold a slot from the start of each run of equal steps on.

    `time_ns` ascends. A preempted request holds no slot until it is admitted again.
    """

    time_ns: Int64
    blocks: Int64
    running: NDArray[np.int32]


@dataclass(slots=True)
class TokenGaps:
    """Every gap between consecutive tokens of one request, as (gap, how many had it) pairs.

    `step` is the index of the step that emitted the later token.
    """

    gap_ns: Int64
    count: NDArray[np.int32]
    step: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class StepRuns:
    """The steps as they are kept: one row per run of equal steps, one duration per step.

    In a run the KV tokens grow by `batch_size` per step; `kv_tokens`, `kv_blocks` and `running` are those of
    its first step. Gaps before the token of a run's first step stand in `gap_*`, `gap_row` naming the run;
    those between its own steps are its durations.
    """

    start_ns: Int64
    steps: Int64
    kind: NDArray[np.int8]
    batch_size: NDArray[np.int32]
    capture_size: NDArray[np.int32]
    kv_tokens: Int64
    prefill_tokens: NDArray[np.int32]
    graph: NDArray[np.int8]
    kv_blocks: Int64
    running: NDArray[np.int32]
    duration_ns: Int64
    gap_ns: Int64
    gap_count: NDArray[np.int32]
    gap_row: NDArray[np.int32]

    def kv_use(self) -> KVUse:
        """Return the KV blocks in use and the requests that hold a slot at the start of each run."""
        return KVUse(self.start_ns, self.kv_blocks, self.running)


# Large runs are most of a program's memory as rows, so no more than one stands expanded at a time.
@lru_cache(maxsize=1)
def step_rows(runs: StepRuns) -> StepRecords:
    """Return one row per step."""
    steps, duration = runs.steps, runs.duration_ns
    first = np.cumsum(steps) - steps
    # In place where it can be: a run of many millions of steps is mostly these arrays.
    start = np.cumsum(duration)
    start -= duration
    start -= np.repeat(start[first] - runs.start_ns, steps)
    kv_tokens = np.arange(len(duration), dtype=np.int64)
    kv_tokens -= np.repeat(first, steps)
    kv_tokens *= np.repeat(runs.batch_size, steps)
    kv_tokens += np.repeat(runs.kv_tokens, steps)
    return StepRecords(
        start,
        duration,
        np.repeat(runs.kind, steps),
        np.repeat(runs.batch_size, steps),
        np.repeat(runs.capture_size, steps),
        kv_tokens,
        np.repeat(runs.prefill_tokens, steps),
        np.repeat(runs.graph, steps),
    )


@lru_cache(maxsize=1)
def token_gaps(runs: StepRuns) -> TokenGaps:
    """Return every gap: those kept one by one, and the steps that continue a run."""
    steps, duration = runs.steps, runs.duration_ns
    first = np.cumsum(steps) - steps
    continues = np.ones(len(duration), bool)
    continues[first] = False
    alone = len(runs.gap_ns)
    total = alone + len(duration) - len(first)
    gap_ns, count, step = np.empty(total, np.int64), np.empty(total, np.int32), np.empty(total, np.int32)
    gap_ns[:alone], gap_ns[alone:] = runs.gap_ns, duration[continues]
    count[:alone], count[alone:] = runs.gap_count, np.repeat(runs.batch_size, steps - 1)
    step[:alone] = first[runs.gap_row]
    step[alone:] = np.arange(len(duration), dtype=np.int32)[continues]
    return TokenGaps(gap_ns, count, step)


@dataclass(slots=True)
class Run:
    """What one variant of a run left behind.

    `failure` says why a partial run stopped early; `remarks` are what the executor has to say about its
    step times, such as having read them beyond the measured range. `host_and_gpu` is there where an
    executor told the two apart and the loop was asked to keep it, `prefix_use` where it is known what prompts
    share. `tokens_per_row` are computed for each decoding request in a step, 1 + the draft tokens that it
    verifies. `steps` and `gaps` are made anew when they are asked for.
    """

    requests: RequestRecords
    step_runs: StepRuns
    peak_kv_blocks: int
    failure: str | None = None
    remarks: tuple[str, ...] = ()
    host_and_gpu: HostAndGpuTimes | None = None
    prefix_use: PrefixUse | None = None
    tokens_per_row: int = 1

    @property
    def steps(self) -> StepRecords:
        """One row per step."""
        return step_rows(self.step_runs)

    @property
    def gaps(self) -> TokenGaps:
        """Every gap between consecutive tokens of one request."""
        return token_gaps(self.step_runs)

    @property
    def kv_use(self) -> KVUse:
        """KV blocks in use and requests that hold a slot over time."""
        return self.step_runs.kv_use()


def uncopied(values: array[int]) -> NDArray[Any]:
    """Return an array's memory as a NumPy array; the array can grow no more as long as that lives."""
    return np.frombuffer(values, values.typecode) if values else np.empty(0, values.typecode)
