"""An arrival rate over time: stages that repeat, their integral and its inverse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Discriminator

from scheduler.catalog.numbers import RateOrZero, Seconds, Strict, as_tuple, branch, expectation

Float64 = NDArray[np.float64]


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

    @property
    def expected_requests(self) -> float:
        """Area under the rate."""
        start, end = self.rates_per_s
        return (start + end) / 2 * self.duration_s


class RateSchedule:
    """An arrival rate over time, in stages that repeat for ever; at least one has a rate above 0."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        rates = [stage.rates_per_s for stage in stages]
        self._start = np.array([start for start, _ in rates], dtype=np.float64)
        self._end = np.array([end for _, end in rates], dtype=np.float64)
        self._duration = np.array([stage.duration_s for stage in stages], dtype=np.float64)
        self._slope = (self._end - self._start) / self._duration
        self._time = np.concatenate([[0.0], np.cumsum(self._duration)])
        areas = [stage.expected_requests for stage in stages]
        self._area = np.concatenate([[0.0], np.cumsum(areas)])

    @classmethod
    def constant(cls, rate_per_s: float) -> RateSchedule:
        """One rate for ever."""
        return cls(
            [Stage.model_construct(rate_per_s=rate_per_s, duration_s=1.0)]
        )  # checked where it was read

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
