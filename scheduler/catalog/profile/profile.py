"""What everyone may ask of a profile, whatever its kind, and the values that the answers are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Annotated, Literal, NamedTuple, Protocol

from pydantic import BeforeValidator, model_validator

from scheduler.catalog.numbers import MsOrZero, PlainText, Strict, as_tuple, expectation, number, whole
from scheduler.errors import InputError

Origin = Literal["measured", "derived", "assumed"]
Mode = Literal["graph", "fallback", "eager"]

Bytes = Annotated[int, BeforeValidator(whole(0, 1 << 50))]
Share = Annotated[float, BeforeValidator(number(1.0, above=0))]
_Rate = Annotated[float, BeforeValidator(number(1e3, least=0))]
_UpToOne = Annotated[float, BeforeValidator(number(1.0, least=0))]
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


MIB = 1 << 20
# vllm bench latency by default: 8 requests of 32 prompt tokens and, in the mean, half of 128 answer tokens.
EAGER_ROWS, EAGER_KV_TOKENS = 8, 8 * (32 + 64)
ZERO = LowHigh(low=0.0, high=0.0)


class PoolCosts(Strict):
    """What captured graphs cost in device memory and seconds.

    Bytes = fixed + per row of the largest graph + per further graph, in the graphs' memory pool, and
    `device_bytes_per_graph` outside it: what the driver keeps of each graph. A size that is captured FULL
    and PIECEWISE is two graphs.
    """

    fixed_bytes: Bytes
    bytes_per_largest_row: Bytes
    bytes_per_graph: Bytes
    capture_s_per_graph: _Rate
    warmup_s_per_graph: _Rate
    device_bytes_per_graph: Bytes = 0

    def memory_bytes(self, captures: Sequence[int]) -> int:
        """Return the device memory of graphs of these sizes, one for each capture."""
        if not captures:
            return 0
        further = (len(captures) - 1) * self.bytes_per_graph + len(captures) * self.device_bytes_per_graph
        return self.fixed_bytes + max(captures) * self.bytes_per_largest_row + further

    def estimated_bytes(self, captures: Sequence[int], extrapolated: int) -> int:
        """Return what vLLM sets aside for these captures before it makes them.

        Of `extrapolated` graphs it captures two and takes every further one for as large as the second, at
        least 1 MiB (`profile_cudagraph_memory`); the others are measured.
        """
        each = self.bytes_per_graph + self.device_bytes_per_graph
        short = max(MIB - each, 0) * max(extrapolated - 1, 0)
        return self.memory_bytes(captures) + (short if captures else 0)

    def startup_s(self, captures: Sequence[int]) -> float:
        """Return the seconds of warm-up and capture of these graphs."""
        return len(captures) * (self.capture_s_per_graph + self.warmup_s_per_graph)


class Jitter(Strict):
    """Relative spread (standard deviation / mean) of a step's time around its curve."""

    graph: Share | None = None
    eager: Share | None = None


class DraftLaunchCosts(Strict):
    """Milliseconds by how a step was launched."""

    piecewise: MsOrZero = 0.0
    compiled: MsOrZero = 0.0
    eager: MsOrZero = 0.0


class DraftCosts(Strict):
    """What proposing drafts behind a step costs, as an engine that drafts `draft_tokens` had it.

    A pass takes the GPU `pass_ms` + `token_ms` per token; there is one per draft token. The first computes
    the tokens of the step, the others one per request. The launching thread is busy for `launch_ms` per pass,
    and behind a step that was not in a FULL graph for as much more as `more` says of its launching.
    `accepted` are the shares of rows whose first, second, … draft was accepted there: facts of its traffic,
    which a workload says for itself.
    """

    method: PlainText
    draft_tokens: Annotated[int, BeforeValidator(whole(1, 64))]
    pass_ms: MsOrZero = 0.0
    token_ms: MsOrZero = 0.0
    launch_ms: MsOrZero = 0.0
    more: DraftLaunchCosts = DraftLaunchCosts()
    accepted: Annotated[tuple[_UpToOne, ...], BeforeValidator(as_tuple)] = ()

    def in_words(self) -> list[tuple[str, str]]:
        """Return (what, how much) for people."""
        more = self.more
        cost = (
            f"{self.method}, {self.draft_tokens} tokens: a pass {self.pass_ms:.3f} ms + "
            f"{1e3 * self.token_ms:.3f} per 1,000 tokens, launching it {self.launch_ms:.2f}; behind "
            f"PIECEWISE {more.piecewise:.2f} more, without a graph {max(more.compiled, more.eager):.2f}"
        )
        if not self.accepted:
            return [("drafting", cost)]
        shares = ", ".join(f"{share:.3f}" for share in self.accepted)
        accepted = (
            f"{1 + sum(self.accepted):.3f} tokens to a request and step: engine.speculation "
            f"{{method: {self.method}, draft_tokens: {self.draft_tokens}, "
            f"acceptance: {{per_position: [{shares}]}}}}"
        )
        return [("drafting", cost), ("accepted", accepted)]


