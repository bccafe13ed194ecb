"""What the GPU works in a step, and what launching it costs the host: one fit for both.

A recorded step shows max(GPU end, end of the next launch), so each tells only where the other does not hide
it. Rounds of two halves: the fit so far says what hid what in every step; GPU work is fitted where the GPU
was waited for, launches where the host was. Steps where both came about together are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.engine_steps.drafting import (
    COLUMNS,
    are_told_apart,
    draft_columns,
    launching_drafts,
)
from scheduler.catalog.importers.engine_steps.drift import Shown, shares_within
from scheduler.catalog.importers.engine_steps.flow import FULL, ONE_BY_ONE, Flow, near_held
from scheduler.catalog.importers.engine_steps.robust import relative_fit, robust_sd
from scheduler.catalog.importers.recorded_run import MODES, RecordedRun, Steps

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

KNOTS: tuple[int, ...] = (
    1,
    8,
    16,
    32,
    64,
    96,
    128,
    160,
    192,
    224,
    256,
    320,
    384,
    512,
    768,
    1024,
    1536,
    2048,
    3072,
    4096,
)
KNOTS += (6144, 8192, 12288, 16384, 32768, 65536)
TAIL_MS = 0.3  # assumed: from the end of launching one kernel after another until the GPU has done the last
GPU_AFTER_MS = 0.5  # assumed where no step shows it: from the dispatch until the first kernel runs
_ROUNDS = 7
_MOST_SHARE = 1.0
_HALF = 0.5
_FEWEST_OF_GROUP = 30  # launches more cold than warm, and as many others
_FEWEST = 8  # samples for a launch cost
_MARGIN = 0.1  # of a launch: closer than this, one cannot say what hid what
_GPU_MARGIN = 0.03  # of the GPU's work, likewise
_CLEARLY_LONGER = 1.4  # than a launch: the host waits for something else
_FEWEST_BY_REQUEST = 300  # launches
_LEAST_SPREAD = 16.0  # of requests, from the 10th to the 90th percentile
_FEWEST_LOGGED = 100  # logged GPU times that take the place of those read from hand-overs
_SEEN = 0.3  # of the steps of a kind
_MOST, _LATE = 0.7, 0.2  # share of the steps of a kind, and of a launch
_SMOOTH = 0.005
# By what share a launch without a graph takes longer where the step has prompts, if no traffic shows it:
# the traffics of five recorded engines show 0.03 to 0.08 (grids, where prompts come in bursts, 0.10 to 0.26).
PROMPTS_SHARE = 0.07
# Steps that warm up what launches a graph, or kernels one by one; the last is 1 − the paper's weight of 0.1.
WARM_STEPS = {mode: 2.0 if mode == FULL else 10.0 for mode in range(len(MODES))}


@dataclass(frozen=True, slots=True)
class GpuWork:
    """GPU milliseconds = curve at the step's width + rows + KV tokens + pairs + prompts."""

    at: Float
    ms: Float
    row_ms: float
    kv_token_ms: float
    pair_ms: float
    prompt_ms: float
    draft_pass_ms: float = 0.0
    draft_token_ms: float = 0.0

    def drafting(self, run: RecordedRun) -> Float:
        """Return the GPU milliseconds of drafting behind every step."""
        times: Float = draft_columns(run) @ np.array([self.draft_pass_ms, self.draft_token_ms])
        return times

    def of(self, steps: Steps) -> Float:
        """Return the GPU milliseconds of every step."""
        further = np.array([self.row_ms, self.kv_token_ms, self.pair_ms, self.prompt_ms])
        increments = np.concatenate([self.ms[:1], np.diff(self.ms)])
        times: Float = work_columns(self.at, steps) @ np.concatenate([increments, further])
        return times


