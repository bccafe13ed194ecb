"""GPU work and launches of runs whose logs tell neither when launches ended nor what the GPU worked.

A step is handed over when the last of three is done: its work on the GPU, its own launch where kernels are
launched one by one, and the launch of the step behind it. So a hand-over shows one of them and bounds the
others from above; which one is not logged. All are fitted at once, as a Tobit model whose censoring is not
seen: every part varies about what the fit says, so each hand-over has a chance to show this part or that,
and counts for a part as its value by that chance and as its bound by the rest. Rounds of expectation and
maximisation (Dempster, Laird and Rubin 1977; a Newton step for the bounds) go on while the likelihood of
all hand-overs rises, from several first guesses; the likeliest fit is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.engine_steps.drift import Shown
from scheduler.catalog.importers.engine_steps.flow import FULL, ONE_BY_ONE, Flow, near_held
from scheduler.catalog.importers.engine_steps.host import fit_host, schedule_columns, shows_schedule
from scheduler.catalog.importers.engine_steps.robust import non_negative, robust_sd
from scheduler.catalog.importers.engine_steps.work import (
    GPU_AFTER_MS,
    PROMPTS_SHARE,
    TAIL_MS,
    GpuWork,
    WorkFit,
    bends_of,
    coldness_of,
    knots_of,
    work_columns,
)
from scheduler.catalog.importers.recorded_run import MODES, RecordedRun, Steps

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

_ROUNDS = 20
_FALLS = 3  # rounds in which the likelihood fell, one after the other: the best one before is kept
_FIRST_QUANTILES = (0.1, 0.3, 0.5)  # of what bounds a launch
_CLEARLY_LATER = 0.3  # of a launch: a first guess takes this for the GPU's work
_FEWEST_LOGGED = 100  # logged GPU times that take the place of those read from hand-overs
_LEAST_MS = 0.02
_CLOCK_MS = 0.05  # what all times may be off by
_HOST_MS = 250.0  # how fast the host was: schedule times this long before and after
_LONG_PAUSE_MS = 5.0
# In flow, after a short pause, after a long one, the first to overlap; the last three are slower by a
# share that is assumed where nothing shows it (mean and standard deviation of the logarithm).
_FLOW, _SHORT, _LONG, _SECOND = range(4)
_SLOWER = np.array([0.0, 0.05, 0.2, 0.05])
_SLOWER_SD = np.array([1e-3, 0.1, 0.2, 0.1])
# Assumed likewise: the share by which a cold launch takes longer, by mode, about 0; and how far that of
# steps with prompts is from PROMPTS_SHARE.
_COLD_SD, _PROMPTS_SD = np.full(4, 0.1), 0.05
_REQUEST_SD_MS = 0.01
_LEVEL_SD = 10.0  # of the logarithm: anything
_FEWEST_BY_REQUEST, _LEAST_SPREAD = 300, 16.0  # launches, requests from the 10th to the 90th percentile
# Hiccups: a share of all times, and how many times as far from the fit they are.
_GPU_HICCUPS, _LAUNCH_HICCUPS = (0.1, 5.0), (0.03, 4.0)
_GPU_SD = ((0.025, 0.05), (0.015, 0.03))  # least and most, relative: with kernels launched one by one; graphs
_LAUNCH_SD, _LAUNCH_SD_MOST, _LAUNCH_SD_WEIGHT = 0.13, 0.2, 20.0
_LARGEST_STEP = 0.3
_SCHEDULE_SD = 0.25  # of the time from decision to dispatch, relative
_FEWEST_WITH_PROMPTS = 30
_FEWEST_SHOWN = 3.0  # steps between two knots
_MOSTLY_SEEN = 0.5  # launches of a mode of which fewer are seen do not show how they vary


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is fitted; arrays go by mode, `slower` by place in the flow (logarithms)."""

    work: Float  # coefficients of `work_columns`
    gpu_sd: tuple[float, float]
    gpu_after_ms: float  # of a graph
    launch_ms: Float
    request_ms: float  # of a graph
    cold: Float
    prompts: float  # of kernels launched one by one
    slower: Float
    launch_sd: Float

    def launches(self, run: _Run, mode: Int) -> Float:
        """Return what a launch of each step takes on a host of mean speed, in the flow."""
        by_request = np.where(mode == FULL, self.request_ms * run.requests, 0.0)
        taken: Float = (self.launch_ms[mode] + by_request) * (1 + self.cold[mode] * run.coldness)
        return taken * (1 + self.prompts * run.prompts)


