"""The cost model of a version 2 profile: what a step asks of host and GPU, in whole nanoseconds."""

from __future__ import annotations

import math

import numpy as np

from scheduler.catalog.profile.engine import LAUNCHINGS, OF_MODE, EngineProfile, Launching
from scheduler.catalog.profile.profile import Mode, Profile
from scheduler.catalog.profile.tables import read_curve
from scheduler.engine.executor import StepKind, StepParts, StepPlan, Topology
from scheduler.executors.model.cost_model import Bound, CostModel, Launch, WithoutGraph
from scheduler.executors.model.host_noise import HostNoise
from scheduler.executors.model.step_lines import NS_PER_MS, StepLine, step_line

_SCHEDULE = len(LAUNCHINGS)  # purposes of independent draws: one per way of launching, and scheduling
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
        self._speed = 1.0 if profile.host.range is None else profile.host.range.at(bound)
        self._launches = {how: (profile.launch(how), LAUNCHINGS.index(how)) for how in LAUNCHINGS}
        self._warmth = dict.fromkeys((how for how, (cost, _) in self._launches.items() if cost.cold), 1.0)
        self._widest = profile.gpu.tokens.at[-1]
        self._curve: dict[int, float] = {}
        front = profile.front_end
        self.front_out_row_ns = round(front.out_row_ms * NS_PER_MS)
        self._in_ns = (front.in_ms * NS_PER_MS, front.in_token_ms * NS_PER_MS)
        self._out_ns = (front.out_ms * NS_PER_MS, front.out_request_ms * NS_PER_MS)

    def vary(self, profile: Profile, noise: np.random.Generator, *, has_graphs: bool) -> None:
        """Let the host's speed wander and launches spread, as functions of virtual time; see HostNoise."""
        self._noise = HostNoise(self._profile.host.speed, noise)

    def decode_line(self, mode: Launch, size: int, live_rows: int | None = None) -> StepLine:
        """See CostModel."""
        gpu = self._profile.gpu
        live = size if live_rows is None else live_rows
        ms = self._curve_ms(size) + gpu.row_ms * live
        points = [(0.0, ms), (_FAR_KV_TOKENS, ms + gpu.kv_token_ms * _FAR_KV_TOKENS)]
        launch, _ = self._launches["piecewise" if mode == "piecewise" else OF_MODE[mode]]
        return step_line(
            points, (self._host_ms(live, 0, 0) + launch.ms + launch.request_ms * live) * self._speed, 0.0
        )

    def token_work_ms(self, tokens: int) -> float:
        """See CostModel."""
        return self._curve_ms(tokens) + self._profile.gpu.row_ms * tokens

    def launch_ms(self, mode: Mode) -> float:
        """See CostModel; the mean of a launch by the run's host."""
        launch, _ = self._launches[OF_MODE[mode]]
        return launch.ms * self._speed

    def prompt_step_ns(self, plan: StepPlan) -> float:
        """See CostModel."""
        launch, _ = self._launches[self._launching(plan)]
        host_ms = self._host_ms(plan.batch_size, len(plan.prefill), plan.prefill_tokens, plan.kv_tokens)
        return max((host_ms + launch.ms) * self._speed, self.gpu_ms(plan)) * NS_PER_MS

    def parts(self, plan: StepPlan, decided_ns: int) -> StepParts:
        """Return what the step takes; see `PipelinedExecutor`. Asked once a step, in their order."""
        chunks = len(plan.prefill)
        requests = plan.batch_size + chunks
        prompt_tokens = plan.prefill_tokens if chunks else 0
        how = self._launching(plan)
        launch, purpose = self._launches[how]
        host = self._profile.host
        cost = host.schedule
        schedule = cost.step_ms + cost.request_ms * requests + cost.kv_token_ms * plan.kv_tokens
        if chunks:
            schedule += cost.prompt_step_ms + cost.chunk_ms * chunks + cost.prompt_token_ms * prompt_tokens
        update = host.update.step_ms + host.update.request_ms * requests + host.update.chunk_ms * chunks
        update += host.update.kv_token_ms * plan.kv_tokens
        launching = launch.ms + launch.request_ms * requests
        if self._warmth:
            launching *= self._coldness(how)
        slowness = launch_slowness = self._speed * NS_PER_MS
        if self._noise is not None:
            log_slowness = self._noise.log_slowness(decided_ns)
            slowness *= math.exp(log_slowness)
            launch_slowness *= math.exp(launch.exponent * log_slowness)
            schedule *= self._by_itself(decided_ns, _SCHEDULE, cost.spread)
            launching *= self._by_itself(decided_ns, purpose, launch.spread)
        launch_ns = round(launching * launch_slowness)
        return StepParts(
            schedule_ns=round(schedule * slowness),
            launch_ns=launch_ns,
            gpu_after_ns=min(round(launch.gpu_after_ms * slowness), launch_ns),
            gpu_ns=round(self.gpu_ms(plan) * NS_PER_MS),
            tail_ns=-1 if launch.tail_ms is None else round(launch.tail_ms * NS_PER_MS),
            update_ns=round(update * slowness),
        )

    def gpu_ms(self, plan: StepPlan) -> float:
        """Return the milliseconds the GPU works on a step; padded rows count in the graph's tokens alone."""
        gpu = self._profile.gpu
        rows = plan.batch_size + plan.draft_tokens  # head and sampler run on every token that is verified
        tokens = rows + (plan.prefill_tokens if plan.prefill else 0)
        ms = self._curve_ms(max(plan.capture_size or 0, tokens))
        ms += gpu.row_ms * (rows + len(plan.prefill)) + gpu.kv_token_ms * plan.kv_tokens
        for chunk in plan.prefill:
            ms += gpu.prompt_ms + gpu.pair_ms * chunk.tokens * (chunk.cached_tokens + chunk.tokens / 2)
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

    def _coldness(self, how: Launching) -> float:
        """Return the factor by which a launch is slower for what was launched before it, and count it in."""
        factor = 1.0
        for kind, warmth in self._warmth.items():
            cost, _ = self._launches[kind]
            if kind == how:
                factor += cost.cold * (1 - warmth)
            self._warmth[kind] = warmth + ((kind == how) - warmth) / cost.warm_steps
        return factor

    def _by_itself(self, at_ns: int, purpose: int, spread: float) -> float:
        if self._noise is None or not spread:
            return 1.0
        return math.exp(spread * self._noise.normal(at_ns, purpose) - spread * spread / 2)
