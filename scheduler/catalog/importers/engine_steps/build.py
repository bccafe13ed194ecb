"""From recorded runs to a profile of version 2: the fit, how well it fits, and whence each number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.engine_steps.drafting import (
    DraftLaunches,
    are_told_apart,
    fit_draft_launches,
)
from scheduler.catalog.importers.engine_steps.drift import Levels, levels
from scheduler.catalog.importers.engine_steps.flow import FULL, Flow, flow_of, near_held
from scheduler.catalog.importers.engine_steps.front_end import FrontEnd as FrontEndFit
from scheduler.catalog.importers.engine_steps.front_end import fit_front_end
from scheduler.catalog.importers.engine_steps.hidden import fit_hidden
from scheduler.catalog.importers.engine_steps.host import HostFit, fit_host
from scheduler.catalog.importers.engine_steps.noise import WINDOW_MS, Variation, fit_variation
from scheduler.catalog.importers.engine_steps.work import (
    TAIL_MS,
    WARM_STEPS,
    WorkFit,
    at_level,
    fit_work,
    logs_launches,
    predicted_outputs,
)
from scheduler.catalog.importers.overrides import with_overrides
from scheduler.catalog.importers.recorded_drafts import drafts_of, method_of
from scheduler.catalog.importers.recorded_run import MODES, RecordedRun, read_recorded
from scheduler.catalog.importers.whole_steps import imported_identity
from scheduler.catalog.profile.engine import (
    EngineProfile,
    FrontEnd,
    GpuWork,
    HostCosts,
    LaunchCost,
    LaunchCosts,
    ScheduleCost,
    SpeedComponent,
    UpdateCost,
)
from scheduler.catalog.profile.profile import DraftCosts, DraftLaunchCosts, Fit, Origin, Provenance
from scheduler.catalog.profile.tables import Curve
from scheduler.errors import InputError

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
_SCHEDULING = (-1, -2)  # beside the modes, whose launches are the other kinds of the host's work
_BLOCK_MS = 2_000.0  # alternate blocks of time are left out, to say what a prediction is off by
_FEWEST_STEPS = 200
_FEWEST_IN_BLOCK = 10
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Source:
    """A run to fit to; `grid_only` leaves its traffic out, `gpu_only` leaves its host out, too."""

    path: Path
    grid_only: bool = False
    gpu_only: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Hand-overs predicted from the dispatches, on steps that took no part in that fit, by kind of step.

    Errors are relative, of the time since the hand-over before; `block_errors` are those of the mean over
    each left-out block of time with enough steps of the kind.
    """

    kind: str
    steps: int
    mean_error: float
    median_size: float
    block_errors: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fitted:
    """All that was fitted to the used steps of some runs."""

    work: WorkFit
    host: HostFit
    variation: Variation
    levels: Levels | None  # None where no launches are logged, by which drift could be followed
    front_end: FrontEndFit | None
    drafts: DraftLaunches
    drafts_apart: bool


def import_steps(
    sources: Sequence[Source], overrides: Mapping[str, object]
) -> tuple[EngineProfile, list[LeftOut]]:
    """Return the profile of recorded runs, and its errors on left-out steps; raises InputError."""
    runs = [read_recorded(source.path) for source in sources]
    used = [
        run.within("cell", "prefill")
        if source.grid_only or source.gpu_only
        else np.ones(len(run.steps), bool)
        for run, source in zip(runs, sources, strict=True)
    ]
    return profile_of(runs, used, overrides, [not source.gpu_only for source in sources])


def profile_of(
    runs: Sequence[RecordedRun],
    used: Sequence[Bool],
    overrides: Mapping[str, object] | None = None,
    hosts: Sequence[bool] | None = None,
) -> tuple[EngineProfile, list[LeftOut]]:
    """Return the profile of the `used` steps of runs, and its errors on left-out steps; raises InputError.

    `hosts` says which runs tell of the host, beside the GPU (default: all).
    """
    hosts = [True] * len(runs) if hosts is None else hosts
    _check(runs, used)
    flows = [flow_of(run) for run in runs]
    told = [
        mask & ~near_held(run.steps) if host else np.zeros_like(mask)
        for run, mask, host in zip(runs, used, hosts, strict=True)
    ]
    left_out = _left_out(runs, flows, used, told)
    profile = _profile(fit_all(runs, flows, used, told), runs, left_out)
    return with_overrides(profile, overrides or {}), left_out