@dataclass(slots=True)
class _Run:
    """One run's steps; the last four change from round to round."""

    steps: Steps
    used: Bool  # and so is the step before
    told: Bool
    logged: Bool  # the GPU's work is
    mode: Int
    graph: Bool
    place: Int
    follows: Bool  # the next step's launch may hold this one up
    own: Bool  # its own launch may
    tail_ms: Float  # from its end
    second: Bool
    coldness: Float
    requests: Float
    prompts: Bool  # where they make a launch longer
    in_traffic: Bool
    host: Float  # logarithm of how much slower than on average
    share: Float
    columns: Float
    # Where a worker's process launches: from a graph's dispatch until the next step's (NaN elsewhere), how
    # long that one took from its decision, and what scheduling it takes on a host of mean speed.
    until_next: Float
    next_took: Float
    next_schedule: Float
    by_gpu: Float
    by_own: Float
    by_next: Float
    by_launch: Float  # the next dispatch


class _Rows(NamedTuple):
    """Launches seen or bounded: of which step, in what time, and by what chance seen."""

    run: _Run
    step: Int
    ms: Float
    seen: Float


def fit_hidden(
    runs: Sequence[RecordedRun], flows: Sequence[Flow], used: Sequence[Bool], told: Sequence[Bool]
) -> WorkFit:
    """Fit GPU work on the `used` steps of all runs, and launches on those that are `told` of the host."""
    knots = knots_of(runs, used)
    seen = _runs_of(knots, runs, flows, used, told)
    fits = [_likeliest(knots, seen, quantile) for quantile in _FIRST_QUANTILES]
    _, parts = max(fits, key=lambda fit: fit[0])
    for run in seen:
        _expect(parts, run)
    return _result(knots, seen, parts)


def _runs_of(
    knots: Float,
    runs: Sequence[RecordedRun],
    flows: Sequence[Flow],
    used: Sequence[Bool],
    told: Sequence[Bool],
) -> list[_Run]:
    tells = [mask if any(m.any() for m in told) else use for mask, use in zip(told, used, strict=True)]
    schedule = fit_host(runs, flows, tells).schedule
    known = np.zeros(len(MODES), bool)
    for run, mask in zip(runs, tells, strict=True):
        known[np.unique(run.steps.mode[mask])] = True
    result = []
    for run, flow, mask, tell in zip(runs, flows, used, tells, strict=True):
        steps = run.steps
        mode, multiproc = steps.mode.astype(np.int64), run.engine.multiproc
        graph = mode == FULL
        follows = np.append(flow.overlaps[1:], False) & (not multiproc)
        free = mask & ~near_held(steps)
        idle = steps.scheduled - np.concatenate([[-np.inf], steps.output[:-1]])
        paused = np.where(idle > _LONG_PAUSE_MS, _LONG, _SHORT)
        logged = mask & np.isfinite(steps.gpu_ms)
        nothing = np.zeros(len(steps))
        result.append(
            _Run(
                steps,
                free & np.concatenate([[True], free[:-1]]),
                # Modes that only runs have which do not tell of the host: there, what hides the GPU's work.
                free & (tell | ~known[mode]),
                logged if logged.sum() >= _FEWEST_LOGGED else np.zeros_like(logged),
                mode,
                graph,
                np.where(flow.overlaps, np.where(flow.second, _SECOND, _FLOW), paused),
                follows,
                np.where(graph, not multiproc, multiproc | ~flow.overlaps) & ~(graph & follows)
                | (~graph & ~follows),
                np.where(graph, 0.0, TAIL_MS),
                np.append(flow.second[1:], False) & (not multiproc),
                np.choose(mode, [coldness_of(steps, number) for number in range(len(MODES))]),
                steps.requests.astype(np.float64),
                (steps.chunks > 0) & (mode >= ONE_BY_ONE),
                run.within("traffic"),
                _host_speed(run, flow, schedule),
                flow.share,
                work_columns(knots, steps),
                *_until_next(run, flow, schedule),
                nothing,
                nothing,
                nothing,
                nothing,
            )
        )
    return result


