"""A comparison's variants from half to twice its load, and whether fewer graphs would hold there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import exp, log
from typing import Literal

import numpy as np

from scheduler.analysis.metrics import Record
from scheduler.analysis.statistics.steady_state import offered_load
from scheduler.engine.records import Run
from scheduler.workload.requests import Requests

LOADS = (0.5, 1.0, 1.5, 2.0)
SLO_SHARE = 0.99  # MLPerf Server: at most 1 % of the requests may miss a limit
NS_PER_S = 1e9
# Fewer requests than these apart, a difference of what meets the SLO is no evidence.
LEAST_APART = 3

RateLimit = Literal["slo", "queue growth", "every load fails", "nothing"]
LossOf = Literal["mean TPOT", "highest rate", "throughput"]
# Why fewer graphs were not judged, or (all needed) that none can go.
Unjudged = Literal[
    "other profile",
    "eager is faster",
    "too few requests",
    "milliseconds",
    "all at once",
    "overload",
    "too short",
    "idle",
    "too few sizes",
    "exact sizes",
    "ends early",
    "wide interval",
    "all needed",
]


@dataclass(frozen=True, slots=True)
class AtLoad:
    """One variant at one load, a multiple `factor` of the workload's own.

    `rate_per_s` requests arrive (None: a closed loop, or all at once). Means are over the requests that
    count (`requests` of them), None where there are none; `slo_attainment` is a share, None without an SLO.
    `requests_per_s` and `output_tokens_per_s` are served up to the last arrival. `overloaded`: the queue
    grows. `score` is what a tuner aims at where that is not mean TPOT, lower the better.
    """

    factor: float
    rate_per_s: float | None
    mean_tpot_ms: float | None
    mean_ttft_ms: float | None
    slo_attainment: float | None
    requests_per_s: float | None
    output_tokens_per_s: float | None
    overloaded: bool
    requests: int = 0
    score: float | None = None

    def with_score(self, score: float) -> AtLoad:
        """Return the same with what a tuner aims at."""
        return replace(self, score=score)


@dataclass(frozen=True, slots=True)
class VariantLoads:
    """One variant (a Column by its name, so each end of a host range) over the loads, lowest first.

    `max_rate_per_s` is the highest rate that meets the SLO, without an SLO the highest that is kept up with;
    `limited_by` says what fails above it. With "nothing" it is the highest rate tried, a lower bound; with
    "every load fails", and in a closed loop, it is None.
    """

    column: str
    at: tuple[AtLoad, ...]
    max_rate_per_s: float | None
    limited_by: RateLimit


@dataclass(frozen=True, slots=True)
class FewerGraphs:
    """A smaller list of `own`'s `of` sizes, judged over all loads and at both ends of a host range.

    `worst_loss` is the largest loss against the own list as a share (0.08: 8 % worse; negative: better),
    met at `worst_factor` times the load in `worst_of`. `would_do`: that is within what is called no loss.
    Beyond the loads no decode batch takes longer than in the own list by more than the share `most_padding`.
    What it saves: start-up seconds, graph memory, KV tokens; None where the profile does not say.
    """

    own: str
    of: int
    sizes: tuple[int, ...]
    worst_loss: float
    worst_factor: float
    worst_of: LossOf
    would_do: bool
    most_padding: float
    start_up_s_saved: float | None
    graph_memory_bytes_saved: int | None
    kv_tokens_gained: int | None


@dataclass(frozen=True, slots=True)
class LoadStudy:
    """Every column of a comparison over the loads; `requests` of one replication were run per load.

    `variants` by the column's name. `slo_share` is the share of requests that must meet the SLO (None: there
    is no SLO). `fewer` is None where no smaller list was found worth judging.
    """

    factors: tuple[float, ...]
    requests: int
    slo_share: float | None
    variants: Mapping[str, VariantLoads]
    fewer: FewerGraphs | None = None
    unjudged: Unjudged | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """How much worse one list does than another at one load, as a share (negative: better)."""

    share: float
    factor: float
    of: LossOf


def requests_at(requests: Requests, factor: float) -> Requests:
    """Return the same requests arriving `factor` times as fast (or with that many times the users)."""
    if requests.concurrency is not None:
        return replace(requests, concurrency=max(1, round(requests.concurrency * factor)))
    return replace(requests, arrival_ns=np.rint(requests.arrival_ns / factor).astype(np.int64))


def first_requests(requests: Requests, count: int) -> Requests:
    """Return the first `count` requests, with all that is known of each."""
    cut = {
        field.name: getattr(requests, field.name)[:count]
        for field in fields(requests)
        if isinstance(getattr(requests, field.name), np.ndarray)
    }
    return replace(requests, **cut)


def at_load(run: Run, record: Record, factor: float, rate_per_s: float | None) -> AtLoad:
    """Return what a run and its flat record say of one load.

    `rate_per_s` requests arrive; None in a closed loop, where nothing can pile up.
    """
    is_open = rate_per_s is not None
    requests = run.requests
    load = offered_load(requests)
    output_per_s = record.get("output_throughput")
    if is_open and load.delivered_per_s is not None:
        last = int(requests.arrival_ns[-1])
        in_time = (requests.finish_ns >= 0) & (requests.finish_ns <= last)
        window_s = (last - int(requests.arrival_ns[0])) / NS_PER_S
        output_per_s = float(requests.output_tokens[in_time].sum()) / window_s
    return AtLoad(
        factor=factor,
        rate_per_s=rate_per_s,
        mean_tpot_ms=record.get("mean_tpot_ms"),
        mean_ttft_ms=record.get("mean_ttft_ms"),
        slo_attainment=record.get("slo_attainment"),
        requests_per_s=load.delivered_per_s if is_open else record.get("request_throughput"),
        output_tokens_per_s=output_per_s,
        overloaded=is_open and load.overloaded,
        requests=int(record.get("measured_requests", 0)),
    )


def mean_at_load(samples: Sequence[AtLoad]) -> AtLoad:
    """Return the mean of several replications at one load; overloaded where most of them are."""

    def mean(name: str) -> float | None:
        values = [getattr(sample, name) for sample in samples]
        return None if None in values else float(np.mean(values))

    return replace(
        samples[0],
        rate_per_s=mean("rate_per_s"),
        mean_tpot_ms=mean("mean_tpot_ms"),
        mean_ttft_ms=mean("mean_ttft_ms"),
        slo_attainment=mean("slo_attainment"),
        requests_per_s=mean("requests_per_s"),
        output_tokens_per_s=mean("output_tokens_per_s"),
        overloaded=sum(sample.overloaded for sample in samples) * 2 > len(samples),
        requests=sum(sample.requests for sample in samples),
        score=mean("score"),
    )


def variant_loads(column: str, at: Sequence[AtLoad], slo_share: float | None = SLO_SHARE) -> VariantLoads:
    """Return a variant over its loads with the highest rate that meets the SLO.

    Loads are passed from the lowest up to the first that fails. Between the last that passes and that one,
    the share that misses the SLO is taken to grow as a power of the rate; where requests pile up, what is
    served is the highest rate.
    """
    at = tuple(sorted(at, key=lambda load: load.factor))
    rates = [load.rate_per_s for load in at]
    if not at or None in rates:
        return VariantLoads(column, at, None, "nothing")
    passed: AtLoad | None = None
    for load in at:
        misses_slo = (
            slo_share is not None and load.slo_attainment is not None and load.slo_attainment < slo_share
        )
        if not (misses_slo or load.overloaded):
            passed = load
            continue
        if passed is None:
            return VariantLoads(column, at, None, "every load fails")
        if misses_slo and slo_share is not None:
            return VariantLoads(column, at, _crossing(passed, load, slo_share), "slo")
        low, high = float(passed.rate_per_s or 0.0), float(load.rate_per_s or 0.0)
        return VariantLoads(column, at, min(max(load.requests_per_s or low, low), high), "queue growth")
    return VariantLoads(column, at, rates[-1], "nothing")


def _crossing(passed: AtLoad, failed: AtLoad, slo_share: float) -> float:
    """Return the rate at which just `slo_share` would meet the SLO."""
    least = 0.5 / max(passed.requests, 1)  # half a request: no miss at all has no logarithm
    before = max(1.0 - (passed.slo_attainment or 0.0), least)
    after = 1.0 - (failed.slo_attainment or 0.0)
    low, high = log(passed.rate_per_s or 1.0), log(failed.rate_per_s or 1.0)
    if after <= before:
        return exp(low)
    return exp(low + (high - low) * (log(1.0 - slo_share) - log(before)) / (log(after) - log(before)))


def losses(own: VariantLoads, other: VariantLoads) -> list[Loss]:
    """Return what `other` loses against `own` at every load, and of the highest rate.

    A load is judged by mean TPOT (or the tuner's score); one that overloads `own`, by what is served.
    """
    found = [loss for pair in zip(own.at, other.at, strict=True) if (loss := loss_at(*pair)) is not None]
    rate = _rate_loss(own, other)
    return found if rate is None else [*found, rate]


def loss_at(own: AtLoad, other: AtLoad, *, either: bool = False) -> Loss | None:
    """Return what `other` loses at one load, None where that is not known.

    By what is served where `own` is overloaded, with `either` also where `other` is: the full batch of an
    overloaded server bounds its TPOT while requests wait outside.
    """
    if (
        (own.overloaded or (either and other.overloaded))
        and own.requests_per_s
        and other.requests_per_s is not None
    ):
        return Loss(1.0 - other.requests_per_s / own.requests_per_s, own.factor, "throughput")
    before, after = own.mean_tpot_ms, other.mean_tpot_ms
    if own.score is not None and other.score is not None:
        before, after = own.score, other.score
    if not before or after is None:
        return None
    return Loss((after - before) / abs(before), own.factor, "mean TPOT")


def _rate_loss(own: VariantLoads, other: VariantLoads) -> Loss | None:
    """Return the loss of the highest rate; None where it is not known or too few requests tell it."""
    if own.max_rate_per_s is None or not own.at[-1].rate_per_s:
        return None
    if other.limited_by == "every load fails":
        return Loss(1.0, own.at[0].factor, "highest rate")
    apart = max(
        abs((mine.slo_attainment or 0.0) - (theirs.slo_attainment or 0.0)) * mine.requests
        for mine, theirs in zip(own.at, other.at, strict=True)
    )
    if other.max_rate_per_s is None or (apart < LEAST_APART and own.limited_by == other.limited_by):
        return None
    factor = own.max_rate_per_s / own.at[-1].rate_per_s * own.at[-1].factor
    return Loss(1.0 - other.max_rate_per_s / own.max_rate_per_s, factor, "highest rate")
