"""Is the faster mode the one the profile says? Fresh random steps, timed in both modes, against it."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypedDict

import numpy as np

from scheduler.catalog.profile.profile import Profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.real.torch_session import TorchSession


@dataclass(frozen=True, slots=True)
class CheckedCell:
    """One step: `batch` rows of `context` tokens, eager at the batch and replayed at the capture size."""

    batch: int
    capture_size: int
    context: int
    eager_ms: float
    graph_ms: float
    predicted_eager_ms: float
    predicted_graph_ms: float

    @property
    def agrees(self) -> bool:
        """Whether prediction and measurement name the same mode as the faster one."""
        return (self.eager_ms < self.graph_ms) == (self.predicted_eager_ms < self.predicted_graph_ms)


class CellCheck(TypedDict):
    """How many steps were checked, and in what share the faster mode was named rightly; the sums' errors."""

    cells: int
    agreement: float
    eager_total_error: float
    graph_total_error: float
    rows: list[dict[str, object]]


def check_cells(
    session: TorchSession,
    profile: Profile,
    sizes: Sequence[int],
    *,
    cells: int = 30,
    repeats: int = 9,
    seed: int = 0,
) -> CellCheck:
    """Time random steps and compare; return agreement (share), total errors of both modes and the cells.

    All cells are interleaved in random order within each repeat.
    """
    draw = random.Random(seed)  # noqa: S311 - a choice of cells, not a secret
    static, pool, model = session.static, GraphPool(tuple(sorted(sizes))), cost_model(profile, "eager")
    routes = pool.table(pool.sizes[-1]).decode
    jobs = []
    for _ in range(cells):
        batch = draw.randint(1, pool.sizes[-1])
        size, context = routes[batch - 1].tokens, draw.randint(16, static.stride - 1)
        bucket = static.bucket(context + 1)
        captured = session.captured.get(static.key(size, bucket))
        if captured is None:
            continue
        state = np.empty((batch, 3), np.int64)
        state[:, 0] = [draw.randrange(static.decoder.shape.vocabulary) for _ in range(batch)]
        state[:, 1] = context
        state[:, 2] = np.arange(batch) * static.stride
        eager = static.launch_eager(static.key(batch, bucket))
        jobs.append((batch, size, context, state, eager, captured.replay))
    times: list[tuple[list[int], list[int]]] = [([], []) for _ in jobs]
    for repeat in range(repeats + 2):
        for index in draw.sample(range(len(jobs)), len(jobs)):
            batch, size, _, state, eager, replay = jobs[index]
            eager_ns = static.timed(state, batch, eager).total_ns
            graph_ns = static.timed(state, size, replay).total_ns
            if repeat >= 2:  # the first two warm the path up
                times[index][0].append(eager_ns)
                times[index][1].append(graph_ns)
    checked = [
        CheckedCell(
            batch,
            size,
            context,
            statistics.median(eager_ns) / 1e6,
            statistics.median(graph_ns) / 1e6,
            model.decode_ms("eager", batch, batch * context),
            model.decode_ms("graph", size, batch * context),
        )
        for (batch, size, context, *_), (eager_ns, graph_ns) in zip(jobs, times, strict=True)
    ]
    return _summary(checked)


def _summary(checked: Sequence[CheckedCell]) -> CellCheck:
    def total_error(predicted: str, measured: str) -> float:
        totals = [sum(float(getattr(cell, name)) for cell in checked) for name in (predicted, measured)]
        return totals[0] / totals[1] - 1

    return {
        "cells": len(checked),
        "agreement": sum(cell.agrees for cell in checked) / len(checked),
        "eager_total_error": total_error("predicted_eager_ms", "eager_ms"),
        "graph_total_error": total_error("predicted_graph_ms", "graph_ms"),
        "rows": [asdict(cell) | {"agrees": cell.agrees} for cell in checked],
    }
