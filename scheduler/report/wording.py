"""How numbers, sizes, arrivals and lengths are put into words, the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from textwrap import wrap

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


def short_text(value: float) -> str:
    """Return a number with three significant digits: 9.64, 12.6, 229, 2,966."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def range_of_percents(shares: Sequence[float]) -> str:
    """Return the least and the most of signed shares: −5…+7 %."""
    low, high = (f"{100 * end:+z.0f}".replace("-", "−") for end in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low}…{high} %"


def coarse_text(value: float) -> str:
    """Return a number for where there is little room: 9.6, 23, 2,966."""
    return f"{value:,.0f}" if abs(value) >= 9.95 else f"{value:.1f}"


def range_text(values: Iterable[float], text: Callable[[float], str] = short_text) -> str:
    """Return the ends of a range as `12.6–13.1`, one number where they read alike, – where there are none."""
    ends = [text(value) for value in sorted(values)]
    if not ends:
        return "–"
    return ends[0] if ends[0] == ends[-1] else f"{ends[0]}–{ends[-1]}"


def short_percent_text(share: float) -> str:
    """Return a signed change in percent: two significant digits, −38 %, +0.3 %."""
    digits = 0 if abs(share) >= 0.0995 else 1
    return f"{100 * share:+z.{digits}f} %".replace("-", "−")


def rate_text(value: float) -> str:
    """Return a rate per second with three significant digits and no needless zeros: 8, 7.91, 400."""
    text = short_text(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return text in lines of at most `width`; a number keeps its unit, further lines are indented."""
    held = re.sub(r"(?<=[0-9]) (?=(?:%|ms|s|MiB)(?![a-z]))", "\u00a0", text)
    lines = wrap(held, width, subsequent_indent=indent, break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in lines]


def cut_text(text: str, most: int) -> str:
    """Return the text, its end cut off with … where it has more than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def cut_words(text: str, most: int) -> str:
    """Return the text up to the last whole word that fits, with … where words are left out."""
    if len(text) <= most:
        return text
    words = text[: most - 1].rpartition(" ")[0] or text[: most - 2]
    return f"{words.rstrip(' ,;:(')} …"


def percent_text(share: float | None) -> str:
    """Return a signed relative change in percent, with a true minus sign; no change is +0.0 %."""
    if share is None:
        return "–"
    return f"{100 * share:+z.1f} %".replace("-", "−")


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return rows as lines: the first column (or the first `left`) to the left, the others to the right."""
    count = max(len(row) for row in rows)
    padded = [[*row, *[""] * (count - len(row))] for row in rows]
    widths = [max(len(row[i]) for row in padded) for i in range(count)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in padded
    ]


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
