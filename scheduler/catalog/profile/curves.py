"""A profile of curves: step times by mode, launching apart from the GPU's work.

Times are milliseconds. GPU times, issue times and host times are kept apart, because launches are
asynchronous: a step lasts `host + max(issue, GPU)`, or `max(host + issue, GPU)` with `overlap`.
A table of whole step times is a profile whose host and issue times are zero.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from scheduler.catalog.numbers import MsOrZero, Strict, expectation
from scheduler.catalog.profile.measured import MeasuredProfile
from scheduler.catalog.profile.profile import (
    EAGER_KV_TOKENS,
    EAGER_ROWS,
    ZERO,
    CurveSource,
    LowHigh,
    Mode,
    Origin,
    own_eager,
    require_host_bound,
)
from scheduler.catalog.profile.tables import Curve, DecodeTable, JointAttention, decode_points, read_points
from scheduler.errors import InputError


class DecodeMode(Strict):
    """Decode steps of one mode. `gpu` None: the graph mode's table; `gpu_extra_ms`: gaps between kernels.

    `issue_ms` is the time the CPU needs to launch a step (to launch the graph, in graph mode).
    `padding_attends` False: padded rows attend to nothing, so a graph step costs what the captured size
    costs without KV tokens plus what the *live* rows' KV tokens cost in a batch of their own number.
    """

    gpu: DecodeTable | None = None
    padding_attends: bool = True
    gpu_extra_ms: MsOrZero = 0.0
    issue_ms: LowHigh = ZERO


class Decode(Strict):
    """The three decode curves. `fallback` (no graph, same engine) defaults to `eager`."""

    graph: DecodeMode | None = None
    fallback: DecodeMode | None = None
    eager: DecodeMode | None = None

    @model_validator(mode="after")
    def _tables_exist(self) -> Decode:
        if self.graph is self.fallback is self.eager is None:
            raise expectation("at least one decode curve", got=False)
        if self.graph is not None and self.graph.gpu is None:
            raise expectation("a table of GPU times", "graph.gpu", got=False)
        for name in ("fallback", "eager"):
            mode = getattr(self, name)
            if mode is not None and mode.gpu is None and self.graph is None:
                raise expectation("a table, for there is no graph mode", f"{name}.gpu", got=False)
        return self

    def mode(self, name: Mode) -> DecodeMode | None:
        """Return a mode's data; a missing fallback is the eager mode."""
        found: DecodeMode | None = getattr(self, name)
        return self.eager if found is None and name == "fallback" else found

    def table(self, name: Mode) -> DecodeTable | None:
        """Return the GPU table a mode uses, its own or the graph mode's."""
        found = self.mode(name)
        if found is None:
            return None
        return found.gpu if found.gpu is not None or self.graph is None else self.graph.gpu


class Prefill(Strict):
    """Steps that compute prompt tokens, alone or mixed with decodes.

    GPU time = `tokens` at the step's total tokens + `sequences` at the number of sequences + attention.
    Attention is read from `attention` where there is a joint table. Else it is `pair_ms` for each (new
    token, earlier token) pair, plus the KV part of the decode curve, plus `mixed_extra_ms` in mixed steps.
    `issue_ms` None: as a decode step without a graph. `piecewise_issue_ms`: in a piecewise graph.
    """

    tokens: Curve
    sequences: Curve | None = None
    attention: JointAttention | None = None
    pair_ms: MsOrZero = 0.0
    mixed_extra_ms: MsOrZero = 0.0
    issue_ms: LowHigh | None = None
    piecewise_issue_ms: LowHigh | None = None


class Host(Strict):
    """CPU work of a step beside launching it: scheduling, input copies, tokens back, output handling.

    `overlap`: this work is done for the next step while the GPU computes (asynchronous scheduling).
    """

    step_ms: LowHigh = ZERO
    per_sequence_ms: MsOrZero = 0.0
    overlap: bool = False


class CurveProfile(MeasuredProfile):
    """A profile file, version 1. See the module for what the times mean."""

    version: Literal[1]
    decode: Decode
    prefill: Prefill | None = None
    host: Host = Host()

    @property
    def has_range(self) -> bool:
        """See Profile: any time that hangs on the host's CPU may have two ends."""
        ranges = [self.host.step_ms]
        ranges += [mode.issue_ms for mode in (self.decode.eager, self.decode.fallback) if mode]
        if self.prefill is not None and self.prefill.issue_ms is not None:
            ranges.append(self.prefill.issue_ms)
        return any(interval.low != interval.high for interval in ranges)

    @property
    def range_origin(self) -> Origin:
        """See Profile."""
        entry = self.origin_of("decode.eager.issue_ms")
        return "assumed" if entry is None else entry.origin

    @property
    def has_prefill(self) -> bool:
        """See Profile."""
        return self.prefill is not None

    def with_eager_ms(self, eager_ms: float) -> CurveProfile:
        """See Profile; prompts and steps without a graph are issued by the same host."""
        table, eager = self.decode.table("eager"), self.decode.eager
        if table is None or eager is None:
            raise InputError(f"--eager-ms {eager_ms:g}: profile {self.name} has no eager curve")
        gpu_ms = read_points(decode_points(table, EAGER_ROWS), EAGER_KV_TOKENS) + eager.gpu_extra_ms
        require_host_bound(eager_ms, gpu_ms, self.name)
        rows_ms = self.host.per_sequence_ms * EAGER_ROWS

        def whole(end: Literal["low", "high"]) -> float:
            return self.host.step_ms.at(end) + eager.issue_ms.at(end) + rows_ms

        low, high = whole("low"), whole("high")
        place = (eager_ms - low) / (high - low) if high > low else 0.0
        scale = (eager_ms - rows_ms) / (low - rows_ms) if low > rows_ms else 1.0

        def closed(times: LowHigh) -> LowHigh:
            """Return a time where the step puts it: inside the range between its ends, outside in ratio."""
            if 0 <= place <= 1 and high > low:
                at = times.low + place * (times.high - times.low)
            else:
                at = times.low * max(scale, 0.0)
            return LowHigh(low=at, high=at)

        modes = {
            name: mode.model_copy(update={"issue_ms": closed(mode.issue_ms)})
            for name in ("fallback", "eager")
            if (mode := getattr(self.decode, name)) is not None
        }
        # What the step leaves for issuing is exact for the eager mode, whatever the others make of it.
        step = closed(self.host.step_ms)
        issue = max(eager_ms - rows_ms - step.low, 0.0)
        modes["eager"] = modes["eager"].model_copy(update={"issue_ms": LowHigh(low=issue, high=issue)})
        prefill = self.prefill
        if prefill is not None:
            issued = {
                name: closed(times)
                for name in ("issue_ms", "piecewise_issue_ms")
                if (times := getattr(prefill, name)) is not None
            }
            prefill = prefill.model_copy(update=issued)
        return self.model_copy(
            update={
                "decode": self.decode.model_copy(update=modes),
                "host": self.host.model_copy(update={"step_ms": step}),
                "prefill": prefill,
                "provenance": self.provenance | {"decode.eager.issue_ms": own_eager(eager_ms)},
            }
        )

    def curve(self, mode: Mode) -> CurveSource | None:
        """See Profile; a curve without a table of its own stands on the graph mode's."""
        if getattr(self.decode, mode) is None:
            return None
        table = self.decode.table(mode)
        entry = next(
            (self.origin_of(field) for field in self.leaf_fields() if field.startswith(f"decode.{mode}.")),
            None,
        )
        return CurveSource("assumed" if entry is None else entry.origin, () if table is None else table.sizes)
