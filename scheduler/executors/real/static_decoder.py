"""A decoder with everything static that replay needs: weights, KV slab, input and output buffers.

One decode step reads `inputs` (row: token id, position, first entry of its KV place) and writes `tokens`.
Padded rows hold token 0 at position 0 of the scratch place, which no request ever owns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scheduler.executors.real.attention import Attention, FlashAttention, SlabAttention, check_flash
from scheduler.executors.real.decoder import Attend, Decoder
from scheduler.executors.real.device_clock import DeviceClock, StepTime
from scheduler.executors.real.model_shapes import ModelShape
from scheduler.executors.real.replay import GraphKey, Step

Int64 = NDArray[np.int64]

TOKEN, POSITION, START = 0, 1, 2
SCRATCH_TOKENS = 16
TEMPLATE_OFFSETS = 64
ALIGNMENT_TOKENS = 16


def dtype_for(device: torch.device) -> torch.dtype:
    """Return bf16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def aligned(tokens: int) -> int:
    """Round a context length up to the alignment that fused attention kernels ask for."""
    return -(-tokens // ALIGNMENT_TOKENS) * ALIGNMENT_TOKENS


def context_buckets(max_context: int, smallest: int = 64) -> tuple[int, ...]:
    """Return lengths that double from `smallest` up to the (aligned) longest context."""
    longest, bucket, buckets = aligned(max_context), smallest, []
    while bucket < longest:
        buckets.append(bucket)
        bucket *= 2
    return (*buckets, longest)


class KvSlab:
    """Keys and values of all layers in one allocation, flat over tokens, filled with finite numbers."""

    def __init__(
        self, shape: ModelShape, tokens: int, device: torch.device, dtype: torch.dtype, seed: int
    ) -> None:
        size = (2 * shape.layers, tokens, shape.kv_heads, shape.head_dim)
        generator = torch.Generator(device=device).manual_seed(seed)
        self.tokens = tokens
        self.entries = torch.empty(size, device=device, dtype=dtype).normal_(generator=generator)
        per_layer = self.entries.unbind(0)
        self.keys: list[Tensor] = list(per_layer[: shape.layers])
        self.values: list[Tensor] = list(per_layer[shape.layers :])

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy `tokens` entries of every layer from one start to another (not overlapping)."""
        self.entries[:, target : target + tokens].copy_(self.entries[:, source : source + tokens])

    def exchange(self, one: int, other: int, tokens: int) -> None:
        """Exchange `tokens` entries of every layer between two starts."""
        kept = self.entries[:, one : one + tokens].clone()
        self.copy(other, one, tokens)
        self.entries[:, other : other + tokens].copy_(kept)


class StaticDecoder:
    """Static buffers around a decoder, and the one decode step over them.

    `rows` is the largest batch or capture size, `max_context` the longest sequence. `attention` is "slab",
    "flash" or "auto" (flash where it passes its numerical check, else slab). A `slab` of at least `rows`
    places may be given to share memory.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        rows: int,
        max_context: int,
        attention: str = "auto",
        buckets: Sequence[int] | None = None,
        slab: KvSlab | None = None,
        seed: int = 0,
        keep_logits: bool = False,
    ) -> None:
        self.decoder = decoder
        self.device = decoder.device
        self.clock = DeviceClock(self.device)
        self.rows = rows
        self.stride = aligned(max_context)
        self.attention, self.attention_note = self._choose(attention, buckets)
        tokens = rows * self.stride + SCRATCH_TOKENS
        self.slab = slab or KvSlab(decoder.shape, tokens, self.device, decoder.dtype, seed + 1)
        if self.attention.needs_ordered_rows and self.slab.tokens < tokens:
            raise ValueError(f"{rows} rows of {self.stride} tokens do not fit a slab of {self.slab.tokens}")
        self.scratch = self.slab.tokens - SCRATCH_TOKENS
        pinned = self.device.type == "cuda"
        self.inputs = torch.zeros(rows + 1, 3, dtype=torch.int64, device=self.device)
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._host_inputs = torch.zeros(rows + 1, 3, dtype=torch.int64, pin_memory=pinned)
        self._host_tokens = torch.zeros(rows, dtype=torch.int64, pin_memory=pinned)
        self._input_view: Int64 = self._host_inputs.numpy()
        self._token_view: Int64 = self._host_tokens.numpy()
        self.logits: Tensor | None = None
        if keep_logits:
            self.logits = torch.zeros(rows, decoder.shape.vocabulary, dtype=decoder.dtype, device=self.device)
        self.rest()

    def _choose(self, attention: str, buckets: Sequence[int] | None) -> tuple[Attention, str]:
        shape, note = self.decoder.shape, ""
        if attention in ("auto", "flash"):
            refused = check_flash(
                shape.heads, shape.kv_heads, shape.head_dim, self.stride, self.device, self.decoder.dtype
            )
            if refused is None:
                return FlashAttention(self.stride, self.rows, self.device), ""
            if attention == "flash":
                raise ValueError(refused)
            note = refused if self.device.type == "cuda" else ""
        elif attention != "slab":
            raise ValueError(f"attention {attention!r}: expected auto, slab or flash")
        cut = tuple(buckets) if buckets else context_buckets(self.stride)
        return SlabAttention(self.stride, cut, self.device, self.decoder.dtype), note

    @property
    def bound(self) -> tuple[Any, ...]:
        """The static tensors a step is bound to."""
        extra = () if self.logits is None else (self.logits,)
        return (self.inputs, self.tokens, *self.slab.keys, *self.slab.values, *extra)

    def bucket(self, longest: int) -> int | None:
        """Return the context bucket that holds `longest` tokens; raises ValueError beyond the slab."""
        if longest > self.stride:
            raise ValueError(f"a context of {longest} tokens exceeds the KV place of {self.stride}")
        return next(b for b in self.attention.buckets if b is None or b >= longest)

    def key(self, batch: int, bucket: int | None) -> GraphKey:
        """Return what is baked into a recorded step of `batch` rows."""
        return GraphKey(batch, bucket, str(self.decoder.dtype).removeprefix("torch."), self.attention.name)

    def step(self, key: GraphKey) -> Step:
        """Return the decode step of a key as a function of the bound tensors."""
        rows, layers, keep = key.batch, self.decoder.shape.layers, self.logits is not None

        def decode(inputs: Tensor, tokens: Tensor, *rest: Tensor) -> Tensor:
            state = inputs[: rows + 1]
            positions, starts = state[:, POSITION], state[:, START]
            attend = self.attention.decode(rows, key.context, positions, starts)
            at = (starts + positions)[:rows]
            keys, values = rest[:layers], rest[layers : 2 * layers]
            logits = self.decoder.logits(state[:rows, TOKEN], positions[:rows], at, keys, values, attend)
            if keep:
                rest[-1][:rows].copy_(logits)
            tokens[:rows].copy_(logits.argmax(-1))
            return tokens

        return decode

    def rest(self) -> None:
        """Point every row at the scratch place, so that a step may run without touching a request."""
        self._input_view[:] = (0, 0, self.scratch)
        self.inputs.copy_(self._host_inputs)

    def load(self, state: Int64, size: int) -> None:
        """Copy the state [n, 3] of n live rows to the device, padded to `size` rows; a GPU does not wait."""
        live = len(state)
        self._input_view[:live] = state
        self._input_view[live : size + 1] = (0, 0, self.scratch)
        self.inputs[: size + 1].copy_(self._host_inputs[: size + 1], non_blocking=True)

    def fetch(self, rows: int) -> Int64:
        """Copy the new tokens of the first rows to the host and wait; the next fetch overwrites the view."""
        self._host_tokens[:rows].copy_(self.tokens[:rows], non_blocking=True)
        self.clock.wait()
        return self._token_view[:rows]

    def launch_eager(self, key: GraphKey) -> Callable[[], None]:
        """Return a function that issues the step of a key operation by operation."""
        step, bound = self.step(key), self.bound

        def launch() -> None:
            with torch.no_grad():
                step(*bound)

        return launch

    def timed(self, state: Int64, size: int, launch: Callable[[], None]) -> StepTime:
        """Time one decode step: load `state` padded to `size` rows, launch, fetch the live rows' tokens."""

        def load() -> None:
            self.load(state, size)

        def fetch() -> None:
            self.fetch(len(state))

        return self.clock.time_step(load, launch, fetch)

    def forward_eager(
        self, ids: Int64, positions: Int64, at: Int64, attend: Attend, emitting: Int64
    ) -> tuple[Int64, StepTime]:
        """Run and time a step with prompt tokens, eagerly; return the emitting rows' new tokens.

        `ids`, `positions` and `at` (where in the slab each token's entries go) have one entry per token.
        """
        tokens: list[Tensor] = []
        staged: list[Tensor] = []

        def load() -> None:
            packed = torch.from_numpy(np.stack((ids, positions, at))).to(self.device)
            staged.extend((packed[0], packed[1], packed[2], torch.from_numpy(emitting).to(self.device)))

        def launch() -> None:
            with torch.no_grad():
                ids_, positions_, at_, emitting_ = staged
                keys, values = self.slab.keys, self.slab.values
                logits = self.decoder.logits(ids_, positions_, at_, keys, values, attend, emitting_)
                tokens.append(logits.argmax(-1))

        def fetch() -> None:
            tokens[0] = tokens[0].cpu()

        timed = self.clock.time_step(load, launch, fetch)
        return tokens[0].numpy(), timed


class PromptEntries:
    """Deterministic KV entries of requests that arrive prefilled: windows of one random template."""

    def __init__(self, static: StaticDecoder, seed: int) -> None:
        shape = static.decoder.shape
        tokens = static.stride + TEMPLATE_OFFSETS
        self._template = KvSlab(shape, tokens, static.device, static.decoder.dtype, seed)
        self._slab = static.slab

    def fill(self, request: int, start: int, tokens: int) -> None:
        """Write the request's first `tokens` entries at `start`; the same for the same request every time."""
        offset = request * 37 % TEMPLATE_OFFSETS
        window = self._template.entries[:, offset : offset + tokens]
        self._slab.entries[:, start : start + tokens].copy_(window)
