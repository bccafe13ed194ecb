"""`run.py calibrate`: measure step times, write a profile, and compare it with a run executed for real."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.fidelity.executed import predict_and_execute
from scheduler.commands.options import CalibrateOptions
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.executors.real.availability import require_device
from scheduler.executors.real.model_shapes import model_shape
from scheduler.files import write_json
from scheduler.report.calibration import (
    against_line,
    calibration_lines,
    cells_line,
    difference_lines,
    fidelity_lines,
)
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
    result: dict[str, object] = {"profile": str(options.out), "rows": list(found.grid.rows())}
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

    def compare(self, found: Calibration, options: CalibrateOptions) -> tuple[dict[str, object], list[str]]:
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
        fidelity = predict_and_execute(
            self.workload, self.requests, found.profile, variants, session.executor
        )
        lines = ["", against_line(self.workload.name, len(self.requests))]
        for variant in fidelity.variants:
            lines += fidelity_lines(variant)
        lines += difference_lines(fidelity.differences)
        result = fidelity.record()
        if sizes:
            cells = check_cells(session, found.profile, sizes)
            lines.append(cells_line(cells))
            result["cells"] = cells
        session.close()
        return result, lines
