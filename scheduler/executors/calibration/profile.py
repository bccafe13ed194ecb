"""From a calibration's grid to a profile of the catalog, with the origin of every number."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from scheduler.catalog.profile.curves import CurveProfile, Decode, DecodeMode, Host, Prefill
from scheduler.catalog.profile.measured import Memory, ModelShape
from scheduler.catalog.profile.profile import Fit, Identity, LowHigh, PoolCosts, Provenance
from scheduler.catalog.profile.tables import Curve, DecodeTable
from scheduler.executors.calibration.grid import Grid, MeasuredOn, Mode
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.real.model_shapes import model_shape

LAUNCH_BOUND = 1.1
"""A step counts as bound by its launches where it takes at least this many times the graph's GPU time."""


def profile_of(grid: Grid, *, name: str, whole_steps: bool) -> CurveProfile:
    """Return the profile of a grid.

    With `whole_steps` both modes keep their own table of whole step times. Otherwise graph times are split
    into GPU time (CUDA events) and host time around it, and eager is that GPU time or its issue time,
    whichever is longer; the issue time is the range (p10 to p90) over the cells bound by launching.
    """
    identity = grid.identity
    notes = [f"{len(grid.rounds)} interleaved rounds, medians", f"attention {identity['attention']}"]
    floor = grid.noise_floor()
    if floor is not None:
        notes.append(f"two passes differ by a median of {floor:.1%}")
    notes += identity.get("marks", [])
    measured = Provenance(origin="measured", note="; ".join(notes))
    derived = Provenance(origin="derived", note=f"from the shape of {identity['model']}")
    provenance = {"decode": measured, "model": derived}
    if whole_steps:
        host = Host()
        decode = Decode(
            graph=DecodeMode(gpu=_table(grid, "graph", whole=True)),
            eager=DecodeMode(gpu=_table(grid, "eager", whole=True)),
        )
    else:
        host_ms = _host_ms(grid)
        host = Host(step_ms=LowHigh(low=host_ms, high=host_ms))
        note = "graph replay: whole step less the time between CUDA events, median over cells"
        provenance["host"] = Provenance(origin="measured", note=note)
        decode = Decode(
            graph=DecodeMode(
                gpu=_table(grid, "graph", whole=False), padding_attends=not _follows_lengths(grid)
            ),
            eager=_eager_by_launches(grid, host_ms),
        )
        note = "whole eager steps less host time: p10 and p90 over the cells bound by launching"
        provenance["decode.eager.issue_ms"] = Provenance(origin="measured", note=note)
    prefill = _prefill(grid, whole_steps)
    if prefill is not None:
        provenance["prefill"] = Provenance(origin="measured", note="one prompt per step, eager; medians")
    memory, pool = _memory(grid), _pool_costs(grid)
    if memory is not None:
        note = "the largest allocation beside weights and KV; utilization as vLLM's default"
        provenance["memory"] = Provenance(origin="assumed", note=note)
    if pool is not None:
        note = "recordings of the calibration; linear in the largest size"
        provenance["pool"] = Provenance(origin="measured", note=note)
    shape = model_shape(identity["model"])
    profile = CurveProfile(
        format="graphpool-profile",
        version=1,
        identity=_identity(identity, name),
        model=ModelShape(
            layers=shape.layers,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            weight_bytes=shape.weights * identity["element_bytes"],
            kv_bytes_per_token=shape.kv_bytes_per_token(identity["element_bytes"]),
        ),
        memory=memory or Memory(),
        decode=decode,
        prefill=prefill,
        host=host,
        pool=pool,
        provenance=provenance,
    )
    return profile.model_copy(update={"fit": tuple(_fits(grid, profile))})


def _identity(identity: MeasuredOn, name: str) -> Identity:
    return Identity(
        name=name,
        gpu=identity["device"],
        model=identity["model"],
        engine=f"graphpool's torch decoder, {identity['backend']}, {identity['clock']}",
        engine_version=f"torch {identity['torch']}",
        dtype=identity["dtype"],
        source=f"run.py calibrate on {identity['device']}, {identity['driver']}",
        licence="Apache-2.0",
        date=identity["date"],
    )


def _table(grid: Grid, mode: Mode, *, whole: bool) -> DecodeTable:
    """Collect the medians of one mode by batch; contexts ascend within a batch."""
    by_batch: dict[int, list[tuple[float, float]]] = {}
    for index, cell in enumerate(grid.cells):
        if cell.mode == mode:
            times = grid.times(index)
            value = times.median_ms if whole or times.gpu_ms is None else times.gpu_ms
            by_batch.setdefault(cell.batch, []).append((float(cell.kv_tokens), round(value, 6)))
    sizes = sorted(by_batch)
    points = [sorted(by_batch[size]) for size in sizes]
    return DecodeTable(
        sizes=tuple(sizes),
        kv_tokens=tuple(tuple(tokens for tokens, _ in row) for row in points),
        ms=tuple(tuple(ms for _, ms in row) for row in points),
    )


def _host_ms(grid: Grid) -> float:
    gaps = []
    for index, cell in enumerate(grid.cells):
        times = grid.times(index)
        if cell.mode == "graph" and times.gpu_ms is not None:
            gaps.append(times.median_ms - times.gpu_ms)
    return round(max(statistics.median(gaps), 0.0), 6)


