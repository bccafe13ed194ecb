"""When requests arrive: the arrival processes of a workload file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, model_validator

from scheduler.catalog.numbers import (
    Count,
    Factor,
    PlainText,
    Rate,
    RateOrZero,
    Seconds,
    Strict,
    as_tuple,
    branch,
    expectation,
)


def _pair(value: Any) -> tuple[Any, ...]:
    pair = as_tuple(value)
    if len(pair) != 2:
        raise expectation("a rate, or two: [from, to]", got=False)
    return pair


def _rate_or_ramp(value: Any) -> str:
    return "(ramp)" if isinstance(value, list | tuple) else "(level)"


class Stage(Strict):
    """A rate held, or changed evenly [from, to], for `duration_s`; 0 is a pause."""

    rate_per_s: Annotated[
        Annotated[RateOrZero, branch("level")]
        | Annotated[tuple[RateOrZero, RateOrZero], BeforeValidator(_pair), branch("ramp")],
        Discriminator(_rate_or_ramp),
    ]
    duration_s: Seconds

    @property
    def rates_per_s(self) -> tuple[float, float]:
        """The rate at the start and at the end of the stage."""
        return self.rate_per_s if isinstance(self.rate_per_s, tuple) else (self.rate_per_s, self.rate_per_s)


class _Open(Strict):
    """What the open processes share: one rate for ever, or stages that repeat."""

    rate_per_s: Rate | None = None
    stages: (
        Annotated[tuple[Stage, ...], Field(min_length=1, max_length=10_000), BeforeValidator(as_tuple)] | None
    ) = None

    @model_validator(mode="after")
    def _one_rate(self) -> _Open:
        if (self.rate_per_s is None) == (self.stages is None):
            given = "neither is given" if self.stages is None else "both are given"
            raise expectation(f"one of rate_per_s and stages; {given}", got=False)
        if self.stages is not None and not any(max(stage.rates_per_s) > 0 for stage in self.stages):
            raise expectation("at least one stage with a rate above 0", "stages", got=False)
        return self


class ConstantArrivals(_Open):
    """Evenly spaced arrivals."""

    process: Literal["constant"]


class PoissonArrivals(_Open):
    """Exponential gaps, independent of each other."""

    process: Literal["poisson"]


class GammaArrivals(_Open):
    """Gamma gaps of shape `burstiness`: 1 is Poisson, below 1 bursty; CV = 1/√burstiness."""

    process: Literal["gamma"]
    burstiness: Factor


class ClosedLoopArrivals(Strict):
    """`concurrency` users; each sends its next request the instant its last one completes."""

    process: Literal["closed_loop"]
    concurrency: Count


class TraceArrivals(Strict):
    """Recorded arrivals, the first moved to 0; `time_scale` 2 doubles every gap."""

    process: Literal["trace"]
    path: PlainText
    time_scale: Factor = 1.0


Arrivals = Annotated[
    ConstantArrivals | PoissonArrivals | GammaArrivals | ClosedLoopArrivals | TraceArrivals,
    Field(discriminator="process"),
]