def _until_next(run: RecordedRun, flow: Flow, schedule: Float) -> tuple[Float, Float, Float]:
    """Return the three times of `_Run` that tell when a worker's process took up the step after a graph."""
    steps = run.steps
    until = np.full(len(steps), np.nan)
    follows = flow.overlaps[1:] & (steps.mode[:-1] == FULL) & run.engine.multiproc
    until[:-1] = np.where(follows, np.diff(steps.dispatched), np.nan)
    took = np.append((steps.dispatched - steps.scheduled)[1:], 0.0)
    expected = np.append(np.maximum(schedule_columns(steps) @ schedule, 1e-6)[1:], 1.0)
    return until, took, expected


def _host_speed(run: RecordedRun, flow: Flow, schedule: Float) -> Float:
    """Return how slow the host was around each step, by its schedule times: a logarithm."""
    steps = run.steps
    expected = np.maximum(schedule_columns(steps) @ schedule, 1e-6)
    slower = np.log(np.clip((steps.dispatched - steps.scheduled) / expected, 0.5, 2.0))
    shown = flow.overlaps & shows_schedule(run, flow)
    total, number = (
        np.concatenate([[0.0], np.cumsum(each)]) for each in (np.where(shown, slower, 0.0), shown)
    )
    at = steps.scheduled
    first, last = np.searchsorted(at, at - _HOST_MS), np.searchsorted(at, at + _HOST_MS)
    speed: Float = (total[last] - total[first]) / np.maximum(number[last] - number[first], 1)
    return speed


def _likeliest(knots: Float, runs: Sequence[_Run], quantile: float) -> tuple[float, _Parts]:
    """Return the log likelihood and the likeliest parts of all rounds."""
    parts = _first_guess(knots, runs, quantile)
    best, falls = (-np.inf, parts), 0
    for number in range(_ROUNDS):
        likelihood = sum(_expect(parts, run, is_first=number == 0) for run in runs)
        if number:
            falls = falls + 1 if likelihood < best[0] else 0
            best = (likelihood, parts) if not falls else best
        if falls == _FALLS:
            break
        parts = _with_launches(_with_work(knots, parts, runs, is_first=number == 0), runs)
    return best


def _first_guess(knots: Float, runs: Sequence[_Run], quantile: float) -> _Parts:
    """Return launches as a low quantile of their bounds, in whichever place this is lowest; no GPU work."""
    launch_ms = np.full(len(MODES), GPU_AFTER_MS)
    rows = [row for run in runs for row in _launch_rows(run)]
    for mode in range(len(MODES)):
        lowest = []
        for place in range(len(_SLOWER)):
            bounds = np.concatenate(
                [
                    row.ms[(row.run.mode[row.step] == mode) & (row.run.place[row.step] == place)]
                    for row in rows
                ]
            )
            if len(bounds) >= 3:
                lowest.append(float(np.quantile(bounds, quantile)))
            elif len(bounds):
                lowest.append(float(bounds.max()))
        if lowest:
            launch_ms[mode] = max(min(lowest), 0.05)
    work = np.zeros(runs[0].columns.shape[1])
    sd = np.full(len(MODES), _LAUNCH_SD_MOST)
    return _Parts(
        work, (0.05, 0.03), GPU_AFTER_MS, launch_ms, 0.0, np.zeros(len(MODES)), PROMPTS_SHARE, _SLOWER, sd
    )


def _density(z: Float, hiccups: tuple[float, float]) -> Float:
    share, times = hiccups
    density: Float = (1 - share) * _normal(z) + share * _normal(z / times) / times
    return density


def _below(z: Float, hiccups: tuple[float, float]) -> Float:
    share, times = hiccups
    below: Float = (1 - share) * _normal_below(z) + share * _normal_below(z / times)
    return np.maximum(below, 1e-12)


