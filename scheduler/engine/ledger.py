"""Who received which token when: the times of every request, and the gaps between its tokens."""

from __future__ import annotations

from array import array

from scheduler.engine.executor import StepPlan
from scheduler.engine.records import RequestRecords, Status, StepRecorder, uncopied
from scheduler.engine.request import Running


class Ledger:
    """The books of one run; −1 stands for what has not happened.

    Gaps are kept by cohort: sequences whose newest token came at the same instant share their next gap,
    so a step costs as much work as there are cohorts (one or two), not sequences.
    """

    def __init__(self, requests: int) -> None:
        self.scheduled_ns = array("q", [-1]) * requests
        self.first_token_ns = array("q", [-1]) * requests
        self.finish_ns = array("q", [-1]) * requests
        self.preemptions = array("i", [0]) * requests
        self.status = array("b", [Status.UNFINISHED]) * requests
        self.reasons: dict[int, str] = {}
        self.ended = 0
        self.steps = StepRecorder()
        self._cohorts: dict[int, int] = {}  # time of the newest token -> how many decoding requests had it
        self._last_token_ns: dict[int, int] = {}  # of preempted requests
        self._last_decode_ns = -1

    def schedule(self, request: Running, now_ns: int) -> None:
        """Note that a request was admitted, for the first time or again."""
        if self.scheduled_ns[request.index] < 0:
            self.scheduled_ns[request.index] = now_ns

    def rejoin(self, request: Running) -> None:
        """Note that a preempted request goes on decoding where it stopped (its KV came back with it)."""
        token_ns = self._last_token_ns.pop(request.index)
        self._cohorts[token_ns] = self._cohorts.get(token_ns, 0) + 1
        request.joined_ns = token_ns

    def decode(self, plan: StepPlan, joined: list[Running], first_end_ns: int, now_ns: int) -> None:
        """Note the gaps that the step's decoding requests saw, and the first tokens of those who joined."""
        for token_ns, count in self._cohorts.items():
            self.steps.add_gap(first_end_ns - token_ns, count)
        self._cohorts = {}
        for request in joined:
            if request.is_decoding and self.first_token_ns[request.index] < 0:
                self.first_token_ns[request.index] = first_end_ns
        self._last_decode_ns = now_ns

    def prefill_token(self, request: Running, now_ns: int) -> None:
        """Note the token that a prompt's last chunk yields: the first, or the next after a preemption."""
        index = request.index
        if self.first_token_ns[index] < 0:
            self.first_token_ns[index] = now_ns
        else:
            self.steps.add_gap(now_ns - self._last_token_ns.pop(index), 1)
        request.joined_ns = now_ns

    def go_on(self, count: int, now_ns: int) -> None:
        """Note how many of those who received a token now will receive another."""
        if count:
            self._cohorts[now_ns] = self._cohorts.get(now_ns, 0) + count

    def preempt(self, request: Running) -> None:
        """Note a preemption; the gap to the next token goes on counting from the newest one."""
        self.preemptions[request.index] += 1
        if request.is_decoding:
            token_ns = max(request.joined_ns, self._last_decode_ns)
            self._last_token_ns[request.index] = token_ns
            self._cohorts[token_ns] -= 1
            request.is_decoding = False

    def complete(self, index: int, now_ns: int) -> None:
        """Note that a request received its last token."""
        self.status[index] = Status.COMPLETED
        self.finish_ns[index] = now_ns
        self.ended += 1

    def reject(self, index: int, reason: str) -> None:
        """Note that a request can never be served."""
        self.status[index] = Status.REJECTED
        self.reasons[index] = reason
        self.ended += 1

    def request_records(
        self, arrival_ns: array[int], prompt_tokens: array[int], output_tokens: array[int]
    ) -> RequestRecords:
        """Return the books as arrays, one row per request; nothing can be written afterwards."""
        return RequestRecords(
            uncopied(arrival_ns),
            uncopied(self.scheduled_ns),
            uncopied(self.first_token_ns),
            uncopied(self.finish_ns),
            uncopied(prompt_tokens),
            uncopied(output_tokens),
            uncopied(self.preemptions),
            uncopied(self.status),
            self.reasons,
        )
