"""When requests arrive: every arrival process of a workload file in one class, its checks and its draws.

A new process is one more class here: its keys, its gaps, its name in `Arrivals`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from scheduler.catalog.numbers import (
    MOST_REQUESTS,
    Count,
    Factor,
    MsOrZero,
    PlainText,
    Rate,
    Strict,
    as_tuple,
    expectation,
)
from scheduler.errors import InputError
from scheduler.workload.rates import Float64, RateSchedule, Stage
from scheduler.workload.requests import Int64

NS_PER_S = 1_000_000_000
LATEST_NS = 2**62  # about 146 years; leaves room for the run after the last arrival


class OpenArrivals(Strict):
    """What the open processes share: one rate for ever, or stages that repeat."""

    rate_per_s: Rate | None = None
    stages: (
        Annotated[tuple[Stage, ...], Field(min_length=1, max_length=10_000), BeforeValidator(as_tuple)] | None
    ) = None

    @model_validator(mode="after")
    def _one_rate(self) -> OpenArrivals:
        if (self.rate_per_s is None) == (self.stages is None):
            given = "neither is given" if self.stages is None else "both are given"
            raise expectation(f"one of rate_per_s and stages; {given}", got=False)
        if self.stages is not None and not any(max(stage.rates_per_s) > 0 for stage in self.stages):
            raise expectation("at least one stage with a rate above 0", "stages", got=False)
        return self

    @property
    def schedule(self) -> RateSchedule:
        """The rate over time."""
        return RateSchedule(self.stages) if self.stages else RateSchedule.constant(self.rate_per_s or 0)

    def draw(
        self, generator: np.random.Generator, *, requests: int | None = None, duration_s: float | None = None
    ) -> Int64:
        """Draw ascending arrival times in whole nanoseconds from 0, rounded half-even once.

        A unit-rate process is drawn by request index and mapped through the inverse of the integrated
        rate, so a Poisson process stays exactly Poisson under any schedule (time change; Daley &
        Vere-Jones, An Introduction to the Theory of Point Processes, section 7.4) and a longer run starts
        with the same requests. Give `requests`, or `duration_s` for all arrivals before that time.
        Raises InputError.
        """
        schedule = self.schedule
        if requests is not None:
            _check_count(requests)
            expected = self._points(generator, requests)
        else:
            limit = float(schedule.expected_requests(duration_s or 0))
            _check_count(limit)
            expected = self._points_below(generator, limit)
        time_ns = schedule.time_s(expected) * NS_PER_S
        if len(time_ns) and not time_ns[-1] <= LATEST_NS:
            raise InputError(
                f"arrivals: the last request would arrive after {time_ns[-1] / NS_PER_S / 31_557_600:.3g} "
                "years; raise rate_per_s or lower requests"
            )
        arrival_ns = np.maximum.accumulate(np.rint(time_ns).astype(np.int64))
        if duration_s is not None:
            arrival_ns = arrival_ns[arrival_ns < round(duration_s * NS_PER_S)]
            if not len(arrival_ns):
                raise InputError(
                    f"duration_s: no request arrives within {duration_s:g} s ({limit:.3g} expected); "
                    "raise duration_s or the rate"
                )
        return arrival_ns

    def _gaps(self, generator: np.random.Generator, count: int) -> Float64:
        """Draw the next `count` gaps of the process at rate 1, of mean 1."""
        raise NotImplementedError

    def _points(self, generator: np.random.Generator, count: int) -> Float64:
        """Return the first `count` points of the process at rate 1."""
        return np.cumsum(self._gaps(generator, count))

    def _points_below(self, generator: np.random.Generator, limit: float) -> Float64:
        """Return all points of the process at rate 1 below `limit`, in the order `_points` draws them."""
        chunk = int(limit + 5 * math.sqrt(limit)) + 16
        gaps = self._gaps(generator, chunk)
        points = np.cumsum(gaps)
        while points[-1] < limit:
            if len(gaps) > 4 * MOST_REQUESTS:
                raise InputError("arrivals.burstiness: too small: gaps this uneven cannot be drawn")
            gaps = np.concatenate([gaps, self._gaps(generator, chunk)])
            points = np.cumsum(gaps)
        return points[points < limit]


class ConstantArrivals(OpenArrivals):
    """Evenly spaced arrivals, the first at 0."""

    process: Literal["constant"]

    def _points(self, generator: np.random.Generator, count: int) -> Float64:
        return np.arange(count, dtype=np.float64)

    def _points_below(self, generator: np.random.Generator, limit: float) -> Float64:
        return np.arange(math.ceil(limit), dtype=np.float64)


class PoissonArrivals(OpenArrivals):
    """Exponential gaps, independent of each other."""

    process: Literal["poisson"]

    def _gaps(self, generator: np.random.Generator, count: int) -> Float64:
        return generator.standard_exponential(count)


class GammaArrivals(OpenArrivals):
    """Gamma gaps of shape `burstiness`: 1 is Poisson, below 1 bursty; CV = 1/√burstiness."""

    process: Literal["gamma"]
    burstiness: Factor

    def _gaps(self, generator: np.random.Generator, count: int) -> Float64:
        return generator.standard_gamma(self.burstiness, count) / self.burstiness


class ClosedLoopArrivals(Strict):
    """`concurrency` users; each sends its next request `client_round_trip_ms` after its last one completed.

    It never catches the decision of the instant at which the last one completed.
    """

    process: Literal["closed_loop"]
    concurrency: Count
    client_round_trip_ms: MsOrZero = 0.0

    def draw(
        self, generator: np.random.Generator, *, requests: int | None = None, duration_s: float | None = None
    ) -> Int64:
        """Return zeros: the completions release the requests, in index order. Raises InputError."""
        if requests is None:
            raise InputError("requests: expected a number of requests with arrivals.process closed_loop")
        _check_count(requests)
        return np.zeros(requests, dtype=np.int64)


class TraceArrivals(Strict):
    """Recorded arrivals, the first moved to 0; `time_scale` 2 doubles every gap."""

    process: Literal["trace"]
    path: PlainText
    time_scale: Factor = 1.0


Arrivals = Annotated[
    ConstantArrivals | PoissonArrivals | GammaArrivals | ClosedLoopArrivals | TraceArrivals,
    Field(discriminator="process"),
]


def _check_count(requests: float) -> None:
    if requests > MOST_REQUESTS:
        raise InputError(f"requests: expected at most {MOST_REQUESTS:,}, got {requests:,.0f}")
    if requests <= 0:
        raise InputError(f"requests: expected at least 1, got {requests:g}")
