"""The workload file as typed, frozen models: every key, its default, and what must hold between keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PrivateAttr, model_validator

from scheduler.catalog.dispatch.engines import engine_rules
from scheduler.catalog.engine_presets import engine_preset_names
from scheduler.catalog.numbers import (
    MOST_BLOCKS,
    Blocks,
    Count,
    MsOrZero,
    PlainText,
    PositiveMs,
    RequestCount,
    Seconds,
    Seed,
    Strict,
    Tokens,
    TokensOrZero,
    as_tuple,
    branch,
    expectation,
    number,
    whole,
)
from scheduler.catalog.pool_presets import pool_preset, pool_preset_names
from scheduler.catalog.profile.inline import InlineProfile
from scheduler.catalog.slo_presets import SLO_PRESETS, SloPreset
from scheduler.errors import InputError
from scheduler.workload.arrivals import Arrivals, ClosedLoopArrivals, TraceArrivals
from scheduler.workload.conversations import SharedPrefixes
from scheduler.workload.lengths import Length, TraceLength
from scheduler.workload.speculation import SpeculationSettings

NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")
LengthKey = Literal["prompt_tokens", "output_tokens"]
LENGTH_KEYS: tuple[LengthKey, LengthKey] = ("prompt_tokens", "output_tokens")
Policy = Literal["decode_only", "prefill_first", "mixed", "sglang"]


def _name(value: str) -> str:
    # A name becomes a folder of results: no separators, and not "." or "..".
    if not set(value) <= NAME_CHARACTERS or not value.strip(".") or len(value) > 100:
        raise expectation("a name of the characters a-z 0-9 _ . - only")
    return value


def _kv_blocks(value: Any) -> int | str:
    if value in ("auto", "unlimited"):
        return str(value)
    if isinstance(value, str):
        raise expectation("auto, unlimited or a whole number of blocks")
    return whole(1, MOST_BLOCKS)(value)


def _jitter(value: Any) -> Any:
    if value in ("auto", "none") or isinstance(value, bool):
        return value
    raise expectation("auto, none, true or false")


def _pool_preset(value: str) -> str:
    try:
        pool_preset(value, max_num_seqs=1, max_num_batched_tokens=1)
    except InputError:
        names = pool_preset_names()
        raise expectation("a pool preset (run.py preset list)", known=names) from None
    return value


def _engine_preset(value: str) -> str:
    names = engine_preset_names()
    if value not in names:
        raise expectation("an engine preset (run.py preset list)", known=names)
    return value


def _engine(value: str) -> str:
    try:
        engine_rules(value)
    except InputError:
        raise expectation("an engine and its release, as vllm==0.33.0, sglang==0.5.23 or trtllm") from None
    return value


def _slo_preset(value: str) -> str:
    if value not in SLO_PRESETS:
        raise expectation("an SLO preset (run.py preset list)", known=[*SLO_PRESETS])
    return value


PoolPresetName = Annotated[
    str, AfterValidator(_pool_preset), Field(json_schema_extra={"examples": [*pool_preset_names()]})
]
EnginePresetName = Annotated[
    str, AfterValidator(_engine_preset), Field(json_schema_extra={"enum": [*engine_preset_names()]})
]
SloPresetName = Annotated[str, AfterValidator(_slo_preset), Field(json_schema_extra={"enum": [*SLO_PRESETS]})]


def _inline_or_name(value: Any) -> str:
    return "(inline)" if isinstance(value, Mapping | Strict) else "(name)"


class Engine(Strict):
    """The server: its step policy, limits, KV cache and step times.

    `gpu` and `model` change no step: they name what flags are for, and a profile of another gives none.
    """

    policy: Policy
    max_num_seqs: Count = 256
    max_num_batched_tokens: Tokens = 2048
    max_prefill_tokens: Tokens | None = None
    block_size: Count = 16
    kv_blocks: Annotated[Literal["auto", "unlimited"] | Blocks, BeforeValidator(_kv_blocks)] = "auto"
    prefix_caching: bool = False
    long_prefill_token_threshold: TokensOrZero = 0
    prefill_schedule_interval: Count = 1
    reserve_full_prompt: bool = False
    kv_watermark: Annotated[float, Field(ge=0, le=0.5), BeforeValidator(number(0.5, least=0))] = 0.0
    async_scheduling: bool | None = None
    ends: Literal["foreseen", "eos"] = "foreseen"
    empty_pause_ms: MsOrZero = 0.0
    unhashed_blocks: Literal["first", "last"] = "first"
    null_block: bool = False
    max_model_len: Tokens | None = None
    speculation: SpeculationSettings | None = None
    delay_start_by_capture: bool = False
    jitter: Annotated[Literal["auto", "none"] | bool, BeforeValidator(_jitter)] = "auto"
    preset: EnginePresetName | None = None
    gpu: PlainText | None = None
    model: PlainText | None = None
    profile: Annotated[
        Annotated[PlainText, branch("name")] | Annotated[InlineProfile, branch("inline")],
        Discriminator(_inline_or_name),
    ]

    @model_validator(mode="after")
    def _limits_agree(self) -> Engine:
        if self.policy == "mixed" and self.max_num_batched_tokens < self.max_num_seqs:
            expected = f"at least max_num_seqs, {self.max_num_seqs}, so that every running request can decode"
            raise expectation(expected, "max_num_batched_tokens")
        if self.policy == "mixed" and self.max_num_batched_tokens < self.max_num_seqs * (
            1 + self.draft_tokens
        ):
            least = self.max_num_seqs * (1 + self.draft_tokens)
            expected = (
                f"at least max_num_seqs × (1 + draft_tokens), {least}, so that every running request can "
                "verify its drafts"
            )
            raise expectation(expected, "max_num_batched_tokens")
        if self.max_prefill_tokens is not None and self.policy not in ("prefill_first", "sglang"):
            raise expectation(f"no max_prefill_tokens with policy {self.policy}", "max_prefill_tokens")
        if self.policy == "sglang" and self.max_num_batched_tokens < self.block_size:
            expected = f"at least block_size, {self.block_size}: a prompt is computed by whole pages"
            raise expectation(expected, "max_num_batched_tokens")
        if self.policy == "sglang" and self.speculation is not None:
            raise expectation("no speculation with policy sglang", "speculation")
        if self.policy != "mixed":
            for key, off in (("long_prefill_token_threshold", 0), ("prefill_schedule_interval", 1)):
                if getattr(self, key) != off:
                    raise expectation(f"no {key} with policy {self.policy}", key)
        return self

    @property
    def draft_tokens(self) -> int:
        """Drafts verified per request and decode step; 0 without speculative decoding."""
        return 0 if self.speculation is None else self.speculation.draft_tokens

    @property
    def acceptance_column(self) -> str | None:
        """The trace's column with the rate at which each request's drafts are accepted, if one is named."""
        return None if self.speculation is None else self.speculation.acceptance.column

    @property
    def prefill_tokens_per_step(self) -> int:
        """The most prompt tokens of one prefill step."""
        if self.policy == "sglang":  # whose max_prefill_tokens only ends a step once it is reached
            return self.max_num_batched_tokens
        return self.max_prefill_tokens or self.max_num_batched_tokens


class Pool(Strict):
    """The graph pool: an engine's rule by name, or the capture sizes themselves ([] is pure eager).

    `mode` None means the preset's own, and decode_only for sizes. `engine` names the engine and release
    whose rules send batches to graphs (`vllm==0.33.0`); None is the preset's engine, else that of
    `engine.preset`, else vLLM for modes with PIECEWISE graphs, else the smallest size that holds the batch.
    """

    preset: PoolPresetName | None = None
    sizes: Annotated[tuple[Count, ...], Field(max_length=10_000), BeforeValidator(as_tuple)] | None = None
    padding: bool = True
    mode: Literal["decode_only", "full_and_piecewise", "piecewise"] | None = None
    engine: Annotated[PlainText, AfterValidator(_engine)] | None = None

    @model_validator(mode="after")
    def _preset_or_sizes(self) -> Pool:
        if (self.preset is None) == (self.sizes is None):
            given = "neither is given" if self.sizes is None else "both are given"
            raise expectation(f"one of preset and sizes; {given}", got=False)
        if self.sizes is not None and len(set(self.sizes)) < len(self.sizes):
            raise expectation("each capture size once", "sizes")
        return self


class Slo(Strict):
    """Latency limits of a good request, in milliseconds: a public preset, or at least one of three."""

    preset: SloPresetName | None = None
    ttft_ms: PositiveMs | None = None
    tpot_ms: PositiveMs | None = None
    e2el_ms: PositiveMs | None = None

    @model_validator(mode="after")
    def _preset_or_limits(self) -> Slo:
        limits = (self.ttft_ms, self.tpot_ms, self.e2el_ms)
        if self.preset is None and limits == (None, None, None):
            raise expectation("ttft_ms, tpot_ms or e2el_ms, or a preset", got=False)
        if self.preset is not None and limits != (None, None, None):
            raise expectation("a preset or limits of your own, not both", "preset")
        return self

    @property
    def limits_ms(self) -> dict[str, float]:
        """The limits in force: metric (ttft, tpot, e2el) to milliseconds."""
        preset = SLO_PRESETS[self.preset] if self.preset else SloPreset(0, 0)
        limits = {
            "ttft": self.ttft_ms or preset.ttft_ms,
            "tpot": self.tpot_ms or preset.tpot_ms,
            "e2el": self.e2el_ms,
        }
        return {metric: limit for metric, limit in limits.items() if limit}


class Workload(Strict):
    """A whole workload file.

    With trace arrivals, lengths left out are the trace's own, and `requests` or `duration_s`, if given,
    keep its first rows or seconds.
    """

    name: Annotated[str, AfterValidator(_name), Field(json_schema_extra={"pattern": "^[a-z0-9_.-]+$"})]
    seed: Seed = 0
    requests: RequestCount | None = None
    duration_s: Seconds | None = None
    arrivals: Arrivals
    prompt_tokens: Length | None = None
    output_tokens: Length | None = None
    prefixes: SharedPrefixes | None = None
    engine: Engine
    pool: Pool = Pool(preset="vllm")
    slo: Slo | None = None

    _trace_folder: Path = PrivateAttr(default=Path())
    _length_folder: Path = PrivateAttr(default=Path())
    _profile_folder: Path = PrivateAttr(default=Path())
    _assumed: str | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _complete(self) -> Workload:
        for key, expected in disagreements(self.model_dump()):
            raise expectation(expected, key, got=False)
        return self

    def located(self, trace_folder: Path, length_folder: Path, profile_folder: Path) -> Workload:
        """Return the same workload, its relative paths taken from these folders."""
        copy = self.model_copy()
        copy._trace_folder = trace_folder
        copy._length_folder = length_folder
        copy._profile_folder = profile_folder
        return copy

    def absolute(self) -> Workload:
        """Return the same workload for another process, whose current folder may be another."""
        here = Path.cwd()
        return self.located(
            here / self._trace_folder, here / self._length_folder, here / self._profile_folder
        )

    def assuming(self, assumed: str) -> Workload:
        """Return the same workload with a line for the card on what nobody stated."""
        copy = self.model_copy()
        copy._assumed = assumed
        return copy

    @property
    def assumed(self) -> str | None:
        """What nobody stated and was assumed, in words, or None."""
        return self._assumed

    @property
    def shares_prefixes(self) -> bool:
        """Whether requests share the KV blocks of equal prefixes, where any are known."""
        return self.engine.prefix_caching and self.engine.policy != "decode_only"

    @property
    def trace_path(self) -> Path | None:
        """Where the trace lies, or None where arrivals are drawn."""
        return self._trace_folder / self.arrivals.path if isinstance(self.arrivals, TraceArrivals) else None

    def length_path(self, key: LengthKey) -> Path | None:
        """Where recorded lengths of their own lie, or None where they are drawn or the trace's."""
        length: Length | None = getattr(self, key)
        if isinstance(length, TraceLength) and length.path is not None:
            return self._length_folder / length.path
        return None

    @property
    def request_files(self) -> tuple[Path, ...]:
        """The files that requests are read from, each once."""
        paths = (self.trace_path, *map(self.length_path, LENGTH_KEYS))
        return tuple(dict.fromkeys(path for path in paths if path is not None))

    @property
    def happened_once(self) -> bool:
        """Whether the requests are a record: the same in every replication, and never warmed up."""
        if isinstance(self.arrivals, ClosedLoopArrivals):
            return None not in map(self.length_path, LENGTH_KEYS)
        return isinstance(self.arrivals, TraceArrivals)

    @property
    def profile_path(self) -> Path | None:
        """Where the profile file lies, or None for a shipped name or an inline profile."""
        profile = self.engine.profile
        return self._profile_folder / profile if isinstance(profile, str) and is_path(profile) else None

    @property
    def lengths_from_trace(self) -> tuple[bool, bool]:
        """Whether prompt lengths, and whether output lengths, are those of the trace."""
        prompt, output = (
            length is None or (isinstance(length, TraceLength) and length.path is None)
            for length in (self.prompt_tokens, self.output_tokens)
        )
        return prompt, output


