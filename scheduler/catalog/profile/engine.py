"""A profile of version 2: what a step costs the host and what it costs the GPU, told apart.

Times are milliseconds and means. The host schedules a step, launches it, and updates its books when the
tokens are there; the GPU works. How the parts overlap is the loop's business (`topology` says who launches).
The same GPU work serves every mode; only what launching costs differs.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from scheduler.catalog.numbers import MsOrZero, PositiveMs, Strict, as_tuple, expectation, number
from scheduler.catalog.profile.measured import MeasuredProfile
from scheduler.catalog.profile.profile import (
    EAGER_KV_TOKENS,
    EAGER_ROWS,
    CurveSource,
    Mode,
    Origin,
    own_eager,
    require_host_bound,
)
from scheduler.catalog.profile.tables import Curve, read_curve

Launching = Literal["full", "piecewise", "compiled", "eager"]
LAUNCHINGS: tuple[Launching, ...] = ("full", "piecewise", "compiled", "eager")

_Spread = Annotated[float, BeforeValidator(number(2.0, least=0))]
_Steps = Annotated[float, BeforeValidator(number(1000.0, least=1))]
_Exponent = Annotated[float, BeforeValidator(number(10.0, least=0))]
_Speed = Annotated[float, BeforeValidator(number(10.0, above=0))]
OF_MODE: dict[Mode, Launching] = {"graph": "full", "fallback": "compiled", "eager": "eager"}


class GpuWork(Strict):
    """GPU time of a step: `tokens` at its tokens (padding included), plus a part for what is live.

    `row_ms` per request (head and sampler run on live rows), `kv_token_ms` per token in the KV cache of the
    decoded requests, `pair_ms` per pair of a prompt token and an earlier or equal one, `prompt_ms` per chunk.
    """

    tokens: Curve
    row_ms: MsOrZero = 0.0
    kv_token_ms: MsOrZero = 0.0
    pair_ms: MsOrZero = 0.0
    prompt_ms: MsOrZero = 0.0


class ScheduleCost(Strict):
    """Host time from the decision until launching begins, a step with prompts costing `prompt_step_ms` more.

    `kv_token_ms` per token in the KV cache of the decoded requests: the host walks their lists of blocks.
    `spread` is the standard deviation of the logarithm beside what the host's speed explains.
    """

    step_ms: MsOrZero = 0.0
    request_ms: MsOrZero = 0.0
    prompt_step_ms: MsOrZero = 0.0
    chunk_ms: MsOrZero = 0.0
    prompt_token_ms: MsOrZero = 0.0
    kv_token_ms: MsOrZero = 0.0
    spread: _Spread = 0.0


class UpdateCost(Strict):
    """Host time from the hand-over of a step's tokens until the next decision."""

    step_ms: MsOrZero = 0.0
    request_ms: MsOrZero = 0.0
    chunk_ms: MsOrZero = 0.0
    kv_token_ms: MsOrZero = 0.0


class LaunchCost(Strict):
    """What launching a step costs: the thread is busy for `ms` + `request_ms` × requests.

    The GPU may begin after `gpu_after_ms`.

    `tail_ms`: the GPU is done no earlier than this after the end of launching, where kernels are launched
    one by one; None where one graph is launched. A launch takes `ms` × speed^`exponent` × a lognormal factor
    of mean 1 and spread `spread`.

    `cold`: by how much longer it takes, as a share, after many steps launched otherwise (caches hold other
    code); each step launched alike takes off one part in `warm_steps` of what is left. `prompts`: by how much
    longer, as a share, with prompts in the step (kernels launched one by one).
    """

    ms: MsOrZero
    request_ms: MsOrZero = 0.0
    gpu_after_ms: MsOrZero = 0.0
    tail_ms: MsOrZero | None = None
    exponent: _Exponent = 1.0
    spread: _Spread = 0.0
    cold: _Spread = 0.0
    warm_steps: _Steps = 10.0
    prompts: _Spread = 0.0