def fit_all(
    runs: Sequence[RecordedRun], flows: Sequence[Flow], used: Sequence[Bool], told: Sequence[Bool]
) -> Fitted:
    """Fit the GPU's work to the used steps, and the host to those that are told of it."""
    work = _fit_work(runs, flows, used, told)
    host = fit_host(runs, flows, told)
    follow = bool(work.launch_expected) or any(
        logs_launches(run, mask) for run, mask in zip(runs, told, strict=True)
    )
    variation = fit_variation(host.shown, work.launch_shown, WINDOW_MS if follow else math.inf)
    found = None
    if follow:
        work, host, found = _on_average_host(work, host, variation)
    return Fitted(
        work,
        host,
        variation,
        found,
        fit_front_end(runs, told),
        fit_draft_launches(runs, told),
        are_told_apart(runs, used),
    )


def _fit_work(
    runs: Sequence[RecordedRun], flows: Sequence[Flow], used: Sequence[Bool], told: Sequence[Bool]
) -> WorkFit:
    """Fit GPU work and launches by what the logs tell of them."""
    if any(logs_launches(run, tells) for run, tells in zip(runs, told, strict=True)):
        return fit_work(runs, flows, used, told)
    return fit_hidden(runs, flows, used, told)


def _on_average_host(work: WorkFit, host: HostFit, variation: Variation) -> tuple[WorkFit, HostFit, Levels]:
    """Return the fits on the average host, at the median of its quick ups and downs, and how far it drifts.

    Drawn speeds have that median, and a mean over time that is higher by half the logarithm's variance.
    """
    scheduling = dict(zip(_SCHEDULING, host.shown_after, strict=True))
    found = levels({**scheduling, **(work.launch_expected or work.launch_shown)})
    weights = [sum(len(shown.at) for shown in series) + 1e-9 for series in scheduling.values()]
    schedule = float(np.average([found.factor[kind] for kind in scheduling], weights=weights))
    schedule *= math.exp(-(variation.sd**2) / 2)
    launches = {
        mode: found.factor[mode] * math.exp(-((variation.exponent.get(mode, 1.0) * variation.sd) ** 2) / 2)
        for mode in work.launch_ms
        if mode in found.factor
    }
    on_average = replace(host, schedule=host.schedule * schedule, update=host.update * schedule)
    return at_level(work, launches), on_average, found


def _check(runs: Sequence[RecordedRun], used: Sequence[Bool]) -> None:
    if not runs:
        raise InputError("profile import steps: expected at least one recorded run")
    for run, mask in zip(runs, used, strict=True):
        if not run.engine.async_scheduling:
            raise InputError(
                f"{run.path}: engine.async_scheduling: expected true; how steps overlap is read from those"
            )
        if not mask.any():
            raise InputError(f"{run.path}: no step to fit to; expected cells, prefills or traffic with steps")
    first = runs[0].engine
    for run in runs[1:]:
        for key in ("model", "version", "multiproc"):
            mine, others = getattr(run.engine, key), getattr(first, key)
            if mine != others:
                other = runs[0].path.name
                raise InputError(
                    f"{run.path}: engine {key}: expected that of {other}, {others!r}, got {mine!r}"
                )
    _check_drafting([run for run in runs if run.engine.draft_tokens])
    steps = sum(int(mask.sum()) for mask in used)
    if steps < _FEWEST_STEPS:
        raise InputError(f"{runs[0].path}: expected at least {_FEWEST_STEPS} steps to fit to, got {steps}")
    graphs = [run for run, mask in zip(runs, used, strict=True) if (run.steps.mode[mask] == FULL).any()]
    if not graphs:
        names = ", ".join(run.path.name for run in runs)
        raise InputError(
            f"{names}: no step ran in a FULL graph, so what the GPU takes for decode steps stays hidden "
            "behind their launches; add a run with graphs"
        )