def _usual(z: Float, hiccups: tuple[float, float]) -> Float:
    """Return how much a value counts: 1, or less where it is more likely a hiccup."""
    share, times = hiccups
    usual, far = (1 - share) * _normal(z), share * _normal(z / times) / times
    counts: Float = (usual + far / times**2) / (usual + far + 1e-300)
    return counts


def _normal(z: Float) -> Float:
    density: Float = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return density


_GRID = np.linspace(-9.0, 9.0, 3601)
_TABLE = np.array([math.erfc(-z / math.sqrt(2)) / 2 for z in _GRID.tolist()])


def _normal_below(z: Float) -> Float:
    below: Float = np.interp(z, _GRID, _TABLE)
    return below


def _pull(z: Float) -> tuple[Float, Float]:
    """Return how hard a bound z standard deviations above the fit pulls it down, and its information."""
    near = np.maximum(z, -5.0)
    pull = np.where(z < -5.0, -z, _normal(near) / np.maximum(_normal_below(near), 1e-300))
    return pull, np.clip(pull * (pull + z), 0.0, 1.0)


def _expect(parts: _Parts, run: _Run, is_first: bool = False) -> float:
    """Set by what chance each hand-over shows which part; returns the log likelihood of the used ones."""
    steps, output = run.steps, run.steps.output
    launch = parts.launches(run, run.mode) * np.exp(parts.slower[run.place] + run.host)
    sd = parts.launch_sd[run.mode]
    bound = np.where(run.follows, output - np.append(steps.dispatched[1:], 0.0), 0.0)  # of the next launch
    own = np.where(run.own, output - run.tail_ms - steps.dispatched, 0.0)
    next_launch, next_sd = np.append(launch[1:], 1.0), np.append(sd[1:], 1.0)
    if is_first:
        later = output - np.maximum(
            np.where(run.follows, output - bound + (1 + _CLEARLY_LATER) * next_launch, -np.inf),
            np.where(run.own, steps.dispatched + run.tail_ms + (1 + _CLEARLY_LATER) * launch, -np.inf),
        )
        run.by_gpu = (later > 0).astype(np.float64)
        run.by_own = np.where(run.own & (later <= 0), 1.0, 0.0)
        run.by_next = 1 - run.by_gpu - run.by_own
        return 0.0
    run.by_launch = _chance_of_launch(run, launch, sd)
    work = run.columns @ parts.work
    gpu_ms = output - _starts(parts, run, work, launch)
    spread = _gpu_spread(parts, run, work)
    by_gpu = (gpu_ms - work) / spread
    candidates = [
        (_density(by_gpu, _GPU_HICCUPS) / spread, _below(by_gpu, _GPU_HICCUPS)),
        _launch_chance(own, launch, sd),
        _launch_chance(bound, next_launch, next_sd),
    ]
    chances = []
    for index, (density, _) in enumerate(candidates):
        others = [below for other, (_, below) in enumerate(candidates) if other != index]
        chances.append(density * others[0] * others[1])
    total = sum(chances) + 1e-300
    run.by_gpu, run.by_own, run.by_next = (chance / total for chance in chances)
    return float(np.log(total[run.used]).sum())


def _chance_of_launch(run: _Run, launch: Float, sd: Float) -> Float:
    """Return by what chance a worker took the next step up when this one was launched, not as it came."""
    expected = run.next_schedule * np.exp(run.host)
    later = (run.next_took - expected) / (_SCHEDULE_SD * expected)
    came, came_before = (of(later, _LAUNCH_HICCUPS) for of in (_density, _below))
    launched, launched_before = _launch_chance(np.nan_to_num(run.until_next), launch, sd)
    by_launch = launched * came_before
    chance: Float = by_launch / (by_launch + came / (_SCHEDULE_SD * expected) * launched_before + 1e-300)
    return chance


def _launch_chance(bound: Float, launch: Float, sd: Float) -> tuple[Float, Float]:
    """Return the density of a launch that ends with the hand-over, and its chance to have ended before."""
    there = bound > 0
    z = np.where(there, np.log(np.maximum(bound, 1e-3) / launch) / sd, 9.0)
    density = np.where(there, _density(z, _LAUNCH_HICCUPS) / (sd * np.maximum(bound, 1e-3)), 0.0)
    return density, np.where(there, _below(z, _LAUNCH_HICCUPS), 1.0)


