"""What every profile file holds, whichever way it tells step times: what was measured, and how sure it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from scheduler.catalog.numbers import Strict, as_tuple, expectation, whole
from scheduler.catalog.profile.profile import (
    Bytes,
    CurveSource,
    DraftCosts,
    Fit,
    Identity,
    Jitter,
    LowHigh,
    Mode,
    Origin,
    PoolCosts,
    Provenance,
    Share,
)
from scheduler.catalog.profile.tables import Table
from scheduler.errors import InputError

_Size = Annotated[int, BeforeValidator(whole(1, 1_000_000))]


class ModelShape(Strict):
    """The model's shape as far as memory needs it; every field optional."""

    layers: _Size | None = None
    kv_heads: _Size | None = None
    head_dim: _Size | None = None
    weight_bytes: Bytes | None = None
    kv_bytes_per_token: Bytes | None = None


class Memory(Strict):
    """What is left for the KV cache; every field optional (`kv_blocks: auto` needs them all).

    `activation_bytes` is everything beside weights, KV cache and graph pool. `graphs_from_kv` False: the
    engine keeps its KV cache as large whatever it captures.
    """

    gpu_bytes: Bytes | None = None
    utilization: Share | None = None
    activation_bytes: Bytes | None = None
    graphs_from_kv: bool = True


class MeasuredProfile(Strict):
    """A profile file without its step times: those are a subclass's sections, and so are its questions.

    A subclass sets `version`, and answers what depends on the sections that it adds.
    """

    format: Literal["graphpool-profile"]
    version: int
    identity: Identity
    model: ModelShape = ModelShape()
    memory: Memory = Memory()
    pool: PoolCosts | None = None
    jitter: Jitter | None = None
    draft: DraftCosts | None = None
    fit: Annotated[tuple[Fit, ...], BeforeValidator(as_tuple)] = ()
    provenance: dict[str, Provenance]

    @model_validator(mode="after")
    def _every_field_has_an_origin(self) -> MeasuredProfile:
        fields = set(self.leaf_fields())
        for key in self.provenance:
            if not any(field == key or field.startswith(f"{key}.") for field in fields):
                raise expectation("the name of a field that is present", f"provenance.{key}", got=False)
        missing = sorted(field for field in fields if self.origin_of(field) is None)
        if missing:
            raise expectation(f"an entry for {missing[0]}", "provenance", got=False)
        return self

    @property
    @abstractmethod
    def has_range(self) -> bool:
        """See Profile."""

    @property
    @abstractmethod
    def range_origin(self) -> Origin:
        """See Profile."""

    @property
    @abstractmethod
    def has_prefill(self) -> bool:
        """See Profile."""

    @property
    def is_asynchronous(self) -> bool:
        """See Profile."""
        return False

    @abstractmethod
    def with_eager_ms(self, eager_ms: float) -> MeasuredProfile:
        """See Profile."""

    @abstractmethod
    def curve(self, mode: Mode) -> CurveSource | None:
        """See Profile."""

    @property
    def name(self) -> str:
        """See Profile."""
        return self.identity.name

    @property
    def model_id(self) -> str:
        """See Profile."""
        return self.identity.model

    @property
    def gpu_bytes(self) -> int | None:
        """See Profile."""
        return self.memory.gpu_bytes

    def at_drift(self) -> MeasuredProfile | None:
        """See Profile."""
        return None

    def of_its_host(self) -> MeasuredProfile:
        """Return the profile with the host that it was measured on, where it gives host time as a range."""
        return self

    def parts_in_words(self) -> list[tuple[str, str]]:
        """Return (what, how much) of step costs that no curve shows; none where the curves show all."""
        return []

    def record(self) -> dict[str, object]:
        """See Profile: all but the step times."""
        kept = ("identity", "model", "memory", "pool", "fit", "provenance")
        whole_profile = self.model_dump(mode="json", exclude_none=True)
        return {key: whole_profile[key] for key in kept if key in whole_profile}

    @classmethod
    def sections(cls) -> list[str]:
        """Return the names of the sections that a person may state: all but what is said about them."""
        return [name for name in cls.model_fields if name not in ("format", "version", "fit", "provenance")]

    def leaf_fields(self) -> Iterator[str]:
        """Yield the dotted names of the data fields that are present (tables count as one field)."""
        for section in self.sections():
            value = getattr(self, section)
            if value is not None and section != "identity":
                yield from _leaves(value, section)

    def origin_of(self, field: str) -> Provenance | None:
        """Return the provenance of a dotted field name: its own entry or the nearest one above it."""
        while field:
            if field in self.provenance:
                return self.provenance[field]
            field = field.rpartition(".")[0]
        return None

    def kv_blocks(self, block_size: int, graph_pool_bytes: int = 0) -> int:
        """See Profile."""
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
        graphs = graph_pool_bytes if self.memory.graphs_from_kv else 0
        left = int(gpu * share) - weights - activations - graphs
        blocks = left // (per_token * block_size)
        if blocks < 1:
            raise InputError(f"engine.kv_blocks: auto: profile {name} leaves {left:,} bytes for the KV cache")
        return blocks


def _leaves(value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, Strict) or isinstance(value, LowHigh | Table):
        yield path
        return
    for name in _set_fields(value):
        yield from _leaves(getattr(value, name), f"{path}.{name}")


def _set_fields(value: Strict) -> Iterable[str]:
    # Defaults (zero host time in a whole-step profile, say) claim nothing and need no origin.
    return (name for name in sorted(value.model_fields_set) if getattr(value, name) is not None)
