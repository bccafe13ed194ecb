"""Measures step times on this machine's device and turns them into a profile.

Cells are batch × context × mode. Each is warmed up through the timed path; then every round measures each
cell once in a fresh random order, so that slow drift hits all cells alike. Where attention is cut at context
buckets a cell's live length is the middle of its bucket, because a bucket's time stands for all its lengths.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scheduler.catalog.profile.curves import CurveProfile
from scheduler.catalog.profile.file import write_profile
from scheduler.errors import InputError
from scheduler.executors.calibration.bench import SEED, Bench, open_bench, time_constants, time_prompts
from scheduler.executors.calibration.cells import (
    CPU_BATCHES,
    CPU_CONTEXTS,
    GPU_BATCHES,
    GPU_CONTEXTS,
    GPU_EAGER_BATCHES,
    LENGTH_SPREAD,
)
from scheduler.executors.calibration.grid import Grid, Sample, append_round, read_grid, write_grid
from scheduler.executors.calibration.profile import profile_of
from scheduler.executors.real.availability import require_device

WARM_UP_STEPS = 3
NOISY_SPREAD = 0.25
"""A machine is called noisy where the median cell's p10 to p90 is wider than this share of its median."""

Progress = Callable[[str, int, int], None]


def quiet(stage: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration found: the profile, the raw grid and its file, and whether the machine was noisy."""

    profile: CurveProfile
    grid: Grid
    grid_path: Path
    is_noisy: bool


def calibrate(
    *,
    model: str,
    device: str,
    out: Path,
    batches: Sequence[int] | None = None,
    contexts: Sequence[int] | None = None,
    length_spread: float = LENGTH_SPREAD,
    eager_batches: Sequence[int] | None = None,
    repeats: int = 20,
    passes: int = 2,
    attention: str = "auto",
    on_noise: Literal["mark", "refuse"] = "mark",
    time_limit_s: float | None = None,
    progress: Progress = quiet,
) -> Calibration:
    """Measure the grid, write `out` (a profile) and `out` with the ending .grid.jsonl (the raw rounds).

    Goes on from a grid file of the same identity. Host and GPU time are told apart on a GPU only.
    With a `time_limit_s` the rounds end early (at least three are measured). Raises InputError for a device
    that is not there, a foreign grid file, or a noisy machine under on_noise "refuse".
    """
    require_device(device)
    on_gpu = device == "cuda"
    batches = sorted(set(batches or (GPU_BATCHES if on_gpu else CPU_BATCHES)))
    contexts = sorted(set(contexts or (GPU_CONTEXTS if on_gpu else CPU_CONTEXTS)))
    eager = sorted(set(eager_batches or (GPU_EAGER_BATCHES if on_gpu else batches)) & set(batches))
    grid_path = out.with_suffix(".grid.jsonl")
    bench = open_bench(
        model,
        device,
        batches=batches,
        contexts=contexts,
        eager_batches=eager or batches,
        attention=attention,
        spread=length_spread,
        passes=passes,
        progress=progress,
    )
    _go_on_from(grid_path, bench.grid)
    try:
        _warm_up(bench, progress)
        if not bench.grid.rounds:
            bench.grid.constants = time_constants(bench)
            bench.grid.prefill = time_prompts(bench.static)
            write_grid(grid_path, bench.grid)
        _measure(bench, grid_path, repeats * passes, time_limit_s, progress)
    finally:
        bench.captured.backend.reset()
    grid = bench.grid
    is_noisy = grid.spread() > NOISY_SPREAD
    if is_noisy:
        mark = f"NOISY machine: p10 to p90 spans {grid.spread():.0%} of the median in the median cell"
        if on_noise == "refuse":
            raise InputError(f"{mark}; the raw grid is in {grid_path}")
        grid.identity["marks"] = [mark]
    name = f"{_slug(grid.identity['device'])}-{model}-{grid.identity['dtype']}"
    profile = profile_of(grid, name=name, whole_steps=not on_gpu)
    write_profile(out, profile)
    return Calibration(profile, grid, grid_path, is_noisy)


def _go_on_from(path: Path, grid: Grid) -> None:
    """Take over the rounds of an earlier, interrupted calibration of the same machine and grid."""
    if not path.exists():
        return
    earlier = read_grid(path)
    same = {key: value for key, value in grid.identity.items() if key not in ("date", "marks")}
    if any(earlier.identity.get(key) != value for key, value in same.items()) or earlier.cells != grid.cells:
        raise InputError(
            f"{path}: measured on another machine, model or grid; remove it or choose another --out"
        )
    grid.rounds, grid.constants, grid.prefill = earlier.rounds, earlier.constants, earlier.prefill
    grid.identity["date"] = earlier.identity["date"]
    write_grid(path, grid)  # without the round that a kill may have cut short


def _warm_up(bench: Bench, progress: Progress) -> None:
    for cell in range(len(bench.grid.cells)):
        progress("warm up", cell, len(bench.grid.cells))
        for _ in range(WARM_UP_STEPS):
            bench.time_cell(cell)


def _measure(bench: Bench, path: Path, rounds: int, time_limit_s: float | None, progress: Progress) -> None:
    grid = bench.grid
    started = time.perf_counter()
    while len(grid.rounds) < rounds:
        number = len(grid.rounds)
        progress("measure", number, rounds)
        order = list(range(len(grid.cells)))
        random.Random(f"{SEED}/{number}").shuffle(order)  # noqa: S311 - an order, not a secret
        samples = []
        for cell in order:
            timed = bench.time_cell(cell)
            samples.append(Sample(cell, timed.total_ns, timed.issue_ns, timed.gpu_ns))
        grid.rounds.append(samples)
        append_round(path, samples)
        elapsed = time.perf_counter() - started
        if time_limit_s is not None and len(grid.rounds) >= 3 and elapsed > time_limit_s:
            break
    if len(grid.rounds) % grid.passes:
        grid.rounds = grid.rounds[: len(grid.rounds) // grid.passes * grid.passes]
    progress("measure", rounds, rounds)


def _slug(text: str) -> str:
    words = "".join(c if c.isalnum() or c == "." else " " for c in text.lower()).split()
    return "-".join(words[:4])
