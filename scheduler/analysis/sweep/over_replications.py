"""From flat records of single replications to one row per point and variant, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scheduler.analysis.metrics import Record
from scheduler.analysis.statistics.difference import paired_difference
from scheduler.analysis.statistics.intervals import Interval, mean_interval
from scheduler.simulate import HIGH

Group = tuple[tuple[Any, ...], str]


def grouped(records: Sequence[Record], swept: Sequence[str]) -> dict[Group, list[Record]]:
    """Return the successful records by (values of the swept keys, variant), in order of appearance."""
    groups: dict[Group, list[Record]] = {}
    for record in records:
        if "error" not in record:
            values = tuple(record.get(key) for key in swept)
            groups.setdefault((values, record["variant"]), []).append(record)
    return groups


def estimate(records: Sequence[Record], key: str) -> Interval | None:
    """Return a metric's mean with its interval, None where a replication lacks it; one has no width known.

    A single replication gives low = high = mean with `samples` 1: no interval may be shown.
    """
    values = [record[key] for record in records if key in record]
    if not values or len(values) < len(records):
        return None
    mean = float(np.mean(values))
    return mean_interval(values) or Interval(mean, mean, mean, 1)


def rate_rows(records: Sequence[Record], swept: Sequence[str]) -> list[Record]:
    """Return one row per point and variant of the rate searches: the mean highest rate, its t interval.

    `max_rate_per_s` and its ends are left out where a replication found none (`limited_by` says why).
    `gain_over_eager` is the paired mean difference / eager's mean, over the same replications.
    """
    groups = grouped(records, swept)
    rows = []
    for (values, variant), group in groups.items():
        row: Record = dict(zip(swept, values, strict=True))
        row |= {
            "variant": variant,
            "replications": len(group),
            "slo_share": group[0]["slo_share"],
            "simulations": sum(record["simulations"] for record in group),
            "limited_by": ", ".join(dict.fromkeys(record["limited_by"] for record in group)),
        }
        for key, least in (("lowest_rate_per_s", min), ("highest_rate_per_s", max)):
            tried = [record[key] for record in group if key in record]
            if tried:
                row[key] = least(tried)
        interval = estimate(group, "max_rate_per_s")
        if interval is not None:
            row["max_rate_per_s"] = interval.mean
            row["max_rate_by_replication"] = [record["max_rate_per_s"] for record in group]
            if interval.samples > 1:
                # Few and unlike replications reach below 0, where no rate is.
                row |= {"max_rate_low_per_s": max(0.0, interval.low), "max_rate_high_per_s": interval.high}
        rows.append(row | _gains(groups, (values, variant)))
    return rows


def _gains(groups: dict[Group, list[Record]], group: Group) -> Record:
    """Return how much higher the rate is than eager's, at either end of a range of the profile."""
    values, variant = group
    gains: Record = {}
    for eager, name in (("eager", "gain_over_eager"), ("eager" + HIGH, "gain_over_eager_high")):
        baseline = _rates(groups.get((values, eager), []))
        candidate = _rates(groups[group])
        # A pool's own high end is compared with eager's high end; a pool without one with both.
        is_other_end = variant.endswith(HIGH) != eager.endswith(HIGH) and (values, variant + HIGH) in groups
        skipped = variant.startswith("eager") or is_other_end or (variant.endswith(HIGH) and eager == "eager")
        if skipped or not baseline or len(baseline) != len(candidate):
            continue
        paired = paired_difference(baseline, candidate, lower_is_better=False)
        if paired.relative is None:
            continue
        gains[name] = paired.relative
        if paired.interval is not None:
            mean = float(np.mean(baseline))
            gains[f"{name}_interval"] = [paired.interval.low / mean, paired.interval.high / mean]
    return gains


def _rates(records: Sequence[Record]) -> list[float]:
    rates = [record["max_rate_per_s"] for record in records if "max_rate_per_s" in record]
    return rates if len(rates) == len(records) else []