class LaunchCosts(Strict):
    """By how a step is launched; what is missing is taken from its neighbour (see `EngineProfile.launch`)."""

    full: LaunchCost | None = None
    piecewise: LaunchCost | None = None
    compiled: LaunchCost | None = None
    eager: LaunchCost | None = None


class SpeedComponent(Strict):
    """A part of the host's speed: the logarithm wanders with this spread and forgets in `tau_ms`."""

    spread: _Spread
    tau_ms: PositiveMs


class SpeedRange(Strict):
    """Host time relative to the measured host, as a range: 1 is that host.

    A comparison is run at both ends. The low end is the faster host, on which graphs save least.
    """

    low: _Speed
    high: _Speed

    @model_validator(mode="after")
    def _ordered(self) -> SpeedRange:
        if self.low > self.high:
            raise expectation("low of at most high", "low", got=False)
        return self

    def at(self, bound: Literal["low", "high"]) -> float:
        """Return one end of the range."""
        return self.low if bound == "low" else self.high


class HostCosts(Strict):
    """What the host does for a step. `speed` are the processes its speed is made of, in virtual time.

    `range` scales all host costs of runs compared at both ends; without it both ends are the measured host.
    `drift`: how far the host's mean speed over a traffic may be off, for a newly started engine has another
    and it wanders for seconds; the standard deviation of the logarithm. It is not drawn.
    """

    schedule: ScheduleCost = ScheduleCost()
    update: UpdateCost = UpdateCost()
    launch: LaunchCosts
    speed: Annotated[tuple[SpeedComponent, ...], BeforeValidator(as_tuple), Field(max_length=16)] = ()
    range: SpeedRange | None = None
    drift: _Spread | None = None

    @model_validator(mode="after")
    def _launches_something(self) -> HostCosts:
        if all(getattr(self.launch, name) is None for name in LAUNCHINGS):
            raise expectation("at least one launch cost", "launch", got=False)
        return self


class FrontEnd(Strict):
    """Delays between client and scheduler; a step's tokens reach the client one after the other."""

    in_ms: MsOrZero = 0.0
    in_token_ms: MsOrZero = 0.0
    out_ms: MsOrZero = 0.0
    out_request_ms: MsOrZero = 0.0
    out_row_ms: MsOrZero = 0.0


