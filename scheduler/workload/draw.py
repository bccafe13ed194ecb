"""From a workload to its requests: every random number of a run is drawn here, before the loop."""

from __future__ import annotations

import numpy as np

from scheduler.errors import InputError
from scheduler.workload.arrivals import NS_PER_S, ClosedLoopArrivals, TraceArrivals
from scheduler.workload.inputs.door import read_trace
from scheduler.workload.lengths import Length
from scheduler.workload.requests import Int64, Requests
from scheduler.workload.schema import Workload
from scheduler.workload.traces.read import Trace

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
    arrivals = workload.arrivals
    arrival_ns = arrivals.draw(
        streams["arrivals"], requests=workload.requests, duration_s=workload.duration_s
    )
    return Requests(
        arrival_ns=arrival_ns,
        prompt_tokens=_lengths("prompt_tokens", workload.prompt_tokens, streams, len(arrival_ns)),
        output_tokens=_lengths("output_tokens", workload.output_tokens, streams, len(arrival_ns)),
        concurrency=arrivals.concurrency if isinstance(arrivals, ClosedLoopArrivals) else None,
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
    if length is None:
        raise InputError(f"{key}: expected a length distribution to draw from, got none")
    try:
        return length.draw(streams[key], count)
    except InputError as error:
        raise InputError([f"{key}: {line}" for line in error.lines]) from error
