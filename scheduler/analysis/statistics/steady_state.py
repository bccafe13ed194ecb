"""Is there a steady state to speak of: warm-up (MSER-5), offered against delivered rate, overload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scheduler.analysis.statistics.intervals import Interval, mean_interval
from scheduler.engine.records import RequestRecords, Status

_MSER_BATCH = 5
# The start is empty and fills up: it says nothing about growth.
_IGNORED_START = 0.1
_BLOCKS = 20
_LEAST_GROWING_BLOCKS = 0.6
LEAST_ARRIVALS = 100
# Beyond this multiple of rate x service time, requests in the system are not being served but piling up.
_PILE_TO_SERVED = 2
# So many of the requests that came, still waiting at the end, are no queue that comes and goes.
_MOST_WAITING = 0.1
# While the first answers are still running, requests add up in any system, overloaded or not.
_WINDOW_TO_SERVICE = 8


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Where MSER-5 would cut a series; `too_short`: in its second half, so no cut can be trusted."""

    cut: int
    too_short: bool


def mser5(series: ArrayLike) -> WarmUp:
    """Return the warm-up of a series averaged over replications, in observations (a multiple of 5).

    Means of batches of 5 are cut where the remaining ones have the least Σ(y − ȳ)² / n², the square of
    their naive half-width (White 1997; evaluated in Hoad, Robinson and Davies 2010). A least value in the
    second half says that the run is too short, and so does a series of fewer than 20 observations.
    """
    values = np.asarray(series, float)
    batches = len(values) // _MSER_BATCH
    if batches < 4:
        return WarmUp(0, too_short=True)
    means = values[: batches * _MSER_BATCH].reshape(batches, _MSER_BATCH).mean(axis=1)
    if np.ptp(means) == 0:
        return WarmUp(0, too_short=False)
    centred = means - means.mean()
    left = np.arange(batches, 0, -1)  # batches that remain after a cut of 0, 1, 2, …
    sums = np.cumsum(centred[::-1])[::-1]
    squares = np.cumsum(centred[::-1] ** 2)[::-1]
    score = np.maximum(squares - sums**2 / left, 0) / left.astype(float) ** 2
    # The last few cuts leave too little to judge and would win by chance.
    cut = int(np.argmin(score[: batches - 4])) if batches > 4 else 0
    return WarmUp(cut * _MSER_BATCH, too_short=cut > batches / 2)


def averaged_series(replications: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Return the mean over replications of the i-th observation, up to the shortest replication."""
    arrays = [np.asarray(replication, float) for replication in replications]
    shortest = min(len(array) for array in arrays)
    mean: NDArray[np.float64] = np.mean([array[:shortest] for array in arrays], axis=0)
    return mean


@dataclass(frozen=True, slots=True)
class OfferedLoad:
    """Offered against delivered rate while requests arrive, the first tenth of that time left out.

    `growth_per_s` is how fast requests in the system (waiting or running) add up: offered − delivered.
    `overloaded`: they pile up steadily; the delivered rate is then the capacity. `too_short`: they add up
    because the run is short against one request's service and the system still fills for the first time.
    `too_few`: fewer than 100 arrived, so that neither can be told. The rates are None for fewer than two
    arrival times.
    """

    offered_per_s: float | None
    delivered_per_s: float | None
    growth_per_s: Interval | None
    overloaded: bool
    too_short: bool
    too_few: bool

    @property
    def steady_state(self) -> bool:
        """Tell whether a mean over the run describes anything but its length."""
        return not (self.overloaded or self.too_short)


def offered_load(requests: RequestRecords) -> OfferedLoad:
    """Return the load of one run of an open loop (in a closed loop nothing can pile up).

    The arrival window is cut into 20 blocks, each giving one sample of growth. Requests add up when the
    95 % t interval of the samples lies above 0 and at least 60 % of them do. A stable queue makes that
    rare, since what grows there declines again; a burst that drains or that fills a quarter of the window
    leaves samples too unlike each other. Requests pile up when, besides, at the end of the window more
    than twice as many are in the system as the arrival rate × the service time (end − first step) of the
    first quarter's requests explains (Little's law): a rising rate or a first filling stay below that. In
    a run too short for that, but longer than one service, they pile up when more than a tenth of what
    arrived still waits for its first step, and ever more did. Rejected requests are left out.
    """
    chosen = requests.status != Status.REJECTED
    arrival = requests.arrival_ns[chosen]
    scheduled = requests.scheduled_ns[chosen]
    finish = requests.finish_ns[chosen]
    done = requests.status[chosen] == Status.COMPLETED
    if len(arrival) < 2 or arrival[-1] == arrival[0]:
        return OfferedLoad(None, None, None, overloaded=False, too_short=False, too_few=True)
    start = arrival[0] + _IGNORED_START * (arrival[-1] - arrival[0])
    edges = np.linspace(start, arrival[-1], _BLOCKS + 1)
    window_s = float(edges[-1] - edges[0]) / 1e9
    arrived = np.searchsorted(arrival, edges, side="right")
    left = np.searchsorted(np.sort(finish[done]), edges, side="right")
    offered, delivered = (float(count[-1] - count[0]) / window_s for count in (arrived, left))
    started = np.searchsorted(np.sort(scheduled[scheduled >= 0]), edges, side="right")
    growth, waiting = (np.diff(arrived - gone) / (window_s / _BLOCKS) for gone in (left, started))
    too_few = len(arrival) < LEAST_ARRIVALS
    adds_up = not too_few and _is_steady_growth(growth)
    service_s = _early_service_s(requests, chosen)
    piled_up = arrived[-1] - left[-1] > _PILE_TO_SERVED * offered * service_s
    # Requests that wait for their first step are no first filling, if a slot could have become free.
    queued = arrived[-1] - started[-1] > _MOST_WAITING * offered * window_s
    piled_up |= queued and window_s >= service_s and _is_steady_growth(waiting)
    return OfferedLoad(
        offered,
        delivered,
        mean_interval(growth.tolist()),
        overloaded=adds_up and bool(piled_up),
        too_short=adds_up and not piled_up and window_s < _WINDOW_TO_SERVICE * service_s,
        too_few=too_few,
    )


def _is_steady_growth(samples: NDArray[np.float64]) -> bool:
    interval = mean_interval(samples.tolist())
    growing = float((samples > 0).mean())
    return interval is not None and interval.low > 0 and growing >= _LEAST_GROWING_BLOCKS


def _early_service_s(requests: RequestRecords, chosen: NDArray[np.bool_]) -> float:
    """Return the mean time from first step to last token of the first quarter's completed requests."""
    early = np.flatnonzero(chosen)[: int(chosen.sum()) // 4]
    early = early[requests.status[early] == Status.COMPLETED]
    if not len(early):
        return float("inf")
    return float((requests.finish_ns[early] - requests.scheduled_ns[early]).mean()) / 1e9
