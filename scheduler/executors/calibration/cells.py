"""Which steps a calibration measures: batch × context × mode, with row lengths as traffic has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.executors.calibration.grid import Cell, Mode, SkippedCell

Int64 = NDArray[np.int64]

CPU_BATCHES = (1, 2, 3, 4, 5, 8, 9, 12, 16, 17, 24, 32)
CPU_CONTEXTS = (64, 128, 256)
GPU_BATCHES = (1, 2, 4, 7, 8, 9, 12, 16, 17, 24, 32, 33, 48, 63, 64, 65, 96, 127, 128, 129, 160, 192,
               255, 256, 257, 384, 512)  # fmt: skip
GPU_EAGER_BATCHES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
GPU_CONTEXTS = (32, 256, 1024, 4096)
LIVE_CONTEXT = 512
"""Mean context of the live rows in graph cells with few tokens per row: such steps are mostly padding."""
LENGTH_SPREAD = 0.5
"""Rows of a cell have lengths spread evenly over ± this share of the cell's context, as in real traffic: a
step of equal rows balances the attention kernel's work and is faster than a ragged one of as many tokens."""
ALIGNMENT_TOKENS = 16
"""Rows of a calibration lie one behind the other, each beginning at a multiple of this."""


@dataclass(slots=True)
class CellPlan:
    """The cells that fit the memory, those that do not, and the KV tokens that the largest needs."""

    cells: list[Cell] = field(default_factory=list)
    skipped: list[SkippedCell] = field(default_factory=list)
    needed_tokens: int = 0


def longest_context(contexts: Sequence[int], cut: bool, spread: float) -> int:
    """Return the longest row of any cell; `cut` says that attention is cut at the contexts as buckets."""
    return max(contexts) if cut else math.ceil(max(*contexts, LIVE_CONTEXT) * (1 + spread))


def plan_cells(
    batches: Sequence[int],
    contexts: Sequence[int],
    eager_batches: Sequence[int],
    *,
    stride: int | None,
    budget_tokens: int,
    spread: float,
) -> CellPlan:
    """Choose the cells of ascending batches and contexts within a budget of KV tokens.

    With a `stride` every row takes that many tokens and attention is cut at the contexts as buckets: a cell's
    rows then have the middle length of its bucket. Without, rows take what they hold, their lengths spread.
    """
    plan = CellPlan()
    for batch in batches:
        for index, context in enumerate(contexts):
            if stride is not None:
                before = contexts[index - 1] if index else 0
                in_graph = in_eager = (batch, (before + context) // 2)
                tokens = batch * stride
            else:
                in_graph, in_eager = _compositions(batch, context)
                tokens = int(max(row_ends(row_lengths(*rows, spread))[-1] for rows in (in_graph, in_eager)))
            if tokens > budget_tokens:
                reason = f"{tokens} KV tokens exceed the memory"
                plan.skipped.append({"batch": batch, "context": context, "reason": reason})
                continue
            plan.needed_tokens = max(plan.needed_tokens, tokens)
            lengths_spread = 0.0 if stride is not None else spread
            plan.cells.append(_cell("graph", batch, context, in_graph, lengths_spread))
            if batch in eager_batches:
                plan.cells.append(_cell("eager", batch, context, in_eager, lengths_spread))
    return plan


def _cell(mode: Mode, batch: int, context: int, live: tuple[int, int], spread: float) -> Cell:
    return Cell(mode, batch, context, int(row_lengths(*live, spread).sum()), live[0])


def _compositions(batch: int, context: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (live rows, their mean context) of a graph cell and of an eager cell, which has no padding."""
    rows = live_rows(batch, context)
    return (rows, batch * context // rows), (batch, context)


def live_rows(batch: int, context: int) -> int:
    """Return how many of `batch` rows a graph cell fills so that its rows hold `context` tokens on average.

    A graph holds few tokens per row mostly because few rows are live, and one long row takes longer than
    the same tokens in many short ones: so below a quarter of LIVE_CONTEXT the live rows have that context.
    """
    if context >= LIVE_CONTEXT // 4:
        return batch
    return -(-batch * context // LIVE_CONTEXT)


def row_lengths(batch: int, context: int, spread: float) -> Int64:
    """Return the cached tokens of each row: their mean is context − 1, evenly spread, in mixed order."""
    share = (np.arange(batch) + 0.5) / batch * 2 - 1
    lengths = np.maximum(np.rint((context - 1) * (1 + spread * share)), 0).astype(np.int64)
    return np.random.default_rng(batch).permutation(lengths)


def row_ends(lengths: Int64) -> Int64:
    """Return where each row's part of the slab ends when rows lie one behind the other."""
    return np.cumsum(-(-(lengths + 1) // ALIGNMENT_TOKENS) * ALIGNMENT_TOKENS)


def row_states(
    cell: Cell, vocabulary: int, stride: int | None, spread: float, draw: np.random.Generator
) -> Int64:
    """Return token, position and first KV entry of each live row, int64 [live_rows, 3]."""
    state = np.zeros((cell.live_rows, 3), np.int64)
    state[:, 0] = draw.integers(vocabulary, size=cell.live_rows)
    if stride is not None:
        state[:, 1] = cell.kv_tokens // cell.live_rows
        state[:, 2] = np.arange(cell.live_rows) * stride
        return state
    lengths = row_lengths(cell.live_rows, cell.context * cell.batch // cell.live_rows, spread)
    state[:, 1] = lengths
    state[1:, 2] = row_ends(lengths)[:-1]
    return state
