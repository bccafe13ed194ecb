"""A profile written inside a workload file: whole step times in milliseconds, taken as they are."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from scheduler.catalog.numbers import MsOrZero, PositiveMs, Strict, as_tuple, expectation


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
