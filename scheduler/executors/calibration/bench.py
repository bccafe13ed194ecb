"""What a calibration measures on: decoder, KV slab, recordings, and a launch for every cell."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from scheduler.errors import InputError
from scheduler.executors.calibration.cells import longest_context, plan_cells, row_states
from scheduler.executors.calibration.grid import Constants, Grid, MeasuredOn, PromptTimes, Recording
from scheduler.executors.real.attention import chunk_attention
from scheduler.executors.real.decoder import Decoder
from scheduler.executors.real.device_clock import StepTime
from scheduler.executors.real.model_shapes import model_shape
from scheduler.executors.real.replay import CapturedSteps, GraphKey, ReplayBackend
from scheduler.executors.real.static_decoder import (
    SCRATCH_TOKENS,
    Int64,
    KvSlab,
    StaticDecoder,
    aligned,
    dtype_for,
)
from scheduler.executors.real.torch_session import free_memory_bytes, replay_backend

CPU_PROMPTS = ((16, 0), (64, 0), (128, 0), (32, 128))
GPU_PROMPTS = ((16, 0), (64, 0), (256, 0), (1024, 0), (2048, 0), (4096, 0), (256, 2048), (1024, 2048))
PROMPT_REPEATS = 7
SEED = 0
MEMORY_SHARE = 0.8
"""Of the memory free beside the weights, this share may go to the KV slab."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A decoder with recorded steps; `launchers` and `states` have one entry per cell of the grid."""

    static: StaticDecoder
    captured: CapturedSteps
    grid: Grid
    launchers: list[Callable[[], None]] = field(default_factory=list)
    states: list[Int64] = field(default_factory=list)

    def time_cell(self, cell: int) -> StepTime:
        """Time one step of a cell."""
        return self.static.timed(self.states[cell], self.grid.cells[cell].batch, self.launchers[cell])


def open_bench(
    model: str,
    device: str,
    *,
    batches: Sequence[int],
    contexts: Sequence[int],
    eager_batches: Sequence[int],
    attention: str,
    spread: float,
    passes: int,
    progress: Callable[[str, int, int], None],
) -> Bench:
    """Build the decoder, choose the cells that fit the memory, and record one step per graph cell."""
    shape, target = model_shape(model), torch.device(device)
    dtype = dtype_for(target)
    prompts = GPU_PROMPTS if device == "cuda" else CPU_PROMPTS
    longest_prompt = max(tokens + cached for tokens, cached in prompts)
    positions = max(longest_context(contexts, False, spread), longest_prompt) + 1
    decoder = Decoder(shape, device=device, dtype=dtype, max_positions=positions, seed=SEED)
    budget = int(MEMORY_SHARE * free_memory_bytes(device)) // shape.kv_bytes_per_token(dtype.itemsize)
    probe = StaticDecoder(decoder, rows=1, max_context=max(contexts), attention=attention, buckets=contexts)
    cut, name = probe.attention.needs_ordered_rows, probe.attention.name
    del probe
    longest = longest_context(contexts, cut, spread)
    stride = aligned(longest) if cut else None
    plan = plan_cells(batches, contexts, eager_batches, stride=stride, budget_tokens=budget, spread=spread)
    if not plan.cells:
        raise InputError(f"calibrate: not even {batches[0]} rows of {contexts[0]} tokens fit on {device}")
    slab_tokens = max(plan.needed_tokens, longest_prompt) + SCRATCH_TOKENS
    slab = KvSlab(shape, slab_tokens, target, dtype, SEED + 1)
    rows = max(cell.batch for cell in plan.cells)
    static = StaticDecoder(
        decoder, rows=rows, max_context=longest, attention=name, buckets=contexts, slab=slab
    )
    captured = CapturedSteps(replay_backend(device))
    identity = _identity(model, static, captured.backend, 0.0 if cut else spread)
    grid = Grid(identity, [], passes, plan.skipped)
    keys = {static.key(c.batch, static.bucket(c.context)) for c in plan.cells if c.mode == "graph"}
    static.rest()
    captured.capture_all(
        keys, static.step, static.bound, lambda key: progress("capture", len(captured.captured), len(keys))
    )
    grid.recordings = [_recording(captured, key) for key in [*captured.captured, *captured.failed]]
    bench = Bench(static, captured, grid)
    draw = np.random.default_rng(SEED)
    for cell in plan.cells:
        key = static.key(cell.batch, static.bucket(cell.context))
        done = captured.get(key) if cell.mode == "graph" else None
        if cell.mode == "graph" and done is None:
            reason = captured.failed[key]
            grid.skipped.append({"batch": cell.batch, "context": cell.context, "reason": reason})
            continue
        grid.cells.append(cell)
        bench.launchers.append(done.replay if done is not None else static.launch_eager(key))
        bench.states.append(row_states(cell, shape.vocabulary, stride, spread, draw))
    return bench


def _recording(captured: CapturedSteps, key: GraphKey) -> Recording:
    found = Recording(batch=key.batch, context=key.context, dtype=key.dtype, attention=key.attention)
    done = captured.get(key)
    if done is None:
        found["error"] = captured.failed[key]
        return found
    found["warm_up_s"], found["capture_s"] = done.warm_up_s, done.capture_s
    found["memory_bytes"] = done.memory_bytes
    found["nodes"], found["node_types"] = done.nodes, done.node_types
    found["notes"] = list(done.notes)
    return found


def time_constants(bench: Bench) -> Constants:
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

    constants: Constants = {
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


def time_prompts(static: StaticDecoder) -> list[PromptTimes]:
    """Time one prompt chunk per step, alone, after `cached` tokens."""
    rows: list[PromptTimes] = []
    prompts = GPU_PROMPTS if static.clock.is_cuda else CPU_PROMPTS
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


def _identity(model: str, static: StaticDecoder, backend: ReplayBackend, spread: float) -> MeasuredOn:
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
        "seed": SEED,
        "date": time.strftime("%Y-%m-%d"),
        "length_spread": spread,
    }
