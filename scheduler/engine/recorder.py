"""How steps are noted while a run goes on: packed rows, which become the arrays of `records.py`."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import islice
from operator import sub
from struct import Struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scheduler.engine.executor import StepPlan
from scheduler.engine.pipeline import DECODE, Flight, decode_later
from scheduler.engine.records import Graph, HostAndGpuTimes, StepRuns, uncopied

_NONE: Final[int] = Graph.NONE.value  # looked up once per step
_PIECEWISE: Final[int] = Graph.PIECEWISE.value
_FULL: Final[int] = Graph.FULL.value

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
        kind, batch_size, capture_size, kv_tokens, _, _, piecewise, _ = plan
        if kind is not DECODE or self._newest is None or running != self._newest_running:
            return False
        newest_kind, newest_batch, newest_capture, newest_kv_tokens, _, _, was_piecewise, _ = self._newest
        if (
            newest_kind is not DECODE
            or batch_size != newest_batch
            or kv_tokens != newest_kv_tokens + newest_batch
            or capture_size != newest_capture
            or piecewise != was_piecewise
        ):
            return False
        self._newest = plan
        self._steps[-1] += 1
        self.durations.append(duration_ns)
        return True

    def go_on(self, plan: StepPlan, handed_ns: Sequence[int]) -> None:
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
        prompt_tokens = 0
        for _, tokens, _, _ in prefill:
            prompt_tokens += tokens
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
