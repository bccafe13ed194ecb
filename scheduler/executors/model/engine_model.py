"""The cost model of a version 2 profile: what a step asks of host and GPU, in whole nanoseconds."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from scheduler.catalog.profile.engine import LAUNCHINGS, OF_MODE, EngineProfile, LaunchCost, Launching
from scheduler.catalog.profile.profile import Profile
from scheduler.catalog.profile.tables import read_curve
from scheduler.engine.decode_times import DecodeTimes, Times
from scheduler.engine.executor import StepKind, StepParts, StepPlan, Topology
from scheduler.executors.model.cost_model import Bound, CostModel, Launch, WithoutGraph
from scheduler.executors.model.host_noise import HostNoise
from scheduler.executors.model.step_lines import HALF_EVEN, NS_PER_MS, StepLine, step_line

_SCHEDULE: Final = len(LAUNCHINGS)  # purposes of independent draws: one per way of launching, and scheduling
new_parts = tuple.__new__  # StepParts(…) in half the time
_FAR_KV_TOKENS = 1_000_000_000.0


class EngineCostModel(CostModel):
    """A `PipelinedExecutor` that reads a profile of version 2.

    `without_graph` says how a step without a graph is launched: `fallback` is compiled code, `eager` is not.
    `bound` picks the end of the profile's range of host speed. Every part takes its mean until `vary`. As a
    model of whole steps (for curves and open-loop choices) it says what a step takes where equal steps
    follow each other: host and GPU overlap, so max(schedule + launch + update, GPU).
    """

    padding_attends = False
    draws_by_itself = True

    def __init__(self, profile: EngineProfile, without_graph: WithoutGraph, bound: Bound = "low") -> None:
        super().__init__(without_graph, bound)
        self._profile = profile
        self.topology: Topology = profile.topology
        self._noise: HostNoise | None = None
        self.speed = 1.0 if profile.host.range is None else profile.host.range.at(bound)
        self._launches = {how: (profile.launch(how), LAUNCHINGS.index(how)) for how in LAUNCHINGS}
        self.warmth = dict.fromkeys((how for how, (cost, _) in self._launches.items() if cost.cold), 1.0)
        self._widest = profile.gpu.tokens.at[-1]
        self._curve: dict[int, float] = {}
        # By how steps are launched; by requests, graph, drafts and whether the graph is a PIECEWISE one.
        self._timings: dict[Launching, _Timing] = {}
        self._decoding: dict[tuple[int, int | None, int, bool], _Decoding] = {}
        # What every step is computed from, out of the profile's own objects, which take longer to ask.
        schedule, update, gpu = profile.host.schedule, profile.host.update, profile.gpu
        self._schedule_ms = (
            schedule.step_ms,
            schedule.request_ms,
            schedule.kv_token_ms,
            schedule.prompt_step_ms,
            schedule.chunk_ms,
            schedule.prompt_token_ms,
        )
        self._update_ms = (update.step_ms, update.request_ms, update.kv_token_ms, update.chunk_ms)
        self._gpu_ms = (gpu.row_ms, gpu.kv_token_ms, gpu.prompt_ms, gpu.pair_ms)
        self._launch_ms = {
            how: (cost.ms, cost.request_ms, cost.prompts) for how, (cost, _) in self._launches.items()
        }
        front = profile.front_end
        self.front_out_row_ns = round(front.out_row_ms * NS_PER_MS)
        self._in_ns = (front.in_ms * NS_PER_MS, front.in_token_ms * NS_PER_MS)
        self._out_ns = (front.out_ms * NS_PER_MS, front.out_request_ms * NS_PER_MS)

    def vary(self, profile: Profile, noise: np.random.Generator, *, has_graphs: bool) -> None:
        """Let the host's speed wander and launches spread, as functions of virtual time; see HostNoise."""
        self._noise = HostNoise(self._profile.host.speed, noise)
        self._timings.clear()
        self._decoding.clear()

    def decode_line(self, mode: Launch, size: int, live_rows: int | None = None) -> StepLine:
        """See CostModel."""
        gpu = self._profile.gpu
        live = size if live_rows is None else live_rows
        ms = self._curve_ms(size) + gpu.row_ms * live
        points = [(0.0, ms), (_FAR_KV_TOKENS, ms + gpu.kv_token_ms * _FAR_KV_TOKENS)]
        launch, _ = self._launches["piecewise" if mode == "piecewise" else OF_MODE[mode]]
        return step_line(
            points, (self._host_ms(live, 0, 0) + launch.ms + launch.request_ms * live) * self.speed, 0.0
        )

    def token_work_ms(self, tokens: int) -> float:
        """See CostModel."""
        return self._curve_ms(tokens) + self._profile.gpu.row_ms * tokens

    @property
    def host_speed(self) -> float:
        """See CostModel."""
        return self.speed

    def launch_ms(self, mode: Launch) -> float:
        """See CostModel; the mean of a launch by the run's host."""
        launch, _ = self._launches["piecewise" if mode == "piecewise" else OF_MODE[mode]]
        return launch.ms * self.speed

    def prompt_step_ns(self, plan: StepPlan) -> float:
        """See CostModel."""
        launch, _ = self._launches[self._launching(plan)]
        host_ms = self._host_ms(plan.batch_size, len(plan.prefill), plan.prefill_tokens, plan.kv_tokens)
        launch_ms = launch.ms * (1 + launch.prompts)
        return max((host_ms + launch_ms) * self.speed, self.gpu_ms(plan)) * NS_PER_MS

    def parts(self, plan: StepPlan, decided_ns: int) -> StepParts:
        """Return what the step takes; see `PipelinedExecutor`. Asked once a step, in their order."""
        if not plan.prefill:
            return new_parts(StepParts, self.decode_times(plan).parts(plan.kv_tokens, decided_ns))
        schedule_ms, launch_ms, update_ms = self._host_parts(plan)
        _, _, kv_token_ms, prompt_step_ms, chunk_ms, prompt_token_ms = self._schedule_ms
        kv_tokens = plan.kv_tokens
        schedule_ms += kv_token_ms * kv_tokens
        schedule_ms += prompt_step_ms + chunk_ms * len(plan.prefill) + prompt_token_ms * plan.prefill_tokens
        update_ms += self._update_ms[2] * kv_tokens
        timing = self._timing(self._launching(plan))
        return new_parts(
            StepParts, timing.parts(schedule_ms, launch_ms, update_ms, self.gpu_ms(plan), decided_ns)
        )

    def decode_times(self, plan: StepPlan) -> DecodeTimes:
        """See `PredictablePipeline`: what does not hang on KV tokens or time is worked out once."""
        _, batch_size, capture_size, _, _, _, piecewise, drafts = plan
        key = (batch_size, capture_size, drafts, piecewise)
        known = self._decoding.get(key)
        if known is None:
            schedule_ms, launch_ms, update_ms = self._host_parts(plan)
            gpu, rows = self._profile.gpu, batch_size + drafts
            known = self._decoding[key] = _Decoding(
                self._timing(self._launching(plan)),
                (schedule_ms, self._schedule_ms[2]),
                launch_ms,
                (update_ms, self._update_ms[2]),
                self._curve_ms(max(capture_size or 0, rows)),
                (gpu.row_ms * rows, gpu.kv_token_ms),
            )
        return known

    def _host_parts(self, plan: StepPlan) -> tuple[float, float, float]:
        """Return the milliseconds of schedule, launch and update that go by requests."""
        schedule_ms, request_ms, _, _, _, _ = self._schedule_ms
        update_ms, update_request_ms, _, update_chunk_ms = self._update_ms
        launch_ms, launch_request_ms, prompts = self._launch_ms[self._launching(plan)]
        chunks = len(plan.prefill)
        requests = plan.batch_size + chunks
        return (
            schedule_ms + request_ms * requests,
            (launch_ms + launch_request_ms * requests) * (1 + prompts * bool(chunks)),
            update_ms + update_request_ms * requests + update_chunk_ms * chunks,
        )

    def _timing(self, how: Launching) -> _Timing:
        known = self._timings.get(how)
        if known is None:
            launch, purpose = self._launches[how]
            spread = self._profile.host.schedule.spread
            known = self._timings[how] = _Timing(self, how, launch, purpose, spread, self._noise)
        return known

    def gpu_ms(self, plan: StepPlan) -> float:
        """Return the milliseconds the GPU works on a step; padded rows count in the graph's tokens alone."""
        row_ms, kv_token_ms, prompt_ms, pair_ms = self._gpu_ms
        rows = plan.batch_size + plan.draft_tokens  # head and sampler run on every token that is verified
        tokens = rows + (plan.prefill_tokens if plan.prefill else 0)
        ms = self._curve_ms(max(plan.capture_size or 0, tokens))
        ms += row_ms * (rows + len(plan.prefill)) + kv_token_ms * plan.kv_tokens
        for _, chunk_tokens, cached_tokens, _ in plan.prefill:
            ms += prompt_ms + pair_ms * chunk_tokens * (cached_tokens + chunk_tokens / 2)
        return ms

    def front_in_ns(self, prompt_tokens: int) -> int:
        """Return the time from a request's arrival until the scheduler can see it."""
        return round(self._in_ns[0] + self._in_ns[1] * prompt_tokens)

    def front_out_ns(self, rows: int) -> int:
        """Return the time from the hand-over of a step's `rows` tokens until the client has the first."""
        return round(self._out_ns[0] + self._out_ns[1] * rows)

    def _curve_ms(self, width: int) -> float:
        ms = self._curve.get(width)
        if ms is None:
            ms = self._curve[width] = read_curve(self._profile.gpu.tokens, width)
            if width > self._widest:
                self.extrapolated.add(f"steps of more than {self._widest:,.0f} tokens")
        return ms

    def _host_ms(self, decodes: int, chunks: int, prompt_tokens: int, kv_tokens: float = 0.0) -> float:
        """Return schedule and update of a step, by the measured host's mean."""
        schedule, update = self._profile.host.schedule, self._profile.host.update
        requests = decodes + chunks
        ms = schedule.step_ms + update.step_ms + (schedule.request_ms + update.request_ms) * requests
        ms += (schedule.kv_token_ms + update.kv_token_ms) * kv_tokens
        if chunks:
            ms += schedule.prompt_step_ms + (schedule.chunk_ms + update.chunk_ms) * chunks
            ms += schedule.prompt_token_ms * prompt_tokens
        return ms

    def _launching(self, plan: StepPlan) -> Launching:
        if plan.capture_size is None:
            return OF_MODE[self.without_graph]
        return "piecewise" if plan.piecewise or plan.kind is not StepKind.DECODE else "full"

    def coldness(self, how: Launching) -> float:
        """Return the factor by which a launch is slower for what was launched before it, and count it in."""
        factor = 1.0
        for kind, warmth in self.warmth.items():
            cost, _ = self._launches[kind]
            if kind == how:
                factor += cost.cold * (1 - warmth)
            self.warmth[kind] = warmth + ((kind == how) - warmth) / cost.warm_steps
        return factor


