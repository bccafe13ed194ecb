"""What equal decode steps ask of host and GPU: a class, for compiled code calls its own classes fastest."""

from __future__ import annotations

Times = tuple[int, int, int, int, int, int]  # as the fields of StepParts


class DecodeTimes:
    """The parts of decode steps that differ in their KV tokens and in when they are decided."""

    def parts(self, kv_tokens: int, decided_ns: int) -> Times:
        """Return the fields of `StepParts`; asked once per step, in the order of the decisions."""
        raise NotImplementedError
