"""How the steps of a recorded run followed each other: which overlapped, and what that lets one see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.recorded_run import MODES, RecordedRun, Steps

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
FULL = MODES.index("full")
ONE_BY_ONE = MODES.index("compiled")  # from here on: kernels launched one by one
_MOST_SHARE = 3.0


@dataclass(frozen=True, slots=True)
class Flow:
    """One entry per step.

    `overlaps`: scheduled while the step before was under way; the others found the engine idle.
    `second`: the first to overlap after an idle time, scheduled as soon as the first one was launched.
    `update`: from the hand-over of the step two before until this one is scheduled, NaN where that is not
    what it waited for. `until_before`: from the dispatch until the step before is handed over. `share`: how
    much longer than others of its kind the step before took: a mean over time, not over steps, weighs by it.
    """

    overlaps: Bool
    second: Bool
    update: Float
    until_before: Float
    share: Float


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
    return Flow(overlaps, second, update, until_before, _share(steps, overlaps))


def _share(steps: Steps, overlaps: Bool) -> Float:
    """Return from decision to decision relative to the mean of a kind: a slow host packs in fewer steps.

    The interval before a step says how fast the host was without saying how long its own launch took.
    """
    share = np.ones(len(steps))
    since = np.diff(steps.scheduled, prepend=steps.scheduled[:1])
    kind = 2 * np.roll(steps.mode, 1).astype(np.int64) + np.roll(steps.chunks > 0, 1)
    for number in np.unique(kind):
        here = overlaps & (kind == number) & (since > 0)
        if here.any():
            share[here] = np.clip(since[here] / since[here].mean(), 1 / _MOST_SHARE, _MOST_SHARE)
    return share


def near_held(steps: Steps) -> Bool:
    """Tell which steps the GPU was held back for, and those beside them: only GPU times are an engine's."""
    near = steps.held.copy()
    near[1:] |= steps.held[:-1]
    near[:-1] |= steps.held[1:]
    return near
