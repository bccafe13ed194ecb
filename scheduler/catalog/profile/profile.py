"""A profile: measured step times of one GPU + model + engine, with the origin of every number.

Times are milliseconds. GPU times, issue times and host times are kept apart, because launches are
asynchronous: a step lasts `host + max(issue, GPU)`, or `max(host + issue, GPU)` with `overlap`.
A table of whole step times is a profile whose host and issue times are zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from scheduler.catalog.numbers import MsOrZero, PlainText, Strict, as_tuple, expectation, number, whole
from scheduler.catalog.profile.tables import Curve, DecodeTable, JointAttention
from scheduler.errors import InputError

FORMAT = "graphpool-profile"
VERSION = 1

Origin = Literal["measured", "derived", "assumed"]
Mode = Literal["graph", "fallback", "eager"]

_Bytes = Annotated[int, BeforeValidator(whole(0, 1 << 50))]
_Size = Annotated[int, BeforeValidator(whole(1, 1_000_000))]
_Share = Annotated[float, BeforeValidator(number(1.0, above=0))]
_Rate = Annotated[float, BeforeValidator(number(1e3, least=0))]
_Signed = Annotated[float, BeforeValidator(number(1e3, least=-1e3))]


class Identity(Strict):
    """What was measured, with what, by whom. `date` is that of the measurement or publication."""

    name: PlainText
    gpu: PlainText
    model: PlainText
    engine: PlainText
    engine_version: PlainText
    dtype: PlainText
    source: PlainText
    licence: PlainText
    date: PlainText


class ModelShape(Strict):
    """The model's shape as far as memory needs it; every field optional."""

    layers: _Size | None = None
    kv_heads: _Size | None = None
    head_dim: _Size | None = None
    weight_bytes: _Bytes | None = None
    kv_bytes_per_token: _Bytes | None = None


class Memory(Strict):
    """What is left for the KV cache; every field optional (`kv_blocks: auto` needs them all).

    `activation_bytes` is everything beside weights, KV cache and graph pool.
    """

    gpu_bytes: _Bytes | None = None
    utilization: _Share | None = None
    activation_bytes: _Bytes | None = None


class LowHigh(Strict):
    """A time known as a range; equal ends where it is one number."""

    low: MsOrZero
    high: MsOrZero

    @model_validator(mode="after")
    def _ordered(self) -> LowHigh:
        if self.low > self.high:
            raise expectation("low of at most high", "low", got=False)
        return self

    def at(self, bound: Literal["low", "high"]) -> float:
        """Return one end of the range in milliseconds."""
        return self.low if bound == "low" else self.high


ZERO = LowHigh(low=0.0, high=0.0)


class DecodeMode(Strict):
    """Decode steps of one mode. `gpu` None: the graph mode's table; `gpu_extra_ms`: gaps between kernels.

    `issue_ms` is the time the CPU needs to launch a step (to launch the graph, in graph mode).
    `padding_attends` False: padded rows attend to nothing, so a graph step costs what the captured size
    costs without KV tokens plus what the *live* rows' KV tokens cost in a batch of their own number.
    """

    gpu: DecodeTable | None = None
    padding_attends: bool = True
    gpu_extra_ms: MsOrZero = 0.0
    issue_ms: LowHigh = ZERO


class Decode(Strict):
    """The three decode curves. `fallback` (no graph, same engine) defaults to `eager`."""

    graph: DecodeMode | None = None
    fallback: DecodeMode | None = None
    eager: DecodeMode | None = None

    @model_validator(mode="after")
    def _tables_exist(self) -> Decode:
        if self.graph is not None and self.graph.gpu is None:
            raise expectation("a table of GPU times", "graph.gpu", got=False)
        for name in ("fallback", "eager"):
            mode = getattr(self, name)
            if mode is not None and mode.gpu is None and self.graph is None:
                raise expectation("a table, for there is no graph mode", f"{name}.gpu", got=False)
        return self

    def mode(self, name: Mode) -> DecodeMode | None:
        """Return a mode's data; a missing fallback is the eager mode."""
        found: DecodeMode | None = getattr(self, name)
        return self.eager if found is None and name == "fallback" else found

    def table(self, name: Mode) -> DecodeTable | None:
        """Return the GPU table a mode uses, its own or the graph mode's."""
        found = self.mode(name)
        if found is None:
            return None
        return found.gpu if found.gpu is not None or self.graph is None else self.graph.gpu


class Prefill(Strict):
    """Steps that compute prompt tokens, alone or mixed with decodes.

    GPU time = `tokens` at the step's total tokens + `sequences` at the number of sequences + attention.
    Attention is read from `attention` where there is a joint table. Else it is `pair_ms` for each (new
    token, earlier token) pair, plus the KV part of the decode curve, plus `mixed_extra_ms` in mixed steps.
    `issue_ms` None: as a decode step without a graph. `piecewise_issue_ms`: in a piecewise graph.
    """

    tokens: Curve
    sequences: Curve | None = None
    attention: JointAttention | None = None
    pair_ms: MsOrZero = 0.0
    mixed_extra_ms: MsOrZero = 0.0
    issue_ms: LowHigh | None = None
    piecewise_issue_ms: LowHigh | None = None


class Host(Strict):
    """CPU work of a step beside launching it: scheduling, input copies, tokens back, output handling.

    `overlap`: this work is done for the next step while the GPU computes (asynchronous scheduling).
    """

    step_ms: LowHigh = ZERO
    per_sequence_ms: MsOrZero = 0.0
    overlap: bool = False


