"""When the steps of an engine begin and end: whole durations one after the other, or host and GPU apart.

Both answer with a `Flight`. The recurrence of host and GPU, with S the decision, D the dispatch, L the end
of launching, E the end of the GPU's work, all on the one integer clock:

    D = S + schedule                           the scheduler's thread
    B = max(D, L of the step before)           launching begins; uniproc: the same thread, so B = D
    L = B + launch
    E = max(max(E before, B + gpu_after) + gpu, L + tail)

The tokens of a step are handed over when the GPU is done and the scheduler's thread is free: after the launch
of the step that follows it (uniproc), or after its dispatch (multiproc).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from scheduler.engine.decode_times import DecodeTimes, Times
from scheduler.engine.executor import (
    Executor,
    PipelinedExecutor,
    PredictableExecutor,
    PredictablePipeline,
    StepKind,
    StepPlan,
    new_plan,
)
from scheduler.engine.request import Running

DECODE: Final = StepKind.DECODE


def decode_later(plan: StepPlan, kv_tokens: int) -> StepPlan:
    """Return the plan of a decode step like `plan` that nobody joins, with another number of KV tokens."""
    kind, batch_size, capture_size, _, _, _, piecewise, drafts = plan
    return new_plan(StepPlan, (kind, batch_size, capture_size, kv_tokens, (), 0, piecewise, drafts))


class Flight:
    """A step (or a run of equal decode steps) from its decision until its tokens are handed over."""

    __slots__ = (
        "decided_ns",
        "finished",
        "first_ready_ns",
        "gpu_end_ns",
        "gpu_start_ns",
        "joined",
        "kv_blocks",
        "launched_ns",
        "next_ns",
        "number",
        "parted",
        "plan",
        "prompts",
        "ready_ns",
        "rows",
        "running",
        "steps",
        "update_ns",
        "waits_ns",
    )

    def __init__(
        self,
        plan: StepPlan,
        decided_ns: int,
        ready_ns: int,
        waits_ns: int,
        next_ns: int,
        steps: int = 1,
        first_ready_ns: int = 0,
    ) -> None:
        self.plan = plan
        self.steps = steps
        self.first_ready_ns = first_ready_ns  # when the tokens of a run's first step are there
        self.decided_ns = decided_ns
        self.ready_ns = ready_ns  # its tokens are there no earlier
        self.waits_ns = waits_ns  # the tokens of the step before are handed over no earlier
        self.next_ns = next_ns  # the next decision is made no earlier
        self.update_ns = self.launched_ns = self.gpu_start_ns = self.gpu_end_ns = 0
        self.number = self.kv_blocks = 0
        self.running = 0  # requests that hold a slot
        self.joined: Sequence[Running] = ()  # decoding for the first time since they were admitted
        self.prompts: Sequence[Running] = ()  # their last chunk is in this step
        self.finished: Sequence[Running] = ()  # their last token is
        self.parted: Sequence[Running] = ()  # preempted after this step was decided
        self.rows: Sequence[tuple[Running, int]] = ()  # of an engine that drafts: who decodes how many tokens

    def yields_a_token_of(self, request: Running) -> bool:
        """Return whether a request that decodes by now has a row in this step."""
        if self.plan.batch_size:
            return 0 <= request.first_flight <= self.number
        return request.first_flight == self.number


class Clock:
    """Gives each decided step its times, in the order of the decisions.

    `can_run_ahead` tells whether `most_steps` may be more than 1.
    """

    can_run_ahead = False

    def launch(self, plan: StepPlan, now_ns: int, most_steps: int, horizon_ns: int) -> Flight:
        """Return the step decided now, or up to `most_steps` equal decode steps.

        Such a run stops with its first step that ends at or after `horizon_ns`.
        """
        raise NotImplementedError


class WholeSteps(Clock):
    """Steps one after the other, each as long as the executor says; the host's work is part of it.

    Under asynchronous scheduling the next decision is then made as soon as the last decided step starts.
    """

    def __init__(self, executor: Executor, durations: array[int], run_ahead: bool) -> None:
        self._executor = executor
        self._ahead = executor if run_ahead and isinstance(executor, PredictableExecutor) else None
        self.can_run_ahead = self._ahead is not None
        self._durations = durations
        self._free_ns = 0

    def launch(self, plan: StepPlan, now_ns: int, most_steps: int, horizon_ns: int) -> Flight:
        """See Clock; appends each duration to `durations`."""
        start_ns = self._free_ns if self._free_ns > now_ns else now_ns
        durations = self._durations
        first = len(durations)
        self._free_ns = end_ns = start_ns + self.execute(plan, most_steps, horizon_ns - start_ns)
        steps, first_ready_ns = len(durations) - first, start_ns + durations[first]
        return Flight(plan, now_ns, end_ns, now_ns, end_ns - durations[-1], steps, first_ready_ns)

    def execute(self, plan: StepPlan, most_steps: int, horizon_ns: int) -> int:
        """Execute a step, or up to `most_steps` equal ones, and append each duration; return their sum.

        They stop with the first step that ends `horizon_ns` after their start, or later.
        """
        if most_steps > 1 and self._ahead is not None:
            return self._ahead.run_ahead(plan, most_steps, horizon_ns, self._durations)
        total_ns = self._executor.run(plan)
        self._durations.append(total_ns)
        return total_ns

    def delay(self, by_ns: int) -> None:
        """Let the step after those launched start so much later."""
        self._free_ns += by_ns


class HostAndGpu(Clock):
    """The pipeline: the host schedules, launches and updates while the GPU works on what was launched.

    It does not run ahead, for what a step takes hangs on those beside it; see `follow`.
    """

    def __init__(self, executor: PipelinedExecutor) -> None:
        self._executor = executor
        self._predictable = executor if isinstance(executor, PredictablePipeline) else None
        self._launches_itself = executor.topology == "uniproc"
        self._launcher_free_ns = 0
        self._gpu_free_ns = 0

    def launch(self, plan: StepPlan, now_ns: int, most_steps: int, horizon_ns: int) -> Flight:
        """See Clock; one step at a time."""
        times = _Known(self._executor.parts(plan, now_ns))
        flight, _ = self._launch(plan, now_ns, times, 1, 0, 0, 0, [])
        return flight

    def follow(
        self, flight: Flight, next_ns: int, most_steps: int, horizon_ns: int
    ) -> tuple[Flight, int, list[int]]:
        """Launch decode steps like the newest one in flight behind it, each before the one before is done.

        At most `most_steps`, and none that is decided at `horizon_ns` or later; the first is decided at
        `next_ns`, before that. Returns the last of them, when the next decision is made, and when the tokens
        of each step before the last were handed over, those of `flight` first. Where a step's parts raise,
        none of them counts as launched, those before it neither: the clock stands where it stood.
        """
        handed_ns: list[int] = []
        plan = decode_later(flight.plan, flight.plan.kv_tokens + flight.plan.batch_size)
        times = self._times_of(plan)
        newest, next_ns = self._launch(
            plan, next_ns, times, most_steps, horizon_ns, flight.ready_ns, flight.update_ns, handed_ns
        )
        return newest, next_ns, handed_ns

    def _times_of(self, plan: StepPlan) -> DecodeTimes:
        predictable = self._predictable
        return _Asked(self._executor, plan) if predictable is None else predictable.decode_times(plan)

    def _launch(
        self,
        plan: StepPlan,
        next_ns: int,
        times: DecodeTimes,
        most_steps: int,
        horizon_ns: int,
        ready_ns: int,
        update_ns: int,
        handed_ns: list[int],
    ) -> tuple[Flight, int]:
        """Launch steps; see the module for the recurrence, which is here alone.

        `ready_ns` and `update_ns` are those of the step before, whose tokens are handed over once the first
        is launched. Returns the last step, and when the next decision is made if nothing else is waited for.
        """
        is_uniproc, kv_tokens, batch_size = self._launches_itself, plan.kv_tokens, plan.batch_size
        launched_ns, gpu_end_ns = self._launcher_free_ns, self._gpu_free_ns
        while True:
            now_ns = next_ns
            schedule_ns, launch_ns, gpu_after_ns, gpu_ns, tail_ns, own_update_ns = times.parts(
                kv_tokens, now_ns
            )
            free_ns = now_ns + schedule_ns
            launching_ns = free_ns if free_ns > launched_ns else launched_ns
            launched_ns = launching_ns + launch_ns
            gpu_start_ns = launching_ns + gpu_after_ns
            if gpu_end_ns > gpu_start_ns:
                gpu_start_ns = gpu_end_ns
            gpu_end_ns = gpu_start_ns + gpu_ns
            if tail_ns >= 0 and launched_ns + tail_ns > gpu_end_ns:
                gpu_end_ns = launched_ns + tail_ns
            if is_uniproc:
                free_ns = launched_ns
            handed = ready_ns if ready_ns > free_ns else free_ns
            handed_ns.append(handed)
            next_ns = handed + update_ns
            if free_ns > next_ns:
                next_ns = free_ns
            ready_ns = gpu_end_ns if gpu_end_ns > launched_ns else launched_ns
            update_ns = own_update_ns
            if len(handed_ns) == most_steps or next_ns >= horizon_ns:
                break
            kv_tokens += batch_size
        self._launcher_free_ns, self._gpu_free_ns = launched_ns, gpu_end_ns
        if kv_tokens != plan.kv_tokens:
            plan = decode_later(plan, kv_tokens)
        flight = Flight(plan, now_ns, ready_ns, free_ns, free_ns)
        flight.update_ns = update_ns
        flight.launched_ns, flight.gpu_start_ns, flight.gpu_end_ns = launched_ns, gpu_start_ns, gpu_end_ns
        return flight, next_ns


class _Known(DecodeTimes):
    """The parts of one step, which are known."""

    def __init__(self, known: Times) -> None:
        self._known = known

    def parts(self, kv_tokens: int, decided_ns: int) -> Times:
        """See DecodeTimes."""
        return self._known


class _Asked(DecodeTimes):
    """Asks an executor that predicts nothing for the parts of each step."""

    def __init__(self, executor: PipelinedExecutor, plan: StepPlan) -> None:
        self._executor = executor
        self._plan = plan

    def parts(self, kv_tokens: int, decided_ns: int) -> Times:
        """See DecodeTimes."""
        return self._executor.parts(decode_later(self._plan, kv_tokens), decided_ns)
