"""What a paired difference shows: candidate − baseline on the same requests, its interval, the verdict.

Every variant meets the same requests, so differences are taken within a replication before they are
averaged (common random numbers), or request by request where there is one run (`block_bootstrap.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from scheduler.analysis.statistics.intervals import CONFIDENCE, Interval, half_width_of, mean_interval

_MOST_REPLICATIONS = 1 << 20


class Verdict(StrEnum):
    """What a paired difference shows."""

    FASTER = "FASTER"
    SLOWER = "SLOWER"
    NO_DIFFERENCE_SHOWN = "NO DIFFERENCE SHOWN"


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate − baseline of one number, in its unit, on the same requests.

    `relative` is to the baseline (None where that is 0). Without an `interval` the verdict claims nothing,
    and `why_no_interval` is the reason. `within_run`: the interval is over blocks of time of one run and
    holds for its traffic alone. `more_replications` is about how many further ones would bring the
    half-width to 1 % of the baseline's mean (0: it is there already; None: one run, or no number does).
    """

    difference: float
    relative: float | None
    interval: Interval | None
    verdict: Verdict
    within_run: bool = False
    more_replications: int | None = None
    why_no_interval: str | None = None

    @property
    def relative_half_width(self) -> float | None:
        """Half the interval's length relative to the baseline."""
        if self.interval is None or not self.difference or self.relative is None:
            return None
        return abs(self.relative / self.difference) * self.interval.half_width


def paired_difference(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    lower_is_better: bool = True,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Compare two variants whose i-th values come from the same replication i.

    FASTER or SLOWER is said only when the t interval of the difference excludes 0. Raises ValueError where
    the two do not pair up.
    """
    if len(baseline) != len(candidate) or not len(baseline):
        raise ValueError(f"values do not pair up: {len(baseline)} against {len(candidate)}")
    differences = np.asarray(candidate, float) - np.asarray(baseline, float)
    scale = abs(float(np.mean(baseline)))
    difference = float(differences.mean())
    relative = difference / scale if scale else None
    interval = mean_interval(differences.tolist(), confidence)
    if interval is None:
        return without_interval(difference, relative, "one replication")
    spread = float(differences.std(ddof=1))
    needed = replications_to_resolve(spread, 0.01 * scale, confidence)
    more = None if needed is None else max(0, needed - len(differences))
    verdict = verdict_of(interval, lower_is_better)
    return Difference(difference, relative, interval, verdict, more_replications=more)


def without_interval(
    difference: float, relative: float | None, reason: str, *, within_run: bool = False
) -> Difference:
    """Return a difference of which nothing can be said but its size, and why."""
    shown = Verdict.NO_DIFFERENCE_SHOWN
    return Difference(difference, relative, None, shown, within_run=within_run, why_no_interval=reason)


def verdict_of(difference: Interval, lower_is_better: bool = True) -> Verdict:
    """Return what the interval of candidate − baseline shows; an interval that touches 0 shows nothing."""
    if difference.contains(0.0):
        return Verdict.NO_DIFFERENCE_SHOWN
    return Verdict.FASTER if (difference.high < 0) == lower_is_better else Verdict.SLOWER


def replications_to_resolve(spread: float, half_width: float, confidence: float = CONFIDENCE) -> int | None:
    """Return the least number of replications whose t interval is ± `half_width` or narrower.

    `spread` is the standard deviation over replications seen so far, so the answer is a rough one. None
    where no number within reason does.
    """
    if spread == 0:
        return 2
    if half_width <= 0 or half_width_of(spread, _MOST_REPLICATIONS, confidence) > half_width:
        return None
    low, high = 1, _MOST_REPLICATIONS  # the width falls with the number: bisect
    while high - low > 1:
        middle = (low + high) // 2
        if half_width_of(spread, middle, confidence) <= half_width:
            high = middle
        else:
            low = middle
    return high