class PoolCosts(Strict):
    """What a graph pool costs: bytes = fixed + per row of the largest graph + per further graph."""

    fixed_bytes: _Bytes
    bytes_per_largest_row: _Bytes
    bytes_per_graph: _Bytes
    capture_s_per_graph: _Rate
    warmup_s_per_graph: _Rate

    def memory_bytes(self, sizes: Sequence[int]) -> int:
        """Return the device memory of a pool with these capture sizes."""
        if not sizes:
            return 0
        further = (len(sizes) - 1) * self.bytes_per_graph
        return self.fixed_bytes + max(sizes) * self.bytes_per_largest_row + further

    def startup_s(self, sizes: Sequence[int]) -> float:
        """Return the seconds of warm-up and capture of a pool with these capture sizes."""
        return len(sizes) * (self.capture_s_per_graph + self.warmup_s_per_graph)


class Jitter(Strict):
    """Relative spread (standard deviation / mean) of a step's time around its curve."""

    graph: _Share | None = None
    eager: _Share | None = None


class Fit(Strict):
    """How well this profile reproduces the points it was built from, or others: signed relative errors."""

    of: PlainText
    points: Annotated[int, BeforeValidator(whole(1, 10_000_000))]
    median_error: _Signed
    p90_error: Annotated[float, BeforeValidator(number(1e3, least=0))]
    worst_error: _Signed
    note: PlainText | None = None


class Provenance(Strict):
    """Where a field (and all fields below it that have no entry of their own) comes from."""

    origin: Origin
    note: PlainText


class Profile(Strict):
    """A profile file. See the module for what the times mean."""

    format: Literal["graphpool-profile"]
    version: Literal[1]
    identity: Identity
    model: ModelShape = ModelShape()
    memory: Memory = Memory()
    decode: Decode
    prefill: Prefill | None = None
    host: Host = Host()
    pool: PoolCosts | None = None
    jitter: Jitter | None = None
    fit: Annotated[tuple[Fit, ...], BeforeValidator(as_tuple)] = ()
    provenance: dict[str, Provenance]

    @model_validator(mode="after")
    def _every_field_has_an_origin(self) -> Profile:
        if all(getattr(self.decode, mode) is None for mode in ("graph", "eager", "fallback")):
            raise expectation("at least one decode curve", "decode", got=False)
        fields = set(self.leaf_fields())
        for key in self.provenance:
            if not any(field == key or field.startswith(f"{key}.") for field in fields):
                raise expectation("the name of a field that is present", f"provenance.{key}", got=False)
        missing = sorted(field for field in fields if self.origin_of(field) is None)
        if missing:
            raise expectation(f"an entry for {missing[0]}", "provenance", got=False)
        return self

    def leaf_fields(self) -> Iterator[str]:
        """Yield the dotted names of the data fields that are present (tables count as one field)."""
        for section in ("model", "memory", "decode", "prefill", "host", "pool", "jitter"):
            value = getattr(self, section)
            if value is not None:
                yield from _leaves(value, section)

    def origin_of(self, field: str) -> Provenance | None:
        """Return the provenance of a dotted field name: its own entry or the nearest one above it."""
        while field:
            if field in self.provenance:
                return self.provenance[field]
            field = field.rpartition(".")[0]
        return None

    def fields_of_origin(self, origin: Origin) -> list[tuple[str, str]]:
        """Return (field, note) of every provenance entry of one origin, sorted by field."""
        return sorted((key, entry.note) for key, entry in self.provenance.items() if entry.origin == origin)

    def kv_blocks(self, block_size: int, graph_pool_bytes: int = 0) -> int:
        """Return how many KV blocks fit beside the weights, the activations and the graph pool.

        Raises InputError where the profile lacks memory data or nothing is left.
        """
        needed = {
            "model.weight_bytes": self.model.weight_bytes,
            "model.kv_bytes_per_token": self.model.kv_bytes_per_token,
            "memory.gpu_bytes": self.memory.gpu_bytes,
            "memory.utilization": self.memory.utilization,
            "memory.activation_bytes": self.memory.activation_bytes,
        }
        missing = [key for key, value in needed.items() if value is None]
        name = self.identity.name
        if missing:
            raise InputError(
                f"engine.kv_blocks: auto needs {', '.join(missing)}, which profile {name} lacks; "
                "give a number of blocks, or unlimited"
            )
        gpu, share, per_token = self.memory.gpu_bytes, self.memory.utilization, self.model.kv_bytes_per_token
        weights, activations = self.model.weight_bytes, self.memory.activation_bytes
        if gpu is None or share is None or weights is None or activations is None or not per_token:
            raise InputError(f"engine.kv_blocks: auto: profile {name} says a token takes no memory")
        left = int(gpu * share) - weights - activations - graph_pool_bytes
        blocks = left // (per_token * block_size)
        if blocks < 1:
            raise InputError(f"engine.kv_blocks: auto: profile {name} leaves {left:,} bytes for the KV cache")
        return blocks


def _leaves(value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, Strict) or isinstance(value, LowHigh | DecodeTable | Curve | JointAttention):
        yield path
        return
    for name in _set_fields(value):
        yield from _leaves(getattr(value, name), f"{path}.{name}")


def _set_fields(value: Strict) -> Iterable[str]:
    # Defaults (zero host time in a whole-step profile, say) claim nothing and need no origin.
    return (name for name in sorted(value.model_fields_set) if getattr(value, name) is not None)