class _Timing:
    """Turns the mean milliseconds of schedule, launch, update and GPU into a step's parts.

    By how the step is launched, and when it is decided: then the host is as fast as its noise says.
    """

    def __init__(
        self,
        model: EngineCostModel,
        how: Launching,
        launch: LaunchCost,
        purpose: int,
        schedule_spread: float,
        noise: HostNoise | None,
    ) -> None:
        self._model = model
        self._how = how
        self._is_warmed = bool(model.warmth)
        self._speed = model.speed * NS_PER_MS
        self._noise = noise
        self._purpose = purpose
        self._exponent = launch.exponent
        self._gpu_after_ms = launch.gpu_after_ms
        self._tail_ns = -1 if launch.tail_ms is None else round(launch.tail_ms * NS_PER_MS)
        self._schedule_spread = schedule_spread
        self._schedule_shift = schedule_spread * schedule_spread / 2  # so that the factors have mean 1
        self._launch_spread = launch.spread
        self._launch_shift = launch.spread * launch.spread / 2

    def parts(
        self, schedule_ms: float, launch_ms: float, update_ms: float, gpu_ms: float, decided_ns: int
    ) -> Times:
        """Return the fields of `StepParts`, each rounded half-even once."""
        slowness = launch_slowness = self._speed
        noise = self._noise
        if self._is_warmed:
            launch_ms *= self._model.coldness(self._how)
        if noise is not None:
            log_slowness = noise.log_slowness(decided_ns)
            slowness *= math.exp(log_slowness)
            launch_slowness *= math.exp(self._exponent * log_slowness)
            spread = self._schedule_spread
            if spread:
                schedule_ms *= math.exp(spread * noise.normal(decided_ns, _SCHEDULE) - self._schedule_shift)
            spread = self._launch_spread
            if spread:
                launch_ms *= math.exp(spread * noise.normal(decided_ns, self._purpose) - self._launch_shift)
        launch_ns = int(launch_ms * launch_slowness + HALF_EVEN - HALF_EVEN)
        gpu_after_ns = int(self._gpu_after_ms * slowness + HALF_EVEN - HALF_EVEN)
        if gpu_after_ns > launch_ns:
            gpu_after_ns = launch_ns
        return (
            int(schedule_ms * slowness + HALF_EVEN - HALF_EVEN),
            launch_ns,
            gpu_after_ns,
            int(gpu_ms * NS_PER_MS + HALF_EVEN - HALF_EVEN),
            self._tail_ns,
            int(update_ms * slowness + HALF_EVEN - HALF_EVEN),
        )


class _Decoding(DecodeTimes):
    """Decode steps of one size: milliseconds, and more of them for each KV token."""

    def __init__(
        self,
        timing: _Timing,
        schedule_ms: tuple[float, float],
        launch_ms: float,
        update_ms: tuple[float, float],
        curve_ms: float,
        rows_ms: tuple[float, float],
    ) -> None:
        self._timing = timing
        self._schedule_ms, self._schedule_kv_ms = schedule_ms
        self._launch_ms = launch_ms
        self._update_ms, self._update_kv_ms = update_ms
        self._curve_ms = curve_ms
        self._rows_ms, self._gpu_kv_ms = rows_ms

    def parts(self, kv_tokens: int, decided_ns: int) -> Times:
        """See DecodeTimes."""
        return self._timing.parts(
            self._schedule_ms + self._schedule_kv_ms * kv_tokens,
            self._launch_ms,
            self._update_ms + self._update_kv_ms * kv_tokens,
            self._curve_ms + (self._rows_ms + self._gpu_kv_ms * kv_tokens),
            decided_ns,
        )
