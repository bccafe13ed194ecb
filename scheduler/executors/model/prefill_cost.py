"""GPU time of steps that compute prompt tokens, alone or mixed with decodes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.profile.curves import Prefill
from scheduler.catalog.profile.tables import JointAttention, pairs_of, read_curve
from scheduler.engine.executor import StepPlan
from scheduler.errors import InputError


class JointTable:
    """The joint attention table, read by multilinear interpolation.

    Cells that nobody measured (combinations too large for the GPU's memory) are filled once by going on
    straight along one axis; reading near one counts as extrapolation.
    """

    def __init__(self, attention: JointAttention) -> None:
        self.axes = attention.axes
        values = np.array([np.nan if cell is None else cell for cell in attention.ms])
        grid = values.reshape([len(axis) for axis in self.axes])
        grid, measured = _filled(grid, self.axes)
        # Flat lists: reading single numpy cells from Python costs more than the interpolation.
        self._cells: list[float] = grid.ravel().tolist()
        self._measured: list[bool] = measured.ravel().tolist()
        lengths = [len(axis) for axis in self.axes]
        self._strides = [prod(lengths[place + 1 :]) for place in range(4)]

    def read(self, position: Sequence[float]) -> tuple[float, bool]:
        """Return milliseconds at (chunk, cached, decodes, KV per decode), and whether it was extrapolated."""
        corners = [(0, 1.0)]  # (index of a cell, its weight)
        beyond = False
        for axis, at, stride in zip(self.axes, position, self._strides, strict=True):
            if len(axis) == 1 or at <= axis[0]:
                beyond |= at > axis[-1]
                continue
            high = min(bisect_right(axis, at), len(axis) - 1)
            share = (at - axis[high - 1]) / (axis[high] - axis[high - 1])
            beyond |= share > 1.0
            low_place, high_place = (high - 1) * stride, high * stride
            if share == 0.0:
                corners = [(cell + low_place, weight) for cell, weight in corners]
            elif share == 1.0:
                corners = [(cell + high_place, weight) for cell, weight in corners]
            else:
                corners = [(cell + low_place, weight * (1.0 - share)) for cell, weight in corners] + [
                    (cell + high_place, weight * share) for cell, weight in corners
                ]
        cells, measured = self._cells, self._measured
        total = 0.0
        for cell, weight in corners:
            total += weight * cells[cell]
            beyond |= not measured[cell]
        return max(total, 0.0), beyond


def _filled(
    grid: NDArray[np.float64], axes: tuple[tuple[float, ...], ...]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the grid without gaps, and which cells are measured or follow from what they mean.

    Without prefill tokens nothing is cached for them, without decodes these have no KV tokens: flat there.
    No KV tokens at all is a step back from the two smallest contexts.
    """
    grid = grid.copy()
    no_chunk, no_decodes, no_kv = axes[0][0] == 0, axes[2][0] == 0, axes[3][0] == 0
    if no_chunk:
        np.copyto(grid[0], np.where(np.isnan(grid[0]), grid[0][:1], grid[0]))
    if no_decodes:
        part = grid[:, :, 0]
        np.copyto(part, np.where(np.isnan(part), part[:, :, :1], part))
    if no_chunk and no_decodes:
        grid[0, :, 0] = 0.0
    if no_kv and len(axes[3]) > 2:
        step = (grid[..., 2] - grid[..., 1]) / (axes[3][2] - axes[3][1])
        back = np.clip(grid[..., 1] - step * axes[3][1], 0.0, grid[..., 1])
        np.copyto(grid[..., 0], np.where(np.isnan(grid[..., 0]), back, grid[..., 0]))
    measured = ~np.isnan(grid)
    for axis in (3, 1, 2, 0):
        _go_on_straight(grid, axes[axis], axis)
    if np.isnan(grid).any():
        raise InputError(
            "prefill.attention: the joint table lacks the small cells that others are continued from"
        )
    return grid, measured


def _go_on_straight(grid: NDArray[np.float64], positions: tuple[float, ...], axis: int) -> None:
    """Fill gaps along one axis from the two cells before them, never falling."""
    lines = np.moveaxis(grid, axis, -1)
    for index in range(2, len(positions)):
        (x0, x1), x2 = positions[index - 2 : index], positions[index]
        y0, y1 = lines[..., index - 2], lines[..., index - 1]
        straight = y1 + np.maximum((y1 - y0) / (x1 - x0), 0.0) * (x2 - x1)
        np.copyto(lines[..., index], np.where(np.isnan(lines[..., index]), straight, lines[..., index]))


class PrefillCost:
    """GPU milliseconds of a step with prompt tokens, from a profile's `prefill` section."""

    def __init__(self, prefill: Prefill) -> None:
        self.prefill = prefill
        self.joint = JointTable(prefill.attention) if prefill.attention is not None else None

    def gpu_ms(self, plan: StepPlan, decode_kv_ms: float) -> tuple[float, bool]:
        """Return GPU milliseconds and whether anything was extrapolated.

        `decode_kv_ms` is the KV part of a decode step of the plan's decodes (used without a joint table).
        """
        prefill = self.prefill
        computed = plan.batch_size + plan.draft_tokens + plan.prefill_tokens
        tokens = max(computed, plan.capture_size or 0)
        beyond = tokens > prefill.tokens.at[-1]
        total = read_curve(prefill.tokens, tokens)
        sequences = plan.batch_size + len(plan.prefill)
        if prefill.sequences is not None:
            total += read_curve(prefill.sequences, sequences)
            beyond |= sequences > prefill.sequences.at[-1]
        if self.joint is not None:
            attention, outside = self._joint_attention(plan)
            return total + attention, beyond or outside
        pairs = sum(pairs_of(chunk.tokens, chunk.cached_tokens) for chunk in plan.prefill)
        total += prefill.pair_ms * pairs
        if plan.batch_size:
            total += decode_kv_ms + prefill.mixed_extra_ms
        return total, beyond

    def _joint_attention(self, plan: StepPlan) -> tuple[float, bool]:
        """Read the joint table, which has one prefill sequence, for any number of chunks.

        Several chunks stand as one of the same tokens with the same number of (new, earlier) token pairs.
        Where that is fewer pairs than even a fresh prompt of that length has, the time is taken between
        the smallest measured chunk (which already pays for mixing) and that fresh prompt, by pairs.
        """
        assert self.joint is not None  # noqa: S101 - narrows the type for the checker
        chunk = float(plan.prefill_tokens)
        pairs = sum(pairs_of(part.tokens, part.cached_tokens) for part in plan.prefill)
        kv = plan.kv_tokens / plan.batch_size if plan.batch_size else 0.0
        decodes = float(plan.batch_size)
        cached = pairs / chunk - chunk / 2
        if cached >= 0:
            return self.joint.read((chunk, cached, decodes, kv))
        fresh, beyond = self.joint.read((chunk, 0.0, decodes, kv))
        smallest = min(chunk, next(tokens for tokens in self.joint.axes[0] if tokens > 0))
        alone, _ = self.joint.read((smallest, 0.0, decodes, kv))
        share = pairs / (chunk * chunk / 2)
        return alone + max(fresh - alone, 0.0) * share, beyond
