"""Profiles against decode steps measured elsewhere: `python -m evidence.fidelity.decode_rows STEPS.csv`.

Prints, per group of measured rows, the signed median and the worst relative error of each profile, as in
docs/fidelity.md, and every row. A row is predicted from the smallest capture size that holds its batch.
With the run's one-second ticks as a second file, the rows of ticks in which the waiting queue shrank without
new prompt tokens are told apart: a preempted request was prefilled again there, beside the decode steps.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scheduler.catalog.importers.rows import number_at, read_rows
from scheduler.catalog.pool_presets import pool_preset
from scheduler.catalog.profile.file import load_profile
from scheduler.engine.executor import StepKind, StepPlan
from scheduler.engine.graph_pool import GraphPool
from scheduler.executors.model.by_profile import cost_model

PROFILES = {
    "H100-SXM5-80GB": ("h100-trtllm-llama-3.1-8b-bf16", "h100-vllm-llama-3.1-8b-bf16"),
    "RTX4090": ("rtx4090-llama-3.1-8b-bf16",),
    "A100-80GB-330W": ("a100-llama-3.1-8b-bf16",),
}
TICK_COLUMNS = ("prompt_throughput", "gen_throughput", "running", "waiting")
TICKED_DEVICE = "RTX4090"
COLUMNS = ("device", "model", "mode", "batch", "context_tokens", "step_ms")


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """One measured graph step and what a profile says of it."""

    profile: str
    batch: int
    context_tokens: int
    measured_ms: float
    predicted_ms: float
    resumed: bool = False

    @property
    def error(self) -> float:
        """Signed relative error of the prediction."""
        return self.predicted_ms / self.measured_ms - 1


def resumed_ticks(path: Path) -> set[tuple[int, float]]:
    """Return (running, ms per step) of the ticks that computed a preempted request's prompt again.

    vLLM counts prompt tokens once per request, so these ticks show none although a request left the queue.
    """
    found = set()
    waiting_before = 0.0
    for index, row in enumerate(read_rows(path, TICK_COLUMNS)):
        prompt, rate, running, waiting = (number_at(row, name, path, index) for name in TICK_COLUMNS)
        if rate and not prompt and waiting < waiting_before:
            found.add((int(running), round(1000 * running / rate, 3)))
        waiting_before = waiting
    return found


def predicted_rows(path: Path, ticks: Path | None = None) -> list[DecodeRow]:
    """Predict every graph row of Llama-3.1-8B in a file of decode steps; raises InputError."""
    table = GraphPool(pool_preset("vllm", 512, 2048).sizes).table(512)
    resumed = resumed_ticks(ticks) if ticks is not None else set()
    models = {
        name: cost_model(load_profile(name), "fallback") for names in PROFILES.values() for name in names
    }
    result = []
    for index, row in enumerate(read_rows(path, COLUMNS)):
        if row["mode"] != "graph" or not row["model"].startswith("Llama-3.1-8B"):
            continue
        batch, context = (int(number_at(row, name, path, index)) for name in ("batch", "context_tokens"))
        plan = StepPlan(StepKind.DECODE, batch, table.decode_graph(batch), batch * context)
        for name in PROFILES.get(row["device"], ()):
            measured = number_at(row, "step_ms", path, index)
            predicted = models[name].run(plan) / 1e6
            mark = row["device"] == TICKED_DEVICE and (batch, round(measured, 3)) in resumed
            result.append(DecodeRow(name, batch, context, measured, predicted, mark))
    return result


def table_lines(rows: Sequence[DecodeRow]) -> list[str]:
    """Return the Markdown table: a line per profile, then a line per row."""
    lines = ["| profile | rows | median error | worst error |", "|---|---|---|---|"]
    for name in dict.fromkeys(row.profile for row in rows):
        own = [row for row in rows if row.profile == name]
        lines.append(f"| {name} | {_errors_text([row.error for row in own])} |")
        steps = [row.error for row in own if not row.resumed]
        if 0 < len(steps) < len(own):
            lines.append(f"| {name}, ticks of decode steps alone | {_errors_text(steps)} |")
    lines += [
        "",
        "| profile | batch | context | measured ms | predicted ms | error |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.profile} | {row.batch} | {row.context_tokens} | {row.measured_ms:.2f} "
        f"| {row.predicted_ms:.2f} | {row.error:+.1%}{', prefilled again' if row.resumed else ''} |"
        for row in rows
    ]
    return lines


def _errors_text(errors: Sequence[float]) -> str:
    worst = max(errors) if max(errors) > -min(errors) else min(errors)
    return f"{len(errors)} | {median(errors):+.1%} | {worst:+.1%}"


if __name__ == "__main__":
    files = [Path(argument) for argument in sys.argv[1:3]]
    print("\n".join(table_lines(predicted_rows(files[0], files[1] if len(files) > 1 else None))))