@dataclass(slots=True)
class WorkFit:
    """The fitted GPU work and launch costs, by mode index; and what they rest on."""

    gpu: GpuWork
    launch_ms: dict[int, float]
    gpu_after_ms: dict[int, float]
    tail_ms: float
    launch_request_ms: float = 0.0  # of a graph: preparing its inputs goes by request
    cold: dict[int, float] = field(default_factory=dict)  # share by which a launch after others takes longer
    prompts: dict[int, float] = field(default_factory=dict)  # and one of a step with prompts
    prompts_seen: dict[int, int] = field(default_factory=dict)  # launches that showed it
    gpu_samples: int = 0
    gpu_widths: Int = field(default_factory=lambda: np.zeros(0, np.int64))
    gpu_hidden: tuple[tuple[int, int], ...] = ()  # from which to which width steps only bound the work
    gpu_error: float = 0.0
    launch_samples: dict[int, int] = field(default_factory=dict)
    launch_bounds: dict[int, int] = field(default_factory=dict)  # launches that were only bounded
    launch_shown: dict[int, list[Shown]] = field(default_factory=dict)  # by mode, then run
    launch_expected: dict[int, list[Shown]] = field(default_factory=dict)  # also of those that hide, if known
    measured_apart: bool = False


def work_columns(knots: Float, steps: Steps) -> Float:
    """Return what the GPU's work is linear in: rises between knots, rows, KV tokens, pairs, chunks."""
    width = steps.width.astype(np.float64)[:, None]
    share = (width - knots[:-1]) / np.diff(knots)
    rising = np.clip(share, 0.0, 1.0)
    rising[:, -1] = np.maximum(share[:, -1], 0.0)
    return np.column_stack(
        [np.ones(len(steps)), rising, steps.rows, steps.kv_tokens, steps.pairs, steps.chunks]
    )


def knots_of(runs: Sequence[RecordedRun], used: Sequence[Bool]) -> Float:
    """Return the widths between which the GPU's work is taken to be linear."""
    widest = max(int(run.steps.width[mask].max()) for run, mask in zip(runs, used, strict=True))
    knots = np.array([k for k in KNOTS if k < widest] + [widest], np.float64)
    return np.delete(knots, -2) if len(knots) > 2 and knots[-1] < 1.1 * knots[-2] else knots


def fit_work(
    runs: Sequence[RecordedRun], flows: Sequence[Flow], used: Sequence[Bool], told: Sequence[Bool]
) -> WorkFit:
    """Fit GPU work on the `used` steps of all runs, and launches on those that are `told` of the host."""
    knots = knots_of(runs, used)
    fit = _first_guess(knots, runs, flows, told)
    # Where only runs that do not tell of the host have a mode, their launches serve to see the GPU behind.
    other = _first_guess(knots, runs, flows, used)
    fit.launch_ms = {**other.launch_ms, **fit.launch_ms}
    fit.gpu_after_ms = {**other.gpu_after_ms, **fit.gpu_after_ms}
    launch_ms = fit.launch_ms.get(FULL, 0.0)
    waits = [
        _waits_for_gpu(run, flow, mask & ~near_held(run.steps), launch_ms)
        for run, flow, mask in zip(runs, flows, used, strict=True)
    ]
    for step in range(_ROUNDS):
        fit = _round(fit, runs, flows, used, told, waits, is_first=step == 0)
    return fit


