"""From a workload to its requests: every random number of a run is drawn here, before the loop."""

from __future__ import annotations

import numpy as np

from scheduler.errors import InputError
from scheduler.workload import lengths
from scheduler.workload.arrivals import (
    NS_PER_S,
    RateSchedule,
    RateStage,
    closed_loop_arrivals_ns,
    draw_arrivals_ns,
)
from scheduler.workload.arrivals_schema import ClosedLoopArrivals, GammaArrivals, TraceArrivals
from scheduler.workload.lengths_schema import (
    DiscreteLength,
    FixedLength,
    GeometricLength,
    Length,
    LognormalLength,
    QuantilesLength,
    UniformLength,
)
from scheduler.workload.requests import Int64, Requests
from scheduler.workload.schema import Workload
from scheduler.workload.traces.read import Trace, read_trace

PURPOSES = ("arrivals", "prompt_tokens", "output_tokens", "jitter")


def generators(seed: int, replication: int = 0) -> dict[str, np.random.Generator]:
    """Return one independent generator per purpose: SeedSequence(seed).spawn(R)[replication].spawn(4).

    The spawn key is given directly, so replication r does not depend on how many there are.
    """
    root = np.random.SeedSequence(seed, spawn_key=(replication,))
    return {
        purpose: np.random.Generator(np.random.PCG64(child))
        for purpose, child in zip(PURPOSES, root.spawn(len(PURPOSES)), strict=True)
    }


def jitter_generator(workload: Workload, replication: int = 0) -> np.random.Generator:
    """Return the generator of step-time factors: step k takes the k-th draw."""
    return generators(workload.seed, replication)["jitter"]


def draw_requests(workload: Workload, replication: int = 0) -> Requests:
    """Draw or read the requests of one replication of a workload.

    Everything is drawn by request index: a larger `requests` starts with the same ones, and every pool
    meets the same. A trace gives the same arrivals in every replication; `requests` or `duration_s`
    keep its first rows or seconds. Raises InputError.
    """
    streams = generators(workload.seed, replication)
    if isinstance(workload.arrivals, TraceArrivals):
        return _from_trace(workload, workload.arrivals, streams)
    arrival_ns = _arrivals(workload, streams["arrivals"])
    return Requests(
        arrival_ns=arrival_ns,
        prompt_tokens=_lengths("prompt_tokens", workload.prompt_tokens, streams, len(arrival_ns)),
        output_tokens=_lengths("output_tokens", workload.output_tokens, streams, len(arrival_ns)),
        concurrency=(
            workload.arrivals.concurrency if isinstance(workload.arrivals, ClosedLoopArrivals) else None
        ),
    )


def _arrivals(workload: Workload, generator: np.random.Generator) -> Int64:
    arrivals = workload.arrivals
    assert not isinstance(arrivals, TraceArrivals)  # noqa: S101  (told to mypy; the caller has branched)
    if isinstance(arrivals, ClosedLoopArrivals):
        if workload.requests is None:
            raise InputError("requests: expected a number of requests with arrivals.process closed_loop")
        return closed_loop_arrivals_ns(workload.requests)
    if arrivals.stages is not None:
        stages = [RateStage(*stage.rates_per_s, stage.duration_s) for stage in arrivals.stages]
        schedule = RateSchedule(stages)
    else:
        assert arrivals.rate_per_s is not None  # noqa: S101  (the schema asks for one of the two)
        schedule = RateSchedule.constant(arrivals.rate_per_s)
    return draw_arrivals_ns(
        arrivals.process,
        schedule,
        generator,
        requests=workload.requests,
        duration_s=workload.duration_s,
        burstiness=arrivals.burstiness if isinstance(arrivals, GammaArrivals) else 1.0,
    )


def _from_trace(
    workload: Workload, arrivals: TraceArrivals, streams: dict[str, np.random.Generator]
) -> Requests:
    path = workload.trace_path
    assert path is not None  # noqa: S101  (the schema resolves the path of every trace)
    trace = read_trace(path, arrivals.time_scale)
    count, notes = _kept(workload, trace)
    from_trace = dict(zip(("prompt_tokens", "output_tokens"), workload.lengths_from_trace, strict=True))
    columns = {"prompt_tokens": trace.prompt_tokens, "output_tokens": trace.output_tokens}
    for key, is_recorded in from_trace.items():
        if is_recorded:
            columns[key] = columns[key][:count]
        else:
            columns[key] = _lengths(key, getattr(workload, key), streams, count)
            notes.append(f"{key}: drawn as the workload file says, not the trace's own")
    cached = trace.cached_tokens
    if cached is not None:
        # Drawn prompts may be shorter than the recorded ones, and a prompt cannot be cached beyond its end.
        cached = np.minimum(cached[:count], columns["prompt_tokens"])
    return Requests(
        arrival_ns=trace.arrival_ns[:count],
        prompt_tokens=columns["prompt_tokens"],
        output_tokens=columns["output_tokens"],
        cached_tokens=cached,
        notes=(*trace.lines, *notes),
    )


def _kept(workload: Workload, trace: Trace) -> tuple[int, list[str]]:
    """Return how many of the trace's rows `requests` or `duration_s` keep, and a note if not all."""
    if workload.requests is not None and workload.requests < len(trace):
        return workload.requests, [f"only the trace's first {workload.requests:,} of {len(trace):,} requests"]
    if workload.requests is not None and workload.requests > len(trace):
        return len(trace), [f"the trace has {len(trace):,} requests, not the {workload.requests:,} asked for"]
    if workload.duration_s is not None:
        count = int(np.searchsorted(trace.arrival_ns, round(workload.duration_s * NS_PER_S), side="left"))
        if count < len(trace):
            return count, [
                f"only the trace's first {workload.duration_s:g} s: {count:,} of {len(trace):,} requests"
            ]
    return len(trace), []


def _lengths(key: str, length: Length | None, streams: dict[str, np.random.Generator], count: int) -> Int64:
    """Draw the lengths of `count` requests; InputErrors name the key of the workload file."""
    try:
        return _draw_lengths(length, streams[key], count)
    except InputError as error:
        raise InputError([f"{key}: {line}" for line in error.lines]) from error


def _draw_lengths(length: Length | None, generator: np.random.Generator, count: int) -> Int64:
    match length:
        case FixedLength():
            return lengths.fixed(generator, count, length.value)
        case UniformLength():
            return lengths.uniform(generator, count, length.min, length.max)
        case GeometricLength():
            return lengths.geometric(generator, count, length.mean, length.min, length.max)
        case LognormalLength():
            return lengths.lognormal(generator, count, length.mean, length.p99, length.min, length.max)
        case DiscreteLength():
            return lengths.discrete(generator, count, length.values, length.weights)
        case QuantilesLength():
            return lengths.quantiles(generator, count, length.values)
        case _:
            raise InputError("expected a length distribution to draw from, got none")