class EngineProfile(MeasuredProfile):
    """A profile file of version 2. See the module for what the times mean.

    `scheduling` is how the measured engine decided, which a workload that does not say takes over. Where it
    is not stated it is asynchronous, for nothing else shows host and GPU apart.
    """

    version: Literal[2]
    topology: Literal["uniproc", "multiproc"] = "uniproc"
    scheduling: Literal["async", "sync"] | None = None
    gpu: GpuWork
    host: HostCosts
    front_end: FrontEnd = FrontEnd()

    @property
    def has_range(self) -> bool:
        """Whether the host's speed is given as a range."""
        return self.host.range is not None and self.host.range.low < self.host.range.high

    @property
    def range_origin(self) -> Origin:
        """See Profile."""
        entry = self.origin_of("host.range")
        return entry.origin if entry is not None else "assumed"

    @property
    def is_asynchronous(self) -> bool:
        """See Profile."""
        return self.scheduling != "sync"

    @property
    def has_prefill(self) -> bool:
        """The GPU's work covers prompts."""
        return True

    def with_eager_ms(self, eager_ms: float) -> EngineProfile:
        """See Profile; all host costs are those of one host, so that its speed is what the step says."""
        gpu, rows = self.gpu, EAGER_ROWS
        gpu_ms = read_curve(gpu.tokens, rows) + gpu.row_ms * rows + gpu.kv_token_ms * EAGER_KV_TOKENS
        require_host_bound(eager_ms, gpu_ms, self.name)
        schedule, update, launch = self.host.schedule, self.host.update, self.launch("eager")
        fixed = schedule.step_ms + update.step_ms + launch.ms
        speed = eager_ms / (fixed + (schedule.request_ms + update.request_ms + launch.request_ms) * rows)
        host = self.host.model_copy(update={"range": SpeedRange(low=speed, high=speed)})
        provenance = self.provenance | {"host.range": own_eager(eager_ms)}
        return self.model_copy(update={"host": host, "provenance": provenance})

    def curve(self, mode: Mode) -> CurveSource | None:
        """See Profile; the GPU's part of the curve has its points at the knots of `gpu.tokens`."""
        how = OF_MODE[mode]
        if how == "compiled" and self.host.launch.compiled is None:
            return None
        if how == "full" and self.host.launch.full is None:
            return None
        entry = self.origin_of(f"host.launch.{how}.ms") or self.origin_of("gpu.tokens")
        sizes = tuple(int(at) for at in self.gpu.tokens.at)
        return CurveSource(entry.origin if entry is not None else "assumed", sizes)

    def of_its_host(self) -> EngineProfile:
        """Return the profile without the range of host speed."""
        if self.host.range is None:
            return self
        kept = {key: entry for key, entry in self.provenance.items() if key != "host.range"}
        host = self.host.model_copy(update={"range": None})
        return self.model_copy(update={"host": host, "provenance": kept})

    def at_drift(self) -> EngineProfile | None:
        """See Profile; one standard deviation to either side."""
        if not self.host.drift:
            return None
        both = SpeedRange(low=math.exp(-self.host.drift), high=math.exp(self.host.drift))
        return self.model_copy(update={"host": self.host.model_copy(update={"range": both})})

    def parts_in_words(self) -> list[tuple[str, str]]:
        """Return what a step costs the host and the GPU beside the curve."""
        gpu, schedule, update = self.gpu, self.host.schedule, self.host.update
        parts = [
            (
                "GPU",
                f"the curve + {gpu.row_ms:.4g} ms per request, {1e3 * gpu.kv_token_ms:.3g} ms per 1,000 KV "
                f"tokens, {1e6 * gpu.pair_ms:.3g} ms per 1,000,000 pairs of prompt tokens",
            ),
            (
                "host",
                f"schedule {schedule.step_ms:.2f} ms + {schedule.request_ms:.4f} per request (with prompts "
                f"{schedule.prompt_step_ms:.2f} more, {schedule.chunk_ms:.2f} per chunk), update "
                f"{update.step_ms:.2f} + {update.request_ms:.4f}; per 1,000 KV tokens "
                f"{1e3 * (schedule.kv_token_ms + update.kv_token_ms):.4f}; {self.topology}",
            ),
        ]
        for how in LAUNCHINGS:
            launch: LaunchCost | None = getattr(self.host.launch, how)
            if launch is not None:
                each = f" + {launch.request_ms:.4f} per request" if launch.request_ms else ""
                cold = f", {launch.cold:.0%} more after others" if launch.cold else ""
                cold += f", {launch.prompts:.0%} more with prompts" if launch.prompts else ""
                parts.append(
                    ("launch", f"{how:<10} {launch.ms:6.2f} ms{each}, spread {launch.spread:.0%}{cold}")
                )
        if self.draft is not None:
            parts += self.draft.in_words()
        if self.host.speed:
            wanders = [f"{part.spread:.1%} for {part.tau_ms:,.0f} ms" for part in self.host.speed]
            parts.append(("host speed", f"wanders by {', '.join(wanders)}"))
        if self.host.drift:
            parts.append(
                ("host drift", f"±{self.host.drift:.0%} of its mean speed over a traffic, not drawn")
            )
        return parts

    def launch(self, how: Launching) -> LaunchCost:
        """Return what a launch costs; one that was not measured is its nearest dearer, else cheaper, kin."""
        place = LAUNCHINGS.index(how)
        for name in (*LAUNCHINGS[place:], *reversed(LAUNCHINGS[:place])):
            found: LaunchCost | None = getattr(self.host.launch, name)
            if found is not None:
                return found
        raise AssertionError("checked: at least one launch cost")