def _eager_by_launches(grid: Grid, host_ms: float) -> DecodeMode:
    graph_ms = {
        cell[1:]: grid.times(index).gpu_ms for index, cell in enumerate(grid.cells) if cell.mode == "graph"
    }
    bound_by_launches, gaps = [], []
    for index, cell in enumerate(grid.cells):
        gpu_ms = graph_ms.get(cell[1:])
        if cell.mode == "eager" and gpu_ms is not None:
            step_ms = grid.times(index).median_ms - host_ms
            if step_ms >= LAUNCH_BOUND * gpu_ms:
                bound_by_launches.append(step_ms)
            else:
                gaps.append(max(step_ms - gpu_ms, 0.0))
    if not bound_by_launches:
        return DecodeMode(gpu=_table(grid, "eager", whole=True))
    ascending = sorted(bound_by_launches)
    low, high = ascending[len(ascending) // 10], ascending[-1 - len(ascending) // 10]
    extra = round(statistics.median(gaps), 6) if gaps else 0.0
    return DecodeMode(gpu_extra_ms=extra, issue_ms=LowHigh(low=round(low, 6), high=round(high, 6)))


def _follows_lengths(grid: Grid) -> bool:
    """Tell whether attention reads each row's own length, so that padded rows cost none."""
    return bool(grid.identity.get("attention") == "flash")


def _prefill(grid: Grid, whole_steps: bool) -> Prefill | None:
    """Fit the token curve from fresh prompts, the time per (new, earlier) token pair from continued ones.

    Only prompts whose GPU time exceeds their launching tell that slope. A prompt bound by launches has its
    launch gaps between the events: where a decode step of as many rows was captured, that bounds its time.
    """
    if not grid.prefill:
        return None
    gpu = {(row["tokens"], row["cached"]): row["gpu_ms"] or row["total_ms"] for row in grid.prefill}
    bound_by_launches = {
        (row["tokens"], row["cached"])
        for row in grid.prefill
        if not whole_steps and gpu[row["tokens"], row["cached"]] < LAUNCH_BOUND * row["issue_ms"]
    }
    slopes = [
        (ms - gpu[tokens, 0]) / (tokens * cached)
        for (tokens, cached), ms in gpu.items()
        if cached and (tokens, 0) in gpu and not {(tokens, 0), (tokens, cached)} & bound_by_launches
    ]
    pair_ms = max(statistics.median(slopes), 0.0) if slopes else 0.0
    rows = _fewest_kv_ms(grid)
    fresh = sorted(tokens for tokens, cached in gpu if not cached)
    curve = []
    for tokens in fresh:
        ms = max(gpu[tokens, 0] - pair_ms * tokens * tokens / 2, 0.0)
        if (tokens, 0) in bound_by_launches:
            ms = min([ms, *(row_ms for batch, row_ms in rows.items() if batch >= tokens)])
        curve.append(round(ms, 6))
    issue = LowHigh(low=0.0, high=0.0)
    if not whole_steps:
        issued = sorted(row["issue_ms"] for row in grid.prefill)
        issue = LowHigh(low=round(issued[0], 6), high=round(statistics.median(issued), 6))
    at = tuple(float(tokens) for tokens in fresh)
    return Prefill(tokens=Curve(at=at, ms=tuple(curve)), pair_ms=pair_ms, issue_ms=issue)


def _fewest_kv_ms(grid: Grid) -> dict[int, float]:
    """Return the GPU milliseconds of each captured size with the fewest KV tokens measured."""
    fewest: dict[int, tuple[int, float]] = {}
    for index, cell in enumerate(grid.cells):
        gpu_ms = grid.times(index).gpu_ms
        if cell.mode == "graph" and gpu_ms is not None:
            fewest[cell.batch] = min(
                fewest.get(cell.batch, (cell.kv_tokens, gpu_ms)), (cell.kv_tokens, gpu_ms)
            )
    return {batch: ms for batch, (_, ms) in fewest.items()}


def _memory(grid: Grid) -> Memory | None:
    constants = grid.constants
    if "gpu_bytes" not in constants:
        return None
    return Memory(
        gpu_bytes=constants["gpu_bytes"], utilization=0.9, activation_bytes=constants["activation_bytes"]
    )


def _pool_costs(grid: Grid) -> PoolCosts | None:
    """Spread the measured bytes and seconds; None where the backend cannot know its bytes.

    The first (largest) recording carries the shared memory; it grows with its rows.
    """
    done = [row for row in grid.recordings if row.get("memory_bytes") is not None]
    held = [row["memory_bytes"] or 0 for row in done]
    if len(done) < 2:
        return None
    return PoolCosts(
        fixed_bytes=0,
        bytes_per_largest_row=held[0] // done[0]["batch"],
        bytes_per_graph=round(statistics.mean(max(more, 0) for more in held[1:])),
        capture_s_per_graph=round(statistics.mean(row["capture_s"] for row in done), 6),
        warmup_s_per_graph=round(statistics.mean(row["warm_up_s"] for row in done), 6),
    )


def _fits(grid: Grid, profile: CurveProfile) -> list[Fit]:
    modes: Sequence[Mode] = ("graph", "eager")
    low, high = cost_model(profile, "eager", "low"), cost_model(profile, "eager", "high")
    fits = []
    for mode in modes:
        errors = []
        for index, cell in enumerate(grid.cells):
            if cell.mode == mode:
                measured = grid.times(index).median_ms
                ends = [model.decode_ms(mode, cell.batch, cell.kv_tokens) for model in (low, high)]
                nearest = min(max(measured, min(ends)), max(ends))
                errors.append(nearest / measured - 1)
        if errors:
            note = "a time given as a range counts as met inside it" if mode == "eager" else None
            fits.append(Fit.of_errors(errors, f"the calibration's own whole {mode} steps", note))
    return fits
