"""What a calibration measured, and how the new profile compares with a run executed for real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.analysis.fidelity.executed import HEADLINE, VariantDifference, VariantFidelity
from scheduler.report.wording import aligned

if TYPE_CHECKING:
    from scheduler.executors.calibration.calibrate import Calibration


def calibration_lines(found: Calibration, out: Path) -> list[str]:
    """Say what was measured: a row per batch, both modes, then noise, captures and the profile's own fit."""
    grid = found.grid
    contexts = sorted({cell.context for cell in grid.cells})
    times = {cell[:3]: grid.times(index).median_ms for index, cell in enumerate(grid.cells)}
    rows: list[Sequence[str]] = [["batch", *(f"{mode} {c}" for c in contexts for mode in ("eager", "graph"))]]
    for batch in sorted({cell.batch for cell in grid.cells}):
        keys = [(mode, batch, context) for context in contexts for mode in ("eager", "graph")]
        rows.append([str(batch), *(f"{times[key]:.3f}" if key in times else "–" for key in keys)])
    floor = grid.noise_floor()
    warm_up_s = sum(row.get("warm_up_s", 0.0) for row in grid.recordings)
    capture_s = sum(row.get("capture_s", 0.0) for row in grid.recordings)
    lines = [
        f"{grid.identity['model']} on {grid.identity['device']}: whole steps in ms (medians), by context",
        *aligned(rows),
        "",
        f"clock      {grid.identity['clock']}; attention {grid.identity['attention']}; "
        f"replay by {grid.identity['backend']}",
        f"noise      p10 to p90 spans {grid.spread():.1%} of the median"
        + ("" if floor is None else f"; two passes differ by {floor:.1%}")
        + ("; MARKED AS NOISY" if found.is_noisy else ""),
        f"captures   {len(grid.recordings)}: {warm_up_s:.2f} s warm-up, {capture_s:.2f} s capture",
    ]
    lines += [
        f"fit        {fit.of}: median {fit.median_error:+.1%}, p90 {fit.p90_error:.1%}"
        for fit in found.profile.fit
    ]
    if grid.skipped:
        lines.append(f"skipped    {len(grid.skipped)} cells, the first: {grid.skipped[0]}")
    return [*lines, f"written    {out} (raw rounds in {found.grid_path})"]


def against_line(workload: str, requests: int) -> str:
    """Return the heading of a workload run for real and by the new profile."""
    return f"{workload}, {requests} requests, executed for real and predicted:"


def fidelity_lines(found: VariantFidelity) -> list[str]:
    """Say what was executed, what was predicted and by how much it was off."""
    lines = [f"{found.name}: executed | predicted | error"]
    errors, high = found.error, found.error_high
    for key in ("steps", "time_mean_batch_size", *HEADLINE, "mean_itl_ms"):
        if key in found.executed and key in found.predicted:
            shown = f"{errors[key]:+.1%}" if key in errors else ""
            lines.append(f"  {key:22} {found.executed[key]:12.4f} | {found.predicted[key]:12.4f} | {shown}")
    if high is not None:
        texts = ", ".join(f"{key} {high[key]:+.1%}" for key in HEADLINE if key in high)
        lines.append(f"  at the high end of the profile's range: {texts}")
    lines.append(
        f"  same decisions when fed the executed step times: {'yes' if found.same_decisions else 'NO'}"
    )
    if found.failure:
        lines.append(f"  stopped early: {found.failure}")
    return lines


def difference_lines(differences: Sequence[VariantDifference]) -> list[str]:
    """Say each difference between two variants, measured and predicted."""
    verdict = {True: "", False: " (WRONG SIGN)", None: " (a tie)"}
    return [
        f"{one.other} against {one.base}, {one.metric}: measured {one.measured:+.1%}, "
        f"predicted {one.predicted:+.1%}{verdict[one.same_sign]}"
        for one in differences
    ]


def cells_line(cells: Mapping[str, Any]) -> str:
    """Say how the profile does on random steps (check_cells's data)."""
    return (
        f"faster mode named rightly in {cells['agreement']:.0%} of {cells['cells']} random steps; "
        f"sums off by {cells['eager_total_error']:+.1%} (eager) and "
        f"{cells['graph_total_error']:+.1%} (graph)"
    )