def _first_guess(
    knots: Float, runs: Sequence[RecordedRun], flows: Sequence[Flow], used: Sequence[Bool]
) -> WorkFit:
    launch: dict[int, float] = {}
    used = [mask & ~near_held(run.steps) for run, mask in zip(runs, used, strict=True)]
    for mode in range(len(MODES)):
        after_other, every = [], []
        for run, flow, mask in zip(runs, flows, used, strict=True):
            steps = run.steps
            shown = steps.output - steps.dispatched if run.engine.multiproc else flow.until_before
            here = (steps.mode == mode) & mask & ~np.isnan(shown)
            before = np.concatenate([[-1], steps.mode[:-1]])
            every.append(shown[here])
            after_other.append(shown[here & ((before != FULL) == (mode == FULL))])
        if mode == FULL and runs[0].engine.multiproc:
            every = after_other = [
                _dispatch_intervals(run, mask) for run, mask in zip(runs, used, strict=True)
            ]
        samples = np.concatenate(after_other)
        samples = samples if len(samples) >= 5 else np.concatenate(every)
        if len(samples):
            # A graph's launch hides behind the GPU's work: what shows it is the shortest.
            share = 0.1 if mode == FULL or len(samples) < 5 else 0.3
            launch[mode] = max(float(np.quantile(samples, share)), 0.05)
        elif any((run.steps.mode[mask] == mode).any() for run, mask in zip(runs, used, strict=True)):
            launch[mode] = GPU_AFTER_MS
    gpu = GpuWork(knots, np.zeros(len(knots)), 0.0, 0.0, 0.0, 0.0)
    return WorkFit(gpu, launch, dict.fromkeys(launch, GPU_AFTER_MS), TAIL_MS)


