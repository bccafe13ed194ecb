"""What a decode step takes by the profile: the curves to look at, and the time each graph saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.metrics import window_start_ns
from scheduler.catalog.profile.profile import CurveSource, Mode, Profile
from scheduler.engine.executor import StepKind
from scheduler.errors import InputError
from scheduler.executors.model.by_profile import cost_model

Float = NDArray[np.float64]
_BOUNDS: tuple[Literal["low", "high"], ...] = ("low", "high")
_MOST_POINTS = 160


@dataclass(frozen=True, slots=True)
class StepCurve:
    """Milliseconds of one decode step of `batch` rows without padding, at both ends of the profile's range.

    `measured` holds those of the batch sizes that were measured; between them the curve is interpolated.
    `origin` says how the profile came by the curve: measured, derived, assumed, or given (inline).
    """

    mode: Mode
    batch: NDArray[np.int64]
    low_ms: Float
    high_ms: Float
    measured: NDArray[np.int64]
    origin: str


@dataclass(frozen=True, slots=True)
class StepCurves:
    """The decode curves of a profile, at `kv_tokens_per_row` tokens in the KV cache per row."""

    kv_tokens_per_row: float
    curves: tuple[StepCurve, ...]


def step_curves(comparison: Comparison) -> StepCurves:
    """Return the decode curves up to max_num_seqs, at the mean KV tokens per row that the run met.

    A curve that the profile lacks is left out; one that is a table ends where the table does.
    """
    return profile_curves(
        comparison.profile, comparison.workload.engine.max_num_seqs, mean_kv_tokens_per_row(comparison)
    )


def profile_curves(profile: Profile, largest_batch: int, kv_per_row: float) -> StepCurves:
    """Return the decode curves of a profile up to a batch size, at `kv_per_row` tokens per sequence."""
    powers = 2 ** np.arange(int(largest_batch).bit_length())
    sizes = np.union1d(np.geomspace(1, largest_batch, _MOST_POINTS).round().astype(int), powers)
    modes: tuple[Mode, ...] = ("eager", "fallback", "graph")
    sources = ((mode, profile.curve(mode)) for mode in modes)
    curves = (_curve(profile, mode, source, sizes, kv_per_row) for mode, source in sources if source)
    return StepCurves(kv_per_row, tuple(curve for curve in curves if len(curve.batch)))


def mean_kv_tokens_per_row(comparison: Comparison) -> float:
    """Return KV tokens / batch size over all decode steps of all variants; 0 where there are none."""
    tokens = rows = 0
    for column in comparison.columns:
        for run in column.runs:
            decode = run.steps.kind == StepKind.DECODE
            tokens += int(run.steps.kv_tokens[decode].sum())
            rows += int(run.steps.batch_size[decode].sum(dtype=np.int64))
    return tokens / rows if rows else 0.0


def _curve(
    profile: Profile, mode: Mode, source: CurveSource, sizes: NDArray[np.int64], kv_per_row: float
) -> StepCurve:
    ends: list[list[float]] = [[], []]
    for end, bound in zip(ends, _BOUNDS, strict=True):
        model = cost_model(profile, "fallback", bound)
        for size in sizes:
            try:
                end.append(model.decode_ms(mode, int(size), round(kv_per_row * size)))
            except InputError:  # the table ends here
                break
    low, high = (np.array(end) for end in ends)
    measured = np.array(source.sizes if source.origin == "measured" else (), np.int64)
    batch = sizes[: len(low)]
    return StepCurve(mode, batch, low, high, measured[measured <= batch.max(initial=0)], source.origin)


def saved_s(comparison: Comparison, column: Column) -> dict[int, tuple[float, float]]:
    """Return the seconds that each graph of a column saved over the same steps without a graph.

    Per capture size the low and the high end of the profile's range, summed over replications, warm-up
    left out. KV tokens are averaged over the steps of equal batch size, so that curved tables make this
    an approximation. Empty where the profile cannot tell.
    """
    found: dict[int, tuple[float, float]] = {}
    models = [cost_model(comparison.profile, "fallback", bound) for bound in _BOUNDS]
    try:
        for (capture, batch), (steps, kv_tokens) in _buckets(comparison, column).items():
            saved = [
                steps
                * (
                    model.decode_ms("fallback", batch, kv_tokens)
                    - model.decode_ms("graph", capture, kv_tokens)
                )
                for model in models
            ]
            low, high = found.get(capture, (0.0, 0.0))
            found[capture] = (low + min(saved) / 1e3, high + max(saved) / 1e3)
    except InputError:  # a table too short for the batches without a graph
        return {}
    return found


def _buckets(comparison: Comparison, column: Column) -> dict[tuple[int, int], tuple[int, int]]:
    """Return (replayed decode steps, their mean KV tokens) by capture size and batch size."""
    totals: dict[tuple[int, int], list[int]] = {}
    for run in column.runs:
        steps = run.steps
        chosen = (steps.kind == StepKind.DECODE) & (steps.capture_size > 0)
        chosen &= steps.start_ns >= window_start_ns(run.requests, comparison.warmup_requests)
        width = int(steps.batch_size.max(initial=0)) + 1
        key = steps.capture_size[chosen].astype(np.int64) * width + steps.batch_size[chosen]
        keys, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
        tokens = np.bincount(inverse, steps.kv_tokens[chosen])
        for index, packed in enumerate(keys.tolist()):
            total = totals.setdefault((packed // width, packed % width), [0, 0])
            total[0] += int(counts[index])
            total[1] += int(tokens[index])
    return {key: (count, round(tokens / count)) for key, (count, tokens) in totals.items()}
