"""`run.py calibrate`: measure step times, write a profile, and compare it with a run executed for real."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.fidelity.executed import difference_lines, fidelity_lines, predict_and_execute
from scheduler.commands.options import CalibrateOptions
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.executors.real.availability import require_device
from scheduler.executors.real.model_shapes import model_shape
from scheduler.files import write_json
from scheduler.report.card import aligned
from scheduler.report.progress import progress_bar
from scheduler.simulate import Variant
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

if TYPE_CHECKING:
    from scheduler.executors.calibration.calibrate import Calibration


def run_calibrate(options: CalibrateOptions) -> int:
    """Measure, write OUT (profile) and OUT with .grid.jsonl (raw), print what was found; return 0.

    With `against` the workload's pool and eager are then run for real and by the new profile, and both are
    printed with their errors; the result goes to OUT with .fidelity.json. Raises InputError.
    """
    require_device(options.device)
    model_shape(options.model)
    if options.out.suffix != ".json":
        raise InputError(f"--out: expected a profile's file name, ending in .json, got {options.out}")
    if options.repeats < 3 or options.passes < 1:
        raise InputError("--repeats, --passes: expected at least 3 repeats and 1 pass")
    from scheduler.executors.calibration.calibrate import calibrate

    against = None if options.against is None else _Against.of(options.against)
    batches = _sizes("--batches", options.batches) or (against.batches() if against else None)
    contexts = _sizes("--contexts", options.contexts) or (against.contexts() if against else None)
    with progress_bar() as progress:
        found = calibrate(
            model=options.model,
            device=options.device,
            out=options.out,
            batches=batches,
            contexts=contexts,
            repeats=options.repeats,
            passes=options.passes,
            attention=options.attention,
            on_noise="refuse" if options.refuse_noise else "mark",
            progress=progress,
        )
    result: dict[str, Any] = {"profile": str(options.out), "rows": list(found.grid.rows())}
    lines = calibration_lines(found, options.out)
    if against is not None:
        result["fidelity"], more = against.compare(found, options)
        lines += more
        write_json(options.out.with_suffix(".fidelity.json"), result["fidelity"])
    text = json.dumps(result, indent=1, allow_nan=False) if options.json else "\n".join(lines)
    sys.stdout.write(text + "\n")
    return 0


def _sizes(option: str, text: str) -> tuple[int, ...] | None:
    if not text:
        return None
    try:
        sizes = tuple(int(word) for word in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise InputError(f"{option}: expected whole numbers of at least 1, comma-separated, got {text!r}")
    return sizes


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


@dataclass(frozen=True, slots=True)
class _Against:
    """A workload to be run for real, and its drawn requests."""

    workload: Workload
    requests: Requests

    @staticmethod
    def of(path: Path) -> _Against:
        workload = load_workload(path)
        return _Against(workload, draw_requests(workload))

    @property
    def longest(self) -> int:
        return int((self.requests.prompt_tokens + self.requests.output_tokens).max())

    def batches(self) -> tuple[int, ...]:
        """Return the batches to measure: powers of two, their midpoints, and max_num_seqs."""
        most = self.workload.engine.max_num_seqs
        powers = [2**k for k in range(most.bit_length()) if 2**k <= most]
        middles = [power * 3 // 2 for power in powers if power > 1 and power * 3 // 2 < most]
        return tuple(sorted({*powers, *middles, most}))

    def contexts(self) -> tuple[int, ...]:
        from scheduler.executors.real.static_decoder import context_buckets

        return context_buckets(self.longest)

    def compare(self, found: Calibration, options: CalibrateOptions) -> tuple[dict[str, Any], list[str]]:
        """Run the workload's pool and eager for real and by the profile."""
        from scheduler.executors.calibration.cell_check import check_cells
        from scheduler.executors.real.torch_session import open_session, usable_sizes

        engine = self.workload.engine
        named = workload_pool(self.workload.pool, engine, found.profile)
        sizes = usable_sizes(named.pool.sizes, engine.max_num_seqs)
        session = open_session(
            model=options.model,
            device=options.device,
            max_num_seqs=engine.max_num_seqs,
            max_context=self.longest,
            capture_sizes=sizes,
            prefilled=engine.policy == "decode_only",
            attention=options.attention,
        )
        variants = [Variant(named.name, named.pool, "eager"), Variant("eager", GraphPool(), "eager")]
        result = predict_and_execute(self.workload, self.requests, found.profile, variants, session.executor)
        lines = ["", f"{self.workload.name}, {len(self.requests)} requests, executed for real and predicted:"]
        for name, variant in result["variants"].items():
            variant.pop("section")
            lines += fidelity_lines(name, variant)
        lines += difference_lines(result["differences"])
        if sizes:
            result["cells"] = check_cells(session, found.profile, sizes)
            cells = result["cells"]
            lines.append(
                f"faster mode named rightly in {cells['agreement']:.0%} of {cells['cells']} random steps; "
                f"sums off by {cells['eager_total_error']:+.1%} (eager) and "
                f"{cells['graph_total_error']:+.1%} (graph)"
            )
        session.close()
        return result, lines
