"""What a file gave: its format, what was read, what was left out and why, what it may be used for."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from scheduler.errors import InputError
from scheduler.workload.server_logs.engine_log import EngineLog


class Use(StrEnum):
    """What the contents of a file may be used for."""

    ARRIVALS = "arrivals"
    LENGTHS = "lengths"
    LATENCIES = "latencies"
    BATCHES = "batches"
    STEP_TIMES = "step times"
    ACCEPTANCE = "acceptance"
    START_UP = "start-up facts"


@dataclass(frozen=True, slots=True)
class Sending:
    """How a benchmark's client was told to send: so many at a time, or at this rate; neither: all at once.

    `burstiness` is the shape of the gamma gaps, as in `vllm bench serve`; 1 is Poisson.
    """

    concurrency: int | None = None
    rate_per_s: float | None = None
    burstiness: float = 1.0


def integers() -> array[int]:
    """Return an empty column of 64-bit numbers."""
    return array("q")


def reals() -> array[float]:
    """Return an empty column of floating-point numbers."""
    return array("d")


@dataclass(slots=True)
class RequestRows:
    """Requests in file order, as read: nothing dropped, sorted or shifted.

    `numbers` locate each row for messages: the `place` ("line" or "request") of that number. Columns that
    a file does not have stay empty: `arrival_ns` where only order is known, `cached_tokens`, the `shares` of
    a column that was asked for, and the latencies. `served_ns` is when the server queued the request, on the
    clock of its token times, where that is another one than the arrivals'. `shares_prefixes` says that the
    file names prefix blocks; `reusable_tokens` counts the prompt tokens in leading blocks that came up
    before, None where the size of a block is not known. Row i's prefix blocks of `block_tokens` tokens are
    `block_ids` up to `block_ends[i]`, each also standing for those before it. `sending` is how the client
    was told to send, where the file says so.
    """

    format_name: str = ""
    time_unit: str = ""
    place: str = "line"
    numbers: array[int] = field(default_factory=integers)
    arrival_ns: array[int] = field(default_factory=integers)
    prompt_tokens: array[int] = field(default_factory=integers)
    output_tokens: array[int] = field(default_factory=integers)
    cached_tokens: array[int] = field(default_factory=integers)
    shares: array[float] = field(default_factory=reals)
    served_ns: array[int] = field(default_factory=integers)
    ttft_ms: array[float] = field(default_factory=reals)
    e2el_ms: array[float] = field(default_factory=reals)
    shares_prefixes: bool = False
    reusable_tokens: int | None = None
    block_tokens: int | None = None
    block_ids: array[int] = field(default_factory=integers)
    block_ends: array[int] = field(default_factory=integers)
    sending: Sending | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def append(self, number: int, values: Sequence[int]) -> None:
        """Add one row: time, prompt, output and, if the file has them, cached tokens."""
        self.numbers.append(number)
        self.arrival_ns.append(values[0])
        self.prompt_tokens.append(values[1])
        self.output_tokens.append(values[2])
        if len(values) > 3:
            self.cached_tokens.append(values[3])

    @property
    def without_latencies(self) -> int:
        """How many rows have no TTFT or no E2EL (not a number in the columns)."""
        return sum(map(math.isnan, self.e2el_ms)) if self.e2el_ms else len(self)


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a file.

    `format` and `version` say what it is, `command` what makes such a file. `read`, `left_out` and `lacks`
    are lines for people: what was read, what was left out and why, what the file cannot give and what
    would. `requests` or `log` hold the contents.
    """

    path: Path
    format: str
    command: str
    version: str | None = None
    requests: RequestRows | None = None
    log: EngineLog | None = None
    read: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The format with its version."""
        return f"{self.format} {self.version}" if self.version else self.format

    @property
    def uses(self) -> tuple[Use, ...]:
        """What the contents may be used for."""
        uses = []
        if self.requests is not None:
            uses += [Use.ARRIVALS] if self.requests.arrival_ns else []
            uses += [Use.LENGTHS] if self.requests.output_tokens else []
            uses += [Use.LATENCIES] if self.requests.e2el_ms else []
        if self.log is not None:
            uses += [Use.BATCHES] if self.log.has_steps else []
            uses += [Use.STEP_TIMES] if self.log.decode_times or self.log.mixed_times else []
            uses += [Use.ACCEPTANCE] if self.log.accepted_length else []
            uses += [Use.START_UP] if self.log.facts.are_known else []
        return tuple(uses)

    @property
    def lines(self) -> tuple[str, ...]:
        """All that people should know of it, the format first."""
        return (f"{self.path.name}: {self.title}", *self.read, *self.left_out, *self.lacks)

    def require(self, wanted: Use, role: str) -> None:
        """Raise InputError, saying what the file is and what would give it, where it cannot be used so."""
        if wanted in self.uses:
            return
        gives = " and ".join(filter(None, (", ".join(self.uses[:-1]), *self.uses[-1:]))) or "nothing to use"
        raise InputError(
            [f"{self.path}: {self.title}: {role} needs {wanted}, and this file gives {gives}"]
            + [f"{self.path}: {line}" for line in (*self.lacks, *self.left_out)]
        )
