"""What a result rests on: whose step times these are, how eager is known, what was assumed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scheduler.analysis.comparison.compare import Comparison
from scheduler.catalog.profile.profile import assumed_fields
from scheduler.engine.executor import StepKind
from scheduler.report.wording import range_of_percents

# How an engine is called in a profile, by the engine that a pool's preset belongs to.
_ENGINES = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "trtllm": "TensorRT-LLM",
    "lmdeploy": "LMDeploy",
    "tgi": "TGI",
}


def trust_texts(comparison: Comparison) -> list[str]:
    """Return a line each on the profile, the source of the steps, eager, and what is assumed."""
    profile = comparison.profile
    if comparison.execution is not None:
        return [_executed(comparison.execution.facts)]
    identity = profile.identity
    if identity is None:
        return ["step times are the workload file's own: nothing was measured"]
    engine = other_engine(comparison)
    graph = profile.curve("graph")
    origin = "given" if graph is None else _loud(graph.origin)
    lines = [
        f"profile {identity.name}{f', NOT of {engine} itself' if engine else ''}: {identity.gpu}",
        f"graph steps {origin}: {identity.engine} {identity.engine_version}",
        _eager(comparison),
    ]
    assumed = assumed_fields(profile)
    return [*lines, f"ASSUMED: {', '.join(assumed)}"] if assumed else lines


def trust_rows(comparison: Comparison) -> list[list[str]]:
    """Return (question, answer) pairs: engine and GPU, graph steps, eager, range, error, assumptions."""
    profile = comparison.profile
    if comparison.execution is not None:
        return [["steps", _executed(comparison.execution.facts)]]
    identity = profile.identity
    if identity is None:
        return [["steps", "written in the workload file and taken as they are: nothing was measured"]]
    other = other_engine(comparison)
    measured_on = f"{identity.engine} {identity.engine_version}"
    graph, eager = profile.curve("graph"), profile.curve("eager")
    rows = [
        ["GPU and model", f"{identity.gpu}; {identity.model}, {identity.dtype}"],
        [
            "engine",
            measured_on if other is None else f"{measured_on}: NOT {other}, whose pool this is",
        ],
        ["graph steps", "given" if graph is None else _loud(graph.origin)],
        ["eager steps", "given" if eager is None else _loud(eager.origin)],
    ]
    if profile.has_range:
        origin = _loud(profile.range_origin)
        rows.append(["range of eager", f"a fast and a slow host ({origin}); yours may be either, or neither"])
    rows.append(["outside what was measured", _outside(comparison)])
    if interpolation_error(comparison):
        points = sum(fit.points for fit in profile.fit)
        rows.append(["fit", f"{interpolation_error(comparison)}, worst of {points} points"])
    assumed = assumed_fields(profile)
    return [*rows, ["ASSUMED", ", ".join(assumed)]] if assumed else rows


def _outside(comparison: Comparison) -> str:
    """Return the share of decode steps larger than any measured one, and what else was read beyond."""
    beyond = total = 0
    for column in (*comparison.pools, comparison.eager):
        for run in column.runs:
            steps = run.steps
            decode = steps.kind == StepKind.DECODE
            graph = steps.capture_size > 0
            rows = np.where(graph, steps.capture_size, steps.batch_size)
            replayed, other = (
                max(source.sizes) if source is not None and source.sizes else np.inf
                for source in (comparison.profile.curve("graph"), comparison.profile.curve("eager"))
            )
            beyond += int((decode & (rows > np.where(graph, replayed, other))).sum())
            total += int(decode.sum())
    text = (
        f"{100 * beyond / total:.1f} % of decode steps are larger than the largest measured" if total else "–"
    )
    remarks = sorted(
        {remark for column in comparison.columns for run in column.runs for remark in run.remarks}
    )
    return f"{text}; {'; '.join(remarks)}" if remarks else text


def other_engine(comparison: Comparison) -> str | None:
    """Return the engine of the pool's preset where the profile was not measured on it, else None."""
    identity, preset = comparison.profile.identity, comparison.workload.pool.preset
    engine = _ENGINES.get((preset or "").split("-")[0])
    if identity is None or engine is None or engine.lower() in identity.engine.lower():
        return None
    return engine


def _executed(facts: Mapping[str, object]) -> str:
    """Say what executed the steps for real; a step log may tell little of it."""
    words = ", ".join(f"{facts[key]}" for key in ("model", "device", "dtype", "attention") if facts.get(key))
    replay = facts.get("replay")
    return f"executed for real: {words}; {replay}; {facts.get('clock', '')}" if replay else words


def _loud(origin: str) -> str:
    return origin.upper() if origin == "assumed" else origin


def _eager(comparison: Comparison) -> str:
    profile = comparison.profile
    eager = profile.curve("eager")
    text = f"eager {'of this profile' if eager is None else _loud(eager.origin)}"
    if profile.has_range:
        text += f", fast to slow host {_loud(profile.range_origin)}"
    error = interpolation_error(comparison)
    return f"{text}; {error}" if error else text


def interpolation_error(comparison: Comparison) -> str:
    """Return how far the profile's curves are from the points they were built from; nothing where unknown."""
    fits = comparison.profile.fit
    errors = [fit.worst_error for fit in fits]
    if not errors:
        return ""
    return f"interpolation error {range_of_percents(errors)}"
