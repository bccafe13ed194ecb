"""Measures step times on this machine's device and turns them into a profile.

Cells are batch × context × mode. Each is warmed up through the timed path; then every round measures each
cell once in a fresh random order, so that slow drift hits all cells alike. Where attention is cut at context
buckets a cell's live length is the middle of its bucket, because a bucket's time stands for all its lengths.
"""

from __future__ import annotations

import math
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from scheduler.catalog.profile import Profile
from scheduler.catalog.profile_file import write_profile
from scheduler.errors import InputError
from scheduler.executors.attention import chunk_attention
from scheduler.executors.availability import require_device
from scheduler.executors.calibration_grid import Cell, Grid, Sample, append_round, read_grid, write_grid
from scheduler.executors.calibration_profile import profile_of
from scheduler.executors.decoder import Decoder
from scheduler.executors.model_shapes import model_shape
from scheduler.executors.replay import CapturedSteps, ReplayBackend
from scheduler.executors.static_decoder import (
    SCRATCH_TOKENS,
    Int64,
    KvSlab,
    StaticDecoder,
    aligned,
    dtype_for,
)
from scheduler.executors.torch_session import free_memory_bytes, replay_backend

CPU_BATCHES = (1, 2, 3, 4, 5, 8, 9, 12, 16, 17, 24, 32)
CPU_CONTEXTS = (64, 128, 256)
GPU_BATCHES = (1, 2, 4, 7, 8, 9, 12, 16, 17, 24, 32, 33, 48, 63, 64, 65, 96, 127, 128, 129, 160, 192,
               255, 256, 257, 384, 512)  # fmt: skip
GPU_EAGER_BATCHES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
GPU_CONTEXTS = (16, 256, 1024, 4096)
LENGTH_SPREAD = 0.5
"""Rows of a cell have lengths spread evenly over ± this share of the cell's context, as in real traffic: a
step of equal rows balances the attention kernel's work and is faster than a ragged one of as many tokens."""
CPU_PROMPTS = ((16, 0), (64, 0), (128, 0), (32, 128))
GPU_PROMPTS = ((16, 0), (64, 0), (256, 0), (1024, 0), (2048, 0), (4096, 0), (256, 2048), (1024, 2048))
WARM_UP_STEPS = 3
PROMPT_REPEATS = 7
NOISY_SPREAD = 0.25
"""A machine is called noisy where the median cell's p10 to p90 is wider than this share of its median."""

Progress = Callable[[str, int, int], None]


