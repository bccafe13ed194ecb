"""Whose step times a run rests on: a flag is for the engine, release, GPU and model that they are of.

A workload names its engine by `pool.engine`, `pool.preset`, `engine.preset` or a mode that only vLLM has,
its GPU by `engine.gpu` or a preset of one class of GPUs (`vllm-h100`), and its model by `engine.model`. What
a profile says of itself is its identity. What either leaves open contradicts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from scheduler.catalog.dispatch.engines import are_one_family, engine_rules
from scheduler.catalog.engine_presets import engine_preset
from scheduler.catalog.pool_presets import pool_preset
from scheduler.catalog.profile.profile import Identity, Profile
from scheduler.workload.schema import Workload

ENGINES = MappingProxyType(
    {
        "vllm": "vLLM",
        "sglang": "SGLang",
        "trtllm": "TensorRT-LLM",
        "lmdeploy": "LMDeploy",
        "tgi": "TGI",
        "lightllm": "LightLLM",
        "nano-vllm": "nano-vllm",
        "mini-sglang": "mini-sglang",
    }
)
_ALSO = {"tensorrt-llm": "trtllm", "tensorrt_llm": "trtllm", "text-generation-inference": "tgi"}
UNSTATED = "not stated"
# Which GPUs an engine takes for the class that a preset is named after. vLLM: 70 GiB or more and no A100
# (get_batch_defaults); SGLang: by memory, from 60 and from 35 GB on (memory_hook.py).
_CLASSES = {
    "vllm-h100": ("H100", "H200", "H800", "H20", "GH200", "MI300X", "MI325X"),
    "vllm-0.19-h100": ("H100", "H200", "H800", "H20", "GH200", "MI300X", "MI325X"),
    "vllm-b200": ("B200", "B300", "GB200", "GB300"),
    "sglang-h100": ("H100", "H800", "A100", "A800"),
    "sglang-l40": ("L40", "L40S", "A40", "A6000"),
}
# Words that a model's weights do not change the step time by.
_TUNED = frozenset({"instruct", "chat", "it", "base", "hf", "meta"})


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What a profile was measured on and what the workload is for, where these differ.

    `asked` is empty where the workload names no engine and the profile is of none that takes flags.
    """

    what: Literal["engine", "release", "GPU", "model"]
    measured: str
    asked: str


@dataclass(frozen=True, slots=True)
class NamedEngine:
    """An engine (a key of `ENGINES`) and its release; empty where none is named."""

    engine: str
    release: str = ""

    @property
    def title(self) -> str:
        """As people write it."""
        return f"{ENGINES[self.engine]} {self.release}".strip()


def flags_are_for(workload: Workload, profile: Profile) -> str | None:
    """Return the engine (a key of `ENGINES`) that a flag is for: the workload's, else the profile's.

    None where the profile is of something that takes no flags; vLLM where nobody names one.
    """
    named = next(_named(workload), None)
    if named is not None:
        return named.engine
    if profile.identity is None or profile.identity.engine == UNSTATED:
        return "vllm"
    return engine_in(profile.identity.engine)


def mismatches(workload: Workload, profile: Profile) -> list[Mismatch]:
    """Return what the profile is not of: engine or else its release, GPU, model; nothing where it fits."""
    identity = profile.identity
    if identity is None:
        return []
    named = [*_named(workload)]
    found = (engine_mismatch(named, identity), _gpu(workload, identity), _model(workload, identity))
    return [one for one in found if one is not None]


def engine_in(text: str) -> str | None:
    """Return the engine (a key of `ENGINES`) that a profile's text names, None where it names none."""
    words = re.findall(r"[a-z0-9]+(?:[-_][a-z0-9]+)*", text.lower())
    found = (_ALSO.get(word, word) for word in words)
    return next((word for word in found if word in ENGINES), None)


def _named(workload: Workload) -> Iterator[NamedEngine]:
    """Yield the engines that a workload names, the one of its list first."""
    pool, engine = workload.pool, workload.engine
    if pool.engine is not None:
        rules = engine_rules(pool.engine)
        if rules.engine in ENGINES:
            yield NamedEngine(rules.engine, rules.release)
    elif pool.preset is not None:
        preset = pool_preset(pool.preset, 1, 1)
        if preset.engine in ENGINES:
            yield NamedEngine(preset.engine, _release(preset.release))
    elif pool.mode not in (None, "decode_only") and pool.padding and engine.preset is None:
        yield NamedEngine("vllm")
    if engine.preset is not None:
        known = engine_preset(engine.preset)
        # The rules of `pool.engine` are the user's own word on the release.
        yield NamedEngine(known.engine, _release(known.release) if pool.engine is None else "")


def engine_mismatch(named: Sequence[NamedEngine], identity: Identity) -> Mismatch | None:
    """Return what the profile is not of among named engines and their releases; None where it fits all."""
    if identity.engine == UNSTATED:
        return None
    measured = engine_in(identity.engine)
    if not named and measured is None:
        return Mismatch("engine", identity.engine, "")
    release = _release(identity.engine_version)
    for one in named:
        if one.engine != measured:
            return Mismatch("engine", identity.engine, one.title)
        if one.release and release and not are_one_family(one.engine, one.release, release):
            return Mismatch("release", NamedEngine(measured, release).title, one.title)
    return None


def _gpu(workload: Workload, identity: Identity) -> Mismatch | None:
    engine, measured = workload.engine, _words(identity.gpu)
    if identity.gpu == UNSTATED:
        return None
    if engine.gpu is not None:
        return None if _words(engine.gpu) <= measured else Mismatch("GPU", identity.gpu, engine.gpu)
    for preset in (engine.preset, workload.pool.preset):
        known = _CLASSES.get(preset or "")
        if known is not None and not measured & {gpu.lower() for gpu in known}:
            return Mismatch("GPU", identity.gpu, known[0])
    return None


def _model(workload: Workload, identity: Identity) -> Mismatch | None:
    asked = workload.engine.model
    if asked is None or identity.model == UNSTATED:
        return None
    words = _words(asked.rpartition("/")[2]) - _TUNED
    return None if words <= _words(identity.model) else Mismatch("model", identity.model, asked)


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def _release(text: str) -> str:
    """Return the first `0.33.0` of a text, or nothing."""
    found = re.search(r"(?<![\w.])v?(\d{1,4}(?:\.\d{1,4}){1,3})", text)
    return found[1] if found else ""