def is_path(profile: str) -> bool:
    """Tell a path to a profile file from a shipped profile's name: it has a separator or an extension."""
    return "/" in profile or "\\" in profile or profile.endswith((".json", ".yaml", ".yml"))


def disagreements(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, what is expected) for what must hold between parts of a file.

    Takes plain values, not models, so that these are reported beside errors inside the parts.
    """
    process = _inner(values, "arrivals", "process")
    counted = [key for key in ("requests", "duration_s") if values.get(key) is not None]
    if len(counted) == 2:
        yield "duration_s", "one of requests and duration_s; both are given"
    if isinstance(process, str) and process != "trace":
        if not counted:
            yield "requests", "requests or duration_s; neither is given"
        elif process == "closed_loop" and counted == ["duration_s"]:
            yield "duration_s", "requests, not duration_s, with arrivals.process closed_loop"
        for key in ("prompt_tokens", "output_tokens"):
            if values.get(key) is None:
                yield key, "a length distribution; the key is missing"
            elif _inner(values, key, "distribution") == "trace" and not _inner(values, key, "path"):
                expected = "arrivals.process trace where lengths come from a trace, or a path of their own"
                yield f"{key}.distribution", expected
    speculation = _inner(values, "engine", "speculation")
    if (
        isinstance(speculation, Mapping)
        and _inner(speculation, "acceptance", "column")
        and process != "trace"
    ):
        key = "engine.speculation.acceptance.column"
        yield key, "arrivals.process trace, whose file has the column"
    profile = _inner(values, "engine", "profile")
    policy = _inner(values, "engine", "policy")
    has_no_prefill = isinstance(profile, Mapping) and profile.get("prefill_ms") is None
    if has_no_prefill and policy in ("prefill_first", "mixed", "sglang"):
        yield "engine.profile.prefill_ms", f"a prefill curve with policy {policy}; the key is missing"


def _inner(values: Mapping[str, Any], key: str, inner_key: str) -> Any:
    inner = values.get(key)
    return inner.get(inner_key) if isinstance(inner, Mapping) else None