def _dispatch_intervals(run: RecordedRun, mask: Bool) -> Float:
    """Return the times between dispatches of graphs: a launch in a process of its own takes no longer."""
    full = (run.steps.mode == FULL) & mask
    intervals: Float = np.diff(run.steps.dispatched)[full[1:] & full[:-1]]
    return np.sort(intervals)[: max(len(intervals) // 20, 1)]


def _waits_for_gpu(run: RecordedRun, flow: Flow, mask: Bool, launch_ms: float) -> Bool:
    """Tell, by width and KV tokens, whether the host waits for a graph's GPU work or the GPU for the host.

    Where the GPU waits, the step before is handed over when the launch ends; where the host waits, later.
    Between the two, what decides is that dispatching later by 1 ms shortens the host's wait by 1 ms (slope
    −1), while a launch does not care (slope 0). Seen where one graph follows another; a kind seen too
    rarely goes with its nearest neighbour.
    """
    steps = run.steps
    result = np.ones(len(steps), bool)
    if run.engine.multiproc:
        return result
    full = steps.mode == FULL
    kinds = _kinds(steps)
    verdicts: dict[int, bool] = {}
    inner = full & np.roll(full, 1) & np.roll(full, 2) & mask & ~np.isnan(flow.until_before)
    inner[:2] = False
    later = steps.dispatched - np.roll(steps.output, 2)
    for kind in np.unique(kinds[inner]):
        here = np.flatnonzero(inner & (kinds == kind))
        if len(here) < 20:
            continue
        x, y = later[here], flow.until_before[here]
        longer = float(np.median(y)) / launch_ms
        if not 1 + _MARGIN < longer < _CLEARLY_LONGER:
            verdicts[int(kind)] = longer >= _CLEARLY_LONGER
            continue
        x, y = x - np.median(x), y - np.median(y)
        keep = np.abs(x) <= 4 * robust_sd(x)
        slope = float((x[keep] * y[keep]).sum() / max((x[keep] ** 2).sum(), 1e-12))
        verdicts[int(kind)] = slope < -0.4
    for kind in np.unique(kinds[full]) if verdicts else []:
        nearest = min(verdicts, key=lambda seen: _distance(seen, int(kind)))
        result[full & (kinds == kind)] = verdicts[nearest]
    return result


def _distance(one: int, other: int) -> int:
    """Return how many steps of width and of KV tokens lie between two kinds of one mode."""
    (width, octave), (width_2, octave_2) = (divmod(kind // len(MODES), 64) for kind in (one, other))
    return abs(width - width_2) + abs(octave - octave_2)


def _round(
    fit: WorkFit,
    runs: Sequence[RecordedRun],
    flows: Sequence[Flow],
    used: Sequence[Bool],
    told: Sequence[Bool],
    waits: Sequence[Bool],
    is_first: bool,
) -> WorkFit:
    begins: list[Float] = [np.zeros(0)]
    rows: list[Float] = []
    right: list[Float] = []
    widths: list[Int] = []
    launches: dict[int, list[_Launches]] = {mode: [] for mode in fit.launch_ms}
    for run, flow, mask, tells, wait in zip(runs, flows, used, told, waits, strict=True):
        seen = _look(fit, run, flow, mask & ~near_held(run.steps), wait.tolist(), is_first)
        logged = mask & np.isfinite(run.steps.gpu_ms)
        if logged.sum() >= _FEWEST_LOGGED:
            index = np.flatnonzero(logged)
            none = np.zeros(len(index))
            seen = replace(seen, gpu=index, gpu_ms=run.steps.gpu_ms[index], begins=none, follows=none)
            begins.append(run.steps.gpu_after[mask & np.isfinite(run.steps.gpu_after)])
        columns = work_columns(fit.gpu.at, run.steps)[seen.gpu]
        drafts = draft_columns(run)[seen.gpu - 1] * seen.follows[:, None]
        rows.append(np.concatenate([columns, drafts, seen.begins[:, None]], axis=1))
        right.append(seen.gpu_ms)
        widths.append(run.steps.width[seen.gpu])
        for mode in launches:
            of_mode = (run.steps.mode[seen.launch] == mode) & tells[seen.launch]
            if mode == FULL and not logs_launches(run, tells):
                of_mode[:] = False  # the GPU hides most; what shows is not the usual launch
            index = seen.launch[of_mode]
            launches[mode].append(
                _Launches(
                    run.steps.dispatched[index],
                    seen.launch_ms[of_mode],
                    run.steps.requests[index].astype(np.float64),
                    coldness_of(run.steps, mode)[index],
                    run.steps.chunks[index] > 0,
                    run.within("traffic")[index],
                    flow.share[index],
                )
            )
    matrix, target = np.concatenate(rows), np.concatenate(right)
    if not are_told_apart(runs, used):  # drafting, if any, stays inside the steps
        matrix = np.delete(matrix, np.s_[-1 - COLUMNS : -1], axis=1)
    gpu, after_full, error = _fit_gpu(fit, matrix, target)
    result = WorkFit(gpu, dict(fit.launch_ms), dict(fit.gpu_after_ms), fit.tail_ms)
    result.gpu_samples = len(target)
    result.gpu_widths, result.gpu_error = np.unique(np.concatenate(widths)), error
    if FULL in result.gpu_after_ms and after_full is not None:
        result.gpu_after_ms[FULL] = after_full
    logged_begins = np.concatenate(begins)
    if FULL in result.gpu_after_ms and len(logged_begins) >= _FEWEST:
        result.gpu_after_ms[FULL] = float(np.median(logged_begins))
    for mode, series in launches.items():
        result.launch_samples[mode] = sum(len(one.ms) for one in series)
        if result.launch_samples[mode] >= _FEWEST:
            _fit_within_seconds(result, mode, series)
        result.launch_shown[mode] = [
            Shown(
                one.at,
                one.ms / _launch_ms(result, mode, one.requests, one.coldness, one.prompts),
                one.share,
            )
            for one in series
        ]
    return result


def logs_launches(run: RecordedRun, told: Bool) -> bool:
    """Tell whether a run's log says when launches ended, so that costs can be followed over time."""
    return int((told & np.isfinite(run.steps.launched)).sum()) >= _FEWEST_LOGGED


def _fit_within_seconds(fit: WorkFit, mode: int, series: Sequence[_Launches]) -> None:
    """Fit logged launches, and by what share coldness and requests lengthen them, within seconds of a run.

    So a host that was slow while they were cold is not taken for what coldness costs. Requests count for a
    graph alone: kernels launched one by one take the same time for any batch, and there a slope would be
    chance.
    """
    ms, at, requests, coldness = (
        np.concatenate([getattr(one, name) for one in series])
        for name in ("ms", "at", "requests", "coldness")
    )
    prompts = _fit_prompts(fit, mode, series)
    ms = ms / (1 + fit.prompts[mode] * prompts)
    run = np.repeat(np.arange(len(series)), [len(one.ms) for one in series])
    spread = float(np.subtract(*np.percentile(requests, [90, 10])))
    by_request = mode == FULL and len(ms) >= _FEWEST_BY_REQUEST and spread >= _LEAST_SPREAD
    tells = min(int((coldness > _HALF).sum()), int((coldness <= _HALF).sum())) >= _FEWEST_OF_GROUP
    columns = np.column_stack([coldness * tells, (requests - requests.mean()) * by_request])
    shares = shares_within(at, run, ms, columns)
    # Of a warm launch, which the mean of all is longer than.
    shares /= max(1 - float(shares[0] * coldness.mean()), _HALF)
    cold, request = np.minimum(shares, _MOST_SHARE).tolist()
    bare = ms / (1 + cold * coldness)
    middle = float(np.median(bare))
    mean = float(np.clip(bare, middle / 4, 4 * middle).mean())
    request = min(request, 1 / max(float(requests.mean()), 1.0))
    fit.cold[mode] = cold
    if mode == FULL:
        fit.launch_request_ms = request * mean
    fit.launch_ms[mode] = mean * (1 - request * float(requests.mean()))


def _fit_prompts(fit: WorkFit, mode: int, series: Sequence[_Launches]) -> Bool:
    """Fit by what share launches of steps with prompts take longer; returns which have prompts.

    Held against others within seconds of traffic. Grids do not count: there prompts come in bursts.
    """
    prompts = np.concatenate([one.prompts for one in series])
    if mode < ONE_BY_ONE:  # a graph's steps have none, a PIECEWISE graph's nearly all have
        fit.prompts[mode] = 0.0
        return prompts
    ms, at, coldness, in_traffic = (
        np.concatenate([getattr(one, name) for one in series])
        for name in ("ms", "at", "coldness", "in_traffic")
    )
    run = np.repeat(np.arange(len(series)), [len(one.ms) for one in series])
    tells = min(int((prompts & in_traffic).sum()), int((~prompts & in_traffic).sum()))
    fit.prompts_seen[mode] = tells if tells >= _FEWEST_OF_GROUP else 0
    fit.prompts[mode] = PROMPTS_SHARE
    if fit.prompts_seen[mode]:
        columns = np.column_stack([prompts, coldness])[in_traffic].astype(np.float64)
        shares = shares_within(at[in_traffic], run[in_traffic], ms[in_traffic], columns)
        share = min(float(shares[0] / max(1 - float(shares @ columns.mean(0)), _HALF)), _MOST_SHARE)
        fit.prompts[mode] = share
    return prompts


def _launch_ms(fit: WorkFit, mode: int, requests: Float, coldness: Float, prompts: Bool) -> Float:
    by_request = fit.launch_request_ms if mode == FULL else 0.0
    taken: Float = (fit.launch_ms[mode] + by_request * requests) * (1 + fit.cold.get(mode, 0.0) * coldness)
    return taken * (1 + fit.prompts.get(mode, 0.0) * prompts)


def at_level(fit: WorkFit, factor: Mapping[int, float]) -> WorkFit:
    """Return the fit with each mode's launches taken times a factor."""
    by_mode = {mode: factor.get(mode, 1.0) for mode in fit.launch_ms}
    after = {mode: ms * by_mode[mode] if mode == FULL else ms for mode, ms in fit.gpu_after_ms.items()}
    return replace(
        fit,
        launch_ms={mode: ms * by_mode[mode] for mode, ms in fit.launch_ms.items()},
        launch_request_ms=fit.launch_request_ms * by_mode.get(FULL, 1.0),
        gpu_after_ms=after,
    )


def coldness_of(steps: Steps, mode: int) -> Float:
    """Return 0 where steps of a mode followed each other, towards 1 the longer others ran before."""
    warmth, found = 1.0, np.empty(len(steps))
    for step, alike in enumerate((steps.mode == mode).tolist()):
        found[step] = 1 - warmth
        warmth += (alike - warmth) / WARM_STEPS[mode]
    return found


@dataclass(frozen=True, slots=True)
class _Launches:
    """Launches of one mode in one run: when, how long, of how many requests, how cold, whether with prompts.

    For `share` see `Flow`.
    """

    at: Float
    ms: Float
    requests: Float
    coldness: Float
    prompts: Bool
    in_traffic: Bool
    share: Float


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one run's steps show: GPU times, and launches.

    `begins` is 1 where a graph waited for no GPU, `follows` where the drafting behind the step before is in
    the time.
    """

    gpu: Int
    gpu_ms: Float
    begins: Float
    follows: Float
    launch: Int
    launch_ms: Float


def _look(fit: WorkFit, run: RecordedRun, flow: Flow, mask: Bool, waits: list[bool], is_first: bool) -> _Seen:
    """Walk through the steps; see the module."""
    steps = run.steps
    modes = steps.mode.tolist()
    full = [mode == FULL for mode in modes]
    launch = _launches(fit, steps).tolist()
    after = [fit.gpu_after_ms.get(mode, GPU_AFTER_MS) for mode in modes]
    work, drafting = fit.gpu.of(steps).tolist(), fit.gpu.drafting(run).tolist()
    launching = launching_drafts(steps).tolist()
    dispatched, output = steps.dispatched.tolist(), steps.output.tolist()
    overlaps, second, inside = flow.overlaps.tolist(), flow.second.tolist(), mask.tolist()
    count, multiproc = len(modes), run.engine.multiproc
    late = _surely_late(fit, run, flow, mask).tolist()
    gpu: list[tuple[int, float, bool]] = []
    refuting: list[bool] = []
    behinds: list[bool] = []
    launches: list[tuple[int, float]] = []
    before = -1e12  # when the GPU ended the step before
    for i in range(count):
        begun = dispatched[i] + after[i]
        start, from_dispatch = (begun, True) if begun > before else (before, False)
        own = 0.0 if full[i] else dispatched[i] + launch[i] - launching[i] + fit.tail_ms
        follows = not multiproc and i + 1 < count and overlaps[i + 1]
        next_launch = dispatched[i + 1] + launch[i + 1] if follows else -1e12
        margin = _MARGIN * max(launch[i + 1] if follows else 0.0, 0.0 if full[i] else launch[i])
        margin = max(margin, _GPU_MARGIN * work[i])
        if is_first:
            shown = output[i] > max(next_launch, own) + 2 * margin
            by_gpu = waits[i] and shown
            by_next = follows and not by_gpu and output[i] < next_launch + 2 * margin
            end = output[i] if by_gpu else min(max(start, own), output[i])
            own_hides = False
        else:
            end = max(start + work[i], own)
            by_gpu = waits[i] and (late[i] or end > next_launch + margin)
            by_next = follows and not by_gpu and (not waits[i] or next_launch > end + margin)
            own_hides = not late[i] and own > start + work[i] - margin
            end = output[i] if by_gpu else min(end, output[i])
        # Handed over before the fit's GPU is done: that refutes the fit, whatever decided the hand-over.
        refutes = not is_first and start + work[i] - output[i] > _GPU_MARGIN * work[i]
        if (by_gpu or refutes) and inside[i] and (i == 0 or inside[i - 1]):
            if refutes or not own_hides:
                behind = drafting[i - 1] if i else 0.0  # what is fitted is this step with that drafting
                since = before - behind if not from_dispatch else dispatched[i] if full[i] else begun
                gpu.append((i, output[i] - since, from_dispatch and full[i]))
                behinds.append(not from_dispatch and i > 0)
                refuting.append(refutes and not by_gpu)
            elif own > start + work[i] + margin:
                launches.append((i, output[i] - fit.tail_ms - dispatched[i]))
        elif by_next and inside[i + 1] and not second[i + 1]:
            launches.append((i + 1, output[i] - dispatched[i + 1]))
        before = end + drafting[i]
    index = np.array([i for i, _, _ in gpu], np.int64)
    kept = _mostly_seen(steps, mask, index) | np.array(refuting, bool)
    if (np.isfinite(steps.launched) & mask).any():
        launches = _logged_launches(steps, flow, mask)
    return _Seen(
        index[kept],
        np.array([ms for _, ms, _ in gpu], np.float64)[kept],
        np.array([begins for _, _, begins in gpu], np.float64)[kept],
        np.array(behinds, np.float64)[kept],
        np.array([i for i, _ in launches], np.int64),
        np.array([ms for _, ms in launches], np.float64),
    )


def _logged_launches(steps: Steps, flow: Flow, mask: Bool) -> list[tuple[int, float]]:
    """Return the logged launches of steps that followed others, by step.

    A host that slept takes up to half as long again for its first launch. Of a mode that was hardly seen but
    then, what the others took in the flow relative to after an idle time tells what it would have taken.
    """
    took = steps.launched - steps.dispatched - launching_drafts(steps)
    logged = np.isfinite(took) & mask
    steady = flow.overlaps & ~flow.second
    ratios, scale = [], np.ones(len(steps))
    scarce = []
    for mode in range(len(MODES)):
        here = logged & (steps.mode == mode)
        if (here & steady).sum() >= _FEWEST:
            logged[here & ~steady] = False
            if mode != FULL and (here & ~flow.overlaps).sum() >= _FEWEST:
                ratios.append(float(took[here & steady].mean() / took[here & ~flow.overlaps].mean()))
        elif here.any():
            scarce.append(mode)
    if ratios:
        scale[np.isin(steps.mode, scarce) & ~flow.overlaps] = min(float(np.mean(ratios)), 1.0)
    index = np.flatnonzero(logged)
    return list(zip(index.tolist(), (took * scale)[index].tolist(), strict=True))


def _launches(fit: WorkFit, steps: Steps) -> Float:
    """Return how long each launch took where its end was logged, else what the fit says."""
    logged = steps.launched - steps.dispatched
    taken: Float = np.where(np.isfinite(logged), logged, _fitted_launches(fit, steps))
    return taken


def _fitted_launches(fit: WorkFit, steps: Steps) -> Float:
    launches = np.zeros(len(steps))
    requests = steps.requests.astype(np.float64)
    for mode in fit.launch_ms:
        of_mode = _launch_ms(fit, mode, requests, coldness_of(steps, mode), steps.chunks > 0)
        launches = np.where(steps.mode == mode, of_mode, launches)
    return launches


def _kinds(steps: Steps) -> Int:
    """Return a number for each step's kind: mode, width and KV tokens, these to the octave or finer."""
    widths = np.searchsorted(KNOTS, steps.width)
    octaves = np.log2(steps.kv_tokens + 1.0).astype(np.int64)
    kinds: Int = (widths * 64 + octaves) * len(MODES) + steps.mode
    return kinds


def _mostly_seen(steps: Steps, mask: Bool, index: Int) -> Bool:
    """Tell which GPU samples are of a kind that mostly shows its GPU work; the rest are chance."""
    if not len(index):
        return np.zeros(0, bool)
    kinds = _kinds(steps)
    most = int(kinds.max()) + 1
    share = np.bincount(kinds[index], minlength=most) / np.maximum(
        np.bincount(kinds[mask], minlength=most), 1
    )
    kept: Bool = share[kinds[index]] >= _SEEN
    return kept


def _surely_late(fit: WorkFit, run: RecordedRun, flow: Flow, mask: Bool) -> Bool:
    """Tell which steps were handed over later than any launch explains, as most of their kind were.

    So a width whose work the fit still takes for too little comes out from behind the launches. A kind is a
    mode, the mode of the step that follows, and a width.
    """
    steps = run.steps
    launch = _launches(fit, steps)
    own = np.where(steps.mode == FULL, 0.0, launch)
    own = np.maximum(own - launching_drafts(steps), 0.0)
    explained = np.where(own > 0, steps.dispatched + own + fit.tail_ms, -np.inf)
    following, next_launch = np.full(len(steps), len(MODES)), np.zeros(len(steps))
    if not run.engine.multiproc:
        overlapped = np.append(flow.overlaps[1:], False)
        following[overlapped] = np.roll(steps.mode, -1)[overlapped]
        next_launch[overlapped] = np.roll(launch, -1)[overlapped]
        launched = np.roll(steps.dispatched, -1) + next_launch
        explained = np.where(overlapped, np.maximum(explained, launched), explained)
    excess = steps.output - explained
    late: Bool = np.isfinite(excess) & (excess > _LATE * np.maximum(own, next_launch)) & mask
    widths = np.searchsorted(fit.gpu.at, steps.width)
    kind = (widths * (len(MODES) + 1) + following) * len(MODES) + steps.mode
    for number in np.unique(kind[late]):
        here = (kind == number) & mask
        if here.sum() < _FEWEST or late[here].mean() < _MOST:
            late[here] = False
    return late


def predicted_outputs(fit: WorkFit, run: RecordedRun, flow: Flow) -> Float:
    """Return when each step is handed over by the fit, given its dispatch, those around it, and the past."""
    steps = run.steps
    modes = steps.mode.tolist()
    launch = _fitted_launches(fit, steps).tolist()
    after = [fit.gpu_after_ms.get(mode, GPU_AFTER_MS) for mode in modes]
    work, drafting = fit.gpu.of(steps).tolist(), fit.gpu.drafting(run).tolist()
    launching = launching_drafts(steps).tolist()
    dispatched, output, overlaps = steps.dispatched.tolist(), steps.output.tolist(), flow.overlaps.tolist()
    count = len(modes)
    result = np.empty(count)
    before = -1e12
    for i in range(count):
        end = max(before, dispatched[i] + after[i]) + work[i]
        if modes[i] != FULL:
            end = max(end, dispatched[i] + launch[i] + fit.tail_ms)
        follows = not run.engine.multiproc and i + 1 < count and overlaps[i + 1]
        next_launch = dispatched[i + 1] + launch[i + 1] + launching[i + 1] if follows else -1e12
        result[i] = max(end, next_launch)
        # What is known by then: the GPU was not done after the hand-over, and at it where it was waited for.
        before = (output[i] if end > next_launch else min(end, output[i])) + drafting[i]
    return result


def _fit_gpu(fit: WorkFit, matrix: Float, target: Float) -> tuple[GpuWork, float | None, float]:
    """Fit the GPU's work; returns it, a graph's delay from dispatch to start (None: not seen), the error."""
    knots = fit.gpu.at
    keep = target > 0
    matrix, target = matrix[keep], target[keep]
    if len(target) < len(knots):
        return fit.gpu, None, 0.0
    bends = bends_of(knots, matrix.shape[1], len(target), float(np.median(target)))
    x = relative_fit(matrix, target, bends)
    size = len(knots)
    error = robust_sd(matrix @ x / target - 1)
    seen = (matrix[:, -1] > 0).sum() >= 20 and x[-1] > 0
    parts = [float(value) for value in x[size:-1]]
    work = GpuWork(knots, np.cumsum(x[:size]), *parts)
    return work, float(x[-1]) if seen else None, error


def bends_of(knots: Float, columns: int, samples: int, middle_ms: float) -> Float:
    """Return rows that mildly prefer a curve without bends, for so many samples about `middle_ms`."""
    bends = np.zeros((len(knots) - 2, columns))
    spans = np.diff(knots)
    for row in range(len(knots) - 2):
        bends[row, row + 1], bends[row, row + 2] = -1 / spans[row], 1 / spans[row + 1]
    bends *= _SMOOTH * np.sqrt(samples) * knots[1:-1, None] / max(middle_ms, 1e-9)
    return bends
