"""Speculative decoding: a decode step verifies drafts, and requests advance by the accepted ones and one.

Rules of vLLM V1 (`v1/core/sched/scheduler.py` of 0.33.0): every decoding request computes 1 + k tokens per
step, KV blocks are held for all of them and for the drafter's look-ahead; under asynchronous scheduling the
next step is decided as if everything in flight were accepted, and a request is left out of it only where
the tokens that are certain to come already reach its limit.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, replace
from typing import Protocol, cast

from scheduler.engine.acceptance import Acceptance
from scheduler.engine.executor import Executor, PipelinedExecutor, StepPlan
from scheduler.engine.loop import DecodeLoop
from scheduler.engine.pipeline import Clock, Flight, HostAndGpu, WholeSteps
from scheduler.engine.records import Run
from scheduler.engine.request import Drafted, Running


class DraftWork(Protocol):
    """What proposing the next drafts takes after a step, in whole nanoseconds."""

    def gpu_ns(self, plan: StepPlan, rows: int) -> int:
        """Return the GPU's time; `rows` requests go on and are drafted for."""
        ...

    def launch_ns(self, plan: StepPlan, rows: int) -> int:
        """Return how long the launching thread is busy with it."""
        ...


@dataclass(frozen=True, slots=True)
class Speculation:
    """How the engine drafts: k tokens per request and step, and the KV slots that the drafter writes ahead.

    `lookahead_tokens` is vLLM's `num_lookahead_tokens`: k for drafters with a KV cache of their own (EAGLE,
    MTP, a draft model), 0 for n-grams.
    """

    draft_tokens: int
    lookahead_tokens: int
    acceptance: Acceptance
    work: DraftWork


class _WholeStepsAndDrafts(Clock):
    """Whole steps, each followed by its drafting; see WholeSteps."""

    def __init__(self, executor: Executor, work: DraftWork, *, tokens_first: bool) -> None:
        self._steps = WholeSteps(executor, array("q"), run_ahead=False)
        self._work = work
        self._tokens_first = tokens_first

    def launch(self, plan: StepPlan, now_ns: int, most_steps: int, horizon_ns: int) -> Flight:
        """See Clock; one step at a time."""
        flight = self._steps.launch(plan, now_ns, 1, now_ns)
        rows = _drafting_rows(plan)
        draft_ns = max(self._work.gpu_ns(plan, rows), self._work.launch_ns(plan, rows))
        self._steps.delay(draft_ns)
        flight.next_ns = now_ns  # the scheduler waits for tokens, not for the GPU to be done with drafting
        if not self._tokens_first:
            flight.ready_ns += draft_ns
        return flight


class _HostAndGpuAndDrafts(HostAndGpu):
    """Host and GPU apart; the drafting is launched and worked off right behind each step."""

    def __init__(self, executor: PipelinedExecutor, work: DraftWork, *, tokens_first: bool) -> None:
        super().__init__(executor)
        self._work = work
        self._tokens_first = tokens_first

    def launch(self, plan: StepPlan, now_ns: int, most_steps: int, horizon_ns: int) -> Flight:
        """See Clock; one step at a time."""
        flight = super().launch(plan, now_ns, most_steps, horizon_ns)
        rows = _drafting_rows(plan)
        launched_ns = self._launcher_free_ns + self._work.launch_ns(plan, rows)
        self._gpu_free_ns = max(self._gpu_free_ns + self._work.gpu_ns(plan, rows), launched_ns)
        self._launcher_free_ns = flight.launched_ns = launched_ns
        flight.gpu_end_ns = self._gpu_free_ns
        if self._launches_itself:
            flight.waits_ns = flight.next_ns = launched_ns
        if not self._tokens_first:
            flight.ready_ns = self._gpu_free_ns
        return flight


def _drafting_rows(plan: StepPlan) -> int:
    return plan.batch_size + sum(chunk.is_last for chunk in plan.prefill)


