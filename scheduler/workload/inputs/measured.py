"""Measured runs: what a real server's requests saw, to hold a simulation against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import InputError
from scheduler.workload.inputs.found import Found
from scheduler.workload.requests import Requests

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured run in arrival order: its requests, and per request TTFT and E2EL in milliseconds."""

    requests: Requests
    ttft_ms: Float
    e2el_ms: Float

    @property
    def tpot_ms(self) -> Float:
        """(E2EL − TTFT) / (output tokens − 1); not a number for one-token answers."""
        later = self.requests.output_tokens - 1
        return (self.e2el_ms - self.ttft_ms) / np.where(later > 0, later, np.nan)

    @property
    def makespan_s(self) -> float:
        """From the first arrival to the last token."""
        finish_ms = self.requests.arrival_ns / 1e6 + self.e2el_ms
        return float(finish_ms.max() - self.requests.arrival_ns[0] / 1e6) / 1e3


def measured_of(found: Found) -> Measured:
    """Return the requests of a file that has arrivals and latencies, in the order of arrival."""
    rows = found.requests
    if rows is None or not rows.e2el_ms:
        raise InputError(f"{found.path}: {found.title}: expected measured requests")
    arrival_ns = np.array(rows.served_ns or rows.arrival_ns, np.int64)
    ttft_ms, e2el_ms = np.array(rows.ttft_ms), np.array(rows.e2el_ms)
    known = np.flatnonzero(np.isfinite(e2el_ms) & np.isfinite(ttft_ms))
    order = known[np.argsort(arrival_ns[known], kind="stable")]
    unknown = len(rows) - len(known)
    notes = [f"measured run {found.path.name}: {len(known):,} requests", *found.left_out]
    if unknown:
        notes.append(f"left out {unknown:,} requests without latencies")
    requests = Requests(
        arrival_ns[order] - arrival_ns[order][0],
        np.array(rows.prompt_tokens, np.int64)[order],
        np.array(rows.output_tokens, np.int64)[order],
        notes=tuple(notes),
    )
    return Measured(requests, ttft_ms[order], e2el_ms[order])
