"""The decode loop on the virtual clock: traffic arrives, the engine steps, answers end.

Two SimPy processes in all. The clock is integer nanoseconds. At one instant, in this order: a step ends
(tokens, completions), every arrival of that instant is received, then one scheduling decision is made.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from scheduler.engine.batching import Batching
from scheduler.engine.executor import Executor, ExecutorError, PredictableExecutor, StepKind, StepPlan
from scheduler.engine.interrupt import HeldInterrupt
from scheduler.engine.records import KVUse, RequestRecords, Status, StepRecorder, StepRecords, TokenGaps
from scheduler.engine.request import Running

Process = Generator[simpy.Event, Any, None]
FOREVER = 2**62
DECODE = StepKind.DECODE


@dataclass(slots=True)
class Run:
    """What one variant of a run left behind.

    `failure` says why a partial run stopped early; `remarks` are what the executor has to say about its
    step times, such as having read them beyond the measured range.
    """

    requests: RequestRecords
    steps: StepRecords
    gaps: TokenGaps
    kv_use: KVUse
    peak_kv_blocks: int
    failure: str | None = None
    remarks: tuple[str, ...] = ()


class DecodeLoop:
    """One engine serving one list of requests, from the first arrival to the last token.

    `arrival_ns` ascends; with `concurrency` set it is ignored and completions release the next request.
    `reject(prompt_tokens, output_tokens)` gives the reason why a request can never be served, or None.
    With `run_ahead` (and an executor that can), decode steps between two decisions that matter are
    executed in one event; every timestamp is the same as without. With `async_scheduling` each decision is
    made one step early, as vLLM's asynchronous scheduler does.
    """

    def __init__(
        self,
        batching: Batching,
        executor: Executor,
        arrival_ns: array[int],
        prompt_tokens: array[int],
        output_tokens: array[int],
        *,
        reject: Callable[[int, int], str | None],
        concurrency: int | None = None,
        start_ns: int = 0,
        async_scheduling: bool = False,
        run_ahead: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.batching = batching
        self.executor = executor
        self.ahead = executor if run_ahead and isinstance(executor, PredictableExecutor) else None
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.reject = reject
        self.start_ns = start_ns
        self.async_scheduling = async_scheduling
        self.progress = progress
        self.closed_loop = concurrency is not None
        count = len(prompt_tokens)
        self.arrival_ns = array("q", bytes(8 * count)) if self.closed_loop else arrival_ns
        self.released = min(count, concurrency) if concurrency is not None else count
        self.received = 0
        self.ended = 0
        self.scheduled_ns = array("q", [-1]) * count
        self.first_token_ns = array("q", [-1]) * count
        self.finish_ns = array("q", [-1]) * count
        self.preemptions = array("i", [0]) * count
        self.status = array("b", [Status.UNFINISHED]) * count
        self.reasons: dict[int, str] = {}
        self.recorder = StepRecorder()
        self.stops: list[tuple[int, int, Running]] = []  # when each answer will end: the world's knowledge
        self.joins = 0
        self.cohorts: dict[int, int] = {}  # time of the newest token -> how many decoding requests had it
        self.last_token_ns: dict[int, int] = {}  # of preempted requests
        self.last_decode_ns = -1
        self.least_free_blocks = batching.kv_cache.total
        self.env = simpy.Environment()
        self.wake: simpy.Event | None = None
        self.known_until_ns = start_ns
        self.interrupt = HeldInterrupt()
        self.stopped: list[Running] = []  # finished, their slots and blocks not yet given back
        self.room_made = False  # after the decision: the next one may admit who could not join in this
        batching.on_preempt = self._preempted

    def run(self) -> Run:
        """Serve every request and return the records; an executor's failure or Ctrl-C ends it early."""
        engine = self.env.process(self._engine())
        if not self.closed_loop:
            self.env.process(self._traffic())
        failure = None
        try:
            with self.interrupt:
                self.env.run(until=engine)
        except ExecutorError as error:
            failure = str(error) or type(error).__name__
        except KeyboardInterrupt:
            failure = "interrupted"
        return Run(
            self._request_records(),
            self.recorder.step_records(),
            self.recorder.token_gaps(),
            self.recorder.kv_use(),
            self.batching.kv_cache.total - self.least_free_blocks,
            failure,
        )

    @property
    def now(self) -> int:
        """The virtual clock in nanoseconds: whole, because every timeout is."""
        return self.env.now  # type: ignore[return-value]

    # The two processes.

    def _traffic(self) -> Process:
        """Let time pass to each arrival and wake an idle engine."""
        for arrival_ns in self.arrival_ns:
            delay = arrival_ns - self.now
            if delay > 0:
                yield self.env.timeout(delay)
            if self.wake is not None:
                self.wake.succeed()
                self.wake = None

    def _engine(self) -> Process:
        """Decide, execute, hand out tokens; sleep while there is nothing to do."""
        if self.start_ns:
            yield self.env.timeout(self.start_ns)
        while True:
            self.interrupt.raise_if_any()
            plan = self._decide()
            if plan is None:
                if self.ended == len(self.prompt_tokens):
                    return
                if self.batching.waiting or self.closed_loop:
                    raise RuntimeError("requests wait and nothing can run")
                self.wake = self.env.event()
                yield self.wake
                self.known_until_ns = self.now
                continue
            start_ns = self.now
            steps, first_ns, total_ns = self._execute(plan, start_ns)
            yield self.env.timeout(total_ns)
            self._end_steps(plan, start_ns, steps, start_ns + first_ns)

    # What happens at one instant.

    def _decide(self) -> StepPlan | None:
        """Make one scheduling decision on what is known by now.

        With asynchronous scheduling (vLLM) the decision was made when the step that ends now started:
        later arrivals are unknown to it, and what finished in that step still holds its slot and blocks.
        """
        self._receive(self.known_until_ns)
        plan = self.batching.decide()
        if plan is None and (self.stopped or self.known_until_ns < self.now):
            self._release_stopped()
            self.known_until_ns = self.now
            self._receive(self.now)
            plan = self.batching.decide()
        self.room_made = bool(self.stopped)
        if self.stopped:
            self._release_stopped()
        return plan

    def _receive(self, until_ns: int) -> None:
        """Take in every request that arrived by `until_ns`."""
        arrival_ns = self.arrival_ns
        while self.received < self.released and arrival_ns[self.received] <= until_ns:
            index = self.received
            self.received += 1
            reason = self.reject(self.prompt_tokens[index], self.output_tokens[index])
            if reason is None:
                self.batching.waiting.append(index)
            else:
                self.reasons[index] = reason
                self._end_request(index, Status.REJECTED)

    def _release_stopped(self) -> None:
        for request in self.stopped:
            self.batching.leave(request)
        self.stopped.clear()

    def _execute(self, plan: StepPlan, now: int) -> tuple[int, int, int]:
        """Execute the step and those that surely follow; return (steps, first step's ns, total ns)."""
        for request in self.batching.joined:
            if self.scheduled_ns[request.index] < 0:
                self.scheduled_ns[request.index] = self.known_until_ns
            if request.is_decoding:
                self._expect_stop(request)
        durations = self.recorder.durations
        before = len(durations)
        most_steps = self._steps_ahead(plan)
        if most_steps > 1 and self.ahead is not None:
            total_ns = self.ahead.run_ahead(plan, most_steps, self._horizon_ns(now), durations)
        else:
            total_ns = self.executor.run(plan)
            durations.append(total_ns)
        steps = len(durations) - before
        return steps, durations[before], total_ns

    def _steps_ahead(self, plan: StepPlan) -> int:
        if self.ahead is None or plan.kind is not DECODE or self.room_made:
            return 1
        stop_step, _, request = self.stops[0]
        while not request.is_decoding or request.stop_step != stop_step:
            heapq.heappop(self.stops)  # preempted meanwhile
            stop_step, _, request = self.stops[0]
        return self.batching.steps_ahead(stop_step - self.batching.decode_steps)

    def _horizon_ns(self, now: int) -> int:
        """Return the time until an arrival that could join."""
        if self.received < self.released and self.batching.arrival_could_join():
            return self.arrival_ns[self.received] - now
        return FOREVER

    def _end_steps(self, plan: StepPlan, start_ns: int, steps: int, first_end_ns: int) -> None:
        """Hand out the tokens of the step (or run of equal steps) that ends now."""
        batching = self.batching
        now = self.now
        self.recorder.add(start_ns, plan, steps, batching.kv_cache.used)
        emitted = 0
        if plan.batch_size:
            for token_ns, count in self.cohorts.items():
                self.recorder.add_gap(first_end_ns - token_ns, count)
            self.cohorts = {}
            if batching.joined and plan.kind is DECODE:
                for request in batching.joined:
                    if self.first_token_ns[request.index] < 0 and request.is_decoding:
                        self.first_token_ns[request.index] = first_end_ns
            emitted = plan.batch_size
            batching.advance(steps)
            self.last_decode_ns = now
        if batching.kv_cache.free < self.least_free_blocks:
            self.least_free_blocks = batching.kv_cache.free
        stops = self.stops
        finished = self._pop_finished() if stops and stops[0][0] <= batching.decode_steps else ()
        emitted -= len(finished)
        for chunk in plan.prefill:
            if chunk.is_last:
                emitted += self._end_prefill(batching.running[chunk.request])
        if emitted:
            self.cohorts[now] = self.cohorts.get(now, 0) + emitted
        for request in finished:
            self._finish(request)
        self.known_until_ns = now - self.recorder.durations[-1] if self.async_scheduling else now
        if self.stopped and not self.async_scheduling:
            self._release_stopped()

    def _end_prefill(self, request: Running) -> int:
        """Emit the token that a prompt's last chunk yields; return 1 if the request goes on to decode."""
        now = self.now
        index = request.index
        if self.first_token_ns[index] < 0:
            self.first_token_ns[index] = now
        else:
            self.recorder.add_gap(now - self.last_token_ns.pop(index), 1)
        request.generated += 1
        if request.generated == self.output_tokens[index]:
            self._finish(request)
            return 0
        request.joined_ns = now
        self.batching.join_decoding(request, request.target)
        self._expect_stop(request)
        return 1

    def _expect_stop(self, request: Running) -> None:
        generated = self.batching.generated_by(request)
        if generated and request.joined_ns < 0:  # decode_only, back after a preemption
            token_ns = self.last_token_ns.pop(request.index)
            self.cohorts[token_ns] = self.cohorts.get(token_ns, 0) + 1
            request.joined_ns = token_ns
        stop_step = self.batching.decode_steps + self.output_tokens[request.index] - generated
        request.stop_step = stop_step
        self.joins += 1  # first to join ends first, and no two entries compare equal
        heapq.heappush(self.stops, (stop_step, self.joins, request))

    def _pop_finished(self) -> list[Running]:
        finished: list[Running] = []
        stops = self.stops
        done = self.batching.decode_steps
        while stops and stops[0][0] <= done:
            stop_step, _, request = heapq.heappop(stops)
            if request.is_decoding and request.stop_step == stop_step:
                finished.append(request)
        return finished

    def _preempted(self, request: Running) -> None:
        self.preemptions[request.index] += 1
        if request.is_decoding:
            token_ns = max(request.joined_ns, self.last_decode_ns)
            self.last_token_ns[request.index] = token_ns
            self.cohorts[token_ns] -= 1
            request.is_decoding = False

    def _finish(self, request: Running) -> None:
        self.batching.stop(request)
        self.stopped.append(request)
        self._end_request(request.index, Status.COMPLETED)

    def _end_request(self, index: int, status: Status) -> None:
        self.status[index] = status
        self.ended += 1
        if status is Status.COMPLETED:
            self.finish_ns[index] = self.now
        if self.closed_loop and self.released < len(self.prompt_tokens):
            self.arrival_ns[self.released] = self.now
            self.released += 1
        if self.progress is not None and self.ended % 1024 == 0:
            self.progress(self.ended)

    def _request_records(self) -> RequestRecords:
        return RequestRecords(
            np.array(self.arrival_ns, np.int64),
            np.array(self.scheduled_ns, np.int64),
            np.array(self.first_token_ns, np.int64),
            np.array(self.finish_ns, np.int64),
            np.array(self.prompt_tokens, np.int64),
            np.array(self.output_tokens, np.int64),
            np.array(self.preemptions, np.int32),
            np.array(self.status, np.int8),
            self.reasons,
        )
