"""Which request the scheduler can see when: arrivals of an open loop, or the users of a closed one."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterable, Iterator

FOREVER = 2**62


class Traffic:
    """The requests that are on their way to the scheduler.

    In an open loop request i arrives at `arrival_ns[i]`, ascending. In a closed loop `concurrency` requests
    arrive at 0 and each answer that reaches its client sends the next: with `round_trip_ns` that long
    afterwards, and never before the decision of the very instant; with None at that instant and before its
    decision, as only a caller in the engine's own process could. `front_in_ns(prompt_tokens)` is what the
    front end adds until the scheduler sees a request; ties go by index.
    """

    def __init__(
        self,
        arrival_ns: array[int],
        prompt_tokens: array[int],
        front_in_ns: Callable[[int], int] | None,
        concurrency: int | None,
        round_trip_ns: int | None,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.front_in_ns = front_in_ns
        self.is_closed = concurrency is not None
        self.round_trip_ns = round_trip_ns or 0
        self._is_remote = round_trip_ns is not None
        count = len(prompt_tokens)
        self.arrival_ns = array("q", bytes(8 * count)) if self.is_closed else arrival_ns
        # Closed loop, a heap: (seen at, whether only after the decision of that instant, request).
        self._due: list[tuple[int, bool, int]] = []
        self._seen_ns = self.arrival_ns  # open loop: when, in the order of
        self._order: array[int] | None = None
        self._received = 0
        self._released = 0
        self.next_ns = FOREVER  # when the next request can be seen, as far as is known
        if concurrency is not None:
            for _ in range(min(count, concurrency)):
                self._send(0, is_answer=False)
        elif front_in_ns is not None:
            delayed = [t + front_in_ns(n) for t, n in zip(arrival_ns, prompt_tokens, strict=True)]
            self._order = array("q", sorted(range(count), key=delayed.__getitem__))
            self._seen_ns = array("q", (delayed[index] for index in self._order))
        if not self.is_closed and count:
            self.next_ns = self._seen_ns[0]

    def receive(self, now_ns: int, is_idle: bool) -> Iterable[int]:
        """Return every request that the decision of this instant may know; an idle engine knows all.

        In a closed loop a request refused while this is read may add one more.
        """
        if self.is_closed:
            return self._receive_answers(now_ns, is_idle)
        in_order, count, first = self._seen_ns, len(self._seen_ns), self._received
        place = first + 1
        while place < count and in_order[place] <= now_ns:
            place += 1
        self._received = place
        self.next_ns = in_order[place] if place < count else FOREVER
        return range(first, place) if self._order is None else self._order[first:place]

    def _receive_answers(self, now_ns: int, is_idle: bool) -> Iterator[int]:
        while self.next_ns <= now_ns:
            seen_ns, is_late, index = self._due[0]
            if is_late and seen_ns == now_ns and not is_idle:
                return
            heapq.heappop(self._due)
            self.next_ns = self._due[0][0] if self._due else FOREVER
            yield index

    def seen_ns(self, index: int) -> int:
        """Return when a request that has arrived could be seen."""
        delay_ns = self.front_in_ns(self.prompt_tokens[index]) if self.front_in_ns else 0
        return self.arrival_ns[index] + delay_ns

    def answered(self, at_ns: int) -> None:
        """Note that a client has its whole answer (or its refusal): in a closed loop it sends the next."""
        if self.is_closed and self._released < len(self.arrival_ns):
            self._send(at_ns, is_answer=True)

    def _send(self, at_ns: int, is_answer: bool) -> None:
        index = self._released
        self._released += 1
        self.arrival_ns[index] = at_ns + self.round_trip_ns if is_answer else at_ns
        seen_ns = self.seen_ns(index)
        heapq.heappush(self._due, (seen_ns, is_answer and self._is_remote and seen_ns == at_ns, index))
        self.next_ns = self._due[0][0]
