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

import simpy

from scheduler.engine.batching import Batching
from scheduler.engine.executor import Executor, ExecutorError, PredictableExecutor, StepKind, StepPlan
from scheduler.engine.interrupt import HeldInterrupt
from scheduler.engine.ledger import Ledger
from scheduler.engine.records import KVUse, RequestRecords, StepRecords, TokenGaps
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
        self.ledger = Ledger(count)
        self.stops: list[tuple[int, int, Running]] = []  # when each answer will end: the world's knowledge
        self.joins = 0
        self.least_free_blocks = batching.kv_cache.total
        self.env = simpy.Environment()
        self.wake: simpy.Event | None = None
        self.known_until_ns = start_ns
        self.interrupt = HeldInterrupt()
        self.stopped: list[Running] = []  # finished, their slots and blocks not yet given back
        self.room_made = False  # after the decision: the next one may admit who could not join in this
        batching.on_preempt = self.ledger.preempt

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
            self.ledger.request_records(self.arrival_ns, self.prompt_tokens, self.output_tokens),
            self.ledger.steps.step_records(),
            self.ledger.steps.token_gaps(),
            self.ledger.steps.kv_use(),
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
                if self.ledger.ended == len(self.prompt_tokens):
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
                self.ledger.reject(index, reason)
                self._release_next()

    def _release_stopped(self) -> None:
        for request in self.stopped:
            self.batching.leave(request)
        self.stopped.clear()

    def _execute(self, plan: StepPlan, now: int) -> tuple[int, int, int]:
        """Execute the step and those that surely follow; return (steps, first step's ns, total ns)."""
        for request in self.batching.joined:
            self.ledger.schedule(request, self.known_until_ns)
            if request.is_decoding:
                if self.batching.generated_by(request):
                    self.ledger.rejoin(request)
                self._expect_stop(request)
        durations = self.ledger.steps.durations
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
        batching, ledger = self.batching, self.ledger
        now = self.now
        ledger.steps.add(start_ns, plan, steps, batching.kv_cache.used)
        if plan.batch_size:
            ledger.decode(plan, batching.joined, first_end_ns, now)
            batching.advance(steps)
        if batching.kv_cache.free < self.least_free_blocks:
            self.least_free_blocks = batching.kv_cache.free
        stops = self.stops
        finished = self._pop_finished() if stops and stops[0][0] <= batching.decode_steps else ()
        going_on = plan.batch_size - len(finished)
        for chunk in plan.prefill:
            if chunk.is_last:
                going_on += self._end_prefill(batching.running[chunk.request])
        ledger.go_on(going_on, now)
        for request in finished:
            self._finish(request)
        self.known_until_ns = now - ledger.steps.durations[-1] if self.async_scheduling else now
        if self.stopped and not self.async_scheduling:
            self._release_stopped()

    def _end_prefill(self, request: Running) -> int:
        """Emit the token that a prompt's last chunk yields; return 1 if the request goes on to decode."""
        self.ledger.prefill_token(request, self.now)
        request.generated += 1
        if request.generated == self.output_tokens[request.index]:
            self._finish(request)
            return 0
        self.batching.join_decoding(request, request.target)
        self._expect_stop(request)
        return 1

    def _expect_stop(self, request: Running) -> None:
        remaining = self.output_tokens[request.index] - self.batching.generated_by(request)
        request.stop_step = self.batching.decode_steps + remaining
        self.joins += 1  # first to join ends first, and no two entries compare equal
        heapq.heappush(self.stops, (request.stop_step, self.joins, request))

    def _pop_finished(self) -> list[Running]:
        finished: list[Running] = []
        stops = self.stops
        done = self.batching.decode_steps
        while stops and stops[0][0] <= done:
            stop_step, _, request = heapq.heappop(stops)
            if request.is_decoding and request.stop_step == stop_step:
                finished.append(request)
        return finished

    def _finish(self, request: Running) -> None:
        self.batching.stop(request)
        self.stopped.append(request)
        self.ledger.complete(request.index, self.now)
        self._release_next()

    def _release_next(self) -> None:
        """In a closed loop a request that ended lets the next one arrive at this instant."""
        if self.closed_loop and self.released < len(self.prompt_tokens):
            self.arrival_ns[self.released] = self.now
            self.released += 1
        if self.progress is not None and self.ledger.ended % 1024 == 0:
            self.progress(self.ledger.ended)
