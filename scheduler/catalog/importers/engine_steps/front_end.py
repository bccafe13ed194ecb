"""What stands between client and scheduler: how long a request takes in, and its tokens take out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.engine_steps.robust import relative_fit
from scheduler.catalog.importers.recorded_run import RecordedRun, Traffic

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
_LOOKAHEAD = 64  # requests that may have overtaken each other on their way in
_FEWEST = 5
_MOST_ROWS = 200_000


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """Delays in milliseconds.

    In: `in_ms` + `in_token_ms` × prompt tokens. Out: `out_ms` + `out_request_ms` × rows of the step +
    `out_row_ms` × rows before this one.
    """

    in_ms: float
    in_token_ms: float
    out_ms: float
    out_request_ms: float
    out_row_ms: float
    in_samples: int
    out_samples: int


@dataclass(frozen=True, slots=True)
class Served:
    """Which step admitted each request of a traffic, and which gave its first token; −1 where not found."""

    admitted: Int
    first: Int


def served_by(run: RecordedRun, traffic: Traffic) -> Served:
    """Find each request's steps: prompts are taken in the order in which they came, up to a few places."""
    waiting = list(range(len(traffic.arrival_ms)))
    admitted, first = np.full(len(waiting), -1), np.full(len(waiting), -1)
    prompts = traffic.prompt_tokens
    open_request, rest = -1, 0
    for step in np.flatnonzero(run.of_span(traffic.span)):
        for size, _ in run.steps.chunk_lists[step]:
            if open_request < 0:
                arrived = [
                    request
                    for request in waiting[:_LOOKAHEAD]
                    if traffic.arrival_ms[request] <= run.steps.scheduled[step] + 0.5
                ]
                whole = [request for request in arrived if prompts[request] == size]
                cut = [request for request in arrived if prompts[request] > size]
                if not whole and not cut:
                    continue
                open_request = (whole or cut)[0]
                rest = int(prompts[open_request])
                waiting.remove(open_request)
                admitted[open_request] = step
            rest -= size
            if rest <= 0:
                first[open_request] = step
                open_request = -1
    return Served(admitted, first)


def fit_front_end(runs: Sequence[RecordedRun], used: Sequence[Bool]) -> FrontEnd | None:
    """Fit the delays on single prompts (in) and on the traffic (out); None where there is neither."""
    entries = [_entries(run, mask) for run, mask in zip(runs, used, strict=True)]
    tokens = np.concatenate([tokens for tokens, _ in entries])
    delay = np.concatenate([delay for _, delay in entries])
    into = np.zeros(2)
    if len(delay) >= _FEWEST:
        into = relative_fit(np.column_stack([np.ones(len(delay)), tokens]), np.maximum(delay, 1e-3))
    exits = [
        found
        for run, mask in zip(runs, used, strict=True)
        for traffic in run.traffic
        if mask[run.of_span(traffic.span)].any() and (found := _exits(run, traffic)) is not None
    ]
    out = np.zeros(3)
    rows = sum(len(exit_[0]) for exit_ in exits)
    if rows >= _FEWEST:
        of_step, place, late = (np.concatenate([exit_[k] for exit_ in exits]) for k in range(3))
        every = max(1, rows // _MOST_ROWS)
        columns = np.column_stack([np.ones(rows), of_step, place])[::every]
        out = relative_fit(columns, np.maximum(late[::every], 1e-3))
    if len(delay) < _FEWEST and rows < _FEWEST:
        return None
    in_ms, in_token_ms = (float(value) for value in into)
    out_ms, out_request_ms, out_row_ms = (float(value) for value in out)
    return FrontEnd(in_ms, in_token_ms, out_ms, out_request_ms, out_row_ms, len(delay), rows)


def _entries(run: RecordedRun, mask: Bool) -> tuple[Float, Float]:
    """Return prompt tokens and time until scheduled of the single prompts, which find the engine idle."""
    tokens, delay = [], []
    for span in run.spans:
        steps = np.flatnonzero(run.of_span(span)) if span.part == "prefill" else np.zeros(0, np.int64)
        if len(steps) and mask[steps[0]]:
            tokens.append(float(span.prompt_tokens))
            delay.append(float(run.steps.scheduled[steps[0]]) - span.start_ms)
    return np.array(tokens), np.array(delay)


def _exits(run: RecordedRun, traffic: Traffic) -> tuple[Float, Float, Float] | None:
    """Return rows of the step, place in it and delay of every token that can be told apart."""
    steps = run.steps
    served = served_by(run, traffic)
    order = np.argsort(served.admitted, kind="stable")  # rows of a step stand in the order of admission
    place_of_step = np.zeros(len(steps), np.int64)
    of_step, place, late = [], [], []
    for request in order:
        begin, times = int(served.first[request]), traffic.token_ms[request]
        count = int(traffic.output_tokens[request])
        if begin < 0:
            continue
        index = np.arange(begin, min(begin + count, len(steps)))
        before = place_of_step[index].copy()
        place_of_step[index] += 1
        if len(times) != count or len(index) < count:
            continue  # tokens came together: which ones cannot be told
        delay = times - steps.output[index]
        usable = (delay > 0) & (before < steps.requests[index])
        of_step.append(steps.requests[index][usable].astype(np.float64))
        place.append(before[usable].astype(np.float64))
        late.append(delay[usable])
    if not of_step:
        return None
    return np.concatenate(of_step), np.concatenate(place), np.concatenate(late)
