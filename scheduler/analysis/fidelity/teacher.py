"""Teacher forcing: the measured sequence of steps through the model, to see step times without feedback.

What a step takes decides which requests meet in the next one; here the steps are those that were measured,
so that an error is one of the step's parts alone. The recurrence is that of `scheduler/engine/pipeline.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.recorded_run import MODES, RecordedRun, Span
from scheduler.engine.executor import PipelinedExecutor, PrefillChunk, StepKind, StepPlan
from scheduler.engine.speculation import DraftWork

_NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class Residual:
    """Mean time from hand-over to hand-over of the steps of a mode after one of another, in milliseconds."""

    mode: str
    before: str
    steps: int
    measured_ms: float
    model_ms: float

    @property
    def error(self) -> float:
        """Return model / measured − 1."""
        return self.model_ms / self.measured_ms - 1


def residuals(
    run: RecordedRun, span: Span, models: Sequence[PipelinedExecutor], drafting: DraftWork | None = None
) -> list[Residual]:
    """Replay the steps of a span by each model, each step followed by its drafting, and take the mean.

    Each idle time is the measured one. Models that draw the host's speed show what its ups and downs cost
    where the later of two things is waited for.
    """
    steps = run.steps
    index = np.flatnonzero(run.of_span(span))
    measured = np.diff(steps.output[index])
    foretold = np.mean([np.diff(replay(run, index, model, drafting)) for model in models], axis=0)
    follows = steps.scheduled[index[1:]] < steps.output[index[:-1]]
    mode, prompts = steps.mode[index], steps.chunks[index] > 0
    found: list[Residual] = []
    for one, name in enumerate(MODES):
        for with_prompts in (False, True):
            for other, before in enumerate(MODES):
                here = follows & (mode[1:] == one) & (prompts[1:] == with_prompts) & (mode[:-1] == other)
                if here.any():
                    label = f"{name}, {'with prompts' if with_prompts else 'decode'}"
                    means = float(measured[here].mean()), float(foretold[here].mean())
                    found.append(Residual(label, before, int(here.sum()), *means))
    return found


def replay(
    run: RecordedRun,
    index: NDArray[np.int64],
    model: PipelinedExecutor,
    drafting: DraftWork | None = None,
) -> NDArray[np.float64]:
    """Return when the model hands over each of the steps, in milliseconds of the run's clock."""
    steps = run.steps
    uniproc, asynchronous = model.topology == "uniproc", run.engine.async_scheduling
    overlaps = np.zeros(len(index), bool)
    overlaps[1:] = steps.scheduled[index[1:]] < steps.output[index[:-1]]
    handed = np.zeros(len(index))
    gpu_end = launched = free = 0  # ns: GPU, launching thread, scheduler's thread (after the newest decision)
    before_end = before_update = older_update = 0
    shift = 0  # ns by which the model is ahead of the measured clock: idle times are kept as measured
    for place, step in enumerate(index.tolist()):
        scheduled = round(float(steps.scheduled[step]) * _NS_PER_MS)
        if not overlaps[place]:
            if place:
                measured_end = round(float(steps.output[step - 1]) * _NS_PER_MS)
                shift = before_end - measured_end
                handed[place - 1] = before_end / _NS_PER_MS
            decided = scheduled + shift
        elif not overlaps[place - 1] or not asynchronous:
            decided = free if asynchronous else before_end + before_update
        else:
            decided = max(free, round(handed[place - 2] * _NS_PER_MS) + older_update)
        plan = _plan(run, step)
        parts = model.parts(plan, max(decided, 0))
        dispatched = decided + parts.schedule_ns
        launching = dispatched if uniproc else max(dispatched, launched)
        launched = launching + parts.launch_ns
        gpu_end = max(gpu_end, launching + parts.gpu_after_ns) + parts.gpu_ns
        if parts.tail_ns >= 0:
            gpu_end = max(gpu_end, launched + parts.tail_ns)
        tokens_ready = gpu_end  # they are copied out before the next drafts are proposed
        if drafting is not None:
            rows = int(steps.requests[step])
            launched += drafting.launch_ns(plan, rows)
            gpu_end = max(gpu_end + drafting.gpu_ns(plan, rows), launched)
        free = launched if uniproc else dispatched
        if place and overlaps[place]:
            handed[place - 1] = max(before_end, free) / _NS_PER_MS
        older_update, before_update, before_end = before_update, parts.update_ns, max(tokens_ready, free)
    handed[-1] = before_end / _NS_PER_MS
    return handed


def _plan(run: RecordedRun, step: int) -> StepPlan:
    steps = run.steps
    chunks = tuple(PrefillChunk(0, tokens, cached, True) for tokens, cached in steps.chunk_lists[step])
    decodes = int(steps.requests[step]) - len(chunks)
    kind = StepKind.DECODE if not chunks else StepKind.MIXED if decodes else StepKind.PREFILL
    mode = MODES[steps.mode[step]]
    size = int(steps.captured[step]) if mode in ("full", "piecewise") else None
    kv_tokens = round(float(steps.kv_tokens[step]))
    drafts = int(steps.draft_tokens[step])
    return StepPlan(
        kind, decodes, size, kv_tokens, chunks, piecewise=mode == "piecewise", draft_tokens=drafts
    )
