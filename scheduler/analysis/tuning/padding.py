"""What a list of sizes does to batches that nobody has met: how far padding may go, and how far it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from scheduler.analysis.tuning.choose import SizeProblem
from scheduler.analysis.tuning.step_loads import StepHistogram
from scheduler.catalog.dispatch.table import Kind, Route
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.executors.model.cost_model import CostModel, Launch

_LAUNCHES: dict[Kind, Launch] = {"FULL": "graph", "PIECEWISE": "piecewise"}


def without_wide_gaps(problem: SizeProblem, reach: Mapping[int, int]) -> SizeProblem:
    """Return the problem without the gaps that padding makes too wide.

    `reach` says which size may at most follow another one (0: be the first).
    """
    segment = problem.segment.copy()
    for place, before in enumerate((0, *problem.candidates[:-1])):
        last = reach.get(before, problem.candidates[-1])
        segment[np.array(problem.candidates) > last, place] = np.inf
    return replace(problem, segment=segment)


def kv_per_request(histograms: Sequence[StepHistogram]) -> float:
    """Return the mean KV tokens of a request in the decode steps of some runs."""
    tokens = rows = 0.0
    for histogram in histograms:
        count = histogram.decode_count
        tokens += float(count @ histogram.decode_kv)
        rows += float(count @ np.arange(len(count)))
    return tokens / rows if rows else 0.0


def most_padding(
    own: GraphPool, other: GraphPool, model: CostModel, kv_per_request: float, most: int, budget: int
) -> tuple[float, int]:
    """Return the largest share by which a decode batch takes longer with `other` than with `own`, and it.

    Over every batch up to `most`, each request with so many KV tokens, whether any load meets it or not.
    Negative where every batch is faster; batches without a step time in the profile are left out.
    """
    routes = (pool.table(most, budget).decode for pool in (own, other))
    worst, where = 0.0, 0
    for batch, (before, after) in enumerate(zip(*routes, strict=True), 1):
        if before == after:
            continue
        kv_tokens = round(batch * kv_per_request)
        took, takes = (_decode_ns(model, route, batch, kv_tokens) for route in (before, after))
        if takes / took - 1 > worst:
            worst, where = takes / took - 1, batch
    return worst, where


def _decode_ns(model: CostModel, route: Route, batch: int, kv_tokens: int) -> float:
    try:
        if route.kind == "NONE":
            return model.decode_line(model.without_graph, batch).ns(kv_tokens)
        return model.decode_line(_LAUNCHES[route.kind], route.tokens).ns(kv_tokens)
    except InputError:  # the profile's table ends below this size
        return float("nan")
