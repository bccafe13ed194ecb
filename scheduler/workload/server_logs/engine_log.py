"""What a server said of its steps: histograms of decode and mixed steps, and how long they took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scheduler.workload.server_logs.start_up import StartUpFacts

LogFormat = Literal["vllm", "sglang", "tensorrt-llm", "csv", "prometheus", "graphpool"]
MOST_SEQUENCES = 1_000_000
MOST_STEPS = 10**15


@dataclass(slots=True)
class Times:
    """Durations of steps of one kind and size: how many, their sum, the shortest and the longest, in ms."""

    count: int = 0
    sum_ms: float = 0.0
    least_ms: float = float("inf")
    most_ms: float = 0.0

    def add(self, ms: float, count: int = 1) -> None:
        """Add `count` steps that took `ms` each."""
        self.count += count
        self.sum_ms += ms * count
        self.least_ms = min(self.least_ms, ms)
        self.most_ms = max(self.most_ms, ms)

    @property
    def mean_ms(self) -> float:
        """Mean duration."""
        return self.sum_ms / self.count


@dataclass(frozen=True, slots=True)
class EngineLog:
    """What a server said of its steps.

    `decode_steps` counts steps by batch size (requests), `mixed_steps` by total tokens; sizes with zero
    steps are kept where the file names them. `notes` are lines for the card on what was read and what was
    assumed. Where the log says so: `kv_tokens` is the mean of KV tokens per running request, by batch
    size; `decode_times` are step times by (batch size, replayed a graph or not or unknown), `mixed_times`
    by total tokens; `without_graph` counts the decode steps that ran without a graph, by batch size, None
    where the log does not tell; `accepted_length` is the mean number of tokens that a request got per
    step. `tokens_per_request` is 1 + draft tokens, None where the server drafts and the log does not
    settle how many: sizes are tokens then, and those it captures multiples of `multiple_of`. `ranks` are
    data-parallel ranks, `together` the largest sum of their batches.
    """

    format: LogFormat
    decode_steps: dict[int, int]
    mixed_steps: dict[int, int]
    facts: StartUpFacts
    notes: tuple[str, ...] = ()
    kv_tokens: Mapping[int, float] = field(default_factory=dict)
    decode_times: Mapping[tuple[int, bool | None], Times] = field(default_factory=dict)
    mixed_times: Mapping[int, Times] = field(default_factory=dict)
    without_graph: Mapping[int, int] | None = None
    accepted_length: float | None = None
    tokens_per_request: int | None = 1
    multiple_of: int = 1
    ranks: int = 1
    together: int = 0
    left_out: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()

    @property
    def has_steps(self) -> bool:
        """Whether any step was logged."""
        return any(self.decode_steps.values()) or any(self.mixed_steps.values())