def _gpu_spread(parts: _Parts, run: _Run, work: Float) -> Float:
    spread: Float = np.hypot(np.where(run.graph, parts.gpu_sd[1], parts.gpu_sd[0]) * work, _CLOCK_MS)
    return spread


def _starts(parts: _Parts, run: _Run, work: Float, launch: Float) -> Float:
    """Return when the GPU began each step: after its dispatch, and the end of the step before, if known."""
    steps = run.steps
    begun = (steps.dispatched + np.where(run.graph, parts.gpu_after_ms, GPU_AFTER_MS)).tolist()
    launched = np.where(run.graph, -np.inf, steps.dispatched + launch + TAIL_MS).tolist()
    output, took, shown = steps.output.tolist(), work.tolist(), run.by_gpu.tolist()
    starts = []
    before = -math.inf
    for i, first in enumerate(begun):
        start = max(first, before)
        starts.append(start)
        expected = min(max(start + took[i], launched[i]), output[i])
        before = shown[i] * output[i] + (1 - shown[i]) * expected
    return np.array(starts)


def _with_work(knots: Float, parts: _Parts, runs: Sequence[_Run], is_first: bool) -> _Parts:
    """Return the parts with the GPU's work, and from when on it works, fitted to the chances."""
    matrix, target, weight, scale, shown, graph = [], [], [], [], [], []
    after: list[Float] = [np.zeros(0)]
    for run in runs:
        steps, work = run.steps, run.columns @ parts.work
        launch = parts.launches(run, run.mode) * np.exp(parts.slower[run.place] + run.host)
        starts = _starts(parts, run, work, launch)
        took = steps.output - starts
        spread = _gpu_spread(parts, run, work)
        z = np.zeros(len(steps)) if is_first else (took - work) / spread
        counts = run.by_gpu * _usual(z, _GPU_HICCUPS)
        pull, information = _pull(z)
        information = np.zeros(len(steps)) if is_first else information
        weights = counts + (1 - run.by_gpu) * information
        moved = (counts * z - (1 - run.by_gpu) * np.where(information > 0, pull, 0.0)) / np.maximum(
            weights, 1e-9
        )
        aim = took if is_first else work + spread * moved
        begins = run.graph & (starts <= steps.dispatched + parts.gpu_after_ms + 1e-9)
        aim = aim + begins * parts.gpu_after_ms
        here = run.used & (took > _LEAST_MS) & (weights > 1e-3)
        if run.logged.any():
            here, weights, counts, begins, aim = (
                run.logged,
                *(np.ones(len(steps)),) * 2,
                begins & False,
                steps.gpu_ms,
            )
            after.append(steps.gpu_after[np.isfinite(steps.gpu_after)])
        matrix.append(np.column_stack([run.columns[here], begins[here]]))
        target.append(aim[here])
        weight.append(weights[here])
        shown.append(counts[here])
        graph.append(run.graph[here])
        scale.append(np.hypot(0.03 * aim, _CLOCK_MS)[here] if is_first or run.logged.any() else spread[here])
    rows, right, weights, spreads = (np.concatenate(each) for each in (matrix, target, weight, scale))
    if len(right) < 3:
        return parts
    root = np.sqrt(weights) / spreads
    middle_ms = float(np.median(right))
    mild = np.concatenate(
        [
            bends_of(knots, rows.shape[1], len(right), middle_ms) / _GPU_SD[1][0],
            _least_work(knots, rows) / middle_ms,
        ]
    )
    norm = np.linalg.norm(rows * root[:, None], axis=0) + 1e-9
    scaled = np.concatenate([rows * root[:, None], mild]) / norm
    found = non_negative(scaled, np.concatenate([right * root, np.zeros(len(mild))])) / norm
    off = (right - rows @ found) / np.maximum(rows @ found, _CLOCK_MS)
    count, of_graph = np.concatenate(shown), np.concatenate(graph)
    sds = [
        float(
            np.clip(
                np.sqrt(((count * off**2)[kind].sum() + 10 * 0.03**2) / (count[kind].sum() + 10)), *limits
            )
        )
        for kind, limits in zip((~of_graph, of_graph), _GPU_SD, strict=True)
    ]
    after_ms = float(found[-1]) if found[-1] > 0 else parts.gpu_after_ms
    logged_after = np.concatenate(after)
    after_ms = float(np.median(logged_after)) if len(logged_after) else after_ms
    return replace(parts, work=found[:-1], gpu_sd=(sds[0], sds[1]), gpu_after_ms=after_ms)