def _check_drafting(runs: Sequence[RecordedRun]) -> None:
    for run in runs[1:]:
        for key in ("draft_method", "draft_tokens"):
            mine, others = getattr(run.engine, key), getattr(runs[0].engine, key)
            if mine != others:
                raise InputError(
                    f"{run.path}: engine.speculation: {key}: expected that of {runs[0].path.name}, "
                    f"{others!r}, got {mine!r}"
                )


def _left_out(
    runs: Sequence[RecordedRun], flows: Sequence[Flow], used: Sequence[Bool], told: Sequence[Bool]
) -> list[LeftOut]:
    """Fit to every other block of time and predict the rest."""
    odd = [(run.steps.scheduled // _BLOCK_MS).astype(np.int64) % 2 == 1 for run in runs]
    fitted = [mask & ~half for mask, half in zip(used, odd, strict=True)]
    if any(mask.sum() < _FEWEST_STEPS // 4 for mask in fitted):
        return []
    hosts = [mask & tells for mask, tells in zip(fitted, told, strict=True)]
    work = _fit_work(runs, flows, fitted, hosts)
    kinds: dict[str, list[tuple[Float, Float, Float]]] = {}
    for run, flow, mask, half in zip(runs, flows, told, odd, strict=True):
        steps = run.steps
        predicted = predicted_outputs(work, run, flow)
        took, foretold = np.diff(steps.output, prepend=np.nan), predicted - np.roll(steps.output, 1)
        judged = mask & half & flow.overlaps
        judged[-1] = False
        for mode, name in enumerate(MODES):
            for with_prompts in (False, True):
                here = judged & (steps.mode == mode) & ((steps.chunks > 0) == with_prompts)
                if here.sum() >= 20:
                    label = f"{name}, {'with prompts' if with_prompts else 'decode'}"
                    block = steps.scheduled[here] // _BLOCK_MS
                    kinds.setdefault(label, []).append((took[here], foretold[here], block))
    result = []
    for label, parts in kinds.items():
        took, foretold = (np.concatenate([part[k] for part in parts]) for k in range(2))
        relative = np.abs(foretold / np.maximum(took, 1e-6) - 1)
        mean_error = float(foretold.mean() / took.mean() - 1)
        blocks = tuple(error for part in parts for error in _block_errors(*part))
        result.append(LeftOut(label, len(took), mean_error, float(np.median(relative)), blocks))
    return result


def _block_errors(took: Float, foretold: Float, block: Float) -> list[float]:
    errors = []
    for number in np.unique(block):
        here = block == number
        if here.sum() >= _FEWEST_IN_BLOCK:
            errors.append(float(foretold[here].mean() / took[here].mean() - 1))
    return errors


def _ms(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _profile(fitted: Fitted, runs: Sequence[RecordedRun], left_out: Sequence[LeftOut]) -> EngineProfile:
    work, host, variation, front = fitted.work, fitted.host, fitted.variation, fitted.front_end
    names = ", ".join(run.path.name for run in runs)
    engine = runs[0].engine
    server, _, release = engine.version.partition(" ")
    identity = imported_identity(names, server).model_copy(
        update={"model": engine.model, "engine_version": release or "not stated"}
    )
    schedule, update = (_rounded(values) for values in (host.schedule, host.update))
    launches = {
        MODES[mode]: LaunchCost(
            ms=_ms(ms),
            request_ms=_ms(work.launch_request_ms) if mode == FULL else 0.0,
            gpu_after_ms=_ms(min(work.gpu_after_ms[mode], ms)),
            tail_ms=None if mode == FULL else _ms(work.tail_ms),
            exponent=_ms(variation.exponent.get(mode, 1.0)),
            spread=_ms(variation.launch_sd.get(mode, 0.0)),
            cold=_ms(work.cold.get(mode, 0.0)),
            warm_steps=WARM_STEPS[mode],
            prompts=_ms(work.prompts.get(mode, 0.0)),
        )
        for mode, ms in work.launch_ms.items()
    }
    gpu = work.gpu
    profile_gpu = GpuWork(
        tokens=Curve(at=tuple(float(at) for at in gpu.at), ms=tuple(_ms(ms) for ms in gpu.ms)),
        row_ms=_ms(gpu.row_ms),
        kv_token_ms=_ms(gpu.kv_token_ms),
        pair_ms=_ms(gpu.pair_ms),
        prompt_ms=_ms(gpu.prompt_ms),
    )
    origins = _provenance(fitted, names)
    values: dict[str, Any] = {
        "format": "graphpool-profile",
        "version": 2,
        "identity": identity,
        "topology": "multiproc" if engine.multiproc else "uniproc",
        "scheduling": "async" if engine.async_scheduling else "sync",
        "gpu": profile_gpu,
        "host": HostCosts(
            **_speed(variation),  # type: ignore[arg-type]
            schedule=ScheduleCost(
                step_ms=schedule[0],
                request_ms=schedule[1],
                prompt_step_ms=schedule[2],
                chunk_ms=schedule[3],
                prompt_token_ms=schedule[4],
                kv_token_ms=schedule[5],
                spread=_ms(variation.schedule_sd),
            ),
            update=UpdateCost(
                step_ms=update[0], request_ms=update[1], chunk_ms=update[2], kv_token_ms=update[3]
            ),
            launch=LaunchCosts(**launches),
            drift=_ms(fitted.levels.of_a_traffic) if fitted.levels is not None else None,
        ),
        "fit": tuple(_fit(entry) for entry in left_out if entry.block_errors),
        "provenance": origins,
    }
    if front is not None:
        values["front_end"] = FrontEnd(
            in_ms=_ms(front.in_ms),
            in_token_ms=_ms(front.in_token_ms),
            out_ms=_ms(front.out_ms),
            out_request_ms=_ms(front.out_request_ms),
            out_row_ms=_ms(front.out_row_ms),
        )
    if (draft := _draft(fitted, runs)) is not None:
        values["draft"] = draft
        values["provenance"] |= _provenance_of_drafts(fitted, runs)
    return EngineProfile(**values)


def _draft(fitted: Fitted, runs: Sequence[RecordedRun]) -> DraftCosts | None:
    """Return what drafting costs, None where no run drafts."""
    drafting = [run for run in runs if run.engine.draft_tokens]
    if not drafting:
        return None
    engine, gpu, launches = drafting[0].engine, fitted.work.gpu, fitted.drafts
    more = {MODES[mode]: _ms(launches.more_of(mode)) for mode in range(len(MODES)) if mode != FULL}
    return DraftCosts(
        method=method_of(engine.draft_method),
        draft_tokens=engine.draft_tokens,
        pass_ms=_ms(gpu.draft_pass_ms),
        token_ms=_ms(gpu.draft_token_ms),
        launch_ms=_ms(launches.pass_ms),
        more=DraftLaunchCosts(**more),
        accepted=tuple(_ms(share) for share in _accepted(drafting)),
    )


def _provenance_of_drafts(fitted: Fitted, runs: Sequence[RecordedRun]) -> dict[str, Provenance]:
    of = ", ".join(run.path.name for run in runs if run.engine.draft_tokens)
    if fitted.drafts_apart:
        gpu = Provenance(origin="measured", note=f"steps of {of} against those of runs without drafts")
    else:
        note = f"inside the GPU's work on the steps of {of}, for no run without drafts is beside them"
        gpu = Provenance(origin="derived", note=note)
    launches = f"{fitted.drafts.samples:,} launches of drafts, {of}"
    return {
        "draft": gpu,
        "draft.launch_ms": Provenance(origin="measured", note=launches),
        "draft.more": Provenance(origin="measured", note=launches),
        "draft.accepted": Provenance(
            origin="measured", note=f"tokens that requests got of their steps, {of}"
        ),
    }


def _accepted(runs: Sequence[RecordedRun]) -> list[float]:
    """Return the shares of all rows of the runs whose first, second, … draft was accepted."""
    drafts = [drafts_of(run) for run in runs]
    rows = sum(each.rows / max(each.drafted, 1e-9) for each in drafts)
    places = zip(*(np.array(each.per_position) * each.rows for each in drafts), strict=True)
    return [float(sum(place) / max(rows, 1.0)) for place in places]


def _speed(variation: Variation) -> dict[str, tuple[SpeedComponent, ...]]:
    parts = tuple(SpeedComponent(spread=_ms(sd), tau_ms=tau) for sd, tau in variation.components)
    return {"speed": parts} if parts else {}


def _fit(left_out: LeftOut) -> Fit:
    errors = np.array(left_out.block_errors)
    return Fit(
        of=f"hand-overs left out of the fit: {left_out.kind}",
        points=len(errors),
        median_error=_ms(float(np.median(errors))),
        p90_error=_ms(float(np.percentile(np.abs(errors), 90))),
        worst_error=_ms(float(errors[np.argmax(np.abs(errors))])),
        note=f"a point is the mean over the steps of {_BLOCK_MS / 1e3:g} s",
    )


def _rounded(values: Float) -> list[float]:
    return [_ms(float(value)) for value in values]


def _seen(work: WorkFit) -> str:
    """Say which widths showed the GPU's work; the curve goes on straight beyond them."""
    if not len(work.gpu_widths):
        return "none: it hides behind the launches"
    seen = f"{int(work.gpu_widths[0]):,} to {int(work.gpu_widths[-1]):,} tokens wide"
    hidden = " and ".join(f"{first:,} to {last:,}" for first, last in work.gpu_hidden)
    return f"{seen}, only a bound from {hidden}" if hidden else seen


def _launches_seen(work: WorkFit, mode: int) -> str:
    """Say how many steps showed a launch, and how many only that it took no longer."""
    shown = f"{work.launch_samples[mode]:,} steps that showed this launch"
    bounds = work.launch_bounds.get(mode, 0)
    return f"{shown}, {bounds:,} that bound it" if bounds else shown


def _drift(found: Levels) -> str:
    """Say how far the host was from its mean for seconds, and from run to run."""
    if found.runs > 1:
        return f"{found.within:.1%} for seconds within a run, {found.between:.1%} from run to run"
    return f"{found.within:.1%} for seconds within the run, from run to run as on the shipped profile's host"


def _provenance(fitted: Fitted, names: str) -> dict[str, Provenance]:
    work, host = fitted.work, fitted.host

    def entry(origin: Origin, note: str) -> Provenance:
        return Provenance(origin=origin, note=note)

    told = f" ({fitted.variation.drift_sd:.1%})" if fitted.levels is None else ""
    result = {
        "topology": entry("measured", f"the executor of {names}"),
        "scheduling": entry("measured", f"the engine's setting in {names}"),
        "gpu": entry("measured", f"{work.gpu_samples:,} steps that show or bound it, {_seen(work)}, {names}"),
        "host.schedule": entry("measured", f"decision to dispatch of {host.samples:,} steps, {names}"),
        "host.update": entry("measured", f"hand-over to next decision, {names}"),
        "host.launch": entry("measured", f"steps that waited for the launch of the next one, {names}"),
        "host.speed": entry(
            "measured",
            f"autocovariance of schedule times, {names}; what lasts for seconds{told} is drift and not drawn",
        ),
    }
    if fitted.levels is not None:
        result["host.drift"] = entry(
            "measured" if fitted.levels.runs > 1 else "assumed",
            f"{_drift(fitted.levels)}, {names}; of a traffic of 40 s on a newly started engine",
        )
    if not fitted.variation.components:
        del result["host.speed"]
    for mode in work.launch_ms:
        key = f"host.launch.{MODES[mode]}"
        samples = work.launch_samples.get(mode, 0)
        if samples < 8:
            result[key] = entry("assumed", f"only {samples} steps show it: an upper bound from {names}")
        else:
            result[f"{key}.ms"] = entry("measured", f"{_launches_seen(work, mode)}, {names}")
        if work.prompts.get(mode, 0.0):
            seen = work.prompts_seen.get(mode, 0)
            note = f"{seen:,} launches in traffic" if seen else "as with other recorded engines"
            result[f"{key}.prompts"] = entry("measured" if seen else "assumed", note)
        if mode != FULL and not work.measured_apart:
            result[f"{key}.tail_ms"] = entry("assumed", f"{TAIL_MS} ms: no step shows it")
            result[f"{key}.gpu_after_ms"] = entry("assumed", "no step shows it")
    if fitted.front_end is not None:
        front = fitted.front_end
        result["front_end"] = entry(
            "measured",
            f"{front.in_samples} single prompts in, {front.out_samples:,} tokens out, {names}",
        )
    return result
