"""Tables of measured times, and how they are read between and beyond their points.

Between measured sizes two neighbours are read at the same KV tokens per row and mixed in proportion; within
a size the curve is linear between measured points and goes on straight beyond them. So what is read is
continuous in both arguments, whatever the noise of the table.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from scheduler.catalog.numbers import MsOrZero, Strict, as_tuple, expectation, number, whole

MOST_POINTS = 200_000

_Size = Annotated[int, BeforeValidator(whole(1, 1_000_000))]
_Tokens = Annotated[float, BeforeValidator(number(1e12, least=0))]
_Sizes = Annotated[tuple[_Size, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=MOST_POINTS)]
_TokenAxis = Annotated[
    tuple[_Tokens, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=MOST_POINTS)
]
_MsList = Annotated[
    tuple[MsOrZero, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=MOST_POINTS)
]


def _must_ascend(values: Sequence[float], key: str) -> None:
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise expectation("ascending numbers without repeats", key, got=False)


class Table(Strict):
    """Measured times by what they depend on; one field of a profile, with one origin."""


class DecodeTable(Table):
    """GPU milliseconds of a decode step on a ragged grid.

    For each of `sizes` (rows, ascending) a piecewise linear curve: `ms[i][j]` at `kv_tokens[i][j]`, the
    total number of tokens in the KV cache of all rows.
    """

    sizes: _Sizes
    kv_tokens: Annotated[tuple[_TokenAxis, ...], BeforeValidator(as_tuple), Field(max_length=MOST_POINTS)]
    ms: Annotated[tuple[_MsList, ...], BeforeValidator(as_tuple), Field(max_length=MOST_POINTS)]

    @model_validator(mode="after")
    def _shapes_agree(self) -> DecodeTable:
        _must_ascend(self.sizes, "sizes")
        if not len(self.sizes) == len(self.kv_tokens) == len(self.ms):
            raise expectation("as many rows of kv_tokens and of ms as sizes", got=False)
        for row, (tokens, times) in enumerate(zip(self.kv_tokens, self.ms, strict=True)):
            _must_ascend(tokens, f"kv_tokens.{row}")
            if len(tokens) != len(times):
                raise expectation("as many numbers as in the same row of kv_tokens", f"ms.{row}", got=False)
        return self


class Curve(Table):
    """Milliseconds at ascending positions, linear in between."""

    at: _TokenAxis
    ms: _MsList

    @model_validator(mode="after")
    def _shapes_agree(self) -> Curve:
        _must_ascend(self.at, "at")
        if len(self.at) != len(self.ms):
            raise expectation("as many numbers as in at", "ms", got=False)
        return self


class JointAttention(Table):
    """Attention of a whole step (all layers) by prefill chunk × its cached tokens × decodes × KV per decode.

    `ms` holds one number per cell in row-major order of the four axes, null where nothing was measured.
    """

    chunk_tokens: _TokenAxis
    cached_tokens: _TokenAxis
    decodes: _TokenAxis
    decode_kv_tokens: _TokenAxis
    ms: Annotated[
        tuple[MsOrZero | None, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=MOST_POINTS)
    ]

    @property
    def axes(self) -> tuple[tuple[float, ...], ...]:
        """The four axes in the order of the cells."""
        return (self.chunk_tokens, self.cached_tokens, self.decodes, self.decode_kv_tokens)

    @model_validator(mode="after")
    def _shapes_agree(self) -> JointAttention:
        names = ("chunk_tokens", "cached_tokens", "decodes", "decode_kv_tokens")
        cells = 1
        for name, axis in zip(names, self.axes, strict=True):
            _must_ascend(axis, name)
            cells *= len(axis)
        if len(self.ms) != cells:
            raise expectation(f"{cells} cells, the product of the axes' lengths", "ms", got=False)
        return self


Points = list[tuple[float, float]]  # (KV tokens, milliseconds), ascending; the last slope goes on


def decode_points(table: DecodeTable, size: int) -> Points:
    """Return GPU milliseconds of a step of `size` rows as points over total KV tokens, from 0 on."""
    sizes = table.sizes
    index = bisect_left(sizes, size)
    if index < len(sizes) and sizes[index] == size:
        return _anchored(_per_row(table, index), size)
    if index == 0:  # below the smallest measured size: as that size, with the same KV per row
        return _anchored(_per_row(table, 0), size)
    beyond = index == len(sizes)
    if beyond and len(sizes) == 1:
        return _anchored(_per_row(table, 0), size)
    low = index - 2 if beyond else index - 1
    first, second = _per_row(table, low), _per_row(table, low + 1)
    share = (size - sizes[low]) / (sizes[low + 1] - sizes[low])
    contexts = sorted({context for context, _ in first} | {context for context, _ in second})
    mixed: Points = []
    for context in contexts:
        smaller, larger = read_points(first, context), read_points(second, context)
        if beyond:  # noise must not make a larger step faster than the largest measured
            mixed.append((context, larger + (share - 1) * max(larger - smaller, 0.0)))
        else:
            mixed.append((context, smaller + share * (larger - smaller)))
    return _anchored(mixed, size)


def read_points(points: Points, at: float) -> float:
    """Return the piecewise linear value at a position; the end segments go on, never below 0 ms.

    Beyond the last point the line never falls.
    """
    if len(points) == 1:
        return points[0][1]
    index = bisect_right(points, at, key=lambda point: point[0])
    index = min(max(index, 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[index - 1], points[index]
    slope = (y1 - y0) / (x1 - x0)
    if at > x1:
        return y1 + max(slope, 0.0) * (at - x1)
    return max(y0 + slope * (at - x0), 0.0)


def _per_row(table: DecodeTable, index: int) -> Points:
    size = table.sizes[index]
    return [(tokens / size, ms) for tokens, ms in zip(table.kv_tokens[index], table.ms[index], strict=True)]


def _anchored(per_row: Points, size: int) -> Points:
    """Turn KV per row into KV totals and let the curve begin at 0 tokens."""
    start = [] if per_row[0][0] == 0 else [(0.0, read_points(per_row, 0.0))]
    return start + [(context * size, ms) for context, ms in per_row]


def read_curve(curve: Curve, at: float) -> float:
    """Return the curve's milliseconds; flat below its first point, never falling beyond its last."""
    positions, values = curve.at, curve.ms
    if at <= positions[0] or len(positions) == 1:
        return values[0]
    index = min(bisect_right(positions, at), len(positions) - 1)
    x0, x1, y0, y1 = positions[index - 1], positions[index], values[index - 1], values[index]
    slope = (y1 - y0) / (x1 - x0)
    return y1 + max(slope, 0.0) * (at - x1) if at > x1 else y0 + slope * (at - x0)


def pairs_of(tokens: int, cached_tokens: int) -> float:
    """Return how many (new, earlier) token pairs a chunk's causal attention has, half of a token each."""
    return tokens * (cached_tokens + tokens / 2)
