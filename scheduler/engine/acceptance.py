"""Which drafted tokens are accepted: request and place alone decide, so every run meets the same luck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

UInt64: TypeAlias = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_OF_MATCHES = 1 << 63  # so that a match and the acceptance at the same position are drawn apart


class Acceptance:
    """How many of the tokens drafted at a place of an answer the target model accepts.

    The token at each place of each answer has one uniform number, a hash of `key`, the request and the place;
    a draft of it is accepted where the number is below its rate. So acceptance does not depend on batches,
    graphs, preemptions or the order of requests, and a longer draft accepts at least as much.

    `rates[i]` is the rate of request i (given that all drafts before were accepted: geometric). `by_place`
    are the conditional rates of the first, second, … draft of a step instead, the same for all requests.
    `matches[i]`, for n-grams, is the share of places of request i at which anything is drafted at all.
    """

    def __init__(
        self,
        draft_tokens: int,
        key: int,
        *,
        rates: Sequence[float] | None = None,
        by_place: Sequence[float] | None = None,
        matches: Sequence[float] | None = None,
    ) -> None:
        if (rates is None) == (by_place is None):
            raise ValueError("expected either rates of requests or rates by place")
        self.draft_tokens = draft_tokens
        self._key = key
        self._rates = rates
        self._by_place = by_place
        self._matches = matches
        self._known: dict[int, bytes] = {}

    def accepted(self, request: int, generated: int, output_tokens: int) -> int:
        """Return the drafts accepted by a step that begins after `generated` tokens, before any clipping."""
        known = self._known.get(request)
        if known is None:
            known = self._known[request] = self._drawn(request, output_tokens).tobytes()
        return known[generated] if generated < len(known) else 0

    def forget(self, request: int) -> None:
        """Drop what was worked out for a request whose answer has ended."""
        self._known.pop(request, None)

    def _drawn(self, request: int, places: int) -> NDArray[np.uint8]:
        """Return the accepted drafts of a step beginning at each of the first places of an answer."""
        luck = _uniforms(self._key, request, places + self.draft_tokens)
        held = np.ones(places, bool)
        if self._matches is not None:
            held &= _uniforms(self._key ^ _OF_MATCHES, request, places) < self._matches[request]
        accepted = np.zeros(places, np.uint8)
        for place in range(self.draft_tokens):
            rate = self._rates[request] if self._rates is not None else (self._by_place or ())[place]
            held &= luck[place : place + places] < rate
            accepted += held
        return accepted


def _uniforms(key: int, request: int, count: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1) for the places of a request: splitmix64 of key, request and place."""
    start = _mixed(np.array([(key + request) % (1 << 64)], np.uint64) * _GOLDEN)
    with np.errstate(over="ignore"):
        places = start + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return (_mixed(places) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(values: UInt64) -> UInt64:
    """Return the finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInt64 = values ^ (values >> np.uint64(31))
    return mixed
