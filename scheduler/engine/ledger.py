"""Who received which token when: the times of every request, and the gaps between its tokens."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from scheduler.engine.recorder import StepRecorder
from scheduler.engine.records import RequestRecords, Status, uncopied
from scheduler.engine.request import Running


class Ledger:
    """The books of one run; −1 stands for what has not happened.

    Times are the client's: the row at place p of a step's tokens has its own p · `row_ns` after the first.
    Gaps are kept by cohort: sequences whose newest token came at the same instant share their next gap, so a
    step costs as much work as there are cohorts (one or two), not sequences.
    """

    def __init__(self, requests: int, row_ns: int = 0) -> None:
        self.scheduled_ns = array("q", [-1]) * requests
        self.first_token_ns = array("q", [-1]) * requests
        self.finish_ns = array("q", [-1]) * requests
        self.preemptions = array("i", [0]) * requests
        self.status = array("b", [Status.UNFINISHED]) * requests
        self.reasons: dict[int, str] = {}
        self.ended = 0
        self.steps = StepRecorder()
        self.row_ns = row_ns
        # [token, rows] in the order of the batch; the newest token of the row at place p came at
        # token + p · row_ns, so all rows of a cohort share the gap to the next step's tokens.
        self._cohorts: list[list[int]] = []
        self._last_token_ns: dict[int, int] = {}  # of preempted requests

    @property
    def rows(self) -> int:
        """How many sequences wait for their next decode token."""
        cohorts = self._cohorts
        return cohorts[0][1] if len(cohorts) == 1 else sum(rows for _, rows in cohorts)

    def schedule(self, request: Running, now_ns: int) -> None:
        """Note that a request was admitted, for the first time or again."""
        if self.scheduled_ns[request.index] < 0:
            self.scheduled_ns[request.index] = now_ns

    def earliest(self, at_ns: int, joining: Sequence[Running], decodes: bool) -> int:
        """Return when a step's first token comes, from `at_ns` on: no token overtakes its request's last.

        The `joining` rows come after those that decode already, if the step `decodes`.
        """
        if decodes:
            for token_ns, _ in self._cohorts:
                if token_ns > at_ns:
                    at_ns = token_ns
        place = self.rows if decodes and joining else 0
        for request in joining:
            if request.index in self._last_token_ns:
                at_ns = max(at_ns, self._last_token_ns[request.index] - place * self.row_ns)
            place += 1
        return at_ns

    def all_saw(self, gap_ns: int, at_ns: int, rows: int) -> bool:
        """Tell whether a token that comes to all `rows` at `at_ns` ends the same gap for each."""
        cohorts = self._cohorts
        return len(cohorts) == 1 and cohorts[0][1] == rows and cohorts[0][0] == at_ns - gap_ns

    def waits_for(self, rows: int, at_ns: int) -> bool:
        """Tell whether `rows` sequences wait for their next token, which may come at `at_ns` to all.

        Not where a sequence that was preempted has a token yet to be overtaken.
        """
        found = 0
        for token_ns, count in self._cohorts:
            if token_ns > at_ns:
                return False
            found += count
        return found == rows and not self._last_token_ns

    def move_on(self, by_ns: int) -> None:
        """Let everybody have a newest token so much later, the gaps being noted already."""
        self._cohorts[0][0] += by_ns

    def hand_out(
        self,
        decodes: int,
        joined: Sequence[Running],
        prompts: Sequence[Running],
        first_ns: int,
        token_ns: int,
    ) -> int:
        """Note the tokens of a step and the gaps that they end; return how many rows they came in.

        If it `decodes`, requests in the batch had theirs from `first_ns` on, last of them those who just
        `joined`; then, from `token_ns` on, those whose `prompts` it completed.
        """
        rows, row_ns = 0, self.row_ns
        if decodes:
            cohorts, add_gap = self._cohorts, self.steps.add_gap
            for before_ns, count in cohorts:
                add_gap(first_ns - before_ns, count)
                rows += count
            cohorts.clear()
            for request in joined:
                self.token(request, first_ns + rows * row_ns)
                rows += 1
        for request in prompts:
            self.token(request, token_ns + rows * row_ns)
            rows += 1
        return rows

    def token(self, request: Running, at_ns: int) -> None:
        """Note a request's first token, or its next after a preemption."""
        index = request.index
        if self.first_token_ns[index] < 0:
            self.first_token_ns[index] = at_ns
        else:
            self.steps.add_gap(at_ns - self._last_token_ns.pop(index), 1)

    def go_on(self, rows: int, at_ns: int) -> None:
        """Note that `rows` sequences will receive another token, in the batch after those noted before.

        The first of them had its newest token at `at_ns`.
        """
        if not rows:
            return
        cohorts = self._cohorts
        if not cohorts:
            cohorts.append([at_ns, rows])
            return
        token_ns = at_ns - self.rows * self.row_ns if self.row_ns else at_ns
        if cohorts[-1][0] == token_ns:
            cohorts[-1][1] += rows
        else:
            cohorts.append([token_ns, rows])

    def part(self, request: Running, place: int) -> None:
        """Note that the sequence at a place was preempted; its gap goes on from its newest token.

        Those behind it move up, each keeping the time of its own newest token.
        """
        cohorts, row_ns = self._cohorts, self.row_ns
        before = number = 0
        while place >= before + cohorts[number][1]:
            before += cohorts[number][1]
            number += 1
        token_ns, rows = cohorts[number]
        self._last_token_ns[request.index] = token_ns + place * row_ns
        ahead = place - before if row_ns else rows - 1
        # Places count from the first row of the batch: who moves up has a later start of the count.
        behind = [[token_ns + row_ns, rows - ahead - 1]]
        behind += [[later_ns + row_ns, count] for later_ns, count in cohorts[number + 1 :]]
        cohorts[number:] = [cohort for cohort in [[token_ns, ahead], *behind] if cohort[1]]

    def part_at(self, request: Running, at_ns: int) -> None:
        """Note the newest token of a request that was preempted before it came."""
        self._last_token_ns[request.index] = at_ns

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
