"""What every cost model answers: the duration of each step, in whole nanoseconds of the virtual clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from scheduler.catalog.profile.profile import Mode, Profile
from scheduler.engine.executor import Admission, StepPlan
from scheduler.errors import InputError
from scheduler.executors.model.step_lines import HALF_EVEN, NS_PER_MS, StepLine

WithoutGraph = Literal["eager", "fallback"]
Launch = Mode | Literal["piecewise"]  # how a decode step is launched
Bound = Literal["low", "high"]
JITTER_STEPS = 1 << 20  # then the factors repeat


class CostModel(ABC):
    """A `PredictableExecutor` that reads step times from a profile; a subclass for each kind of profile.

    A decode step in a graph costs what the *captured* size costs with the live rows' KV tokens; without a
    graph, what the actual size costs on the `without_graph` curve. A step that verifies drafts costs what
    one of as many rows as it has tokens costs, its KV tokens being read once. In a PIECEWISE graph it
    computes as in a FULL one and is launched as a step with prompts in piecewise graphs. `bound` picks the
    end of every time that the profile knows as a range. `extrapolated` collects, in words, what was read
    beyond the measured range.
    """

    padding_attends = True
    """Whether a step in a graph costs the same for any number of live rows with the same KV tokens."""

    draws_by_itself = False
    """Whether steps vary as the profile says unless the workload forbids it (`engine.jitter: none`)."""

    verifies_drafts = False
    """Whether decode steps verify drafts, so that they may have more tokens than any batch has requests."""

    def __init__(self, without_graph: WithoutGraph, bound: Bound = "low") -> None:
        self.without_graph: WithoutGraph = without_graph
        self.bound: Bound = bound
        self.extrapolated: set[str] = set()
        self._lines: dict[tuple[int, int | None, int, bool], StepLine] = {}
        self._kv_beyond: dict[tuple[Launch, int], int] = {}
        self._jitter: array[float] | None = None
        self._steps = 0

    @abstractmethod
    def decode_line(self, mode: Launch, size: int, live_rows: int | None = None) -> StepLine:
        """Return the times of decode steps of `size` rows launched in a mode, by KV tokens.

        `live_rows` of them are requests (None: all); it only counts where padding attends to nothing.
        Raises InputError where the profile has no time for it (a table too short, a curve missing).
        """

    @abstractmethod
    def prompt_step_ns(self, plan: StepPlan) -> float:
        """Return the unrounded nanoseconds of a step that computes prompt tokens; raises InputError."""

    @abstractmethod
    def token_work_ms(self, tokens: int) -> float:
        """Return the milliseconds the GPU computes a step of so many tokens with nothing in the KV cache."""

    @property
    def host_speed(self) -> float:
        """Host time relative to the profile's, by the end of its range that is modelled."""
        return 1.0

    def launch_ms(self, mode: Launch) -> float:
        """Return the milliseconds of launching a decode step in a mode, 0 where the profile is silent."""
        return 0.0

    def piecewise_ns(self, plan: StepPlan, sizes: Sequence[int]) -> list[float]:
        """Return the unrounded nanoseconds of a step with prompt tokens in a piecewise graph of each size."""
        return [self.prompt_step_ns(plan._replace(capture_size=size)) for size in sizes]

    def decode_ms(self, mode: Launch, size: int, kv_tokens: int) -> float:
        """Return the milliseconds of a decode step of `size` rows in a mode (for plots and tables)."""
        return self.decode_line(mode, size).ns(kv_tokens) / NS_PER_MS

    def vary(self, profile: Profile, noise: np.random.Generator, *, has_graphs: bool) -> None:
        """Let steps spread around their times as the profile says: step k takes the k-th factor.

        The factors are lognormal with mean 1, so that no mean step time changes. Raises InputError where the
        profile has no spread for a server with graphs, or for one without.
        """
        spread = None
        if profile.jitter is not None:
            spread = profile.jitter.graph if has_graphs else profile.jitter.eager
        if spread is None:
            raise InputError(
                "engine.jitter: expected false; the profile has no jitter measured for this mode"
            )
        normal = noise.standard_normal(JITTER_STEPS)
        self.scale_steps(np.exp(spread * normal - spread * spread / 2))

    def scale_steps(self, factors: Iterable[float]) -> None:
        """Let step k take `factors[k % len(factors)]` times its time, counted from now."""
        self._jitter, self._steps = array("d", factors), 0

    def admit(self, slot: int, admission: Admission) -> None:  # noqa: B027
        """Nothing to prepare: a model has no slots."""

    def release(self, slot: int) -> None:  # noqa: B027
        """Nothing to clean up: a model has no slots."""

    def run(self, plan: StepPlan) -> int:
        """Return the duration of one step in nanoseconds, rounded half-even once.

        Raises InputError where the profile has no time for it (a table too short, a curve missing).
        """
        if not plan.prefill:
            line = self._line(plan)
            if plan.kv_tokens > line.measured_kv_tokens:
                self._note_kv(plan, plan.kv_tokens)
            ns = line.ns(plan.kv_tokens)
        else:
            ns = self.prompt_step_ns(plan)
        if self._jitter is None:
            return round(ns)
        self._steps += 1
        return round(ns * self._jitter[(self._steps - 1) % len(self._jitter)])

    def run_ahead(self, plan: StepPlan, most_steps: int, horizon_ns: int, durations: array[int]) -> int:
        """Run decode steps like `plan`, the KV tokens growing by `batch_size` each; see PredictableExecutor.

        Bit-equal to as many calls of `run`.
        """
        if self._jitter is not None or plan.prefill:
            return self._run_one_by_one(plan, most_steps, horizon_ns, durations)
        line = self._line(plan)
        duration = line.constant_ns
        if duration is None:
            return self._run_on_line(line, plan, most_steps, horizon_ns, durations)
        steps = most_steps
        if duration and duration * steps > horizon_ns:
            steps = max(-(-horizon_ns // duration), 1)
        kv_tokens = plan.kv_tokens + (steps - 1) * plan.batch_size
        if kv_tokens > line.measured_kv_tokens:
            self._note_kv(plan, kv_tokens)
        durations.extend([duration] * steps)
        return duration * steps

    def _run_on_line(
        self, line: StepLine, plan: StepPlan, most_steps: int, horizon_ns: int, durations: array[int]
    ) -> int:
        starts, offsets, slopes = line.starts, line.offsets, line.slopes
        batch_size, kv_tokens = plan.batch_size, plan.kv_tokens
        append = durations.append
        elapsed = 0
        last = len(starts) - 1
        index = bisect_right(starts, kv_tokens) - 1 if last else 0
        while True:
            offset, slope = offsets[index], slopes[index]
            if index == last:
                steps = most_steps
            else:  # steps until the next segment begins
                index += 1
                steps = min(most_steps, (starts[index] - kv_tokens - 1) // batch_size + 1)
            most_steps -= steps
            first = kv_tokens
            for kv_tokens in range(first, first + steps * batch_size, batch_size):
                duration = int(offset + slope * kv_tokens + HALF_EVEN - HALF_EVEN)
                append(duration)
                elapsed += duration
                if elapsed >= horizon_ns:
                    most_steps = 0
                    break
            if not most_steps:
                if kv_tokens > line.measured_kv_tokens:
                    self._note_kv(plan, kv_tokens)
                return elapsed
            kv_tokens += batch_size

    def _run_one_by_one(self, plan: StepPlan, most_steps: int, horizon_ns: int, durations: array[int]) -> int:
        elapsed = 0
        for _ in range(most_steps):
            duration = self.run(plan)
            durations.append(duration)
            elapsed += duration
            if elapsed >= horizon_ns:
                break
            plan = plan._replace(kv_tokens=plan.kv_tokens + plan.batch_size)
        return elapsed

    def extrapolations(self) -> list[str]:
        """Return, in words, what was read beyond the profile's measured range, sorted."""
        kv = []
        for mode in dict.fromkeys(mode for mode, _ in self._kv_beyond):
            rows = [rows for other, rows in self._kv_beyond if other == mode]
            most = max(tokens for (other, _), tokens in self._kv_beyond.items() if other == mode)
            least, largest = min(rows), max(rows)
            size = f"{least}–{largest} rows" if least < largest else f"{least} row{'s' * (least > 1)}"
            kv.append(f"{mode} decode steps of {size}, up to {most:,} KV tokens")
        return sorted([*self.extrapolated, *kv])

    # Decode lines.

    def _launch(self, plan: StepPlan) -> Launch:
        if plan.capture_size is None:
            return self.without_graph
        return "piecewise" if plan.piecewise else "graph"

    def _line(self, plan: StepPlan) -> StepLine:
        """Return the times of decode steps like the plan, computed once."""
        _, batch_size, capture_size, _, _, _, piecewise, drafts = plan
        key = (batch_size, capture_size, drafts, piecewise)
        line = self._lines.get(key)
        if line is None:
            rows = batch_size + drafts
            live = None if self.padding_attends else rows
            line = self._lines[key] = self.decode_line(self._launch(plan), capture_size or rows, live)
        return line

    def _note_kv(self, plan: StepPlan, kv_tokens: int) -> None:
        rows = plan.capture_size or plan.batch_size + plan.draft_tokens
        mode = self._launch(plan)
        self._kv_beyond[mode, rows] = max(kv_tokens, self._kv_beyond.get((mode, rows), 0))
