"""Engines by name and release: `vllm==0.33.0` to the rules that its batches follow."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from scheduler.catalog.dispatch import plain, sglang, trtllm, vllm
from scheduler.catalog.dispatch.table import DispatchTable, GraphMode, Settings
from scheduler.errors import InputError

EngineName = Literal["vllm", "sglang", "trtllm", "plain"]
VLLM_RULES = "vllm==0.33.0"
SGLANG_RULES = "sglang==0.5.23"
TRTLLM_RULES = "trtllm"
PLAIN_RULES = "plain"
_ENGINES: dict[str, EngineName] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "trtllm": "trtllm",
    "tensorrt-llm": "trtllm",
    "tensorrt_llm": "trtllm",
    "plain": "plain",
}
_TITLES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM", "plain": "no engine's own rules"}
_NEWEST = {"vllm": "0.33.0", "sglang": "0.5.23", "trtllm": "", "plain": ""}
_READ_IN = {
    "vllm": "0.26.0 to 0.33.0",
    "sglang": "0.5.23",
    "trtllm": "the repository of April 2026",
    "plain": "",
}
_SOURCES = {
    "vllm": "vllm/config/vllm.py; vllm/v1/worker/gpu/cudagraph_utils.py",
    "sglang": "sglang/srt/model_executor/runner/{decode,prefill}_cuda_graph_runner.py",
    "trtllm": "tensorrt_llm/_torch/pyexecutor/cuda_graph_runner.py, by reading",
    "plain": "the smallest captured size that holds the batch",
}


@dataclass(frozen=True, slots=True)
class EngineRules:
    """An engine's dispatch rules: `release` as asked for, `read_in` the releases they were read in.

    `note` says, where the release is none of these, that it was taken to follow the nearest.
    """

    engine: EngineName
    release: str
    read_in: str
    source: str
    runner: vllm.Runner = "v2"
    note: str | None = None

    @property
    def title(self) -> str:
        """The engine and its release as people write them."""
        title = f"{_TITLES[self.engine]} {self.release}".strip()
        return f"{title}, model runner {self.runner.upper()}" if self.engine == "vllm" else title

    @property
    def default_mode(self) -> GraphMode:
        """The mode an engine starts in when its user names none."""
        return "full_and_piecewise" if self.engine in ("vllm", "sglang") else "full_decode_only"

    @property
    def sizes_are_tokens(self) -> bool:
        """Whether capture sizes count the tokens of a step (vLLM) instead of its requests."""
        return self.engine == "vllm"

    def default_sizes(self, settings: Settings) -> tuple[int, ...]:
        """Return the engine's default list under these settings; none where it has no rule for one."""
        makers: dict[str, Callable[[], tuple[int, ...]]] = {
            "vllm": lambda: vllm.default_sizes(self._version, settings),
            "sglang": lambda: sglang.default_sizes(settings),
            "trtllm": lambda: trtllm.default_sizes(padding=settings.padding),
        }
        return makers[self.engine]() if self.engine in makers else ()

    def table(self, settings: Settings) -> DispatchTable:
        """Return which graph every batch takes; raises InputError where the engine would not start."""
        makers: dict[str, Callable[[], DispatchTable]] = {
            "vllm": lambda: vllm.compile_table(self._version, settings, self.runner),
            "sglang": lambda: sglang.compile_table(settings),
            "trtllm": lambda: trtllm.compile_table(settings),
            "plain": lambda: plain.compile_table(settings),
        }
        return makers[self.engine]()

    @property
    def estimates_graph_memory(self) -> bool:
        """Whether the engine takes the memory of graphs off the KV cache before it captures them.

        vLLM's runner V1 does, and V2 since 0.29 (before, its estimate was a stub that returned 0).
        """
        return self.engine == "vllm" and (self.runner == "v1" or self._version >= vllm.ESTIMATES_GRAPHS)

    @property
    def _version(self) -> vllm.Version:
        return max(vllm.OLDEST_READ, min(_major_minor(self.release), vllm.NEWEST_READ))


def engine_rules(text: str, runner: vllm.Runner = "v2") -> EngineRules:
    """Return the rules of `NAME==RELEASE` (`vllm==0.33.0`), or of a name alone: its newest release read.

    vLLM's older model runner is `vllm==0.26.0/v1`.

    Raises InputError for an unknown engine, with close ones, and for what is no release.
    """
    text, _, named_runner = text.strip().lower().partition("/")
    name, _, release = text.partition("==")
    engine = _ENGINES.get(name)
    if engine is None:
        close = get_close_matches(name, _ENGINES, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else "known: vllm, sglang, trtllm"
        raise InputError(f"engine: expected a name and release as vllm==0.33.0, got {text!r}: {hint}")
    release = release.strip() or _NEWEST[engine]
    if release and not re.fullmatch(r"v?\d{1,4}(\.\d{1,4}){1,3}([a-z0-9.+_-]*)", release):
        raise InputError(f"engine: expected a release after ==, as vllm==0.33.0, got {release!r}")
    release = release.removeprefix("v")
    if named_runner not in ("", "v1", "v2"):
        raise InputError(f"engine: expected vLLM's runner as v1 or v2 after /, got {named_runner!r}")
    if named_runner:
        runner = "v1" if named_runner == "v1" else "v2"
    rules = EngineRules(engine, release, _READ_IN[engine], _SOURCES[engine], runner)
    return replace(rules, note=_note(rules))


def are_one_family(engine: str, one: str, other: str) -> bool:
    """Tell whether what is measured on one release of an engine holds for another.

    It does for releases of one minor version, and for those whose rules were read as one (vLLM 0.26 to 0.33).
    """
    versions = [_major_minor(release) for release in (one, other)]
    if engine == "vllm" and all(vllm.OLDEST_READ <= version <= vllm.NEWEST_READ for version in versions):
        return True
    return versions[0] == versions[1]


def _major_minor(release: str) -> vllm.Version:
    major, minor = re.findall(r"\d+", release)[:2]
    return int(major), int(minor)


def _note(rules: EngineRules) -> str | None:
    """Say where an engine's release is none that was read."""
    nearest = None
    if rules.engine == "vllm":
        version = _major_minor(rules.release)
        if not vllm.OLDEST_READ <= version <= vllm.NEWEST_READ:
            nearest = "0.26.0" if version < vllm.OLDEST_READ else "0.33.0"
    elif rules.release != _NEWEST[rules.engine]:
        nearest = _READ_IN[rules.engine]
    if nearest is None:
        return None
    title = f"{_TITLES[rules.engine]} {rules.release}"
    return f"the rules of {title} were not read; it is assumed to follow {nearest}"
