"""Executes every step of the loop on a real decoder: operation by operation, or by replaying a recorded step.

The loop decides as it does over a cost model; the nanoseconds measured here advance its clock. Admission and
release (filling or moving KV entries) happen outside the measured time: an engine with block tables does no
such copies. `run` measures from before the inputs are copied until the new tokens are on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.engine.executor import Admission, ExecutorError, PrefillChunk, StepKind, StepPlan
from scheduler.executors.real.attention import chunk_attention, in_parts
from scheduler.executors.real.batch_rows import BatchRows, Move
from scheduler.executors.real.decoder import Attend
from scheduler.executors.real.replay import CapturedSteps, GraphKey
from scheduler.executors.real.static_decoder import (
    POSITION,
    START,
    TOKEN,
    PromptEntries,
    StaticDecoder,
)

Int64 = NDArray[np.int64]


@dataclass(slots=True)
class Counts:
    """What the executor did: steps by route, and replays that fell back because their recording failed."""

    replayed: int = 0
    eager: int = 0
    fallen_back: int = 0
    prefill: int = 0
    copied_rows: int = 0


@dataclass(slots=True)
class TorchExecutor:
    """An Executor over a StaticDecoder, for one run; a step whose plan has no graph is issued eagerly.

    `entries` writes the KV entries of requests that arrive prefilled (decode_only); None where prompts are
    computed here. Executors of one session share buffers: use them one after the other.
    """

    static: StaticDecoder
    captured: CapturedSteps
    entries: PromptEntries | None
    counts: Counts = field(default_factory=Counts)
    on_tokens: Callable[[dict[int, int]], None] | None = None
    """Called after each step with request → emitted token, for checks; outside the measured time."""
    pad_eagerly: bool = False
    """For checks: compute a step that has a graph eagerly, at the graph's size, in place of replaying it."""

    _rows: BatchRows = field(init=False)
    _state: Int64 = field(init=False)
    _request_of_slot: dict[int, int] = field(init=False)
    _slot_of_request: dict[int, int] = field(init=False)
    _free_places: list[int] = field(init=False)
    _launchers: dict[GraphKey, Callable[[], None]] = field(init=False)

    def __post_init__(self) -> None:
        static = self.static
        self._rows = BatchRows(static.rows)
        self._state = np.zeros((static.rows, 3), np.int64)
        self._request_of_slot = {}
        self._slot_of_request = {}
        self._free_places = [static.stride * place for place in reversed(range(static.rows))]
        self._launchers = {}

    def admit(self, slot: int, admission: Admission) -> None:
        """See Executor. A prefilled request's KV entries are written here, outside the measured time."""
        static = self.static
        row = self._rows.add(slot)
        start = row * static.stride if static.attention.needs_ordered_rows else self._free_places.pop()
        known = admission.prompt_tokens + admission.generated_tokens
        self._request_of_slot[slot] = admission.request
        self._slot_of_request[admission.request] = slot
        self._state[row] = (0, 0, start)
        if self.entries is not None:
            if known >= static.stride + 1:
                raise ExecutorError(
                    f"request {admission.request} holds {known} tokens; a KV place {static.stride}"
                )
            self.entries.fill(admission.request, start, known)
            self._state[row, TOKEN] = (admission.request * 7919 + known) % static.decoder.shape.vocabulary
            self._state[row, POSITION] = known
            self._move(self._rows.start_decoding(slot))

    def release(self, slot: int) -> None:
        """See Executor. Closes the hole in the batch, moving KV entries where attention needs order."""
        start = int(self._state[self._rows.row(slot), START])
        if not self.static.attention.needs_ordered_rows:
            self._free_places.append(start)
        self._move(self._rows.remove(slot))
        self._slot_of_request.pop(self._request_of_slot.pop(slot))

    def _move(self, moves: Sequence[Move]) -> None:
        state, static = self._state, self.static
        for source, target, exchange in moves:
            one, other = state[source].copy(), state[target].copy()
            if static.attention.needs_ordered_rows:
                self.counts.copied_rows += 1
                if exchange:
                    static.slab.exchange(
                        int(one[START]), int(other[START]), int(max(one[POSITION], other[POSITION]))
                    )
                elif one[POSITION]:
                    static.slab.copy(int(one[START]), int(other[START]), int(one[POSITION]))
                one[START], other[START] = other[START], one[START]
            state[target] = one
            if exchange:
                state[source] = other

    def run(self, plan: StepPlan) -> int:
        """See Executor; the nanoseconds are those of the device's clock (device_clock)."""
        if plan.piecewise:
            raise ExecutorError("piecewise graphs are not executed for real: use pool mode decode_only")
        rows = self._rows.decoding
        if plan.batch_size != (0 if plan.kind is StepKind.PREFILL else rows):
            raise ExecutorError(f"the loop decodes {plan.batch_size} sequences, the executor holds {rows}")
        try:
            if plan.kind is StepKind.DECODE:
                return self._decode(plan)
            return self._with_prefill(plan)
        except (RuntimeError, ValueError) as error:
            raise ExecutorError(f"a step of batch size {plan.batch_size} failed: {error}") from error

    def _decode(self, plan: StepPlan) -> int:
        static, rows = self.static, plan.batch_size
        state = self._state[:rows]
        cached = int(state[:, POSITION].sum())
        if cached != plan.kv_tokens:
            raise ExecutorError(f"the loop counts {plan.kv_tokens} KV tokens, the executor holds {cached}")
        bucket = static.bucket(int(state[:, POSITION].max()) + 1)
        size, launch = self._launch(plan, bucket)
        clock = static.clock
        clock.wait()
        started = clock.now_ns()
        static.load(state, size)
        launch()
        tokens = static.fetch(rows)
        duration = clock.now_ns() - started
        self._advance(tokens, rows)
        return duration

    def _launch(self, plan: StepPlan, bucket: int | None) -> tuple[int, Callable[[], None]]:
        """Return how many rows the step computes and what launches it."""
        size = plan.capture_size
        if size is not None and not self.pad_eagerly:
            captured = self.captured.get(self.static.key(size, bucket))
            if captured is not None:
                self.counts.replayed += 1
                return size, captured.replay
            self.counts.fallen_back += 1
        self.counts.eager += 1
        rows = size if size is not None and self.pad_eagerly else plan.batch_size
        key = self.static.key(rows, bucket)
        launch = self._launchers.get(key)
        if launch is None:
            launch = self._launchers[key] = self.static.launch_eager(key)
        return rows, launch

    def _advance(self, tokens: Int64, rows: int) -> None:
        tokens = tokens[:rows]
        self._state[:rows, TOKEN] = tokens
        self._state[:rows, POSITION] += 1
        if self.on_tokens is not None:
            emitted = (self._request_of_slot[self._rows.slot(row)] for row in range(rows))
            self.on_tokens(dict(zip(emitted, tokens.tolist(), strict=True)))

    def _with_prefill(self, plan: StepPlan) -> int:
        """Run a step with prompt tokens eagerly: decoding rows and every chunk in one forward pass."""
        static, rows = self.static, plan.batch_size
        state = self._state[:rows]
        ids, positions, starts = [state[:, TOKEN]], [state[:, POSITION]], [state[:, START]]
        emitting = list(range(rows))
        chunks: list[tuple[int, PrefillChunk, int]] = []
        at = rows
        for chunk in plan.prefill:
            slot = self._slot_of_request[chunk.request]
            start = int(self._state[self._rows.row(slot), START])
            span = np.arange(chunk.cached_tokens, chunk.cached_tokens + chunk.tokens)
            ids.append((chunk.request * 7919 + span * 104_729) % static.decoder.shape.vocabulary)
            positions.append(span)
            starts.append(np.full(chunk.tokens, start))
            chunks.append((slot, chunk, start))
            at += chunk.tokens
            if chunk.is_last:
                emitting.append(at - 1)
        position = np.concatenate(positions)
        if int(position.max()) >= static.stride:
            raise ExecutorError(
                f"a context of {int(position.max()) + 1} tokens exceeds the KV place {static.stride}"
            )
        attend = self._joined_attention(state, chunks)
        static.clock.wait()
        tokens, timed = static.forward_eager(
            np.concatenate(ids),
            position,
            np.concatenate(starts) + position,
            attend,
            np.array(emitting, np.int64),
        )
        self.counts.prefill += 1
        self._advance(tokens, rows)
        self._finish_chunks(chunks, tokens[rows:])
        return timed.total_ns

    def _joined_attention(self, state: Int64, chunks: Sequence[tuple[int, PrefillChunk, int]]) -> Attend:
        parts: list[tuple[int, Attend]] = []
        static = self.static
        rows = len(state)
        if rows:
            static.load(state, rows)
            positions, starts = static.inputs[: rows + 1, POSITION], static.inputs[: rows + 1, START]
            bucket = static.bucket(int(state[:, POSITION].max()) + 1)
            parts.append((rows, static.attention.decode(rows, bucket, positions, starts)))
        parts += [
            (chunk.tokens, chunk_attention(start, chunk.cached_tokens, chunk.tokens))
            for _, chunk, start in chunks
        ]
        return in_parts(parts)

    def _finish_chunks(self, chunks: Sequence[tuple[int, PrefillChunk, int]], tokens: Int64) -> None:
        emitted: dict[int, int] = {}
        for slot, chunk, _ in chunks:
            row = self._rows.row(slot)
            self._state[row, POSITION] = chunk.cached_tokens + chunk.tokens
            if chunk.is_last:
                token = int(tokens[len(emitted)])
                self._state[row, TOKEN] = token
                emitted[chunk.request] = token
                self._move(self._rows.start_decoding(slot))
        if self.on_tokens is not None and emitted:
            self.on_tokens(emitted)