def _least_work(knots: Float, rows: Float) -> Float:
    """Return rows that prefer, of all work that fits, the least: what hides should decide nothing."""
    size = len(knots)
    least = np.zeros((rows.shape[1] - 1, rows.shape[1]))
    least[:size, :size] = np.tri(size)
    further = np.arange(size, rows.shape[1] - 1)
    least[further, further] = rows[:, further].max(axis=0, initial=0.0)
    return least


def _launch_rows(run: _Run) -> list[_Rows]:
    """Return what shows or bounds launches: the hand-over before, the next decision, the own hand-over."""
    steps = run.steps
    rows = []
    until = steps.output[:-1] - steps.dispatched[1:]
    step = np.flatnonzero(run.follows[:-1] & run.used[1:] & run.told[1:] & (until > 0)) + 1
    rows.append(_Rows(run, step, until[step - 1], run.by_next[step - 1]))
    # After a pause, the next step is decided as soon as the first one is launched.
    direct = (run.place != _FLOW) & (run.place != _SECOND) & run.second & run.told
    step = np.flatnonzero(direct)
    rows.append(_Rows(run, step, steps.scheduled[step + 1] - steps.dispatched[step], np.ones(len(step))))
    step = np.flatnonzero(run.own & ~direct & run.told)
    rows.append(_Rows(run, step, (steps.output - run.tail_ms - steps.dispatched)[step], run.by_own[step]))
    step = np.flatnonzero((run.until_next > 0) & run.used & run.told)
    rows.append(_Rows(run, step, run.until_next[step], run.by_launch[step]))
    return [_Rows(run, row.step[row.ms > 0], row.ms[row.ms > 0], row.seen[row.ms > 0]) for row in rows]


def _with_launches(parts: _Parts, runs: Sequence[_Run]) -> _Parts:
    """Return the parts with launches fitted to the chances: a Newton step in their logarithms."""
    count = len(MODES)
    request, prompts, slower_from = 2 * count, 2 * count + 1, 2 * count + 2
    gram, right = np.zeros((slower_from + 3,) * 2), np.zeros(slower_from + 3)
    squares, seen_by_mode = np.zeros(count), np.zeros(count)
    by_request, by_prompts = _goes_by_request(runs), _tell_of_prompts(runs) > 0
    for row in (row for run in runs for row in _launch_rows(run) if len(row.step)):
        run, mode = row.run, row.run.mode[row.step]
        launch = parts.launches(run, run.mode)[row.step]
        slower = parts.slower[run.place] + run.host
        sd = parts.launch_sd[mode]
        z = np.log(np.maximum(row.ms, 1e-3) / launch) / sd - slower[row.step] / sd
        counts = row.seen * _usual(z, _LAUNCH_HICCUPS)
        pull, information = _pull(z)
        weight = (counts + (1 - row.seen) * information) / sd**2
        score = (counts * z - (1 - row.seen) * pull) / sd
        cold = 1 + parts.cold[mode] * run.coldness[row.step]
        longer = 1 + parts.prompts * run.prompts[row.step]
        columns = np.zeros((len(mode), len(right)))
        index = np.arange(len(mode))
        columns[index, mode] = parts.launch_ms[mode] * cold * longer / launch
        columns[index, count + mode] = run.coldness[row.step] / cold
        if by_request:
            columns[:, request] = np.where(mode == FULL, run.requests[row.step] * cold / launch, 0.0)
        # Not in grids, where prompts come in bursts after a pause.
        if by_prompts:
            columns[:, prompts] = (run.prompts & run.in_traffic)[row.step] / longer
        place = run.place[row.step]
        columns[index[place > 0], slower_from - 1 + place[place > 0]] = 1.0
        gram += np.einsum("ij,ik->jk", columns * weight[:, None], columns)
        right += np.einsum("ij,i->j", columns, score)
        squares += np.bincount(mode, counts * (z * sd) ** 2 * (place == _FLOW), count)
        seen_by_mode += np.bincount(mode, counts * (place == _FLOW), count)
    now = np.concatenate(
        [np.log(parts.launch_ms), parts.cold, [parts.request_ms, parts.prompts], parts.slower[1:]]
    )
    prior = np.concatenate([now[:count], np.zeros(count + 1), [PROMPTS_SHARE], _SLOWER[1:]])
    sds = np.concatenate([np.full(count, _LEVEL_SD), _COLD_SD, [_REQUEST_SD_MS, _PROMPTS_SD], _SLOWER_SD[1:]])
    now = _newton(gram + np.diag(sds**-2.0), right + (prior - now) / sds**2, now, first_bounded=count)
    spread = (squares + _LAUNCH_SD_WEIGHT * _LAUNCH_SD**2) / (seen_by_mode + _LAUNCH_SD_WEIGHT)
    return replace(
        parts,
        launch_ms=np.exp(now[:count]),
        cold=np.minimum(now[count : 2 * count], 1.0),
        request_ms=float(now[request]),
        prompts=float(now[prompts]),
        slower=np.concatenate([[0.0], now[slower_from:]]),
        launch_sd=np.minimum(np.sqrt(spread), _LAUNCH_SD_MOST),
    )


