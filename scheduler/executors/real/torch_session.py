"""Opens a device for real execution: weights, KV slab and recordings, shared by all variants of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from scheduler.errors import InputError
from scheduler.executors.real.availability import require_device
from scheduler.executors.real.decoder import Decoder
from scheduler.executors.real.model_shapes import model_shape
from scheduler.executors.real.replay import (
    CapturedSteps,
    CaptureError,
    FailurePolicy,
    GraphKey,
    ReplayBackend,
)
from scheduler.executors.real.static_decoder import PromptEntries, StaticDecoder, aligned, dtype_for
from scheduler.executors.real.torch_executor import TorchExecutor


def replay_backend(device: str) -> ReplayBackend:
    """Return the backend that records and replays steps on a device."""
    if device == "cuda":
        from scheduler.executors.real.cuda_graphs import CudaGraphs

        return CudaGraphs(device)
    from scheduler.executors.real.traced_graphs import TracedGraphs

    return TracedGraphs()


@dataclass(frozen=True, slots=True)
class TorchSession:
    """A decoder ready to execute steps on a device. Its executors share buffers: one run at a time."""

    model: str
    static: StaticDecoder
    captured: CapturedSteps
    entries: PromptEntries | None

    def executor(self) -> TorchExecutor:
        """Return an executor for one run from an empty batch."""
        return TorchExecutor(self.static, self.captured, self.entries)

    def describe(self) -> dict[str, object]:
        """Return what executes the steps, as JSON values: for the card and the step log's header."""
        warm_up_s, capture_s, memory_bytes = self.captured.totals()
        static = self.static
        return {
            "executor": "torch",
            "model": self.model,
            "device": static.clock.device_name(),
            "clock": static.clock.description,
            "replay": self.captured.backend.name,
            "attention": static.attention.name,
            "attention_note": static.attention_note,
            "dtype": str(static.decoder.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "graphs": len(self.captured.captured),
            "graphs_failed": {str(size): error for size, error in sorted(self.failed_sizes().items())},
            "warm_up_s": round(warm_up_s, 3),
            "capture_s": round(capture_s, 3),
            "graph_bytes": memory_bytes,
        }

    def failed_sizes(self) -> dict[int, str]:
        """Return the capture sizes that were not recorded at every context bucket, with the first error."""
        failed: dict[int, str] = {}
        for key, error in self.captured.failed.items():
            failed.setdefault(key.batch, error)
        return failed

    def close(self) -> None:
        """Drop the recordings and give their memory back."""
        self.captured.backend.reset()


def open_session(
    *,
    model: str,
    device: str,
    max_num_seqs: int,
    max_context: int,
    capture_sizes: Sequence[int] = (),
    prefilled: bool = True,
    attention: str = "auto",
    buckets: Sequence[int] | None = None,
    on_failure: FailurePolicy = "eager",
    seed: int = 0,
    progress: Callable[[GraphKey], None] = lambda key: None,
) -> TorchSession:
    """Build weights, slab and recordings on a device.

    `capture_sizes` are those of all variants together; of them only those that a batch of up to
    `max_num_seqs` can take are recorded, each at every context bucket of the attention. `max_context` is the
    most tokens (prompt and answer) of a request. `prefilled`: requests arrive with their KV (decode_only).
    Raises InputError where the device is missing or its memory too small, or, under on_failure "raise", for
    the first failed recording.
    """
    require_device(device)
    usable = usable_sizes(capture_sizes, max_num_seqs)
    rows = max(max_num_seqs, *usable, 1)
    shape, target = model_shape(model), torch.device(device)
    dtype = dtype_for(target)
    _refuse_too_large(model, device, rows, max_context, dtype)
    decoder = Decoder(shape, device=device, dtype=dtype, max_positions=aligned(max_context) + 1, seed=seed)
    static = StaticDecoder(
        decoder, rows=rows, max_context=max_context, attention=attention, buckets=buckets, seed=seed
    )
    captured = CapturedSteps(replay_backend(device), on_failure)
    keys = [static.key(size, bucket) for size in usable for bucket in static.attention.buckets]
    static.rest()
    try:
        captured.capture_all(keys, static.step, static.bound, progress)
    except CaptureError as error:
        raise InputError(f"capture on {device} failed: {error}") from error
    return TorchSession(model, static, captured, PromptEntries(static, seed + 2) if prefilled else None)


def usable_sizes(capture_sizes: Sequence[int], max_num_seqs: int) -> tuple[int, ...]:
    """Return the capture sizes that a batch of 1…`max_num_seqs` can take, ascending."""
    ascending = sorted(set(capture_sizes))
    first_over = next((size for size in ascending if size >= max_num_seqs), None)
    return tuple(size for size in ascending if first_over is None or size <= first_over)


def _refuse_too_large(model: str, device: str, rows: int, max_context: int, dtype: torch.dtype) -> None:
    """Raise InputError where weights and KV slab would not fit the device's free memory."""
    shape = model_shape(model)
    element = dtype.itemsize
    needed = shape.weights * element + rows * max_context * shape.kv_bytes_per_token(element)
    free = free_memory_bytes(device)
    if needed > 0.9 * free:
        raise InputError(
            f"{model} with {rows} rows of {max_context} tokens needs {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free on {device}: lower engine.max_num_seqs or the lengths"
        )


def free_memory_bytes(device: str) -> int:
    """Return the free memory of a device in bytes."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    with open("/proc/meminfo", encoding="utf-8") as lines:  # noqa: PTH123
        for line in lines:
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return 2**33
