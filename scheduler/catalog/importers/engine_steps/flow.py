"""How the steps of a recorded run followed each other: which overlapped, and what that lets one see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.recorded_run import MODES, RecordedRun, Steps

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
FULL = MODES.index("full")


@dataclass(frozen=True, slots=True)
class Flow:
    """One entry per step.

    `overlaps`: scheduled while the step before was under way; the others found the engine idle.
    `second`: the first to overlap after an idle time, scheduled as soon as the first one was launched.
    `update`: from the hand-over of the step two before until this one is scheduled, NaN where that is not
    what it waited for. `until_before`: from the dispatch until the step before is handed over.
    """

    overlaps: Bool
    second: Bool
    update: Float
    until_before: Float


def flow_of(run: RecordedRun) -> Flow:
    """Tell from the times of a run how its steps overlapped."""
    steps = run.steps
    count = len(steps)
    overlaps = np.zeros(count, bool)
    overlaps[1:] = steps.scheduled[1:] < steps.output[:-1]
    second = np.zeros(count, bool)
    second[1:] = overlaps[1:] & ~overlaps[:-1]
    update = np.full(count, np.nan)
    if run.engine.async_scheduling:
        steady = overlaps & ~second
        steady[:2] = False
        index = np.flatnonzero(steady)
        update[index] = steps.scheduled[index] - steps.output[index - 2]
        update[update < 0] = np.nan
    until_before = np.full(count, np.nan)
    until_before[1:] = np.where(overlaps[1:], steps.output[:-1] - steps.dispatched[1:], np.nan)
    return Flow(overlaps, second, update, until_before)


def near_held(steps: Steps) -> Bool:
    """Tell which steps the GPU was held back for, and those beside them: only GPU times are an engine's."""
    near = steps.held.copy()
    near[1:] |= steps.held[:-1]
    near[:-1] |= steps.held[1:]
    return near
