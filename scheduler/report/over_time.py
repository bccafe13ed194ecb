"""A run cut into equal slices of time: batch size by route, requests waiting and running, KV blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.analysis.metrics import waiting_and_running
from scheduler.engine.executor import StepKind
from scheduler.engine.records import KVUse, Run, StepRecords

Float = NDArray[np.float64]
SLICES = 200


@dataclass(frozen=True, slots=True)
class OverTime:
    """`edges_s` bounds the slices; every other array has one number per slice.

    `batch[route]` is the time average of the batch size of steps on that route (0 while idle or
    prefilling), so the three add up to the mean batch. `waiting` and `running` are counts at the end of
    the slice. `kv_blocks` is the most in use.
    """

    edges_s: Float
    batch: dict[str, Float]
    waiting: Float
    running: Float
    kv_blocks: Float


def over_time(run: Run, end_ns: int | None = None, slices: int = SLICES) -> OverTime:
    """Cut one run into slices from time 0 to `end_ns` (the end of its last step)."""
    steps = run.steps
    last = int(steps.start_ns[-1] + steps.duration_ns[-1]) if len(steps) else 0
    edges = np.linspace(0, max(end_ns or last, 1), slices + 1)
    waiting, running = waiting_and_running(run, edges[1:])
    return OverTime(
        edges / 1e9,
        {route: _mean_batch(steps, chosen, edges) for route, chosen in _routes(steps).items()},
        waiting,
        running,
        _most_blocks(run.kv_use, edges, last),
    )


def _routes(steps: StepRecords) -> dict[str, NDArray[np.bool_]]:
    decode = steps.kind == StepKind.DECODE
    graph = steps.capture_size > 0
    return {"graph": decode & graph, "no graph": decode & ~graph, "with prefill": ~decode}


def _mean_batch(steps: StepRecords, chosen: NDArray[np.bool_], edges: Float) -> Float:
    """Return ∫ batch size dt / length of each slice, exactly: steps do not overlap."""
    start, duration = steps.start_ns[chosen].astype(float), steps.duration_ns[chosen].astype(float)
    area = np.concatenate([[0.0], np.cumsum(steps.batch_size[chosen] * duration)])
    # The integral from 0 to t is piecewise linear with corners at the starts and ends of steps.
    corners = np.stack([start, start + duration], axis=1).ravel()
    heights = np.stack([area[:-1], area[1:]], axis=1).ravel()
    if not len(corners):
        return np.zeros(len(edges) - 1)
    slices: Float = np.diff(np.interp(edges, corners, heights)) / np.diff(edges)
    return slices


def _most_blocks(kv_use: KVUse, edges: Float, end_ns: int) -> Float:
    """Return the most blocks in use in each slice; between two records the earlier one holds, to the end."""
    if not len(kv_use.time_ns):
        return np.zeros(len(edges) - 1)
    time_ns = np.concatenate([kv_use.time_ns, [end_ns]])
    blocks = np.concatenate([kv_use.blocks, [0]])
    first = np.searchsorted(time_ns, edges[:-1], side="right")
    before = np.where(first > 0, blocks[np.maximum(first - 1, 0)], 0)
    after = np.searchsorted(time_ns, edges[1:], side="left")
    most = before.astype(float)
    within = after > first
    # reduceat takes from each index to the next: pair every slice's start with its end.
    pairs = np.stack([first[within], after[within]], axis=1).ravel()
    padded = np.concatenate([blocks, [0]])
    if len(pairs):
        most[within] = np.maximum(most[within], np.maximum.reduceat(padded, pairs)[::2])
    return most
