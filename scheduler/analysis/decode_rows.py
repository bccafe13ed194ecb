"""Profiles against decode steps measured elsewhere: `python -m scheduler.analysis.decode_rows decode_step_ms.csv`.

Prints, per group of measured rows, the signed median and the worst relative error of each profile, as in
docs/fidelity.md, and every row. A row is predicted from the smallest capture size that holds its batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scheduler.catalog.importers.rows import number_at, read_rows
from scheduler.catalog.pool_presets import pool_preset
from scheduler.catalog.profile_file import load_profile
from scheduler.engine.executor import StepKind, StepPlan
from scheduler.engine.graph_pool import GraphPool
from scheduler.executors.cost_model import CostModel

PROFILES = {
    "H100-SXM5-80GB": ("h100-trtllm-llama-3.1-8b-bf16", "h100-vllm-llama-3.1-8b-bf16"),
    "RTX4090": ("rtx4090-llama-3.1-8b-bf16",),
    "A100-80GB-330W": ("a100-llama-3.1-8b-bf16",),
}
COLUMNS = ("device", "model", "mode", "batch", "context_tokens", "step_ms")


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """One measured graph step and what a profile says of it."""

    profile: str
    batch: int
    context_tokens: int
    measured_ms: float
    predicted_ms: float

    @property
    def error(self) -> float:
        """Signed relative error of the prediction."""
        return self.predicted_ms / self.measured_ms - 1


def predicted_rows(path: Path, sizes: Sequence[int] | None = None) -> list[DecodeRow]:
    """Predict every graph row of Llama-3.1-8B in a file of decode steps; raises InputError."""
    pool = GraphPool(tuple(sizes) if sizes is not None else pool_preset("vllm", 512, 2048).sizes)
    models = {name: CostModel(load_profile(name), "fallback") for names in PROFILES.values() for name in names}
    result = []
    for index, row in enumerate(read_rows(path, COLUMNS)):
        if row["mode"] != "graph" or not row["model"].startswith("Llama-3.1-8B"):
            continue
        batch, context = (int(number_at(row, name, path, index)) for name in ("batch", "context_tokens"))
        plan = StepPlan(StepKind.DECODE, batch, pool.route(batch), batch * context)
        for name in PROFILES.get(row["device"], ()):
            measured = number_at(row, "step_ms", path, index)
            result.append(DecodeRow(name, batch, context, measured, models[name].run(plan) / 1e6))
    return result


def table_lines(rows: Sequence[DecodeRow]) -> list[str]:
    """Return the Markdown table: a line per profile, then a line per row."""
    lines = ["| profile | rows | median error | worst error |", "|---|---|---|---|"]
    for name in dict.fromkeys(row.profile for row in rows):
        errors = [row.error for row in rows if row.profile == name]
        worst = max(errors, key=abs)
        lines.append(f"| {name} | {len(errors)} | {median(errors):+.1%} | {worst:+.1%} |")
    lines += ["", "| profile | batch | context | measured ms | predicted ms | error |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.profile} | {row.batch} | {row.context_tokens} | {row.measured_ms:.2f} "
        f"| {row.predicted_ms:.2f} | {row.error:+.1%} |"
        for row in rows
    ]
    return lines


if __name__ == "__main__":
    print("\n".join(table_lines(predicted_rows(Path(sys.argv[1])))))
