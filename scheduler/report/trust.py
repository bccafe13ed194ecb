"""What a result rests on: whose step times these are, how eager is known, what was assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scheduler.analysis.comparison.compare import Comparison
from scheduler.analysis.comparison.measured_on import Mismatch, mismatches
from scheduler.catalog.profile.profile import Identity, Profile, assumed_fields
from scheduler.engine.executor import StepKind
from scheduler.report.profile_list import others_of
from scheduler.report.wording import count_text, range_of_percents

_WIDE = 1.2  # from this ratio of mean TPOT on a slow to a fast host on, a step of one's own narrows much
_OWN_EAGER = "--eager-ms "


class Trust(NamedTuple):
    """A line on what a result rests on; the card may leave out what is no more than `detail`."""

    text: str
    is_detail: bool = False


def trust_lines(comparison: Comparison, width: int = 70) -> list[Trust]:
    """Return a line each on the profile, the source of the steps, eager, what is assumed, and the error.

    What does not fit `width` is left out by whole words of meaning, and counted where it is names.
    """
    profile = comparison.profile
    if comparison.execution is not None:
        return [Trust(_executed(comparison.execution.facts))]
    identity = profile.identity
    if identity is None:
        return [Trust("step times are the workload file's own: nothing was measured")]
    graph = profile.curve("graph")
    origin = "given" if graph is None else _loud(graph.origin)
    apart: dict[str, str] = {
        other.what: f", NOT {other.asked}"
        for other in mismatches(comparison.workload, profile)
        if other.asked
    }
    lines = []
    for text, kinds in (
        (f"profile {identity.name}: {identity.gpu}", ("GPU",)),
        (f"model {identity.model}", ("model",)),
        (f"graph steps {origin}: {_engine_text(identity)}", ("engine", "release")),
    ):
        end = "".join(apart.get(kind, "") for kind in kinds)
        if end or kinds != ("model",):
            lines.append(Trust(_fitting(text, width - len(end)) + end))
    lines.append(Trust(_eager(comparison)))
    error, assumed = profile_error(profile), assumed_fields(profile)
    lines += [Trust(error)] if error else []
    lines += [Trust(_listed("ASSUMED: ", assumed, width), is_detail=True)] if assumed else []
    others = others_of(identity)
    if others:
        text = f"{count_text(len(others), 'other profile')} of this GPU and model: run.py profile list"
        lines.append(Trust(text, is_detail=True))
    return lines


def _fitting(text: str, width: int) -> str:
    """Return the text without as many of its last parts after a comma as do not fit."""
    while len(text) > width and ", " in text:
        text = text.rpartition(", ")[0]
    return text


def _engine_text(identity: Identity) -> str:
    """Return the engine and its release; a description that is long is a part of its own."""
    is_name = len(identity.engine) < 15  # vLLM 0.26.0
    name = identity.engine.replace(" of this project", "")
    return f"{name}{' ' if is_name else ', '}{identity.engine_version}"


_NOT_OF = {"engine": "OTHER ENGINE", "release": "OTHER RELEASE", "GPU": "OTHER GPU", "model": "OTHER MODEL"}


def _listed(lead: str, names: Sequence[str], width: int) -> str:
    """Return as many whole names as fit, and how many more there are."""
    for shown in range(len(names), 0, -1):
        left = len(names) - shown
        text = lead + ", ".join(names[:shown]) + (f" and {left} more" if left else "")
        if len(text) <= width:
            return text
    return f"{lead}{count_text(len(names), 'field')} of the profile"


def trust_rows(comparison: Comparison) -> list[list[str]]:
    """Return (question, answer) pairs: engine and GPU, graph steps, eager, range, error, assumptions."""
    profile = comparison.profile
    if comparison.execution is not None:
        return [["steps", _executed(comparison.execution.facts)]]
    identity = profile.identity
    if identity is None:
        return [["steps", "written in the workload file and taken as they are: nothing was measured"]]
    graph, eager = profile.curve("graph"), profile.curve("eager")
    rows = [
        ["GPU and model", f"{identity.gpu}; {identity.model}, {identity.dtype}"],
        ["engine", f"{identity.engine} {identity.engine_version}"],
    ]
    for other in mismatches(comparison.workload, profile):
        what = _NOT_OF[other.what] if other.asked else "flags"
        rows.append([what, f"{not_of_text([other])}: no flag"])
    own = own_eager_ms(profile)
    measured = "given" if eager is None else _loud(eager.origin)
    rows += [
        ["graph steps", "given" if graph is None else _loud(graph.origin)],
        ["eager steps", f"as on your host, by --eager-ms {own}" if own else measured],
    ]
    if profile.has_range:
        origin = _loud(profile.range_origin)
        text = f"a fast and a slow host ({origin}); yours may be either, or neither: --eager-ms X"
        rows.append(["range of eager", text])
    rows.append(["outside what was measured", _outside(comparison)])
    error = profile_error(profile)
    if error:
        points = sum(fit.points for fit in profile.fit)
        rows.append(["fit", f"{error} of {points} points"])
    assumed, others = assumed_fields(profile), others_of(identity)
    rows += [["ASSUMED", ", ".join(assumed)]] if assumed else []
    rows += [["others of this GPU and model", f"{', '.join(others)} (run.py profile list)"]] if others else []
    return rows


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


def not_of_text(others: Sequence[Mismatch]) -> str:
    """Return whose step times a profile has, and for what else the workload is."""
    texts = [
        f"{_first_words(other.measured)}'s, not {other.asked}'s"
        if other.asked
        else f"of a {_first_words(other.measured)}, no serving engine"
        for other in others
    ]
    return f"step times are {'; '.join(texts)}"


def _first_words(text: str) -> str:
    """Return what a profile says of itself up to the first comma or `of this project`."""
    return text.partition(",")[0].removesuffix(" of this project")


def _executed(facts: Mapping[str, object]) -> str:
    """Say what executed the steps for real; a step log may tell little of it."""
    words = ", ".join(f"{facts[key]}" for key in ("model", "device", "dtype", "attention") if facts.get(key))
    replay = facts.get("replay")
    return f"executed for real: {words}; {replay}; {facts.get('clock', '')}" if replay else words


def _loud(origin: str) -> str:
    return origin.upper() if origin == "assumed" else origin


def _eager(comparison: Comparison) -> str:
    """Return whose eager steps these are; where hosts make much of a difference, how to give one's own."""
    profile = comparison.profile
    own = own_eager_ms(profile)
    if own:
        return f"eager as on your host: --eager-ms {own}"
    eager = profile.curve("eager")
    text = f"eager {'of this profile' if eager is None else _loud(eager.origin)}"
    if not profile.has_range:
        return f"{text}, one host"
    text += f", fast to slow host {_loud(profile.range_origin)}"
    return f"{text}; yours: --eager-ms X" if _is_wide(comparison) else text


def own_eager_ms(profile: Profile) -> str:
    """Return the milliseconds that `--eager-ms` gave, as they were given; nothing where it was not."""
    notes = [entry.note for entry in profile.provenance.values() if entry.note.startswith(_OWN_EAGER)]
    return notes[0].removeprefix(_OWN_EAGER).partition(":")[0] if notes else ""


def _is_wide(comparison: Comparison) -> bool:
    """Tell whether a fast and a slow host make much of a difference to eager."""
    high = comparison.high.get(comparison.eager.variant.name)
    low_ms, high_ms = (None if end is None else end.mean("mean_tpot_ms") for end in (comparison.eager, high))
    return low_ms is not None and high_ms is not None and high_ms > _WIDE * low_ms


def profile_error(profile: Profile) -> str:
    """Return how far a profile is from measured steps: those it was built from, or others; else nothing."""
    errors = [fit.worst_error for fit in profile.fit]
    if not errors:
        return ""
    left_out = all("left out" in fit.of for fit in profile.fit)
    of = "error on steps left out of the fit, worst" if left_out else "interpolation error, worst"
    return f"{of} {range_of_percents(errors)}"
