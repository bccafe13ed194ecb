"""What a run leaves behind: compact arrays per request and per step, and the gaps between tokens."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import islice
from operator import sub
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.engine.executor import StepKind, StepPlan, decode_later
from scheduler.engine.pipeline import Flight

Int64 = NDArray[np.int64]


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


_NONE, _PIECEWISE, _FULL = int(Graph.NONE), int(Graph.PIECEWISE), int(Graph.FULL)  # looked up once per step


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


def uncopied(values: array[int]) -> NDArray[Any]:
    """Return an array's memory as a NumPy array; the array can grow no more as long as that lives."""
    return np.frombuffer(values, values.typecode) if values else np.empty(0, values.typecode)


# One row per run of equal steps, as `StepRecorder.add` packs it: one call instead of an append per column.
_ROW = Struct("<qbiiqibqi")
_ROW_COLUMNS = np.dtype(
    [
        ("start", "<i8"),
        ("kind", "i1"),
        ("batch", "<i4"),
        ("capture", "<i4"),
        ("kv", "<i8"),
        ("prefill", "<i4"),
        ("graph", "i1"),
        ("kv_blocks", "<i8"),
        ("running", "<i4"),
    ]
)
_GAP = Struct("<qii")
_GAP_COLUMNS = np.dtype([("gap", "<i8"), ("count", "<i4"), ("run", "<i4")])
_pack_row, _pack_gap = _ROW.pack, _GAP.pack


class StepRecorder:
    """Appends steps as runs of equal plans; a run of k decode steps costs one row and k durations."""

    def __init__(self) -> None:
        self.durations: array[int] = array("q")
        self._steps: array[int] = array("q")
        self._rows = bytearray()
        self._gaps = bytearray()
        self._times = tuple(array("q") for _ in range(4))  # of host and GPU, where they are told apart
        self._newest: StepPlan | None = None  # of the steps added one by one
        self._newest_running = 0

    def extend(self, plan: StepPlan, duration_ns: int, running: int) -> bool:
        """Record one step as the next of the newest run, if it is a decode step that continues it.

        The caller has seen that it follows at once, and that every row's gap is its duration.
        """
        newest = self._newest
        if (
            newest is None
            or plan.kind is not newest.kind
            or plan.kind is not StepKind.DECODE
            or plan.batch_size != newest.batch_size
            or plan.kv_tokens != newest.kv_tokens + newest.batch_size
            or plan.capture_size != newest.capture_size
            or plan.piecewise != newest.piecewise
            or running != self._newest_running
        ):
            return False
        self._newest = plan
        self._steps[-1] += 1
        self.durations.append(duration_ns)
        return True

    def go_on(self, plan: StepPlan, handed_ns: array[int]) -> None:
        """Record decode steps that continue the newest one, whose tokens were handed over first.

        `handed_ns` are the times of its own and their hand-overs; the step after the last of them has `plan`.
        """
        self._steps[-1] += len(handed_ns) - 1
        self.durations.extend(map(sub, islice(handed_ns, 1, None), handed_ns))
        self._newest = decode_later(plan, plan.kv_tokens - plan.batch_size)

    def add_one(self, start_ns: int, plan: StepPlan, duration_ns: int, kv_blocks: int, running: int) -> None:
        """Record one step whose duration is known by now; others may extend it."""
        self.durations.append(duration_ns)
        self.add(start_ns, plan, 1, kv_blocks, running)
        self._newest, self._newest_running = plan, running

    def add(self, start_ns: int, plan: StepPlan, steps: int, kv_blocks: int, running: int) -> None:
        """Record `steps` equal steps whose durations were just appended to `durations`.

        `kv_blocks` is the number of KV blocks in use during the first of them, `running` how many requests
        hold a slot.
        """
        kind, batch_size, capture_size, kv_tokens, prefill, _, piecewise, _ = plan
        graph = _NONE if capture_size is None else _PIECEWISE if piecewise else _FULL
        prompt_tokens = plan.prefill_tokens if prefill else 0
        self._rows += _pack_row(
            start_ns, kind, batch_size, capture_size or 0, kv_tokens, prompt_tokens, graph, kv_blocks, running
        )
        self._steps.append(steps)

    def add_times(self, flight: Flight) -> None:
        """Record when host and GPU worked on the step just added."""
        decided, launched, gpu_start, gpu_end = self._times
        decided.append(flight.decided_ns)
        launched.append(flight.launched_ns)
        gpu_start.append(flight.gpu_start_ns)
        gpu_end.append(flight.gpu_end_ns)

    def host_and_gpu(self) -> HostAndGpuTimes:
        """Return when host and GPU worked on each step."""
        return HostAndGpuTimes(*(uncopied(times) for times in self._times))

    def add_gap(self, gap_ns: int, count: int) -> None:
        """Record the gap that `count` sequences saw before their token of the newest run's first step."""
        self._gaps += _pack_gap(gap_ns, count, len(self._steps) - 1)

    def step_runs(self) -> StepRuns:
        """Return what was recorded."""
        # An interrupted step left a duration without a row.
        duration = uncopied(self.durations)[: sum(self._steps)]
        start, *others = _columns(self._rows, _ROW_COLUMNS)
        gaps = _columns(self._gaps, _GAP_COLUMNS)
        return StepRuns(*[start, uncopied(self._steps), *others, duration, *gaps])


def _columns(rows: bytearray, columns: np.dtype[np.void]) -> list[NDArray[Any]]:
    """Return packed rows as one array per column."""
    table = np.frombuffer(rows, columns)
    return [np.ascontiguousarray(table[name]) for name in columns.names or ()]
