"""The steps of simulated runs as loads to choose sizes for: how often each size came, what it costs where.

A request pays every step it sits in, so a step counts once for each request in it (a step of n running
counts n times). Counting steps instead chases the small batches that a better pool has just made cheap:
iterated, it ended up to 4.7 % above the optimum where token weights stayed within 0.1 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scheduler.analysis.tuning.choose import Floats, Load, SizeProblem, size_problem
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.engine.graph_pool import GraphPool, full_limit
from scheduler.engine.records import Run, StepRecords
from scheduler.errors import InputError
from scheduler.executors.model.cost_model import CostModel, Launch
from scheduler.executors.model.step_lines import StepLine

Integers = NDArray[np.int64]
MOST_RATIO = 4
OFTEN = 0.95  # of the tokens; a rare meeting of requests is no evidence
LEAST_TOGETHER = 3  # requests; one or two say nothing of a list of sizes
MOST_PADDING = 0.05  # of a step's time, between two neighbouring sizes


@dataclass(frozen=True, slots=True)
class StepHistogram:
    """The steps of some runs by size: how many, and their mean KV tokens (and decodes, in mixed steps).

    `decode_*` are indexed by batch size from 0, `mixed_*` by the total tokens of steps with prompt tokens,
    as far as a graph could serve them.
    """

    decode_count: Integers
    decode_kv: Floats
    mixed_count: Integers
    mixed_batch: Floats
    mixed_kv: Floats


def step_histogram(runs: Sequence[Run], most: int, largest_total: int) -> StepHistogram:
    """Count the steps of the runs: decode steps up to a batch of `most`, others up to `largest_total`."""
    decode = [_columns(run.steps, run.steps.kind == StepKind.DECODE) for run in runs]
    batch, _, kv = (np.concatenate(parts) for parts in zip(*decode, strict=True))
    count = np.bincount(batch, minlength=most + 1)
    decode_kv = np.bincount(batch, weights=kv, minlength=most + 1) / np.maximum(count, 1)
    mixed = [_columns(run.steps, _has_graph_size(run.steps, largest_total)) for run in runs]
    batch, total, kv = (np.concatenate(parts) for parts in zip(*mixed, strict=True))
    mixed_count = np.bincount(total, minlength=largest_total + 1)
    sums = (np.bincount(total, weights=part, minlength=largest_total + 1) for part in (batch, kv))
    mixed_batch, mixed_kv = (part / np.maximum(mixed_count, 1) for part in sums)
    return StepHistogram(count, decode_kv, mixed_count, mixed_batch, mixed_kv)


def _has_graph_size(steps: StepRecords, largest_total: int) -> NDArray[np.bool_]:
    small = steps.batch_size + steps.prefill_tokens <= largest_total
    served: NDArray[np.bool_] = small & (steps.kind != StepKind.DECODE) & (steps.prefill_tokens > 0)
    return served


def _columns(steps: StepRecords, chosen: NDArray[np.bool_]) -> tuple[Integers, Integers, Integers]:
    batch = steps.batch_size[chosen].astype(np.int64)
    return batch, batch + steps.prefill_tokens[chosen], steps.kv_tokens[chosen]


def cell_loads(
    histogram: StepHistogram, model: CostModel, candidates: Sequence[int], pool: GraphPool
) -> list[Load]:
    """Return a histogram's loads by cell: decode steps, and those with prompts where the pool serves them.

    Steps between two neighbouring candidates take the same graph in every list made of candidates, so they
    are one cell: cell k are the steps above candidate k − 1 and up to candidate k (from 1), the cell after
    the last those above all candidates. Graphs, too, are indexed so.
    """
    sizes = np.array(sorted(candidates), np.int64)
    limit = full_limit(pool, len(histogram.decode_count) - 1)
    loads = [_decode_cells(histogram, model, sizes, limit)]
    if pool.piecewise:
        loads.append(_mixed_cells(histogram, model, sizes))
    return loads


def cell_problem(loads: Sequence[Load], candidates: Sequence[int], forced: Sequence[int] = ()) -> SizeProblem:
    """Return the problem that loads by cell make, in sizes."""
    sizes = sorted(candidates)
    places = [sizes.index(size) + 1 for size in forced]
    problem = size_problem(loads, range(1, len(sizes) + 1), forced=places)
    return replace(
        problem,
        candidates=tuple(sizes[place - 1] for place in problem.candidates),
        forced=tuple(sorted(set(forced))),
    )


def _decode_cells(
    histogram: StepHistogram, model: CostModel, sizes: Integers, full_up_to: int | None
) -> Load:
    """Return the token-weighted decode load, costed at each batch size's mean KV tokens.

    Sizes above `full_up_to` (None: none are) serve decode batches as PIECEWISE graphs.
    """
    batches = np.flatnonzero(histogram.decode_count[1:]) + 1
    kv = histogram.decode_kv[batches]
    weights = (histogram.decode_count[batches] * batches).astype(np.float64)
    cells = np.searchsorted(sizes, batches) + 1
    count = len(sizes) + 2
    total = np.bincount(cells, weights, count)
    each = np.maximum(total, 1.0)
    eager_ns = [
        model.decode_line(model.without_graph, batch).ns(int(tokens))
        for batch, tokens in zip(batches.tolist(), kv, strict=True)
    ]
    eager = np.bincount(cells, weights * np.array(eager_ns, np.float64), count) / each
    graph = np.zeros((count, len(sizes) + 1))
    for place, size in enumerate(sizes.tolist(), 1):
        held = batches <= size
        try:
            launch: Launch = "graph" if full_up_to is None or size <= full_up_to else "piecewise"
            times = _line_ns(model.decode_line(launch, size), kv[held])
        except InputError:  # the profile's table ends below this size
            graph[:, place] = np.nan
            continue
        graph[:, place] = np.bincount(cells[held], weights[held] * times, count) / each
    return Load.of(total, graph, eager)


def _line_ns(line: StepLine, kv_tokens: Floats) -> Floats:
    place = np.searchsorted(line.starts, kv_tokens, side="right") - 1
    times: Floats = np.asarray(line.offsets)[place] + np.asarray(line.slopes)[place] * kv_tokens
    return times


def _mixed_cells(histogram: StepHistogram, model: CostModel, sizes: Integers) -> Load:
    """Return the load of steps with prompt tokens by total tokens, for one list that serves them, too.

    A step counts once for each running decode and once for its prompts. The steps of a cell stand as one of
    their mean total, with their mean numbers of decodes and KV tokens and one fresh prompt chunk.
    """
    count, totals = histogram.mixed_count, np.flatnonzero(histogram.mixed_count)
    cells = np.searchsorted(sizes, totals) + 1
    weights = np.zeros(len(sizes) + 2)
    eager, graph = np.zeros(len(sizes) + 2), np.zeros((len(sizes) + 2, len(sizes) + 1))
    for cell in np.unique(cells).tolist():
        inside = totals[cells == cell]
        steps = count[inside]
        tokens = max(round(float(np.average(inside, weights=steps))), 1)
        batch, kv = (
            float(np.average(part[inside], weights=steps))
            for part in (histogram.mixed_batch, histogram.mixed_kv)
        )
        weights[cell] = float(steps @ (histogram.mixed_batch[inside] + 1.0))
        rows = min(round(batch), tokens - 1)
        chunk = PrefillChunk(-1, tokens - rows, 0, is_last=True)
        kind = StepKind.MIXED if rows else StepKind.PREFILL
        plan = StepPlan(kind, rows, None, round(kv) if rows else 0, (chunk,))
        eager[cell] = model.run(plan)
        graph[cell, cell:] = model.piecewise_ns(plan, sizes[cell - 1 :].tolist())
    return Load.of(weights, graph, eager)


def padding_reach(
    model: CostModel, candidates: Sequence[int], pool: GraphPool, kv_per_row: float, most: int
) -> dict[int, int]:
    """Return for each candidate (and 0) the largest one that may follow it in a list.

    A batch just above a size runs in the next one; there it may take at most `MOST_PADDING` longer than in
    the smallest candidate that holds it, by curves that do not fall. Decode steps decide up to `most`
    requests, steps of one prompt above.
    """
    sizes = sorted(candidates)
    reach = {}
    decode = [size for size in sizes if size <= most]
    prompts = [size for size in sizes if size > most] if pool.piecewise else []
    for before, upto in pairwise([0, *decode]):
        held = [size for size in decode if size >= upto]
        times = [_decode_ns(model, size, kv_per_row * (before + 1)) for size in held]
        reach[before] = min(_last_within(times, held), max(farthest(before), upto))
    last = decode[-1] if decode else 0
    for before, upto in pairwise([last, *prompts]):
        held = [size for size in prompts if size >= upto]
        chunk = PrefillChunk(-1, before + 1, 0, is_last=True)
        times = model.piecewise_ns(StepPlan(StepKind.PREFILL, 0, None, 0, (chunk,)), held)
        reach[before] = _last_within(times, held)
    return reach


def farthest(before: int) -> int:
    """Return the largest size that may follow another one, however cheap a curve says padding is.

    No curve is measured so densely that a batch may be padded to more than `MOST_RATIO` times its size.
    """
    return max(8, MOST_RATIO * (before + 1))


def is_near(sizes: Sequence[int], max_num_seqs: int) -> bool:
    """Tell whether no size that decode steps take is too far from the one before it."""
    decode = [size for size in sizes if size <= max_num_seqs]
    return all(after <= farthest(before) for before, after in pairwise((0, *decode)))


def decode_together(histogram: StepHistogram) -> int:
    """Return how many requests decode together at most, for 95 % of the tokens."""
    tokens = np.cumsum(histogram.decode_count * np.arange(len(histogram.decode_count)))
    return int(np.searchsorted(tokens, OFTEN * tokens[-1])) if tokens[-1] else 0


def unmet_sizes(sizes: Sequence[int], together: int, max_num_seqs: int) -> tuple[int, ...]:
    """Return the sizes of a list that traffic says nothing of in which at most `together` requests decode.

    Those that decode steps take and that lie farther above than a size may follow another; where no more than
    one or two requests decode together, all of them.
    """
    if together < LEAST_TOGETHER:
        return tuple(sizes)
    return tuple(size for size in sizes if farthest(together) < size <= max_num_seqs)


def graphs_to_be_near(sizes: Iterable[int]) -> int:
    """Return how many graphs a list of 1 and these sizes has at least, with no neighbours too far apart."""
    count, last = 1, 1
    for size in sorted({*sizes} - {1}):
        while farthest(last) < size:
            count, last = count + 1, farthest(last)
        count, last = count + 1, size
    return count


def has_graph_time(model: CostModel, size: int) -> bool:
    """Tell whether the profile knows how long a decode step takes in the graph of a size."""
    return not np.isnan(_decode_ns(model, size, 0.0))


def _decode_ns(model: CostModel, size: int, kv_tokens: float) -> float:
    try:
        return model.decode_line("graph", size).ns(int(kv_tokens))
    except InputError:
        return float("nan")


def _last_within(times: Sequence[float], sizes: Sequence[int]) -> int:
    highest = np.fmax.accumulate(np.array(times))
    within = np.flatnonzero(highest <= highest[0] * (1 + MOST_PADDING))
    return sizes[int(within[-1])] if len(within) else sizes[-1]