def _tell_of_prompts(runs: Sequence[_Run]) -> int:
    """Return how many launches one by one in traffic tell what prompts add, 0 if these are too few."""
    alike = [run.told & run.in_traffic & (run.mode >= ONE_BY_ONE) for run in runs]
    with_prompts = sum(int((here & run.prompts).sum()) for run, here in zip(runs, alike, strict=True))
    fewer = min(with_prompts, sum(int(here.sum()) for here in alike) - with_prompts)
    return fewer if fewer >= _FEWEST_WITH_PROMPTS else 0


def _newton(gram: Float, score: Float, now: Float, first_bounded: int) -> Float:
    """Return the values after a Newton step; those from `first_bounded` on do not turn negative."""
    free = np.ones(len(now), bool)
    while True:
        step = np.where(free, 0.0, -now)
        inner = np.flatnonzero(free)
        rest = score[inner] - gram[np.ix_(inner, np.flatnonzero(~free))] @ step[~free]
        step[inner] = np.linalg.solve(gram[np.ix_(inner, inner)], rest)
        step = np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        negative = free & (now + step < 0)
        negative[:first_bounded] = False
        if not negative.any():
            return np.concatenate(
                [(now + step)[:first_bounded], np.maximum((now + step)[first_bounded:], 0.0)]
            )
        free &= ~negative


def _goes_by_request(runs: Sequence[_Run]) -> bool:
    """Tell whether graphs were launched for batches so unlike that what a request adds can be seen."""
    requests = np.concatenate([run.requests[run.graph & run.told] for run in runs])
    if len(requests) < _FEWEST_BY_REQUEST:
        return False
    return float(np.subtract(*np.percentile(requests, [90, 10]))) >= _LEAST_SPREAD