class SpeculativeLoop(DecodeLoop):
    """The decode loop of an engine that drafts; see DecodeLoop and the module.

    One decision per step. The tokens of a step reach a client together: gaps of 0 between them. Under
    asynchronous scheduling they are handed over before the next drafts are proposed (vLLM copies them out
    first), otherwise after.
    """

    speculation: Speculation

    def draft(self, executor: Executor | PipelinedExecutor, speculation: Speculation) -> None:
        """Say how the engine drafts, before it runs; its `batching` has been told to."""
        self.speculation = speculation
        self.hands_over_first = self.can_run_ahead = self.follows = self.at_once = False
        is_async = self.most_in_flight > 1
        if isinstance(executor, PipelinedExecutor):
            self.clock = _HostAndGpuAndDrafts(executor, speculation.work, tokens_first=is_async)
        else:
            self.clock = _WholeStepsAndDrafts(executor, speculation.work, tokens_first=is_async)
        self._newest_ns: dict[int, int] = {}  # each unfinished request's newest token

    def run(self) -> Run:
        """Serve every request and return the records; see DecodeLoop."""
        return replace(super().run(), tokens_per_row=1 + self.speculation.draft_tokens)

    def _launch(self, plan: StepPlan, now: int, makes_room: bool) -> Flight:
        """Launch the step just decided and count as computed what it yields."""
        batching, kv_cache = self.batching, self.batching.kv_cache
        for request in batching.joined:
            self.ledger.schedule(request, now)
        flight = self.clock.launch(plan, now, 1, now)
        flight.kv_blocks = kv_cache.total - kv_cache.free
        flight.running = len(batching.running)
        self.least_free_blocks = min(self.least_free_blocks, kv_cache.free)
        if self.busy_from_ns < 0:
            self.busy_from_ns = now
        rows: list[tuple[Running, int]] = []
        finished: list[Running] = []
        if plan.batch_size:
            batching.decode_steps += 1
            for row in batching.drafting_requests():
                tokens = self._yield_of(row)
                batching.extend(row, tokens)
                rows.append((row, tokens))
                if tokens and row.generated == self.output_tokens[row.index]:
                    finished.append(row)
        prompts = [batching.running[chunk.request] for chunk in plan.prefill if chunk.is_last]
        for request in prompts:
            request.generated += 1
            batching.join_decoding(request, request.target)
            if request.generated == self.output_tokens[request.index]:
                finished.append(request)
        flight.rows, flight.prompts = rows, prompts
        flight.finished = sorted(finished, key=lambda request: request.admission)
        self._stop_foreseen(flight)
        return flight

    def _yield_of(self, request: Drafted) -> int:
        """Return 1 + the accepted drafts of the step that begins now, clipped to the answer."""
        left = self.output_tokens[request.index] - request.generated
        if left <= 0:
            return 0  # it ended in a step in flight, which nobody foresaw
        acceptance = self.speculation.acceptance
        accepted = acceptance.accepted(request.index, request.generated, self.output_tokens[request.index])
        return min(1 + accepted, left)

    def _stop_foreseen(self, flight: Flight) -> None:
        """Leave out of the next step whoever surely reaches its limit with what is in flight."""
        if self.most_in_flight == 1:
            return
        rows = [request for request, _ in flight.rows]
        for request in cast(list[Drafted], [*rows, *flight.prompts]):
            limit = self.max_tokens or self.output_tokens
            if request.is_decoding and not request.has_stopped and request.certain >= limit[request.index]:
                self.batching.stop(request)

    def _tokens_in_flight(self, request: Running) -> int:
        return cast(Drafted, request).unseen

    def _preempted(self, request: Running) -> None:
        if request.index in self.batching.running:
            return
        self.ledger.preemptions[request.index] += 1
        request.is_decoding = False

    # Handing over.

    def _hand_over(self, flight: Flight, host_free_ns: int) -> int:
        """Hand out the tokens of a step; return when the host has updated its books."""
        handed_ns = max(flight.ready_ns, host_free_ns)
        self.just_ended = bool(flight.finished)
        steps = self.ledger.steps
        steps.add_one(
            self.busy_from_ns, flight.plan, handed_ns - self.busy_from_ns, flight.kv_blocks, flight.running
        )
        if self.front is not None and self.records_host_and_gpu:
            steps.add_times(flight)
        self.busy_from_ns = handed_ns
        for request, tokens in flight.rows:
            row = cast(Drafted, request)
            row.computing -= 1
            row.unseen -= tokens
        prompts = [(request, 1) for request in flight.prompts]
        came_ns = self._give(
            [(request, tokens) for request, tokens in [*flight.rows, *prompts] if tokens], handed_ns
        )
        for request in flight.finished:
            self._finish(request, came_ns[request.index])
            self._newest_ns.pop(request.index)
            self.speculation.acceptance.forget(request.index)
        if self.in_flight:
            self._stop_foreseen(self.in_flight[-1])
        return handed_ns + flight.update_ns

    def _give(self, rows: list[tuple[Running, int]], handed_ns: int) -> dict[int, int]:
        """Note every token and the gap that it ends; return when each request had its tokens."""
        ledger, row_ns, newest_ns = self.ledger, self.ledger.row_ns, self._newest_ns
        first_ns = handed_ns
        if self.front is not None:
            first_ns += self.front.front_out_ns(len(rows))
        for place, (request, _) in enumerate(rows):  # no token overtakes its request's last
            first_ns = max(first_ns, newest_ns.get(request.index, first_ns) - place * row_ns)
        gaps: Counter[int] = Counter()
        came_ns = {}
        for place, (request, tokens) in enumerate(rows):
            at_ns = first_ns + place * row_ns
            if request.index in newest_ns:
                gaps[at_ns - newest_ns[request.index]] += 1
            else:
                ledger.first_token_ns[request.index] = at_ns
            if tokens > 1:
                gaps[0] += tokens - 1
            newest_ns[request.index] = came_ns[request.index] = at_ns
        for gap_ns, count in gaps.items():
            ledger.steps.add_gap(gap_ns, count)
        return came_ns
