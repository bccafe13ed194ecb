"""What scheduling a step and handing out its tokens cost the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.engine_steps.drift import Shown
from scheduler.catalog.importers.engine_steps.flow import FULL, ONE_BY_ONE, Flow
from scheduler.catalog.importers.engine_steps.robust import mean_ratio, relative_fit
from scheduler.catalog.importers.recorded_run import RecordedRun, Steps

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
_FEWEST = 30


@dataclass(frozen=True, slots=True)
class HostFit:
    """Coefficients in milliseconds.

    `schedule` by (step, request, step with prompts, chunk, prompt token, KV token of the decodes),
    `update` by (step, request, chunk, KV token).
    `shown` holds measured / fitted of every step fitted to, by run; `shown_after` the same of those after a
    graph (0), and after kernels launched one by one (1), which leave the host's caches cold.
    """

    schedule: Float
    update: Float
    shown: tuple[Shown, ...]
    shown_after: tuple[tuple[Shown, ...], tuple[Shown, ...]]
    samples: int


def schedule_columns(steps: Steps) -> Float:
    """Return what the schedule costs are linear in, a row per step."""
    ones = np.ones(len(steps))
    with_prompts = steps.chunks > 0
    return np.column_stack(
        [ones, steps.requests, with_prompts, steps.chunks, steps.chunk_tokens, steps.kv_tokens]
    ).astype(np.float64)


def update_columns(steps: Steps) -> Float:
    """Return what the update costs are linear in, a row per step."""
    return np.column_stack([np.ones(len(steps)), steps.requests, steps.chunks, steps.kv_tokens]).astype(
        np.float64
    )


def fit_host(runs: Sequence[RecordedRun], flows: Sequence[Flow], used: Sequence[Bool]) -> HostFit:
    """Fit both costs on the `used` steps of all runs; coefficients give means, not medians."""
    seen = [shows_schedule(run, flow) & mask for run, flow, mask in zip(runs, flows, used, strict=True)]
    columns = [schedule_columns(run.steps) for run in runs]
    times = [np.maximum(run.steps.dispatched - run.steps.scheduled, 1e-3) for run in runs]
    matrix = np.concatenate([part[mask] for part, mask in zip(columns, seen, strict=True)])
    target = np.concatenate([part[mask] for part, mask in zip(times, seen, strict=True)])
    schedule = relative_fit(matrix, target)
    schedule *= mean_ratio(target, matrix @ schedule)
    rows, right = [], []
    for run, flow, mask in zip(runs, flows, used, strict=True):
        index = np.flatnonzero(~np.isnan(flow.update) & mask)
        index = index[mask[index - 2]]
        rows.append(update_columns(run.steps)[index - 2])
        right.append(np.maximum(flow.update[index], 1e-3))
    matrix, target = np.concatenate(rows), np.concatenate(right)
    if len(target) >= _FEWEST:
        update = relative_fit(matrix, target)
        update *= mean_ratio(target, matrix @ update)
    else:
        update = np.zeros(4)
    ratios = [time / np.maximum(part @ schedule, 1e-9) for time, part in zip(times, columns, strict=True)]

    def shown(masks: Sequence[Bool]) -> tuple[Shown, ...]:
        return tuple(
            Shown(run.steps.scheduled[mask], ratio[mask], flow.share[mask])
            for run, flow, ratio, mask in zip(runs, flows, ratios, masks, strict=True)
        )

    after = [np.roll(run.steps.mode >= ONE_BY_ONE, 1) for run in runs]
    split = (
        shown([mask & ~cold for mask, cold in zip(seen, after, strict=True)]),
        shown([mask & cold for mask, cold in zip(seen, after, strict=True)]),
    )
    return HostFit(schedule, update, shown(seen), split, len(target))


def shows_schedule(run: RecordedRun, flow: Flow) -> Bool:
    """Tell which steps were dispatched as soon as they were scheduled, by a host that was not asleep before.

    With a launching process of its own, a step can wait there for the slow launch of the one before.
    """
    if run.engine.multiproc:
        steps = run.steps
        free = np.ones(len(steps), bool)
        was_launched = np.isfinite(steps.launched[:-1])
        idle = np.where(was_launched, steps.launched[:-1] <= steps.scheduled[1:], steps.mode[:-1] == FULL)
        free[1:] = ~flow.overlaps[1:] | idle
        return free
    prompts = run.steps.chunks > 0
    shown = flow.overlaps.copy()
    if (shown & prompts).sum() < _FEWEST:
        shown |= prompts
    return shown
