"""How numbers, sizes, arrivals and lengths are put into words, the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.workload.arrivals import ClosedLoopArrivals, GammaArrivals, TraceArrivals
from scheduler.workload.lengths import (
    DiscreteLength,
    FixedLength,
    GeometricLength,
    Length,
    LognormalLength,
    QuantilesLength,
    UniformLength,
)
from scheduler.workload.schema import Workload


def number_text(value: float) -> str:
    """Return a number with about four significant digits and thousands separators."""
    size = abs(value)
    if size < 1e-9:  # what is left of rounding in the last place is not a number to show
        return "0"
    if size >= 1000:
        return f"{value:,.0f}"
    for limit, digits in ((100, 1), (10, 2), (0.1, 3)):
        if size >= limit:
            return f"{value:.{digits}f}"
    return f"{value:.2g}"


def percent_text(share: float | None) -> str:
    """Return a signed relative change in percent, with a true minus sign; no change is +0.0 %."""
    if share is None:
        return "–"
    return f"{100 * share:+z.1f} %".replace("-", "−")


def count_text(count: int, noun: str) -> str:
    """Return `1 graph`, `51 graphs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def ranges_text(ranges: Sequence[tuple[int, int]]) -> str:
    """Return inclusive ranges as `5–7, 9`; of many, the rest is left to results.json."""
    shown = [f"{low}" if low == high else f"{low}–{high}" for low, high in ranges[:6]]
    return ", ".join(shown) + (
        f" and {len(ranges) - 6} more ranges (results.json)" if len(ranges) > 6 else ""
    )


def sizes_text(sizes: Sequence[int]) -> str:
    """Return a short list of capture sizes in full, a long one as its ends."""
    if len(sizes) <= 12:
        return " ".join(map(str, sizes))
    return f"{' '.join(map(str, sizes[:5]))} … {' '.join(map(str, sizes[-2:]))}"


def arrivals_text(workload: Workload) -> str:
    """Return the arrival process in a few words."""
    arrivals = workload.arrivals
    if isinstance(arrivals, TraceArrivals):
        scale = "" if arrivals.time_scale == 1 else f", every gap × {arrivals.time_scale:g}"
        return f"trace {arrivals.path}{scale}"
    if isinstance(arrivals, ClosedLoopArrivals):
        return f"closed loop of {arrivals.concurrency} users"
    burstiness = f", burstiness {arrivals.burstiness:g}" if isinstance(arrivals, GammaArrivals) else ""
    if arrivals.stages is None:
        return f"{arrivals.process} {arrivals.rate_per_s:g}/s{burstiness}"
    stages = [
        f"{low:g}/s for {stage.duration_s:g} s"
        if low == high
        else f"{low:g}→{high:g}/s in {stage.duration_s:g} s"
        for stage in arrivals.stages
        for low, high in [stage.rates_per_s]
    ]
    cut = ", …" if len(stages) > 4 else ""
    return f"{arrivals.process}{burstiness}, {', '.join(stages[:4])}{cut}, repeating"


def length_text(length: Length | None) -> str:
    """Return a length distribution in a few words."""
    match length:
        case FixedLength():
            return f"{length.value} tokens"
        case UniformLength():
            return f"uniform {length.min}–{length.max}"
        case GeometricLength():
            return f"geometric mean {length.mean:g}{_at_most(length.max)}"
        case LognormalLength():
            return f"lognormal mean {length.mean:g}, p99 {length.p99:g}{_at_most(length.max)}"
        case DiscreteLength():
            return f"one of {len(length.values)} values"
        case QuantilesLength():
            return f"{len(length.values)} quantiles from {length.values[0]:g} to {length.values[-1]:g}"
        case _:
            return "as in the trace"


def _at_most(longest: int | None) -> str:
    return "" if longest is None else f", at most {longest:,}"
