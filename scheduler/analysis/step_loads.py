"""The steps of simulated runs as loads to choose sizes for: how often each size came, what it costs where.

A request pays every step it sits in, so a step counts once for each request in it (a step of n running
counts n times). Counting steps instead chases the small batches that a better pool has just made cheap:
iterated, it ended up to 4.7 % above the optimum where token weights stayed within 0.1 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scheduler.analysis.choose import Floats, Load
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.engine.loop import Run
from scheduler.engine.records import StepRecords
from scheduler.errors import InputError
from scheduler.executors.cost_model import CostModel
from scheduler.executors.step_lines import StepLine

Integers = NDArray[np.int64]


def decode_histogram(runs: Sequence[Run], most: int) -> tuple[Integers, Floats]:
    """Return decode steps by batch size (0 to `most`), and the mean KV tokens of a step of that size."""
    count, kv = np.zeros(most + 1, np.int64), np.zeros(most + 1)
    for run in runs:
        decode = run.steps.kind == StepKind.DECODE
        batch = run.steps.batch_size[decode]
        count += np.bincount(batch, minlength=most + 1)
        kv += np.bincount(batch, weights=run.steps.kv_tokens[decode], minlength=most + 1)
    return count, kv / np.maximum(count, 1)


def decode_load(runs: Sequence[Run], model: CostModel, candidates: Sequence[int], most: int) -> Load:
    """Return the token-weighted decode load of the runs, costed at each size's mean KV tokens."""
    count, kv = decode_histogram(runs, most)
    batches = np.flatnonzero(count)
    weights = count * np.arange(most + 1, dtype=np.float64)
    eager = np.zeros(most + 1)
    for batch in batches.tolist():
        eager[batch] = model.decode_line(model.without_graph, batch).ns(int(kv[batch]))
    graph = np.zeros((most + 1, max(candidates, default=0) + 1))
    for size in candidates:
        held = batches[batches <= size]
        try:
            graph[held, size] = _line_ns(model.decode_line("graph", size), kv[held])
        except InputError:  # the profile's table ends below this size
            graph[:, size] = np.nan
    return Load.of(weights, graph, eager)


def _line_ns(line: StepLine, kv_tokens: Floats) -> Floats:
    place = np.searchsorted(line.starts, kv_tokens, side="right") - 1
    times: Floats = np.asarray(line.offsets)[place] + np.asarray(line.slopes)[place] * kv_tokens
    return times


def mixed_histogram(runs: Sequence[Run]) -> dict[int, int]:
    """Return the number of steps with prompt tokens by their total tokens (decodes included), ascending."""
    totals = [
        (run.steps.batch_size + run.steps.prefill_tokens)[run.steps.kind != StepKind.DECODE] for run in runs
    ]
    values, counts = np.unique(np.concatenate([np.empty(0, np.int32), *totals]), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def mixed_load(runs: Sequence[Run], model: CostModel, candidates: Sequence[int]) -> Load:
    """Return the load of steps with prompt tokens by total tokens, for one list that serves them, too.

    A step counts once for each running decode and once for its prompts. Steps of the same total stand as
    one with their mean numbers of decodes and KV tokens and one fresh prompt chunk. Totals above the
    largest candidate never have a graph and are left out.
    """
    top = max(candidates, default=0)
    steps = [_with_prompts(run.steps, top) for run in runs]
    batch, prefill, kv = (np.concatenate([part[i] for part in steps]) for i in range(3))
    total = batch + prefill
    count = np.bincount(total, minlength=top + 1)
    weights = np.bincount(total, weights=batch + 1.0, minlength=top + 1)
    eager, graph = np.zeros(top + 1), np.zeros((top + 1, top + 1))
    decodes = np.bincount(total, weights=batch, minlength=top + 1) / np.maximum(count, 1)
    kv_mean = np.bincount(total, weights=kv, minlength=top + 1) / np.maximum(count, 1)
    for tokens in np.flatnonzero(count).tolist():
        rows = min(round(decodes[tokens]), tokens - 1)
        chunk = PrefillChunk(-1, tokens - rows, 0, is_last=True)
        kind = StepKind.MIXED if rows else StepKind.PREFILL
        plan = StepPlan(kind, rows, None, round(kv_mean[tokens]) if rows else 0, (chunk,))
        eager[tokens] = model.run(plan)
        for size in candidates:
            if size >= tokens:
                graph[tokens, size] = model.run(plan._replace(capture_size=size))
    return Load.of(weights, graph, eager)


def _with_prompts(steps: StepRecords, top: int) -> tuple[Integers, Integers, Integers]:
    total = steps.batch_size + steps.prefill_tokens
    chosen = (steps.kind != StepKind.DECODE) & (total <= top) & (steps.prefill_tokens > 0)
    return (
        steps.batch_size[chosen].astype(np.int64),
        steps.prefill_tokens[chosen].astype(np.int64),
        steps.kv_tokens[chosen],
    )
