"""The trace formats: how each names its columns, and how a header or first line tells which it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scheduler.workload.traces.values import WallClockReader, is_number, is_wall_clock, seconds_reader, shown

_S, _MS, _US, _NS = 0, 3, 6, 9
CACHED_COLUMN = "cached_tokens"
PREFIX_COLUMNS = ("hash_ids", "block_hash_ids")
ReadTime = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """Column names as published (CSV: any case) and the time unit: 10^-`time_power` s, or wall clock.

    `marker` is a further column that must be there, where two formats differ in the unit alone;
    `block_tokens` is the number of prompt tokens one entry of `hash_ids` stands for; `wall_clock` says that
    times are dates as published.
    """

    name: str
    time: str
    prompt: str
    output: str
    time_power: int = _S
    marker: str | None = None
    block_tokens: int | None = None
    wall_clock: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        """The columns without which the format is not recognised."""
        return (self.time, self.prompt, self.output) + ((self.marker,) if self.marker else ())

    def matches(self, columns: Sequence[str]) -> bool:
        """Say whether every required column is there; `columns` are in lower case."""
        return all(column.casefold() in columns for column in self.required)

    def reader_of_times(self, first: str) -> tuple[ReadTime, str]:
        """Return the reader of the time column and its unit in words, judged by the first time."""
        if is_wall_clock(first) or (self.wall_clock and not is_number(first)):
            return WallClockReader(), "wall clock"
        return seconds_reader(self.time_power), {_S: "s", _MS: "ms", _US: "µs", _NS: "ns"}[self.time_power]


# Sources of the names: Azure/AzurePublicDataset (2023 and 2024 LLM inference traces), HPMLL/BurstGPT,
# microsoft/vidur (trace_replay), alibaba/ServeGen, kvcache-ai/Mooncake, alibaba-edu/qwen-bailian-usagetraces,
# casys-kaist/LLMServingSim (docs/docs/workloads/jsonl-format.md), and request logs of vLLM's benchmark tools.
CSV_FORMATS = (
    TraceFormat("Azure CSV", "TIMESTAMP", "ContextTokens", "GeneratedTokens", wall_clock=True),
    TraceFormat("BurstGPT CSV", "Timestamp", "Request tokens", "Response tokens"),
    TraceFormat("Vidur CSV", "arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    TraceFormat("ServeGen CSV", "timestamp", "input_tokens", "output_tokens"),
    TraceFormat("request CSV", "arrival_s", "prompt_tokens", "output_tokens"),
    TraceFormat("request CSV", "arrival_ms", "prompt_tokens", "output_tokens", _MS),
    TraceFormat("request CSV", "arrival_us", "prompt_tokens", "output_tokens", _US),
    TraceFormat("request CSV", "arrival_ns", "prompt_tokens", "output_tokens", _NS),
)
_TOKEN_KEYS = (
    ("input_toks", "output_toks"),
    ("prompt_len", "output_len"),
    ("input_len", "output_len"),
    ("prompt_tokens", "output_tokens"),
    ("prompt_tokens", "completion_tokens"),
    ("input_tokens", "output_tokens"),
    ("input_length", "output_length"),
)
NAMES = {("arrival_time_ns", "input_toks"): "LLMServingSim JSONL"}
JSON_FORMATS = (
    TraceFormat("Bailian JSONL", "timestamp", "input_length", "output_length", _S, "chat_id", 16),
    TraceFormat("Mooncake JSONL", "timestamp", "input_length", "output_length", _MS, None, 512),
    *(
        TraceFormat(NAMES.get((time, prompt), "request JSONL"), time, prompt, output, power)
        for time, power in (
            ("arrival_time", _S),
            ("arrived_at", _S),
            ("queued_ts", _S),
            ("arrival_s", _S),
            ("arrival_ms", _MS),
            ("arrival_ns", _NS),
            ("arrival_time_ns", _NS),
            ("timestamp", _S),
        )
        for prompt, output in _TOKEN_KEYS
    ),
)


KNOWN_HEADERS = (
    "a header of an Azure, BurstGPT, Vidur or ServeGen trace, or arrival_s,prompt_tokens,output_tokens"
)
KNOWN_KEYS = "keys such as timestamp, input_length, output_length or arrival_time, input_toks, output_toks"


def recognise(columns: Sequence[str], formats: Sequence[TraceFormat], known: str) -> TraceFormat | str:
    """Return the first format whose columns are all there, or what is wrong in words.

    `columns` are in lower case; `known` says what was expected where no format comes near. Otherwise the
    words name the columns that the nearest format misses.
    """
    for candidate in formats:
        if candidate.matches(columns):
            return candidate
    nearest = max(
        formats, key=lambda candidate: sum(name.casefold() in columns for name in candidate.required)
    )
    missing = [name for name in nearest.required if name.casefold() not in columns]
    if len(missing) < len(nearest.required):
        return f"missing {' and '.join(missing)} (nearest format: {nearest.name})"
    return f"expected {known}; got {shown(','.join(columns))}"
