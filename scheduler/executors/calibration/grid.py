"""The raw measurements of a calibration: cells, samples, and a file from which an interrupted run goes on.

The grid file is JSON lines: a header (identity, cells, what was skipped, recordings, constants), then one
line per finished round, which measured every cell once in its own random order.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, NotRequired, TypedDict

from scheduler.errors import InputError
from scheduler.files import replacing

FORMAT = "graphpool calibration grid 1"
Mode = Literal["eager", "graph"]


class Cell(NamedTuple):
    """One point of the grid: `batch` rows whose cache holds `kv_tokens` in all when the step starts.

    `context` is the mean over the rows. With `live_rows` below `batch` the other rows are padding.
    """

    mode: Mode
    batch: int
    context: int
    kv_tokens: int
    live_rows: int


class Sample(NamedTuple):
    """One timed step of a cell, in nanoseconds; `gpu_ns` is between CUDA events, None on a CPU."""

    cell: int
    total_ns: int
    issue_ns: int
    gpu_ns: int | None


class CellTimes(NamedTuple):
    """What the samples of a cell say, in milliseconds."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    least_ms: float
    issue_ms: float
    gpu_ms: float | None


class MeasuredOn(TypedDict):
    """What was measured, with what; `marks` are doubts for people, such as a noisy machine."""

    model: str
    device: str
    backend: str
    clock: str
    attention: str
    attention_note: str
    dtype: str
    element_bytes: int
    torch: str
    python: str
    driver: str
    stride: int
    seed: int
    date: str
    length_spread: float
    marks: NotRequired[list[str]]


class SkippedCell(TypedDict):
    """A cell that was not measured, in either mode, and why."""

    batch: int
    context: int
    reason: str


class Recording(TypedDict, total=False):
    """A recorded step: what it was recorded for, and what that took or the `error` that it ended with."""

    batch: int
    context: int | None
    dtype: str
    attention: str
    warm_up_s: float
    capture_s: float
    memory_bytes: int | None
    nodes: int | None
    node_types: dict[str, int]
    notes: list[str]
    error: str


class Constants(TypedDict, total=False):
    """What surrounds a launch with `rows` rows, and the device's memory (absent on a CPU)."""

    rows: int
    copy_in_ms: float
    tokens_back_ms: float
    replay_call_ms: float | None
    gpu_bytes: int
    activation_bytes: int


class PromptTimes(TypedDict):
    """Medians of a step that computes `tokens` of one prompt after `cached` of it; no `gpu_ms` on a CPU."""

    tokens: int
    cached: int
    total_ms: float
    issue_ms: float
    gpu_ms: float | None


@dataclass(slots=True)
class Grid:
    """A calibration in numbers: `rounds[r]` are round r's samples; `passes` splits rounds in equal parts."""

    identity: MeasuredOn
    cells: list[Cell]
    passes: int = 1
    skipped: list[SkippedCell] = field(default_factory=list)
    recordings: list[Recording] = field(default_factory=list)
    constants: Constants = field(default_factory=Constants)
    prefill: list[PromptTimes] = field(default_factory=list)
    rounds: list[list[Sample]] = field(default_factory=list)

    def times(self, cell: int, rounds: slice = slice(None)) -> CellTimes:
        """Return the statistics of one cell over some rounds; raises ValueError where there is no sample."""
        samples = [sample for done in self.rounds[rounds] for sample in done if sample.cell == cell]
        if not samples:
            raise ValueError(f"{self.cells[cell]} was not measured")
        total = sorted(sample.total_ns / 1e6 for sample in samples)
        gpu = [sample.gpu_ns / 1e6 for sample in samples if sample.gpu_ns is not None]
        return CellTimes(
            statistics.median(total),
            total[len(total) // 10],
            total[-1 - len(total) // 10],
            total[0],
            statistics.median(sample.issue_ns / 1e6 for sample in samples),
            statistics.median(gpu) if gpu else None,
        )

    def spread(self) -> float:
        """Return the median over cells of (p90 − p10) / median: how noisy single steps were."""
        times = [self.times(index) for index in range(len(self.cells))]
        return statistics.median((t.p90_ms - t.p10_ms) / t.median_ms for t in times)

    def noise_floor(self, mode: Mode | None = None) -> float | None:
        """Return the median relative difference between the passes' cell medians, or None for one pass."""
        if self.passes < 2:
            return None
        size = len(self.rounds) // self.passes
        differences = []
        for index, cell in enumerate(self.cells):
            if mode in (None, cell.mode):
                medians = [
                    self.times(index, slice(p * size, (p + 1) * size)).median_ms for p in range(self.passes)
                ]
                differences.append((max(medians) - min(medians)) / statistics.median(medians))
        return statistics.median(differences) if differences else None

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield one flat record per cell: the cell, its times, and each pass's median."""
        size = len(self.rounds) // self.passes
        for index, cell in enumerate(self.cells):
            medians = [
                self.times(index, slice(p * size, (p + 1) * size)).median_ms for p in range(self.passes)
            ]
            yield {**cell._asdict(), **self.times(index)._asdict(), "pass_median_ms": medians}


def write_grid(path: Path, grid: Grid) -> None:
    """Write header and all rounds, atomically."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(_header(grid), sort_keys=True, allow_nan=False) + "\n")
        for samples in grid.rounds:
            file.write(_round_line(samples))


def append_round(path: Path, samples: Sequence[Sample]) -> None:
    """Add one finished round; a line cut short by a kill is dropped when the file is read."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(_round_line(samples))


def read_grid(path: Path) -> Grid:
    """Read a grid file; raises InputError where it is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        header = json.loads(lines[0])
        if header.pop("format") != FORMAT:
            raise ValueError
        header["cells"] = [Cell(*cell) for cell in header["cells"]]
        grid = Grid(**header)
        for line in lines[1:]:
            if line.endswith("\n"):
                grid.rounds.append([Sample(*sample) for sample in json.loads(line)])
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f"{path}: not a calibration grid of this version; remove it to measure anew"
        ) from error
    return grid


def _header(grid: Grid) -> dict[str, object]:
    header = asdict(grid)
    header.pop("rounds")
    header["cells"] = [list(cell) for cell in grid.cells]
    return {"format": FORMAT, **header}


def _round_line(samples: Sequence[Sample]) -> str:
    return json.dumps([list(sample) for sample in samples], separators=(",", ":")) + "\n"
