"""The requests that arrive, as arrays: drawn or read once, before the loop, so every pool meets the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.workload.prefixes import Int64, Prefixes

__all__ = ["Int64", "Requests"]


@dataclass(frozen=True, slots=True)
class Requests:
    """One row per request in arrival order, ties in file order.

    `arrival_ns` ascends and starts at any value ≥ 0. With `concurrency` set the workload is a closed
    loop: arrivals are released by completions and `arrival_ns` is all zeros. `cached_tokens` (or None)
    are prompt tokens already in a prefix cache when the request arrives; `prefixes` (or None) say which
    prompts begin alike; `acceptance` (or None) is the rate at which each one's drafts are accepted. `notes`
    are lines for the card on what was read or assumed.
    """

    arrival_ns: Int64
    prompt_tokens: Int64
    output_tokens: Int64
    cached_tokens: Int64 | None = None
    concurrency: int | None = None
    prefixes: Prefixes | None = None
    acceptance: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival_ns)
