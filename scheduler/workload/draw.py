"""From a workload to its requests: every random number of a run is drawn here, before the loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from scheduler.errors import InputError
from scheduler.workload.arrivals import NS_PER_S, ClosedLoopArrivals, TraceArrivals
from scheduler.workload.inputs.door import read_lengths, read_trace, recorded_lengths
from scheduler.workload.inputs.found import Found
from scheduler.workload.lengths import Length
from scheduler.workload.requests import Int64, Requests
from scheduler.workload.schema import LENGTH_KEYS, LengthKey, Workload
from scheduler.workload.traces.read import Trace

PURPOSES = ("arrivals", "prompt_tokens", "output_tokens", "jitter", "prefixes", "acceptance")


def generators(seed: int, replication: int = 0) -> dict[str, np.random.Generator]:
    """Return one independent generator per purpose: SeedSequence(seed).spawn(R)[replication].spawn(6).

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


def acceptance_generator(workload: Workload, replication: int = 0) -> np.random.Generator:
    """Return the generator of what decides which drafted tokens are accepted."""
    return generators(workload.seed, replication)["acceptance"]


def draw_requests(workload: Workload, replication: int = 0) -> Requests:
    """Draw or read the requests of one replication of a workload.

    Everything is drawn by request index: a larger `requests` starts with the same ones, and every pool
    meets the same. A trace gives the same arrivals in every replication; `requests` or `duration_s`
    keep its first rows or seconds. Raises InputError.
    """
    streams = generators(workload.seed, replication)
    recorded = _RecordedLengths(workload)
    if isinstance(workload.arrivals, TraceArrivals):
        requests = _from_trace(workload, workload.arrivals, streams, recorded)
    else:
        arrivals = workload.arrivals
        arrival_ns = arrivals.draw(
            streams["arrivals"], requests=workload.requests, duration_s=workload.duration_s
        )
        requests = Requests(
            arrival_ns=arrival_ns,
            prompt_tokens=_lengths("prompt_tokens", workload, streams, len(arrival_ns), recorded),
            output_tokens=_lengths("output_tokens", workload, streams, len(arrival_ns), recorded),
            concurrency=arrivals.concurrency if isinstance(arrivals, ClosedLoopArrivals) else None,
        )
    notes = (*requests.notes, *recorded.notes(len(requests)), *filter(None, [workload.assumed]))
    if workload.prefixes is not None:
        if requests.prefixes is not None:
            raise InputError("prefixes: expected without a trace whose hash_ids say what prompts share")
        prompt_tokens, prefixes = workload.prefixes.draw(
            streams["prefixes"], requests.prompt_tokens, requests.output_tokens
        )
        requests = replace(requests, prompt_tokens=prompt_tokens, prefixes=prefixes)
    return replace(requests, notes=notes)


class _RecordedLengths:
    """The recorded lengths of a workload that have a file of their own, each file read once."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._read: dict[Path, tuple[Found, dict[LengthKey, Int64]]] = {}

    def column(self, key: LengthKey, count: int) -> Int64 | None:
        """Return the first `count` recorded lengths, from the start again where there are fewer."""
        path = self._workload.length_path(key)
        if path is None:
            return None
        if path not in self._read:
            found = read_lengths(path)
            prompt, output = recorded_lengths(found)
            self._read[path] = found, {"prompt_tokens": prompt, "output_tokens": output}
        return np.resize(self._read[path][1][key], count)

    def notes(self, count: int) -> list[str]:
        """Return what to tell of the files read."""
        notes: list[str] = []
        for found, columns in self._read.values():
            recorded = len(columns["prompt_tokens"])
            notes += found.lines
            how = f", from the start again after {recorded:,}" if count > recorded else ""
            notes.append(
                f"lengths as recorded, in order{how}; arrivals rebuilt as the workload says "
                f"({self._workload.arrivals.process}), not recorded ones"
            )
        return notes


def _from_trace(
    workload: Workload,
    arrivals: TraceArrivals,
    streams: dict[str, np.random.Generator],
    recorded: _RecordedLengths,
) -> Requests:
    path = workload.trace_path
    assert path is not None  # noqa: S101  (the schema resolves the path of every trace)
    column = workload.engine.acceptance_column
    trace = read_trace(path, arrivals.time_scale, column)
    count, notes = _kept(workload, trace)
    from_trace = dict(zip(LENGTH_KEYS, workload.lengths_from_trace, strict=True))
    columns: dict[LengthKey, Int64] = {
        "prompt_tokens": trace.prompt_tokens,
        "output_tokens": trace.output_tokens,
    }
    for key, is_recorded in from_trace.items():
        if is_recorded:
            columns[key] = columns[key][:count]
        else:
            columns[key] = _lengths(key, workload, streams, count, recorded)
            notes.append(f"{key}: drawn as the workload file says, not the trace's own")
    cached = trace.cached_tokens
    if cached is not None:
        # Drawn prompts may be shorter than the recorded ones, and a prompt cannot be cached beyond its end.
        cached = np.minimum(cached[:count], columns["prompt_tokens"])
    acceptance = None if trace.shares is None else trace.shares[:count]
    if acceptance is not None:
        spread = f"mean {acceptance.mean():.3f}, sd {acceptance.std():.3f}"
        notes.append(f"rates at which drafts are accepted from column {column}: {spread}")
    lines, prefixes = list(trace.lines), None
    if trace.prefixes is not None and from_trace["prompt_tokens"] and workload.shares_prefixes:
        prefixes, cached = trace.prefixes.part(0, count), None
        if trace.overstated is not None:
            lines.remove(trace.overstated)
        lines.append(
            f"prompts share prefixes as the trace's hash_ids say, {prefixes.block_tokens} tokens each; that "
            "prompts hold earlier answers is not known"
        )
    return Requests(
        arrival_ns=trace.arrival_ns[:count],
        prompt_tokens=columns["prompt_tokens"],
        output_tokens=columns["output_tokens"],
        cached_tokens=cached,
        prefixes=prefixes,
        acceptance=acceptance,
        notes=(*lines, *notes),
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


def _lengths(
    key: LengthKey,
    workload: Workload,
    streams: dict[str, np.random.Generator],
    count: int,
    recorded: _RecordedLengths,
) -> Int64:
    """Draw or read the lengths of `count` requests; InputErrors of a draw name their key."""
    lengths = recorded.column(key, count)
    if lengths is not None:
        return lengths
    length: Length | None = getattr(workload, key)
    if length is None:
        raise InputError(f"{key}: expected a length distribution to draw from, got none")
    try:
        return length.draw(streams[key], count)
    except InputError as error:
        raise InputError([f"{key}: {line}" for line in error.lines]) from error
