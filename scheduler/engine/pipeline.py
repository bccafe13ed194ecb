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
from typing import Protocol

from scheduler.engine.executor import (
    Executor,
    PipelinedExecutor,
    PredictableExecutor,
    StepKind,
    StepPlan,
)
from scheduler.engine.request import Running

DECODE = StepKind.DECODE


class Flight:
    """A step (or a run of equal decode steps) from its decision until its tokens are handed over."""

    number = 0
    kv_blocks = 0
    running = 0  # requests that hold a slot
    joined: Sequence[Running] = ()  # decoding for the first time since they were admitted
    prompts: Sequence[Running] = ()  # their last chunk is in this step
    finished: Sequence[Running] = ()  # their last token is
    parted: Sequence[Running] = ()  # preempted after this step was decided
    update_ns = 0
    launched_ns = 0
    gpu_start_ns = 0
    gpu_end_ns = 0

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

    def yields_a_token_of(self, request: Running) -> bool:
        """Return whether a request that decodes by now has a row in this step."""
        if self.plan.batch_size:
            return 0 <= request.first_flight <= self.number
        return request.first_flight == self.number


class Clock(Protocol):
    """Gives each decided step its times, in the order of the decisions.

    `can_run_ahead` tells whether `most_steps` may be more than 1.
    """

    can_run_ahead: bool

    def launch(self, plan: StepPlan, now_ns: int, most_steps: int, horizon_ns: int) -> Flight:
        """Return the step decided now, or up to `most_steps` equal decode steps.

        Such a run stops with its first step that ends at or after `horizon_ns`.
        """
        ...


class WholeSteps:
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
        before = len(durations)
        if most_steps > 1 and self._ahead is not None:
            total_ns = self._ahead.run_ahead(plan, most_steps, horizon_ns - start_ns, durations)
        else:
            total_ns = self._executor.run(plan)
            durations.append(total_ns)
        end_ns = self._free_ns = start_ns + total_ns
        steps, first_ready_ns = len(durations) - before, start_ns + durations[before]
        return Flight(plan, now_ns, end_ns, now_ns, end_ns - durations[-1], steps, first_ready_ns)

    def delay(self, by_ns: int) -> None:
        """Let the step after those launched start so much later."""
        self._free_ns += by_ns


class HostAndGpu:
    """The pipeline: the host schedules, launches and updates while the GPU works on what was launched."""

    def __init__(self, executor: PipelinedExecutor) -> None:
        self.can_run_ahead = False
        self._executor = executor
        self._launches_itself = executor.topology == "uniproc"
        self._launcher_free_ns = 0
        self._gpu_free_ns = 0

    def launch(self, plan: StepPlan, now_ns: int, most_steps: int, horizon_ns: int) -> Flight:
        """See Clock; one step at a time."""
        schedule_ns, launch_ns, gpu_after_ns, gpu_ns, tail_ns, update_ns = self._executor.parts(plan, now_ns)
        dispatched_ns = now_ns + schedule_ns
        launching_ns = max(dispatched_ns, self._launcher_free_ns)
        launched_ns = launching_ns + launch_ns
        gpu_start_ns = max(self._gpu_free_ns, launching_ns + gpu_after_ns)
        gpu_end_ns = gpu_start_ns + gpu_ns
        if tail_ns >= 0:
            gpu_end_ns = max(gpu_end_ns, launched_ns + tail_ns)
        self._launcher_free_ns = launched_ns
        self._gpu_free_ns = gpu_end_ns
        free_ns = launched_ns if self._launches_itself else dispatched_ns
        flight = Flight(plan, now_ns, max(gpu_end_ns, launched_ns), free_ns, free_ns)
        flight.update_ns = update_ns
        flight.launched_ns, flight.gpu_start_ns, flight.gpu_end_ns = launched_ns, gpu_start_ns, gpu_end_ns
        return flight
