"""When requests arrive: renewal processes of unit rate, mapped through the inverse of the integrated rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import InputError
from scheduler.workload.requests import Int64

Float64 = NDArray[np.float64]

MAX_REQUESTS = 10_000_000
NS_PER_S = 1_000_000_000
LATEST_NS = 2**62  # about 146 years; leaves room for the run after the last arrival


@dataclass(frozen=True, slots=True)
class RateStage:
    """The arrival rate goes in a straight line from `start_per_s` to `end_per_s` over `duration_s`."""

    start_per_s: float
    end_per_s: float
    duration_s: float

    @property
    def expected_requests(self) -> float:
        """Area under the rate."""
        return (self.start_per_s + self.end_per_s) / 2 * self.duration_s


class RateSchedule:
    """An arrival rate over time, in stages that repeat for ever.

    Raises InputError where a rate is negative, a duration is not above 0, or every rate is 0.
    """

    def __init__(self, stages: Sequence[RateStage]) -> None:
        for number, stage in enumerate(stages):
            rates = (stage.start_per_s, stage.end_per_s)
            if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
                raise InputError(f"arrivals.stages[{number}].rate_per_s: expected rates ≥ 0, got {rates}")
            if not (math.isfinite(stage.duration_s) and stage.duration_s > 0):
                raise InputError(
                    f"arrivals.stages[{number}].duration_s: expected a number above 0, got {stage.duration_s}"
                )
        self._start = np.array([stage.start_per_s for stage in stages], dtype=np.float64)
        self._end = np.array([stage.end_per_s for stage in stages], dtype=np.float64)
        self._duration = np.array([stage.duration_s for stage in stages], dtype=np.float64)
        self._slope = (self._end - self._start) / self._duration
        self._time = np.concatenate([[0.0], np.cumsum(self._duration)])
        areas = [stage.expected_requests for stage in stages]
        self._area = np.concatenate([[0.0], np.cumsum(areas)])
        if not self._area[-1] > 0:
            raise InputError("arrivals: expected a rate above 0 in at least one stage")

    @classmethod
    def constant(cls, rate_per_s: float) -> RateSchedule:
        """One rate for ever."""
        if not (math.isfinite(rate_per_s) and rate_per_s > 0):
            raise InputError(f"arrivals.rate_per_s: expected a finite number above 0, got {rate_per_s}")
        return cls([RateStage(rate_per_s, rate_per_s, 1.0)])

    @property
    def mean_rate_per_s(self) -> float:
        """Long-run arrival rate."""
        return float(self._area[-1] / self._time[-1])

    def expected_requests(self, until_s: Float64 | float) -> Float64:
        """Return the expected number of arrivals in [0, until_s]: the rate's integral."""
        time = np.asarray(until_s, dtype=np.float64)
        if self._is_flat:
            return np.asarray(time * self._start[0])
        cycles, rest = np.divmod(time, self._time[-1])
        stage = np.minimum(np.searchsorted(self._time, rest, side="right") - 1, len(self._start) - 1)
        local = rest - self._time[stage]
        area = self._start[stage] * local + self._slope[stage] * local**2 / 2
        return np.asarray(cycles * self._area[-1] + self._area[stage] + area)

    def time_s(self, expected: Float64) -> Float64:
        """Return when the integrated rate reaches `expected`: the inverse of `expected_requests`.

        Within a stage a·t + s·t²/2 = A is solved as t = 2A / (a + √(a² + 2sA)), which stays exact for
        falling, rising and flat rates. Where the rate is 0 the later end of the pause is returned.
        """
        if self._is_flat:
            return np.asarray(expected / self._start[0])
        cycles, rest = np.divmod(expected, self._area[-1])
        stage = np.minimum(np.searchsorted(self._area, rest, side="right") - 1, len(self._start) - 1)
        local = rest - self._area[stage]
        start = self._start[stage]
        root = np.sqrt(np.maximum(start**2 + 2 * self._slope[stage] * local, 0.0))
        denominator = start + root
        within = np.divide(2 * local, denominator, out=np.zeros_like(local), where=denominator > 0)
        within = np.minimum(within, self._duration[stage])
        return np.asarray(cycles * self._time[-1] + self._time[stage] + within)

    @property
    def _is_flat(self) -> bool:
        return len(self._start) == 1 and bool(self._slope[0] == 0)


