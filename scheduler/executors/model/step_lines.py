"""A decode step's time for one size, as a piecewise linear function of the KV tokens, in nanoseconds."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from math import ceil
from typing import Final

from scheduler.catalog.profile.tables import Points

NS_PER_MS: Final = 1e6
# `int(x + HALF_EVEN - HALF_EVEN)` is round(x) without its call for |x| < 2⁵¹ (26 days in ns): doubles of that
# size are whole, and adding rounds half to even.
HALF_EVEN: Final = 6755399441055744.0


@dataclass(frozen=True, slots=True)
class StepLine:
    """Nanoseconds = `offsets[i] + slopes[i] · kv_tokens` from `starts[i]` tokens on; `starts[0]` is 0.

    `measured_kv_tokens` is the largest KV total measured for the size; beyond it the line is extrapolated.
    `constant_ns` are the rounded nanoseconds where KV tokens do not count, else None.
    """

    starts: tuple[int, ...]
    offsets: tuple[float, ...]
    slopes: tuple[float, ...]
    measured_kv_tokens: float
    constant_ns: int | None = field(init=False)

    def __post_init__(self) -> None:
        is_constant = len(self.slopes) == 1 and self.slopes[0] == 0.0
        object.__setattr__(self, "constant_ns", round(self.offsets[0]) if is_constant else None)

    def ns(self, kv_tokens: int) -> float:
        """Return the unrounded nanoseconds at a number of KV tokens."""
        index = bisect_right(self.starts, kv_tokens) - 1
        return self.offsets[index] + self.slopes[index] * kv_tokens


def step_line(points: Points, least_ms: float, added_ms: float) -> StepLine:
    """Return the line of `added_ms + max(least_ms, points)` in nanoseconds."""
    measured = points[-1][0]
    if len(points) == 1:
        points = [*points, (points[0][0] + 1.0, points[0][1])]
    (x0, y0), (x1, y1) = points[-2:]
    last_slope = max((y1 - y0) / (x1 - x0), 0.0)
    starts: list[float] = []
    offsets: list[float] = []
    slopes: list[float] = []

    def begin(x: float, y: float, slope: float) -> None:
        starts.append(x)
        offsets.append((y + added_ms - slope * x) * NS_PER_MS)
        slopes.append(slope * NS_PER_MS)

    for index, (x, y) in enumerate(points):
        end = points[index + 1] if index + 1 < len(points) else None
        slope = (end[1] - y) / (end[0] - x) if end else last_slope
        crossing = x + (least_ms - y) / slope if slope else None
        crosses = crossing is not None and crossing > x and (end is None or crossing < end[0])
        if y >= least_ms and not (y == least_ms and slope < 0):
            begin(x, y, slope)
            if crosses and crossing is not None:
                begin(crossing, least_ms, 0.0)
        else:
            begin(x, least_ms, 0.0)
            if crosses and crossing is not None:
                begin(crossing, least_ms, slope)
    return StepLine(*_merged(starts, offsets, slopes), measured)


def _merged(
    starts: list[float], offsets: list[float], slopes: list[float]
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """Let segments begin at whole tokens; drop those that are empty or go on exactly as the one before."""
    kept: list[int] = []
    for index, start in enumerate(starts):
        if kept and ceil(starts[kept[-1]]) == ceil(start):
            kept.pop()
        if kept and (slopes[index], offsets[index]) == (slopes[kept[-1]], offsets[kept[-1]]):
            continue
        kept.append(index)
    begins = tuple(ceil(starts[i]) for i in kept)
    return begins, tuple(offsets[i] for i in kept), tuple(slopes[i] for i in kept)
