"""A profile written inside a workload file: whole step times in milliseconds, taken as they are."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from scheduler.catalog.numbers import MsOrZero, PositiveMs, Strict, as_tuple, expectation
from scheduler.catalog.profile.profile import CurveSource, Fit, Mode, Origin, Provenance
from scheduler.errors import InputError


class DecodeCurve(Strict):
    """Milliseconds of one decode step: a line in the batch size, or a table for batch 1, 2, ….

    `base + per_request · batch`, or `table[batch − 1]`; both plus `per_kv_token` times the KV tokens of
    the decoded sequences.
    """

    base: MsOrZero | None = None
    per_request: MsOrZero | None = None
    table: Annotated[tuple[PositiveMs, ...], Field(min_length=1), BeforeValidator(as_tuple)] | None = None
    per_kv_token: MsOrZero = 0.0

    @model_validator(mode="after")
    def _line_or_table(self) -> DecodeCurve:
        line = (self.base, self.per_request)
        if self.table is not None and line != (None, None):
            raise expectation("base and per_request, or table, not both", got=False)
        if self.table is None and None in line:
            raise expectation("base and per_request, or table", got=False)
        return self


class PrefillLine(Strict):
    """Milliseconds of one prefill step: `base + per_token · prompt tokens computed`."""

    base: MsOrZero
    per_token: MsOrZero


class InlineProfile(Strict):
    """Step times by mode; `decode_fallback_ms` (no graph, same engine) defaults to the eager curve."""

    decode_eager_ms: DecodeCurve
    decode_graph_ms: DecodeCurve
    decode_fallback_ms: DecodeCurve | None = None
    prefill_ms: PrefillLine | None = None

    def decode(self, mode: Mode) -> DecodeCurve | None:
        """Return the mode's own curve."""
        return {
            "graph": self.decode_graph_ms,
            "fallback": self.decode_fallback_ms,
            "eager": self.decode_eager_ms,
        }[mode]

    @property
    def name(self) -> str:
        """See Profile."""
        return "inline"

    @property
    def model_id(self) -> str:
        """See Profile."""
        return "inline"

    @property
    def identity(self) -> None:
        """See Profile: nothing was measured."""

    @property
    def fit(self) -> tuple[Fit, ...]:
        """See Profile."""
        return ()

    @property
    def provenance(self) -> dict[str, Provenance]:
        """See Profile."""
        return {}

    @property
    def has_range(self) -> bool:
        """See Profile: times are taken as they are."""
        return False

    @property
    def range_origin(self) -> Origin:
        """See Profile."""
        return "assumed"

    @property
    def has_prefill(self) -> bool:
        """See Profile."""
        return self.prefill_ms is not None

    @property
    def is_asynchronous(self) -> bool:
        """See Profile."""
        return False

    @property
    def pool(self) -> None:
        """See Profile: not known."""

    @property
    def jitter(self) -> None:
        """See Profile: not known."""

    @property
    def draft(self) -> None:
        """See Profile: not known."""

    @property
    def gpu_bytes(self) -> None:
        """See Profile: not known."""

    def at_drift(self) -> InlineProfile | None:
        """See Profile: not known."""
        return None

    def with_eager_ms(self, eager_ms: float) -> InlineProfile:
        """See Profile: its eager times are given."""
        raise InputError(
            f"--eager-ms {eager_ms:g}: expected a profile of host and GPU, got step times in the "
            "workload file; write decode_eager_ms there"
        )

    def curve(self, mode: Mode) -> CurveSource | None:
        """See Profile."""
        return CurveSource("given") if self.decode(mode) is not None else None

    def kv_blocks(self, block_size: int, graph_pool_bytes: int = 0) -> int:
        """See Profile."""
        raise InputError(
            "engine.kv_blocks: expected a number or unlimited, got auto: an inline profile knows no memory"
        )

    def record(self) -> dict[str, object]:
        """See Profile: its own whole truth."""
        return {"inline": self.model_dump(mode="json", exclude_none=True)}
