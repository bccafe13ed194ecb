"""What proposing drafts behind a step costs: the GPU's work on it, and launching it.

On the GPU drafting stands between the tokens of a step and the work on the next one, so that hand-overs show
both together. They are told apart where another run of the same model does not draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.engine_steps.flow import FULL
from scheduler.catalog.importers.recorded_run import MODES, RecordedRun, Steps

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
COLUMNS = 2  # passes, and the tokens they compute
_FEWEST = 8


@dataclass(frozen=True, slots=True)
class DraftLaunches:
    """`pass_ms`: launching a pass as a graph; `more_ms`: beyond that, by the mode of other steps."""

    pass_ms: float = 0.0
    more_ms: dict[int, float] = field(default_factory=dict)
    samples: int = 0

    def more_of(self, mode: int) -> float:
        """Return what launching takes longer behind steps of a mode; one not seen is its nearest kin."""
        kin = [*range(mode, len(MODES)), *range(mode - 1, -1, -1)]
        return next((self.more_ms[other] for other in kin if other in self.more_ms), 0.0)


def passes_of(run: RecordedRun) -> int:
    """Return how many passes of a drafter follow each step: looking up n-grams is none."""
    return 0 if (run.engine.draft_method or "").startswith(("ngram", "suffix")) else run.engine.draft_tokens


def draft_columns(run: RecordedRun) -> Float:
    """Return the passes behind every step and the tokens that they compute.

    The first pass computes the step's tokens, padding included, each further one a token per request (vLLM
    0.26.0, `v1/worker/gpu/spec_decode/autoregressive/speculator.py`).
    """
    steps, passes = run.steps, passes_of(run)
    if not passes:
        return np.zeros((len(steps), COLUMNS))
    tokens = steps.width + (passes - 1) * steps.requests
    return np.column_stack([np.full(len(steps), passes), tokens]).astype(np.float64)


def are_told_apart(runs: Sequence[RecordedRun], used: Sequence[Bool]) -> bool:
    """Tell whether some runs draft and others, with steps in graphs, do not."""
    drafts = [passes_of(run) > 0 for run in runs]
    plain = [
        (run.steps.mode[mask] == FULL).any()
        for run, mask, has in zip(runs, used, drafts, strict=True)
        if not has
    ]
    return any(drafts) and any(plain)


def launching_drafts(steps: Steps) -> Float:
    """Return how long the launching thread was busy with each step's drafts, 0 where that was not logged."""
    took: Float = np.nan_to_num(steps.drafted - steps.drafting)
    return took


def fit_draft_launches(runs: Sequence[RecordedRun], told: Sequence[Bool]) -> DraftLaunches:
    """Return the means of launching drafts behind steps in FULL graphs, and in other modes."""
    taken: dict[int, list[Float]] = {mode: [] for mode in range(len(MODES))}
    passes = 1
    for run, mask in zip(runs, told, strict=True):
        steps = run.steps
        took = steps.drafted - steps.drafting
        if np.isfinite(took).any():
            passes = max(run.engine.draft_tokens, 1)
        for mode, found in taken.items():
            found.append(took[np.isfinite(took) & mask & (steps.mode == mode)])
    means = {
        mode: float(times.mean())
        for mode, found in taken.items()
        if len(times := np.concatenate([np.zeros(0), *found])) >= _FEWEST
    }
    if not means:
        return DraftLaunches()
    pass_ms = means.get(FULL, min(means.values())) / passes
    more = {mode: max(ms - passes * pass_ms, 0.0) for mode, ms in means.items() if mode != FULL}
    return DraftLaunches(pass_ms, more, sum(len(part) for found in taken.values() for part in found))
