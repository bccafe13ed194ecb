"""A sweep in the terminal: one line per point and variant, and the highest rates that meet the SLO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from scheduler.analysis.metrics import Record
from scheduler.analysis.statistics.steady_state import LEAST_ARRIVALS
from scheduler.analysis.sweep.over_replications import estimate, grouped
from scheduler.report.wording import count_text, number_text, percent_text
from scheduler.simulate import HIGH

# The first percentile of each kind that every run may state is shown.
LATENCIES: tuple[tuple[tuple[str, str], ...], ...] = (
    (("p99_ttft_ms", "p99 TTFT ms"), ("p90_ttft_ms", "p90 TTFT ms")),
    (("p99_tpot_ms", "p99 TPOT ms"), ("p90_tpot_ms", "p90 TPOT ms")),
)
# What is served is counted up to the last arrival; in a closed loop, which has none, in all.
COLUMNS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("delivered_request_rate", "served req/s"), ("request_throughput", "served req/s")),
    (("slo_attainment", "SLO met"),),
    (("output_throughput_to_last_arrival", "output tok/s"), ("output_throughput", "output tok/s")),
    (("mean_batch_size", "batch"),),
)
SERVED = "delivered_request_rate"
LATENCY = "_ms"


def sweep_text(records: Sequence[Record], swept: Sequence[str]) -> str:
    """Return the table of a sweep: means with the half-width of their 95 % intervals.

    Where a replication has no steady state the latencies are not shown: they only describe the length of
    the run.
    """
    groups = grouped(records, swept)
    if not groups:
        return ""
    columns = _columns(list(groups.values()))
    rows = [[*swept, "variant", *(title for _, title in columns), ""]]
    for (values, variant), group in groups.items():
        steady = all(record.get("steady_state", True) for record in group)
        cells = [_cell(group, key) if steady or not key.endswith(LATENCY) else "–" for key, _ in columns]
        rows.append([*map(_setting, values), _variant(variant), *cells, "" if steady else _why(group)])
    replications = max(len(group) for group in groups.values())
    note = (
        f"± half of the 95 % interval over {count_text(replications, 'replication')}."
        if replications > 1
        else "1 replication: no intervals."
    )
    return "\n".join(_aligned(rows, left=len(swept) + 1)) + f"\n{note}\n"


def _columns(groups: Sequence[Sequence[Record]]) -> list[tuple[str, str]]:
    """Return the columns that exist, as (key, title)."""
    chosen = []
    for kinds in LATENCIES:
        chosen += [kind for kind in kinds if _is_in(kind[0], groups, all)][:1]
    for kinds in COLUMNS:
        chosen += [kind for kind in kinds if _is_in(kind[0], groups, any)][:1]
    return chosen


def _is_in(key: str, groups: Sequence[Sequence[Record]], how_many: Callable[[Iterable[bool]], bool]) -> bool:
    return how_many(key in record for group in groups for record in group)


def max_rate_text(rows: Sequence[Record], swept: Sequence[str]) -> str:
    """Return the highest rates that meet the SLO, with intervals and the paired gain over eager."""
    if not rows:
        return ""
    share = rows[0]["slo_share"]
    lines = [f"Highest rate (requests/s) at which {100 * share:g} % of the requests meet the SLO:"]
    table = [[*swept, "variant", "req/s", "95 % interval", "over eager", "limited by"]]
    table += [
        [
            *(_setting(row[key]) for key in swept),
            _variant(row["variant"]),
            *_rate_cells(row),
            row["limited_by"] if "max_rate_per_s" in row else "",
        ]
        for row in rows
    ]
    lines += _aligned(table, left=len(swept) + 1)
    lines += [f"{_variant(row['variant'])}: {line}" for row in rows for line in _remarks(row)]
    return "\n".join(lines) + "\n"


def _rate_cells(row: Record) -> tuple[str, str, str]:
    if "max_rate_per_s" not in row:
        return "none", "–", "–"
    interval = "–"
    if "max_rate_low_per_s" in row:
        interval = f"[{number_text(row['max_rate_low_per_s'])}, {number_text(row['max_rate_high_per_s'])}]"
    gains = [row[key] for key in ("gain_over_eager", "gain_over_eager_high") if key in row]
    return number_text(row["max_rate_per_s"]), interval, " … ".join(map(percent_text, gains)) or "–"


def _remarks(row: Record) -> list[str]:
    remarks = []
    if "lowest_rate_per_s" in row:
        remarks.append(
            f"even {number_text(row['lowest_rate_per_s'])} requests/s miss the SLO; "
            "it is tighter than an idle server"
        )
    if "highest_rate_per_s" in row:
        remarks.append(
            f"no ceiling found: {number_text(row['highest_rate_per_s'])} requests/s still meet the SLO "
            "(raise requests: the run may be too short to fill the server)"
        )
    if "run too short" in row["limited_by"]:
        remarks.append("above the rate shown the run is too short to tell; raise requests")
    return remarks


def _cell(group: Sequence[Record], key: str) -> str:
    interval = estimate(group, key)
    if interval is None:
        return "–"
    if key == SERVED:
        return _served(group, interval.mean)
    if key == "slo_attainment":
        return f"{100 * interval.mean:.1f} %"
    if interval.samples < 2:
        return number_text(interval.mean)
    return f"{number_text(interval.mean)} ±{number_text(interval.half_width)}"


def _served(group: Sequence[Record], served: float) -> str:
    """Return what is served of what arrives; with a steady state that is all, whatever a finite run shows."""
    if any(record["num_prompts"] < LEAST_ARRIVALS for record in group):
        return "–"  # too few to tell
    rates = [rate for record in group if not isinstance(rate := record["request_rate"], str)]
    if len(rates) < len(group):
        return number_text(served)
    offered = number_text(fmean(rates))
    if any(record.get("overloaded") for record in group):
        return f"{number_text(served)} of {offered}"
    return f"keeps up with {offered}" if all(record["steady_state"] for record in group) else "–"


def _why(group: Sequence[Record]) -> str:
    if not any(record.get("overloaded") for record in group):
        return "no steady state: run too short"
    growth = estimate(group, "queue_growth_per_s")
    return f"OVERLOADED, queue grows by {number_text(growth.mean)}/s" if growth else "OVERLOADED"


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _variant(name: str) -> str:
    return f"{name.removesuffix(HIGH)}, slow host" if name.endswith(HIGH) else name


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return lines with columns side by side: the first `left` and the last flush left, others right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < left or index == len(row) - 1 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
