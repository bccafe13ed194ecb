"""One variant as plots and report see it, whether it was just run or read back from a result folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.analysis.comparison.compare import Column, Comparison
from scheduler.analysis.metrics import latencies_ms, measured_requests, window_start_ns
from scheduler.engine.executor import StepKind
from scheduler.engine.records import Run, StepRecords

Float = NDArray[np.float64]
METRICS = ("ttft", "tpot", "itl", "e2el")
MS = 1e6


@dataclass(frozen=True, slots=True)
class View:
    """One variant over its replications.

    `name` is the column's name (`eager`, `graphs`, …), `low_name` the variant at the other end of the
    profile's range where this is the high end. `kv_blocks` is None where the KV cache is unlimited.
    """

    name: str
    sizes: tuple[int, ...]
    padding: bool
    runs: Sequence[Run]
    slo_ms: Mapping[str, float]
    warmup_requests: int
    max_num_seqs: int
    kv_blocks: int | None = None
    low_name: str | None = None

    @property
    def is_eager(self) -> bool:
        """Tell whether this variant has no graphs at all."""
        return not self.sizes


@dataclass(frozen=True, slots=True)
class WeightedValues:
    """Values in milliseconds, each of them counted `counts` times (None: once)."""

    values: Float
    counts: NDArray[np.int32] | None = None

    @property
    def size(self) -> int:
        """How many values there are, repeats included."""
        return len(self.values) if self.counts is None else int(self.counts.sum(dtype=np.int64))


def view_of(comparison: Comparison, column: Column) -> View:
    """Return the view of one column of a comparison."""
    variant, workload = column.variant, comparison.workload
    return View(
        name=column.name,
        sizes=variant.pool.sizes,
        padding=variant.pool.padding,
        runs=column.runs,
        slo_ms=workload.slo.limits_ms if workload.slo else {},
        warmup_requests=comparison.warmup_requests,
        max_num_seqs=workload.engine.max_num_seqs,
        kv_blocks=column.cost.kv_blocks,
        low_name=variant.name if variant.bound == "high" else None,
    )


def views_of(comparison: Comparison) -> list[View]:
    """Return the views of every column that ran at least once, in the comparison's order."""
    return [view_of(comparison, column) for column in comparison.columns if column.runs]


def samples(view: View) -> dict[str, WeightedValues]:
    """Return ttft, tpot, itl and e2el over all replications, warm-up left out as on the card."""
    parts: dict[str, list[Float]] = {metric: [] for metric in METRICS}
    counts: list[NDArray[np.int32]] = []
    for run in view.runs:
        found = latencies_ms(run.requests, measured_requests(run.requests, view.warmup_requests))
        for metric in ("ttft", "tpot", "e2el"):
            parts[metric].append(found[metric])
        start_ns = window_start_ns(run.requests, view.warmup_requests)
        chosen = run.steps.start_ns[run.gaps.step] >= start_ns
        parts["itl"].append(run.gaps.gap_ns[chosen] / MS)
        counts.append(run.gaps.count[chosen])
    pooled = {metric: WeightedValues(np.concatenate([np.zeros(0), *parts[metric]])) for metric in METRICS}
    pooled["itl"] = WeightedValues(pooled["itl"].values, np.concatenate([np.zeros(0, np.int32), *counts]))
    return pooled


def measured_steps(view: View) -> list[StepRecords]:
    """Return each replication's steps from its first measured arrival on."""
    return [_since(run.steps, window_start_ns(run.requests, view.warmup_requests)) for run in view.runs]


def _since(steps: StepRecords, start_ns: int) -> StepRecords:
    first = int(np.searchsorted(steps.start_ns, start_ns))
    return StepRecords(*(getattr(steps, name)[first:] for name in StepRecords.__slots__))


@dataclass(frozen=True, slots=True)
class BatchTime:
    """Seconds of decode steps by batch size (the index), in a graph and without.

    `padding` is the part of `in_graph` that falls to slots nobody used: time · padded / captured slots.
    """

    in_graph: Float
    padding: Float
    without_graph: Float
    other_s: float  # prefill and mixed steps

    @property
    def decode_s(self) -> float:
        """Seconds of all decode steps."""
        return float(self.in_graph.sum() + self.without_graph.sum())


def tokens_per_row(view: View) -> int:
    """Return the tokens that a decode step computes for each request."""
    return max((run.tokens_per_row for run in view.runs), default=1)


def batch_time(view: View) -> BatchTime:
    """Return where the time of decode steps went, over all replications."""
    most = max((int(steps.batch_size.max(initial=0)) for steps in measured_steps(view)), default=0)
    totals = np.zeros((3, most + 1))
    other_ns = 0
    width = tokens_per_row(view)
    for steps in measured_steps(view):
        decode = steps.kind == StepKind.DECODE
        batch, capture = steps.batch_size[decode], steps.capture_size[decode]
        duration = steps.duration_ns[decode].astype(float)
        other_ns += int(steps.duration_ns[~decode].sum())
        graph = capture > 0
        padded = duration[graph] * (1 - width * batch[graph] / capture[graph])
        for row, (index, weights) in enumerate(
            ((batch[graph], duration[graph]), (batch[graph], padded), (batch[~graph], duration[~graph]))
        ):
            totals[row] += np.bincount(index, weights, minlength=most + 1)
    totals /= 1e9
    return BatchTime(totals[0], totals[1], totals[2], other_ns / 1e9)


def used_graphs(runs: Iterable[Run], *, decode: bool = True) -> int:
    """Return how many different sizes the decode steps took, or the steps with prompts."""
    taken: set[int] = set()
    for run in runs:
        chosen = (run.steps.kind == StepKind.DECODE) == decode
        taken.update(np.unique(run.steps.capture_size[chosen]).tolist())
    return len(taken - {0})


@dataclass(frozen=True, slots=True)
class GraphUse:
    """What one graph of a pool did, over all replications (decode steps only).

    `padding_share` is None for a graph that no step took; `step_s` is the time of the steps that took it.
    """

    size: int
    steps: int
    padding_share: float | None
    step_s: float


def graph_use(view: View) -> list[GraphUse]:
    """Return the use of every graph in the pool, unused ones included, by size."""
    most = max((int(run.steps.capture_size.max(initial=0)) for run in view.runs), default=0)
    most = max(most, *view.sizes, 0)
    count, rows, time_ns = (np.zeros(most + 1) for _ in range(3))
    for steps in measured_steps(view):
        chosen = (steps.kind == StepKind.DECODE) & (steps.capture_size > 0)
        capture = steps.capture_size[chosen]
        count += np.bincount(capture, minlength=most + 1)
        rows += np.bincount(capture, steps.batch_size[chosen] * tokens_per_row(view), minlength=most + 1)
        time_ns += np.bincount(capture, steps.duration_ns[chosen], minlength=most + 1)
    return [
        GraphUse(
            size,
            int(count[size]),
            float(1 - rows[size] / (count[size] * size)) if count[size] else None,
            float(time_ns[size]) / 1e9,
        )
        for size in view.sizes
    ]