def quiet(stage: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration found: the profile, the raw grid and its file, and whether the machine was noisy."""

    profile: Profile
    grid: Grid
    grid_path: Path
    is_noisy: bool


@dataclass(slots=True)
class _Bench:
    static: StaticDecoder
    captured: CapturedSteps
    grid: Grid
    launchers: list[Callable[[], None]]
    states: list[Int64]


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
    whole_steps: bool | None = None,
    on_noise: Literal["mark", "refuse"] = "mark",
    seed: int = 0,
    time_limit_s: float | None = None,
    progress: Progress = quiet,
) -> Calibration:
    """Measure the grid, write `out` (a profile) and `out` with the ending .grid.jsonl (the raw rounds).

    Goes on from a grid file of the same identity. `whole_steps` None splits host and GPU time on a GPU only.
    With a `time_limit_s` the rounds end early (at least three are measured). Raises InputError for a device
    that is not there, a foreign grid file, or a noisy machine under on_noise "refuse".
    """
    require_device(device)
    on_gpu = device == "cuda"
    batches = sorted(set(batches or (GPU_BATCHES if on_gpu else CPU_BATCHES)))
    contexts = sorted(set(contexts or (GPU_CONTEXTS if on_gpu else CPU_CONTEXTS)))
    eager = sorted(set(eager_batches or (GPU_EAGER_BATCHES if on_gpu else batches)) & set(batches))
    grid_path = out.with_suffix(".grid.jsonl")
    bench = _set_up(
        model, device, batches, contexts, eager or batches, attention, passes, seed, progress, length_spread
    )
    _go_on_from(grid_path, bench.grid)
    try:
        if not bench.grid.rounds:
            _warm_up(bench, progress)
            bench.grid.constants |= _constants(bench)
            bench.grid.prefill = _time_prompts(bench.static, GPU_PROMPTS if on_gpu else CPU_PROMPTS)
            write_grid(grid_path, bench.grid)
        else:
            _warm_up(bench, progress)
        _measure(bench, grid_path, repeats * passes, time_limit_s, seed, progress)
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
    profile = profile_of(grid, name=name, whole_steps=not on_gpu if whole_steps is None else whole_steps)
    write_profile(out, profile)
    return Calibration(profile, grid, grid_path, is_noisy)


def _set_up(
    model: str,
    device: str,
    batches: Sequence[int],
    contexts: Sequence[int],
    eager_batches: Sequence[int],
    attention: str,
    passes: int,
    seed: int,
    progress: Progress,
    length_spread: float,
) -> _Bench:
    """Build the decoder, decide which cells fit the memory, and record one step per graph cell."""
    shape, target = model_shape(model), torch.device(device)
    dtype = dtype_for(target)
    # Prompts are timed up to the longest of the list; their positions need a rotary table as well.
    longest = math.ceil(max(contexts) * (1 + length_spread))
    positions = max(longest, max(a + b for a, b in GPU_PROMPTS)) + 1
    decoder = Decoder(shape, device=device, dtype=dtype, max_positions=positions, seed=seed)
    budget = int(0.8 * free_memory_bytes(device)) // shape.kv_bytes_per_token(dtype.itemsize)
    probe = StaticDecoder(decoder, rows=1, max_context=max(contexts), attention=attention, buckets=contexts)
    cut, name = probe.attention.needs_ordered_rows, probe.attention.name
    del probe
    spread = 0.0 if cut else length_spread
    longest = math.ceil(max(contexts) * (1 + spread))
    stride = aligned(longest)
    rows = [batch for batch in batches if not cut or batch * stride <= budget]
    if not rows:
        raise InputError(f"calibrate: not even one row of {stride} tokens fits the memory of {device}")
    cells, skipped, needed = [], [], rows[-1] * stride if cut else stride
    for batch in batches:
        for index, context in enumerate(contexts):
            tokens = batch * stride if cut else int(_row_ends(row_lengths(batch, context, spread))[-1])
            if tokens > budget or batch > rows[-1]:
                skipped.append(
                    {"batch": batch, "context": context, "reason": f"{tokens} KV tokens exceed the memory"}
                )
                continue
            needed = max(needed, tokens)
            before = contexts[index - 1] if cut and index else 0
            live = (before + context) // 2 if cut else context
            kv_tokens = int(row_lengths(batch, live, spread).sum())
            cells.append(Cell("graph", batch, context, kv_tokens))
            if batch in eager_batches:
                cells.append(Cell("eager", batch, context, kv_tokens))
    needed = max(needed, max(a + b for a, b in (GPU_PROMPTS if device == "cuda" else CPU_PROMPTS)))
    slab = KvSlab(shape, needed + SCRATCH_TOKENS, target, dtype, seed + 1)
    static = StaticDecoder(
        decoder, rows=rows[-1], max_context=longest, attention=name, buckets=contexts, slab=slab
    )
    backend = replay_backend(device)
    grid = Grid(_identity(model, static, backend, seed), cells, passes, skipped)
    captured = CapturedSteps(backend)
    keys = {static.key(c.batch, static.bucket(c.context)) for c in cells if c.mode == "graph"}
    static.rest()
    captured.capture_all(
        keys, static.step, static.bound, lambda key: progress("capture", len(captured.captured), len(keys))
    )
    grid.recordings = [
        {**key._asdict(), **_recording(captured, key)} for key in [*captured.captured, *captured.failed]
    ]
    grid.identity["length_spread"] = spread
    return _with_launchers(_Bench(static, captured, grid, [], []), spread, seed)


def row_lengths(batch: int, context: int, spread: float) -> Int64:
    """Return the tokens in the KV cache of each row: their mean is context − 1, evenly spread, in mixed order."""
    share = (np.arange(batch) + 0.5) / batch * 2 - 1
    lengths = np.maximum(np.rint((context - 1) * (1 + spread * share)), 0).astype(np.int64)
    return np.random.default_rng(batch).permutation(lengths)


def _row_ends(lengths: Int64) -> Int64:
    """Return where each row's part of the slab ends when rows lie one behind the other."""
    return np.cumsum([aligned(int(length) + 1) for length in lengths])


def _recording(captured: CapturedSteps, key: Any) -> dict[str, Any]:
    done = captured.get(key)
    if done is None:
        return {"error": captured.failed[key]}
    return {
        "warm_up_s": done.warm_up_s,
        "capture_s": done.capture_s,
        "memory_bytes": done.memory_bytes,
        "nodes": done.nodes,
        "node_types": done.node_types,
        "notes": list(done.notes),
    }


def _with_launchers(bench: _Bench, spread: float, seed: int) -> _Bench:
    """Prepare each cell's launch and row states; cells whose recording failed are listed as skipped."""
    static, grid = bench.static, bench.grid
    draw = np.random.default_rng(seed)
    cells, grid.cells = grid.cells, []
    for cell in cells:
        key = static.key(cell.batch, static.bucket(cell.context))
        if cell.mode == "graph":
            captured = bench.captured.get(key)
            if captured is None:
                reason = bench.captured.failed[key]
                grid.skipped.append({"batch": cell.batch, "context": cell.context, "reason": reason})
                continue
            launch = captured.replay
        else:
            launch = static.launch_eager(key)
        state = np.empty((cell.batch, 3), np.int64)
        state[:, 0] = draw.integers(static.decoder.shape.vocabulary, size=cell.batch)
        if static.attention.needs_ordered_rows:
            state[:, 1] = cell.kv_tokens // cell.batch
            state[:, 2] = np.arange(cell.batch) * static.stride
        else:
            lengths = row_lengths(cell.batch, cell.context, spread)
            state[:, 1] = lengths
            state[1:, 2] = _row_ends(lengths)[:-1]
            state[0, 2] = 0
        grid.cells.append(cell)
        bench.launchers.append(launch)
        bench.states.append(state)
    return bench


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


def _warm_up(bench: _Bench, progress: Progress) -> None:
    for index, launch in enumerate(bench.launchers):
        progress("warm up", index, len(bench.launchers))
        for _ in range(WARM_UP_STEPS):
            bench.static.timed(bench.states[index], len(bench.states[index]), launch)


def _measure(
    bench: _Bench, path: Path, rounds: int, time_limit_s: float | None, seed: int, progress: Progress
) -> None:
    grid, static = bench.grid, bench.static
    started = time.perf_counter()
    while len(grid.rounds) < rounds:
        number = len(grid.rounds)
        progress("measure", number, rounds)
        order = list(range(len(grid.cells)))
        random.Random(f"{seed}/{number}").shuffle(order)  # noqa: S311 - an order, not a secret
        samples = []
        for cell in order:
            state = bench.states[cell]
            timed = static.timed(state, len(state), bench.launchers[cell])
            samples.append(Sample(cell, timed.total_ns, timed.issue_ns, timed.gpu_ns))
        grid.rounds.append(samples)
        append_round(path, samples)
        elapsed = time.perf_counter() - started
        if time_limit_s is not None and len(grid.rounds) >= 3 and elapsed > time_limit_s:
            break
    if len(grid.rounds) % grid.passes:
        grid.rounds = grid.rounds[: len(grid.rounds) // grid.passes * grid.passes]
    progress("measure", rounds, rounds)


def _constants(bench: _Bench) -> dict[str, Any]:
    """Time what surrounds a launch, each alone: input copies, tokens back, and the replay call itself."""
    static, clock = bench.static, bench.static.clock
    state = bench.states[-1]

    def median_ms(call: Callable[[], object]) -> float:
        times = []
        for _ in range(30):
            clock.wait()
            started = clock.now_ns()
            call()
            times.append((clock.now_ns() - started) / 1e6)
        return round(statistics.median(times), 6)

    def copy_in() -> None:
        static.load(state, len(state))
        clock.wait()

    constants: dict[str, Any] = {
        "rows": len(state),
        "copy_in_ms": median_ms(copy_in),
        "tokens_back_ms": median_ms(lambda: static.fetch(len(state))),
    }
    replays = [
        launch for launch, cell in zip(bench.launchers, bench.grid.cells, strict=True) if cell.mode == "graph"
    ]
    constants["replay_call_ms"] = median_ms(replays[0]) if replays else None
    if clock.is_cuda:
        properties = torch.cuda.get_device_properties(static.device)
        shape, element = static.decoder.shape, static.decoder.dtype.itemsize
        held = shape.weights * element + static.slab.tokens * shape.kv_bytes_per_token(element)
        constants["gpu_bytes"] = int(properties.total_memory)
        constants["activation_bytes"] = max(int(torch.cuda.max_memory_allocated()) - held, 0)
    return constants


def _time_prompts(static: StaticDecoder, prompts: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Time one prompt chunk per step, alone, after `cached` tokens."""
    rows = []
    vocabulary = static.decoder.shape.vocabulary
    for tokens, cached in prompts:
        positions = np.arange(cached, cached + tokens)
        ids = positions * 104_729 % vocabulary
        attend = chunk_attention(0, cached, tokens)
        last = np.array([tokens - 1])
        times = [
            static.forward_eager(ids, positions, positions, attend, last)[1]
            for _ in range(PROMPT_REPEATS + 2)
        ]
        kept = times[2:]
        gpu = [each.gpu_ns for each in kept if each.gpu_ns is not None]
        rows.append(
            {
                "tokens": tokens,
                "cached": cached,
                "total_ms": statistics.median(each.total_ns for each in kept) / 1e6,
                "issue_ms": statistics.median(each.issue_ns for each in kept) / 1e6,
                "gpu_ms": statistics.median(gpu) / 1e6 if gpu else None,
            }
        )
    return rows


def _identity(model: str, static: StaticDecoder, backend: ReplayBackend, seed: int) -> dict[str, Any]:
    on_gpu = static.clock.is_cuda
    return {
        "model": model,
        "device": static.clock.device_name(),
        "backend": backend.name,
        "clock": static.clock.description,
        "attention": static.attention.name,
        "attention_note": static.attention_note,
        "dtype": str(static.decoder.dtype).removeprefix("torch."),
        "element_bytes": static.decoder.dtype.itemsize,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "driver": f"CUDA {torch.version.cuda}" if on_gpu else "no GPU",
        "stride": static.stride,
        "seed": seed,
        "date": time.strftime("%Y-%m-%d"),
    }


def _slug(text: str) -> str:
    words = "".join(c if c.isalnum() or c == "." else " " for c in text.lower()).split()
    return "-".join(words[:4])