def draw_arrivals_ns(
    process: str,
    schedule: RateSchedule,
    generator: np.random.Generator,
    *,
    requests: int | None = None,
    duration_s: float | None = None,
    burstiness: float = 1.0,
) -> Int64:
    """Draw ascending arrival times in whole nanoseconds from 0, rounded half-even once.

    `process` is `constant` (the first request at 0), `poisson`, or `gamma`, whose gaps have shape
    `burstiness` and coefficient of variation 1/√burstiness. A unit-rate process is drawn by request
    index and mapped through the inverse of the integrated rate, so a Poisson process stays exactly
    Poisson under any schedule (time change; Daley & Vere-Jones, An Introduction to the Theory of Point
    Processes, section 7.4) and a longer run starts with the same requests. Give `requests`, or
    `duration_s` for all arrivals before that time. Raises InputError.
    """
    if (requests is None) == (duration_s is None):
        raise InputError("workload: expected one of requests and duration_s")
    if requests is not None:
        _check_count(requests)
        expected = _unit_process(process, generator, requests, burstiness)
    else:
        assert duration_s is not None  # noqa: S101  (told to mypy; checked above)
        if not (math.isfinite(duration_s) and duration_s > 0):
            raise InputError(f"duration_s: expected a finite number above 0, got {duration_s}")
        limit = float(schedule.expected_requests(duration_s))
        _check_count(limit)
        expected = _unit_process_until(process, generator, limit, burstiness)
    time_ns = schedule.time_s(expected) * NS_PER_S
    if len(time_ns) and not time_ns[-1] <= LATEST_NS:
        raise InputError(
            f"arrivals: the last request would arrive after {time_ns[-1] / NS_PER_S / 31_557_600:.3g} years; "
            "raise rate_per_s or lower requests"
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


def closed_loop_arrivals_ns(requests: int) -> Int64:
    """Return zeros: in a closed loop the completions release the requests, in index order."""
    _check_count(requests)
    return np.zeros(requests, dtype=np.int64)


def _unit_gaps(process: str, generator: np.random.Generator, count: int, burstiness: float) -> Float64:
    if process == "poisson":
        return generator.standard_exponential(count)
    if process == "gamma":
        if not (math.isfinite(burstiness) and burstiness > 0):
            raise InputError(f"arrivals.burstiness: expected a finite number above 0, got {burstiness}")
        return generator.standard_gamma(burstiness, count) / burstiness
    raise InputError(f"arrivals.process: expected constant, poisson or gamma, got {process!r}")


def _unit_process(process: str, generator: np.random.Generator, count: int, burstiness: float) -> Float64:
    if process == "constant":
        return np.arange(count, dtype=np.float64)
    return np.cumsum(_unit_gaps(process, generator, count, burstiness))


def _unit_process_until(
    process: str, generator: np.random.Generator, limit: float, burstiness: float
) -> Float64:
    """Return all points of the unit-rate process below `limit`, in the order `_unit_process` draws them."""
    if process == "constant":
        return np.arange(math.ceil(limit), dtype=np.float64)
    chunk = int(limit + 5 * math.sqrt(limit)) + 16
    gaps = _unit_gaps(process, generator, chunk, burstiness)
    points = np.cumsum(gaps)
    while points[-1] < limit:
        if len(gaps) > 4 * MAX_REQUESTS:
            raise InputError("arrivals.burstiness: too small: gaps this uneven cannot be drawn")
        gaps = np.concatenate([gaps, _unit_gaps(process, generator, chunk, burstiness)])
        points = np.cumsum(gaps)
    return points[points < limit]


def _check_count(requests: float) -> None:
    if requests > MAX_REQUESTS:
        raise InputError(f"requests: expected at most {MAX_REQUESTS:,}, got {requests:,.0f}")
    if requests <= 0:
        raise InputError(f"requests: expected at least 1, got {requests:g}")
