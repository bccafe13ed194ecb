"""From a sweep's records to its pictures: curves over the first swept number, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.analysis.metrics import Record
from scheduler.analysis.statistics.intervals import Interval
from scheduler.analysis.sweep.over_replications import Group, estimate, grouped
from scheduler.simulate import HIGH

if TYPE_CHECKING:
    from scheduler.report.plots.decisions import Estimate, ParetoPoint, SweepCurves

RATE_KEY = "arrivals.rate_per_s"
METRICS = ("p99_ttft_ms", "p99_tpot_ms", "request_goodput_to_last_arrival")
MOST_LINES = 10


def write_sweep_plots(records: Sequence[Record], swept: Sequence[str], folder: Path) -> list[Path]:
    """Draw sweep.png (where a number is swept) and pareto.png; return the files."""
    from scheduler.report import plots

    axis = drawn_axis(records, swept)
    figures = {}
    curves = sweep_curves_of(records, swept, axis) if axis is not None else None
    if curves is not None:
        figures["sweep.png"] = plots.sweep_curves(curves)
    points = pareto_points(records, swept, axis)
    if points:
        figures["pareto.png"] = plots.pareto(points, _label(axis) if axis is not None else "")
    for name, figure in figures.items():
        plots.save_png(figure, folder / name)
    return [folder / name for name in figures]


def drawn_axis(records: Sequence[Record], swept: Sequence[str]) -> str | None:
    """Return the key of the horizontal axis: the rate, or the first key with two numbers or more."""
    for key in sorted(swept, key=lambda key: key != RATE_KEY):
        values = {record.get(key) for record in records}
        if len(values) > 1 and all(_is_number(value) for value in values):
            return key
    return None


def sweep_curves_of(records: Sequence[Record], swept: Sequence[str], axis: str) -> SweepCurves | None:
    """Return one line per variant and other swept values; a latency without steady state is a gap."""
    from scheduler.report.plots.decisions import SweepCurves, SweptVariant

    values = sorted({record[axis] for record in records})
    lines = _lines(records, swept, axis)
    variants = tuple(
        SweptVariant(
            name,
            {key: tuple(_estimate(groups.get(value, []), key) for value in values) for key in METRICS},
        )
        for name, groups in lines.items()
    )
    if not any(any(found) for variant in variants for found in variant.metrics.values()):
        return None
    slo_ms: dict[str, float] = next(
        (record["goodput_slo"] for record in records if "goodput_slo" in record), {}
    )
    return SweepCurves(_label(axis), tuple(values), variants, slo_ms)


def pareto_points(
    records: Sequence[Record], swept: Sequence[str], axis: str | None
) -> dict[str, Sequence[ParetoPoint]]:
    """Return tokens/s per user and of the server, by line; points without steady state are left out."""
    from scheduler.report.plots.decisions import ParetoPoint

    found: dict[str, Sequence[ParetoPoint]] = {}
    for name, groups in _lines(records, swept, axis).items():
        points = []
        for value, group in groups.items():
            tpot, tokens = _estimate(group, "mean_tpot_ms"), _served_tokens(group)
            if tpot is not None and tokens is not None:
                label = f"{value:g}" if axis is not None else ""
                points.append(ParetoPoint(label, 1000 / tpot.mean, tokens.mean))
        if points:
            found[name] = points
    return found


def _served_tokens(group: Sequence[Record]) -> Interval | None:
    """Return output tokens per second up to the last arrival; in a closed loop, which has none, in all."""
    return estimate(group, "output_throughput_to_last_arrival") or estimate(group, "output_throughput")


def _lines(
    records: Sequence[Record], swept: Sequence[str], axis: str | None
) -> dict[str, dict[Any, list[Record]]]:
    """Return the records by line and value on the axis; more lines than one can tell apart are cut."""
    lines: dict[str, dict[Any, list[Record]]] = {}
    for (values, variant), group in grouped(records, swept).items():
        name = _line_name((values, variant), swept, axis)
        value = values[list(swept).index(axis)] if axis is not None else None
        lines.setdefault(name, {})[value] = group
    return dict(list(lines.items())[:MOST_LINES])


def _line_name(group: Group, swept: Sequence[str], axis: str | None) -> str:
    values, variant = group
    name = f"{variant.removesuffix(HIGH)}, slow host" if variant.endswith(HIGH) else variant
    others = [
        f"{key.rpartition('.')[2]} {value}" for key, value in zip(swept, values, strict=True) if key != axis
    ]
    return ", ".join([name, *others])


def _estimate(group: Sequence[Record], key: str) -> Estimate | None:
    from scheduler.report.plots.decisions import Estimate

    if key.endswith("_ms") and not all(record.get("steady_state", True) for record in group):
        return None
    interval = estimate(group, key)
    if interval is None:
        return None
    if interval.samples < 2:
        return Estimate(interval.mean)
    return Estimate(interval.mean, interval.low, interval.high)


def _label(key: str) -> str:
    return "request rate (1/s)" if key == RATE_KEY else key


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
