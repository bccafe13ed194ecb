"""The decode loop on the virtual clock: traffic arrives, the engine steps, answers end.

One SimPy process: the engine sleeps until it sees the next request. Until then its decisions follow from what
it knows, and need no event. The clock is integer nanoseconds. At one instant, in this order: tokens are
handed over (completions), every arrival of that instant is received, then one scheduling decision is made.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Generator, Sequence
from heapq import heappop, heappush
from operator import attrgetter
from typing import Any, cast

import simpy

from scheduler.engine.batching import Batching
from scheduler.engine.executor import (
    Executor,
    ExecutorError,
    PipelinedExecutor,
    StepPlan,
)
from scheduler.engine.interrupt import HeldInterrupt
from scheduler.engine.ledger import Ledger
from scheduler.engine.pipeline import DECODE, Clock, Flight, HostAndGpu, WholeSteps, decode_later
from scheduler.engine.records import PrefixUse, Run
from scheduler.engine.request import Running
from scheduler.engine.traffic import FOREVER, Traffic

Process = Generator[simpy.Event, Any, None]
MOST_FOLLOWING = 1 << 16  # steps between two looks at Ctrl-C
_place = attrgetter("admission")


class DecodeLoop:
    """One engine serving one list of requests, from the first arrival to the last token.

    `arrival_ns` ascends; with `concurrency` set it is ignored and answers release the next request,
    `round_trip_ns` after they ended (see Traffic). `reject(prompt_tokens, output_tokens)` gives the reason
    why a request can never be served, or None; without it all can. With `run_ahead` (and an executor that
    can), decode steps between two decisions that matter follow from one of them; every timestamp is the
    same as without.

    With `async_scheduling` up to two steps are in flight, as in vLLM's batch queue: each decision is made
    while the step before it runs. What ends in that step still holds its slot and blocks. That an answer
    ends is foreseen where it reaches the request's `max_tokens` (None: always); another end is found when
    its token is handed over, and the request decodes once more. After a decision that finds nothing to run
    while requests exist, or have just ended, the engine pauses for `empty_pause_ns`.
    """

    def __init__(
        self,
        batching: Batching,
        executor: Executor | PipelinedExecutor,
        arrival_ns: array[int],
        prompt_tokens: array[int],
        output_tokens: array[int],
        *,
        reject: Callable[[int, int], str | None] | None,
        concurrency: int | None = None,
        round_trip_ns: int | None = None,
        start_ns: int = 0,
        async_scheduling: bool = False,
        max_tokens: Sequence[int] | None = None,
        record_host_and_gpu: bool = False,
        empty_pause_ns: int = 0,
        run_ahead: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.batching = batching
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.reject = reject
        self.start_ns = start_ns
        self.most_in_flight = 2 if async_scheduling else 1
        self.max_tokens = max_tokens if async_scheduling else None
        self.empty_pause_ns = empty_pause_ns if async_scheduling else 0
        self.progress = progress
        self.records_host_and_gpu = record_host_and_gpu
        self.front = executor if isinstance(executor, PipelinedExecutor) else None
        self.ledger = Ledger(len(prompt_tokens), self.front.front_out_row_ns if self.front else 0)
        if isinstance(executor, PipelinedExecutor):
            self.clock: Clock = HostAndGpu(executor)
        else:
            self.clock = whole_steps = WholeSteps(executor, self.ledger.steps.durations, run_ahead)
            self.execute = whole_steps.execute
        # Nothing that a launch does delays tokens, nobody decodes on beyond an answer's end: what has ended
        # may leave before the next step is executed.
        self.hands_over_first = self.front is None and self.max_tokens is None
        self.can_run_ahead = self.clock.can_run_ahead
        # Where host and GPU are told apart and two steps are in flight, equal decode steps follow each other.
        self.follows = self.front is not None and async_scheduling and run_ahead and not record_host_and_gpu
        # Steps that take a whole duration each, none decided before the one before it has ended.
        self.at_once = self.front is None and not async_scheduling
        front_in_ns = self.front.front_in_ns if self.front else None
        self.traffic = Traffic(arrival_ns, prompt_tokens, front_in_ns, concurrency, round_trip_ns)
        self.in_flight: deque[Flight] = deque()
        self.flights = 0
        self.busy_from_ns = -1  # the newest hand-over, or the decision that ended an idle time; −1 in one
        self.last_handed_ns = -1
        self.stops: list[tuple[int, int, Running]] = []  # when each answer will end: the world's knowledge
        self.joins = 0
        self.just_ended = False  # whether the newest hand-over ended an answer
        self.least_free_blocks = batching.kv_cache.total
        self.env = simpy.Environment()
        self.interrupt = HeldInterrupt()
        batching.on_preempt = self._preempted
        batching.tokens_in_flight = self._tokens_in_flight
        batching.unseen_tokens = self._unseen_tokens
        batching.results_lag = self.most_in_flight

    def run(self) -> Run:
        """Serve every request and return the records; an executor's failure or Ctrl-C ends it early."""
        engine = self.env.process(self._engine())
        failure = None
        try:
            with self.interrupt:
                self.env.run(until=engine)
        except ExecutorError as error:
            self._land()
            failure = str(error) or type(error).__name__
        except KeyboardInterrupt:
            failure = "interrupted"
        steps = self.ledger.steps
        return Run(
            self.ledger.request_records(self.traffic.arrival_ns, self.prompt_tokens, self.output_tokens),
            steps.step_runs(),
            self.batching.kv_cache.total - self.least_free_blocks,
            failure,
            host_and_gpu=steps.host_and_gpu() if self.front and self.records_host_and_gpu else None,
            prefix_use=self._prefix_use(),
        )

    def _prefix_use(self) -> PrefixUse | None:
        batching = self.batching
        if batching.cached_tokens is None and not batching.kv_cache.knows_contents:
            return None
        return PrefixUse(batching.asked_tokens, batching.hit_tokens, batching.kv_cache.evicted)

    @property
    def now(self) -> int:
        """The virtual clock in nanoseconds: whole, because every timeout is."""
        return self.env.now  # type: ignore[return-value]

    # The engine's process.

    def _engine(self) -> Process:
        """Decide, launch, hand out the tokens of the oldest step; sleep while there is nothing to do."""
        env, traffic, in_flight, decide = self.env, self.traffic, self.in_flight, self.batching.decide
        step = self._step_at_once if self.at_once else self._step
        interrupt = self.interrupt
        if self.start_ns:
            yield env.timeout(self.start_ns)
        now = self.start_ns
        is_idle = False
        while True:
            if interrupt.came:
                self._land()
                raise KeyboardInterrupt
            if traffic.next_ns <= now:
                self._receive(now, is_idle)
            plan = decide()
            is_idle = False
            if plan is not None:
                next_ns = step(plan, now)
            elif in_flight:
                next_ns = self._hand_over(in_flight.popleft(), now) + self._pause_ns()
                self.busy_from_ns = -1
            elif self.batching.preempted:  # all gave way; the next decision admits again
                next_ns = now + self._pause_ns()
            elif self.ledger.ended == len(self.prompt_tokens):
                return
            else:
                is_idle = True
                next_ns = self._next_arrival_ns(now)
            if next_ns >= traffic.next_ns:  # until somebody arrives, decisions follow from what is known
                yield env.timeout(next_ns - self.now)
            now = next_ns

    def _next_arrival_ns(self, now: int) -> int:
        """Return until when an engine with nothing to do sleeps: the next request is seen."""
        if self.batching.waiting:
            raise RuntimeError("requests wait and nothing can run")
        self.busy_from_ns = -1
        return max(now, self.traffic.next_ns)

    def _pause_ns(self) -> int:
        """Return how long the engine pauses after a decision without a step, its oldest step handed over."""
        batching = self.batching
        exist = batching.running or batching.waiting or self.just_ended
        return self.empty_pause_ns if exist else 0

    # What happens at one instant.

    def _receive(self, now: int, is_idle: bool) -> None:
        """Take in every request that can be seen by now."""
        seen = self.traffic.receive(now, is_idle)
        if self.reject is None:
            self.batching.waiting.extend(seen)
            return
        for index in seen:
            reason = self.reject(self.prompt_tokens[index], self.output_tokens[index])
            if reason is None:
                self.batching.waiting.append(index)
            else:
                self.ledger.reject(index, reason)
                self._answered(self.traffic.seen_ns(index))  # refused at once, whenever the next decision is

    def _step(self, plan: StepPlan, now: int) -> int:
        """Launch the step just decided, hand over the step before; return when the next decision is made."""
        in_flight = self.in_flight
        makes_room = False  # what has ended leaves: the next decision may admit who could not join in this
        if in_flight:
            makes_room = bool(in_flight[-1].finished)
            if self.hands_over_first:
                self._hand_over(in_flight.popleft(), now)
        flight = oldest = self._launch(plan, now, makes_room)
        if self.most_in_flight > 1:
            in_flight.append(flight)
            if len(in_flight) == 1:
                return flight.next_ns
            oldest = in_flight.popleft()
        next_ns = self._hand_over(oldest, flight.waits_ns)
        if flight.next_ns > next_ns:
            next_ns = flight.next_ns
        if self.follows and self._is_steady(flight, next_ns):
            next_ns = self._follow(flight, next_ns)
        return next_ns

    def _step_at_once(self, plan: StepPlan, now: int) -> int:
        """Execute the step just decided (and those that surely follow) and hand over its tokens.

        What `_step` does where no step is in flight while the next is decided and durations are whole.
        """
        batching, ledger = self.batching, self.ledger
        kv_cache, steps = batching.kv_cache, ledger.steps
        kind, batch_size, _, _, chunks, _, _, _ = plan
        joined = self._join(0, now) if batching.joined else ()
        most_steps, horizon_ns = 1, 0
        if kind is DECODE and self.can_run_ahead:
            most_steps = batching.steps_ahead(self._next_stop() - batching.decode_steps)
            if most_steps > 1:
                horizon_ns = (self.traffic.next_ns if batching.arrival_could_join() else FOREVER) - now
        durations = steps.durations
        first = len(durations)
        end_ns = now + self.execute(plan, most_steps, horizon_ns)
        done = len(durations) - first
        kv_blocks, running = kv_cache.total - kv_cache.free, len(batching.running)
        prompts: Sequence[Running] = ()
        finished: Sequence[Running] = ()
        if batch_size:
            batching.advance(done)
            if self.stops and self.stops[0][0] <= batching.decode_steps:
                finished = self._pop_finished()
        if kv_cache.free < self.least_free_blocks:
            self.least_free_blocks = kv_cache.free
        if chunks:
            prompts, finished = self._end_prompts(plan, 0, finished)
        # Counted once those who ended have left, where an executor may fail: step and tokens go together.
        steps.add(now, plan, done, kv_blocks, running)
        rows = ledger.hand_out(batch_size, joined, prompts, now + durations[first], end_ns)
        ledger.go_on(rows - len(finished), end_ns)
        for request in finished:
            self._finish(request, end_ns)
        return end_ns

    def _is_steady(self, flight: Flight, next_ns: int) -> bool:
        """Return whether those who decode in the newest step go on alone, each token after its row's last.

        Nobody joins or leaves a batch that others wait for, and no earlier token holds back the next ones.
        """
        front, plan, batching = cast(PipelinedExecutor, self.front), flight.plan, self.batching
        batch_size = plan.batch_size
        return (
            plan.kind is DECODE
            and not flight.finished
            and batch_size == batching.decoding
            and (not batching.waiting or flight.running == len(batching.running))
            and self.ledger.waits_for(
                batch_size - len(flight.joined), next_ns + front.front_out_ns(batch_size)
            )
        )

    def _follow(self, flight: Flight, next_ns: int) -> int:
        """Launch the steps that surely follow the newest one; return when the next decision is made."""
        batching, steps = self.batching, self.ledger.steps
        horizon_ns = self.traffic.next_ns if batching.arrival_could_join() else FOREVER
        most_steps = min(self._next_stop() - batching.decode_steps, MOST_FOLLOWING)
        most_steps = batching.steps_ahead(most_steps, decided=0)
        if not most_steps or next_ns >= horizon_ns:
            return next_ns
        clock = cast(HostAndGpu, self.clock)
        newest, next_ns, handed_ns = clock.follow(flight, next_ns, most_steps, horizon_ns)
        self._hand_over(flight, handed_ns[0])
        if len(handed_ns) > 1:
            running = len(batching.running)
            if flight.running != running:  # a slot was given back: the others are a run of their own
                plan = flight.plan
                plan = decode_later(plan, plan.kv_tokens + plan.batch_size)
                steps.add_one(
                    handed_ns[0], plan, handed_ns[1] - handed_ns[0], batching.next_kv_blocks, running
                )
                steps.add_gap(handed_ns[1] - handed_ns[0], plan.batch_size)
                steps.go_on(newest.plan, handed_ns[1:])
            else:
                steps.go_on(newest.plan, handed_ns)
            self.ledger.move_on(handed_ns[-1] - handed_ns[0])
            self.busy_from_ns = self.last_handed_ns = handed_ns[-1]
        batching.decode_on(len(handed_ns))
        self.flights = newest.number = self.flights + len(handed_ns)
        newest.running = len(batching.running)
        newest.kv_blocks = batching.kv_cache.used
        self._count(newest)
        self.in_flight[0] = newest
        return next_ns

    def _launch(self, plan: StepPlan, now: int, makes_room: bool) -> Flight:
        """Launch the step just decided (and those that surely follow) and count it as computed."""
        batching, clock = self.batching, self.clock
        self.flights = number = self.flights + 1
        joined = self._join(number, now) if batching.joined else ()
        most_steps, horizon_ns = 1, now
        if plan.kind is DECODE and self.can_run_ahead and not makes_room:
            most_steps = batching.steps_ahead(self._next_stop() - batching.decode_steps)
            if most_steps > 1:
                horizon_ns = self.traffic.next_ns if batching.arrival_could_join() else FOREVER
        flight = clock.launch(plan, now, most_steps, horizon_ns)
        flight.number, flight.joined = number, joined
        flight.kv_blocks = batching.kv_cache.used
        flight.running = len(batching.running)
        if self.busy_from_ns < 0:
            self.busy_from_ns = now
        if plan.batch_size:
            batching.advance(flight.steps)
        self._count(flight)
        if plan.prefill:
            flight.prompts, flight.finished = self._end_prompts(plan, number, flight.finished)
        return flight

    def _count(self, flight: Flight) -> None:
        """Note what a step just launched brought about: answers that end with it, blocks in use."""
        if flight.plan.batch_size and self.stops and self.stops[0][0] <= self.batching.decode_steps:
            flight.finished = self._pop_finished()
        if self.batching.kv_cache.free < self.least_free_blocks:
            self.least_free_blocks = self.batching.kv_cache.free

    def _join(self, number: int, now: int) -> list[Running]:
        """Note who was admitted; return those who decode in this step, the first since then."""
        joined = []
        scheduled_ns = self.ledger.scheduled_ns
        for request in self.batching.joined:
            if scheduled_ns[request.index] < 0:
                scheduled_ns[request.index] = now
            if request.is_decoding:
                joined.append(request)
                request.first_flight = number
                self._expect_stop(request)
        return joined

    def _next_stop(self) -> int:
        """Return the decode step in which the next answer ends."""
        stop_step, _, request = self.stops[0]
        while request.stop_step != stop_step or not request.is_decoding:
            heappop(self.stops)  # preempted meanwhile
            stop_step, _, request = self.stops[0]
        return stop_step

    def _end_prompts(
        self, plan: StepPlan, number: int, finished: Sequence[Running]
    ) -> tuple[list[Running], Sequence[Running]]:
        """Let requests whose prompts this step completes go on to decode.

        Returns them, and who is `finished` with the step in the order of the batch: some have no more token.
        """
        running = self.batching.running
        prompts = [running[request] for request, _, _, is_last in plan.prefill if is_last]
        for request in prompts:
            request.first_flight = number
            request.generated = generated = request.generated + 1
            if generated == self.output_tokens[request.index]:
                finished = [*finished, request]
                if self._is_foreseen(request):
                    self.batching.stop(request)
                else:  # it decodes once more, in vain
                    self.batching.join_decoding(request, request.target)
            else:
                self.batching.join_decoding(request, request.target)
                self._expect_stop(request)
        return prompts, sorted(finished, key=_place) if len(finished) > 1 else finished

    def _is_foreseen(self, request: Running) -> bool:
        """Return whether the scheduler knows before it sees the last token that it is the last."""
        limits = self.max_tokens
        return limits is None or self.output_tokens[request.index] >= limits[request.index]

    def _expect_stop(self, request: Running) -> None:
        """Note in which decode step a request that begins to decode has its last token."""
        stop_step = self.batching.step_of_token(request, self.output_tokens[request.index])
        request.stop_step = stop_step
        self.joins = joins = self.joins + 1  # first to join ends first, and no two entries compare equal
        heappush(self.stops, (stop_step, joins, request))

    def _pop_finished(self) -> list[Running]:
        """Take out whose last token the newest step yields, in the order of the batch."""
        finished = []
        stops, stop = self.stops, self.batching.stop
        sees_all = self.max_tokens is None
        done = self.batching.decode_steps
        while stops and stops[0][0] <= done:
            stop_step, _, request = heappop(stops)
            if request.is_decoding and request.stop_step == stop_step:
                finished.append(request)
                if sees_all or self._is_foreseen(request):
                    stop(request)
        return sorted(finished, key=_place) if len(finished) > 1 else finished

    def _tokens_in_flight(self, request: Running) -> int:
        """Return 1 where the newest step in flight decodes the request, else 0."""
        if not self.in_flight:
            return 0
        newest = self.in_flight[-1]
        return int(newest.plan.batch_size > 0 and 0 <= request.first_flight < newest.number)

    def _unseen_tokens(self, request: Running) -> int:
        """Return 1 where the newest step in flight yields a token of the request, else 0."""
        return int(bool(self.in_flight) and self.in_flight[-1].yields_a_token_of(request))

    def _preempted(self, request: Running) -> None:
        """Keep the time of a preempted request's newest token, which may still be in flight."""
        if request.index in self.batching.running:
            return
        ledger = self.ledger
        ledger.preemptions[request.index] += 1
        if request.is_decoding:
            request.is_decoding = False
            newest = self.in_flight[-1] if self.in_flight else None
            if newest is not None and newest.yields_a_token_of(request):
                newest.parted = [*newest.parted, request]
            else:
                ledger.part(request, self._rows_before(request))

    def _rows_before(self, request: Running) -> int:
        """Return how many of those that decode come before a request in the batch."""
        others = self.batching.running.values()
        return sum(r.is_decoding and not r.has_stopped and r.admission < request.admission for r in others)

    # Handing over.

    def _hand_over(self, flight: Flight, host_free_ns: int) -> int:
        """Hand out the tokens of a step; return when the host has updated its books."""
        handed_ns = flight.ready_ns if flight.ready_ns > host_free_ns else host_free_ns
        ledger, plan = self.ledger, flight.plan
        self.just_ended = bool(flight.finished)
        if self.front is None:
            first_ns, token_ns = flight.first_ready_ns, handed_ns
            ledger.steps.add(self.busy_from_ns, plan, flight.steps, flight.kv_blocks, flight.running)
        else:
            first_ns = token_ns = self._delivered_ns(self.front, flight, handed_ns)
            if self._continues(flight, handed_ns, token_ns):
                return handed_ns + flight.update_ns
        self.busy_from_ns = handed_ns
        rows = ledger.hand_out(plan.batch_size, flight.joined, flight.prompts, first_ns, token_ns)
        finished = flight.finished
        if flight.parted or (finished and ledger.row_ns):
            self._go_on_by_place(flight, rows, token_ns)
        else:
            ledger.go_on(rows - len(finished), token_ns)
            for request in finished:
                self._finish(request, token_ns)
        return handed_ns + flight.update_ns

    def _continues(self, flight: Flight, handed_ns: int, token_ns: int) -> bool:
        """Record a step; return whether it only continues the steps before, everybody in it going on."""
        ledger, plan = self.ledger, flight.plan
        start_ns, duration_ns = self.busy_from_ns, handed_ns - self.busy_from_ns
        if self.records_host_and_gpu:
            ledger.steps.add_times(flight)
        if (
            not (flight.finished or flight.parted or flight.prompts or flight.joined)
            and start_ns == self.last_handed_ns
            and ledger.all_saw(duration_ns, token_ns, plan.batch_size)
            and ledger.steps.extend(plan, duration_ns, flight.running)
        ):
            ledger.move_on(duration_ns)
            self.busy_from_ns = self.last_handed_ns = handed_ns
            return True
        self.last_handed_ns = handed_ns
        ledger.steps.add_one(start_ns, plan, duration_ns, flight.kv_blocks, flight.running)
        return False

    def _delivered_ns(self, front: PipelinedExecutor, flight: Flight, handed_ns: int) -> int:
        """Return when the client has the first of a step's tokens, which were handed over at `handed_ns`."""
        decodes = bool(flight.plan.batch_size)
        joining = [*flight.joined, *flight.prompts]
        rows = len(joining) + (self.ledger.rows if decodes else 0)
        return self.ledger.earliest(handed_ns + front.front_out_ns(rows), joining, decodes)

    def _go_on_by_place(self, flight: Flight, rows: int, token_ns: int) -> None:
        """Part and finish where it matters who is at which place among a step's rows."""
        ledger, parted, finished = self.ledger, flight.parted, flight.finished
        in_batch = [*self.batching.running.values()]
        if parted or len(in_batch) != rows:
            in_batch = [request for request in in_batch if flight.yields_a_token_of(request)]
            in_batch = sorted([*in_batch, *parted], key=_place)
        place_of = {request: in_batch.index(request) for request in (*finished, *parted)}
        begin = 0
        for place in sorted(place_of.values()):
            ledger.go_on(place - begin, token_ns + begin * ledger.row_ns)
            begin = place + 1
        ledger.go_on(rows - begin, token_ns + begin * ledger.row_ns)
        for request in parted:
            if request not in finished:
                ledger.part_at(request, token_ns + place_of[request] * ledger.row_ns)
        for request in finished:
            self._finish(request, token_ns + place_of[request] * ledger.row_ns)

    def _finish(self, request: Running, at_ns: int) -> None:
        """Take leave of an answer whose last token was handed over; its client has it at `at_ns`."""
        batching = self.batching
        if batching.running.get(request.index) is not request:
            batching.forget(request)  # preempted while its last token was in flight
        else:
            tokens_in_flight = 0
            if not request.has_stopped:
                tokens_in_flight = self._tokens_in_flight(request)
                batching.stop(request)
            batching.leave(request, tokens_in_flight)
        self.ledger.complete(request.index, at_ns)
        if self.traffic.is_closed or self.progress is not None:
            self._answered(at_ns)

    def _answered(self, at_ns: int) -> None:
        """Let the client know that its request has ended."""
        self.traffic.answered(at_ns)
        if self.progress is not None and self.ledger.ended % 1024 == 0:
            self.progress(self.ledger.ended)

    def _land(self) -> None:
        """Hand over what is in flight although no decision follows."""
        while self.in_flight:
            self._hand_over(self.in_flight.popleft(), 0)
