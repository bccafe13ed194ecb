"""Profiles side by side: what a step takes by each, whose it is, and why those of one GPU differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from scheduler.catalog.profile.file import load_profile, shipped_profiles
from scheduler.catalog.profile.measured import MeasuredProfile
from scheduler.catalog.profile.profile import EAGER_KV_TOKENS, EAGER_ROWS, Identity, Mode
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.model.cost_model import Bound
from scheduler.report.wording import aligned, range_text, wrapped

WIDTH = 100
_BOUNDS: tuple[Bound, Bound] = ("low", "high")
_STEP = f"one decode step of {EAGER_ROWS} requests with {EAGER_KV_TOKENS // EAGER_ROWS} KV tokens each"
_WHY = (
    "Profiles of one GPU and model differ as their engines launch and as their hosts are fast: take the one "
    "of your engine and release. A range of eager is a fast and a slow host; yours is one number: --eager-ms "
    "X, the mean latency of `vllm bench latency --enforce-eager` / its --output-len."
)


def profile_list_text(profiles: Sequence[MeasuredProfile]) -> str:
    """Return profiles by GPU and model, with their steps and the origin of eager; ends in a newline."""
    by_gpu: dict[tuple[str, str], list[MeasuredProfile]] = defaultdict(list)
    for profile in profiles:
        by_gpu[_kind(profile.identity)].append(profile)
    rows = [["", "graph ms", "eager ms", "eager", "step times of"], *map(_row, profiles)]
    widths = [max(len(row[index]) for row in rows) for index in range(4)]

    def line(row: Sequence[str]) -> str:
        name, graph, eager, origin = (
            f"{cell:{a}{w}}" for cell, a, w in zip(row, "<>><", widths, strict=False)
        )
        return f"{name}  {graph}  {eager}  {origin}  {row[4]}"

    lines = [line(rows[0])]
    for kin in by_gpu.values():
        first = kin[0].identity
        lines += [f"{first.gpu}, {first.model}", *(line(_row(profile)) for profile in kin)]
    lines += ["", *wrapped(f"graph ms, eager ms: {_STEP}. {_WHY}", WIDTH)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _row(profile: MeasuredProfile) -> list[str]:
    engine, version = profile.identity.engine, profile.identity.engine_version
    words = [engine.partition(",")[0].removesuffix(" of this project"), version.partition(",")[0]]
    return [
        f"  {profile.name}",
        step_text(profile, "graph"),
        step_text(profile, "eager"),
        eager_origin(profile),
        " ".join(words),
    ]


def step_text(profile: MeasuredProfile, mode: Mode) -> str:
    """Return the milliseconds of `--eager-ms`'s step in a mode, as a range where the profile has one."""
    if profile.curve(mode) is None:
        return "–"
    models = (cost_model(profile, "fallback", bound) for bound in _BOUNDS)
    return range_text(model.decode_ms(mode, EAGER_ROWS, EAGER_KV_TOKENS) for model in models)


def eager_origin(profile: MeasuredProfile) -> str:
    """Return how the profile came by eager, and by the range of hosts."""
    eager = profile.curve("eager")
    if eager is None:
        return "none"
    return (
        f"{eager.origin}, hosts {profile.range_origin}" if profile.has_range else f"{eager.origin}, one host"
    )


def others_of(identity: Identity) -> list[str]:
    """Return the shipped profiles of the same GPU and model under other names."""
    known = (load_profile(name) for name in shipped_profiles())
    return [
        profile.name
        for profile in known
        if profile.name != identity.name and _kind(profile.identity) == _kind(identity)
    ]


def others_text(profile: MeasuredProfile) -> list[str]:
    """Return what other shipped profiles say of the same GPU and model, and why; nothing without them."""
    others = [load_profile(name) for name in others_of(profile.identity)]
    if not others:
        return []
    rows = [["others of this GPU and model", "graph ms", "eager ms"]]
    rows += [_row(other)[:3] for other in (profile, *others)]
    return [*aligned(rows), *wrapped(f"{_STEP}. {_WHY}", WIDTH), ""]


def _kind(identity: Identity) -> tuple[str, str]:
    """Return the GPU's own word (H100; 4090) and the model without what is said of its weights."""
    words = [word for word in identity.gpu.upper().split() if any(c.isdigit() for c in word)]
    return (words[0].partition("-")[0] if words else identity.gpu, identity.model.split()[0].lower())