class Fit(Strict):
    """How well this profile reproduces the points it was built from, or others: signed relative errors."""

    of: PlainText
    points: Annotated[int, BeforeValidator(whole(1, 10_000_000))]
    median_error: _Signed
    p90_error: Annotated[float, BeforeValidator(number(1e3, least=0))]
    worst_error: _Signed
    note: PlainText | None = None

    @classmethod
    def of_errors(cls, errors: Iterable[float], of: str, note: str | None = None) -> Fit:
        """Return the median, the magnitude that 90 % of the errors stay within, and the worst of some.

        Raises ValueError where there are none.
        """
        ascending = sorted(errors)
        magnitudes = sorted(map(abs, ascending))
        return cls(
            of=of,
            points=len(ascending),
            median_error=round(median(ascending), 4),
            p90_error=round(magnitudes[-1 - len(magnitudes) // 10], 4),
            worst_error=round(ascending[-1] if ascending[-1] >= -ascending[0] else ascending[0], 4),
            note=note,
        )


class Provenance(Strict):
    """Where a field (and all fields below it that have no entry of their own) comes from."""

    origin: Origin
    note: PlainText


class CurveSource(NamedTuple):
    """Where a decode curve comes from: `given` in the workload file, or as the profile's file says.

    `sizes` are the batch sizes of the curve's points; none where it is a formula.
    """

    origin: Origin | Literal["given"]
    sizes: tuple[int, ...] = ()


class Profile(Protocol):
    """Step times of one GPU, model and engine. Its kinds differ in how they know them.

    What a step takes is asked of the cost model that `executors.model` makes of a profile. `identity` is
    None where nothing was measured (times written into a workload file); whatever else is None or empty is
    not known.
    """

    @property
    def name(self) -> str:
        """The profile's name for people and records."""
        ...

    @property
    def model_id(self) -> str:
        """The served model's name."""
        ...

    @property
    def identity(self) -> Identity | None:
        """What was measured, with what, by whom."""
        ...

    @property
    def fit(self) -> Sequence[Fit]:
        """How well the profile reproduces what was measured."""
        ...

    @property
    def provenance(self) -> Mapping[str, Provenance]:
        """The origin of the data fields, by dotted name; a name covers the fields below it."""
        ...

    @property
    def has_range(self) -> bool:
        """Whether host time is known as a range, so that its low and its high end give two answers."""
        ...

    @property
    def range_origin(self) -> Origin:
        """How the profile came by the range of host time."""
        ...

    @property
    def has_prefill(self) -> bool:
        """Whether steps that compute prompt tokens have times."""
        ...

    @property
    def is_asynchronous(self) -> bool:
        """Whether the engine was measured while it decided each step with the one before under way."""
        ...

    @property
    def draft(self) -> DraftCosts | None:
        """What proposing drafts costs, where an engine that drafts was measured."""
        ...

    @property
    def pool(self) -> PoolCosts | None:
        """What a graph pool costs in memory and at start-up."""
        ...

    @property
    def jitter(self) -> Jitter | None:
        """How far step times spread around their curves."""
        ...

    @property
    def gpu_bytes(self) -> int | None:
        """The GPU's memory."""
        ...

    def at_drift(self) -> Profile | None:
        """Return the profile with its host's drift as the range of its speed; None where none is known."""
        ...

    def with_eager_ms(self, eager_ms: float) -> Profile:
        """Return the profile on the user's own host, where one eager decode step takes `eager_ms`.

        The step is that of `vllm bench latency --enforce-eager` with its defaults: `EAGER_ROWS` requests of
        `EAGER_KV_TOKENS` KV tokens. Every range of host time closes to where that step puts it. Raises
        InputError where the step is the GPU's, so that it says nothing of the host.
        """
        ...

    def curve(self, mode: Mode) -> CurveSource | None:
        """Return where a mode's decode curve comes from; None where the profile has none of its own."""
        ...

    def kv_blocks(self, block_size: int, graph_pool_bytes: int = 0) -> int:
        """Return how many KV blocks fit beside the weights, the activations and the graph pool.

        Raises InputError where the profile lacks memory data or nothing is left.
        """
        ...

    def record(self) -> Mapping[str, object]:
        """Return what result files keep of the profile, as JSON values."""
        ...

    def model_dump(self, *, mode: str) -> Mapping[str, object]:
        """Return the whole profile; with mode "json" as JSON values."""
        ...


def own_eager(eager_ms: float) -> Provenance:
    """Return the origin of host times that one eager step of the user's own server decides."""
    return Provenance(
        origin="measured", note=f"--eager-ms {eager_ms:g}: an eager step of {EAGER_ROWS} requests, own host"
    )


def require_host_bound(eager_ms: float, gpu_ms: float, name: str) -> None:
    """Raise InputError where an eager step is no longer than the GPU's work in it."""
    if not gpu_ms < eager_ms <= 60_000:
        raise InputError(
            f"--eager-ms {eager_ms:g}: expected milliseconds per eager step, more than the {gpu_ms:.2f} "
            f"that the GPU of profile {name} works on {EAGER_ROWS} requests: mean latency of `vllm "
            "bench latency --enforce-eager` / its --output-len"
        )


def assumed_fields(profile: Profile) -> list[str]:
    """Return the names of what the profile assumes, sorted."""
    return sorted(key for key, entry in profile.provenance.items() if entry.origin == "assumed")