def _result(knots: Float, runs: Sequence[_Run], parts: _Parts) -> WorkFit:
    size = len(knots)
    further = [float(value) for value in parts.work[size:]]
    present = sorted({int(mode) for run in runs for mode in np.unique(run.mode[run.used])})
    fit = WorkFit(
        GpuWork(knots, np.cumsum(parts.work[:size]), *further),
        {mode: float(parts.launch_ms[mode]) for mode in present},
        {mode: parts.gpu_after_ms if mode == FULL else GPU_AFTER_MS for mode in present},
        TAIL_MS,
        launch_request_ms=parts.request_ms,
        cold={mode: float(parts.cold[mode]) for mode in present},
        prompts={mode: parts.prompts * (mode >= ONE_BY_ONE) for mode in present},
    )
    widths, errors = [], []
    for run in runs:
        work = run.columns @ parts.work
        shown = run.logged if run.logged.any() else run.used & (run.by_gpu > 0.5)
        launch = parts.launches(run, run.mode) * np.exp(parts.slower[run.place] + run.host)
        took = np.where(run.logged, run.steps.gpu_ms, run.steps.output - _starts(parts, run, work, launch))
        widths.append(run.steps.width[shown])
        errors.append((took / np.maximum(work, 1e-9) - 1)[shown])
    fit.gpu_samples = sum(map(len, widths))
    fit.gpu_widths = np.unique(np.concatenate(widths))
    fit.gpu_hidden = _hidden_widths(knots, runs)
    fit.gpu_error = robust_sd(np.concatenate(errors))
    for mode in present:
        _set_mean(fit, parts, mode, runs)
    return fit


def _hidden_widths(knots: Float, runs: Sequence[_Run]) -> tuple[tuple[int, int], ...]:
    """Return from which to which width steps only bound the GPU's work, for fewer than a few show it."""
    width = np.concatenate([run.steps.width[run.used] for run in runs])
    shown = np.concatenate([np.where(run.logged, 1.0, run.by_gpu)[run.used] for run in runs])
    place = np.searchsorted(knots, width)
    found: list[tuple[int, int]] = []
    joins = False
    for number in np.unique(place):
        here = place == number
        if shown[here].sum() >= _FEWEST_SHOWN:
            joins = False
            continue
        first, last = int(width[here].min()), int(width[here].max())
        found = [*found[:-1], (found[-1][0], last)] if joins else [*found, (first, last)]
        joins = True
    return tuple(found)


def _set_mean(fit: WorkFit, parts: _Parts, mode: int, runs: Sequence[_Run]) -> None:
    """Set a launch to its mean, for what was fitted is a median, and what showed it by run."""
    ratios: list[Float] = []
    series, chances = [], []
    samples = 0.0
    for run in runs:
        flowing: list[tuple[Float, ...]] = [(np.zeros(0),) * 4]
        for row in _launch_rows(run):
            here = run.mode[row.step] == mode
            step, ms, seen = row.step[here], row.ms[here], row.seen[here]
            launch = parts.launches(run, run.mode)[step]
            sd = parts.launch_sd[mode]
            usual = launch * np.exp(parts.slower[run.place[step]] + run.host[step])
            z = np.log(ms / usual) / sd
            hidden = math.exp(sd**2 / 2) * _normal_below(z - sd) / np.maximum(_normal_below(z), 1e-9)
            expected = seen * np.clip(ms / usual, 0.25, 4.0) + (1 - seen) * np.minimum(hidden, ms / usual)
            ratios.append(expected)
            samples += float(seen.sum())
            flow = run.place[step] == _FLOW
            flowing.append(
                (
                    run.steps.dispatched[step][flow],
                    (expected * usual / launch)[flow],
                    run.share[step][flow],
                    seen[flow],
                )
            )
        at, ratio, share, chance = (np.concatenate(each) for each in zip(*flowing, strict=True))
        series.append(Shown(at, ratio, share))
        chances.append(chance)
    every = np.concatenate(ratios)
    mean = float(every.mean()) if len(every) else 1.0
    fit.launch_ms[mode] *= mean
    if mode == FULL:
        fit.launch_request_ms *= mean
    fit.launch_samples[mode] = round(samples)
    fit.prompts_seen[mode] = _tell_of_prompts(runs) if mode >= ONE_BY_ONE else 0
    fit.launch_bounds[mode] = len(every) - round(samples)
    series = [replace(each, ratio=each.ratio / mean) for each in series]
    fit.launch_expected[mode] = series
    in_flow = np.concatenate(chances)
    mostly = len(in_flow) > 0 and float(in_flow.mean()) > _MOSTLY_SEEN
    fit.launch_shown[mode] = [
        Shown(each.at[chance > 0.5], each.ratio[chance > 0.5], each.share[chance > 0.5])
        if mostly
        else Shown(*(np.zeros(0),) * 3)
        for each, chance in zip(series, chances, strict=True)
    ]
