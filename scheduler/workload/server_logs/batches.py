"""Server logs as histograms of decode and mixed steps: every engine's lines read side by side.

Recognised by content, plain or gzipped, wrapped by whatever collected them: the lines of vLLM, SGLang and
TensorRT-LLM (one file each in this room), and CSV with the columns `batch_size,steps`, where zero steps
are allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from scheduler.errors import InputError
from scheduler.workload.server_logs import sglang, tensorrt_llm, vllm
from scheduler.workload.server_logs.engine_log import MOST_SEQUENCES, MOST_STEPS, EngineLog
from scheduler.workload.server_logs.start_up import StartUpFacts, StartUpReader
from scheduler.workload.server_logs.wrappers import LogLine, Unwrapper
from scheduler.workload.traces.lines import Problems, numbered_lines

FIXES = (
    f"vLLM: {vllm.FIX}",
    f"SGLang: its default log has them ({sglang.FIX} for every step)",
    f"TensorRT-LLM: {tensorrt_llm.FIX}",
)
NONE_FOUND = (
    "expected rows of vLLM's --cudagraph-metrics tables, its lines 'Iteration(N): …' or 'Running: N reqs', "
    "SGLang's lines 'Decode batch, #running-req: N', TensorRT-LLM's 'iter = N, … num_scheduled_requests', "
    "or a CSV that starts with batch_size,steps; found none of them"
)


def read_engine_log(path: Path, max_num_seqs: int | None = None) -> EngineLog:
    """Read a log; `max_num_seqs` (else the log's own) tells large decode steps from mixed ones.

    Lines that look like data and are not understood are counted in `left_out`. Raises InputError with file
    and line where nothing else was found, and for a malformed CSV.
    """
    log = read_server_log(path, max_num_seqs)
    if not log.has_steps:
        known = "start-up lines, but no steps" if log.facts.are_known else ""
        raise InputError(
            [f"{path}: {NONE_FOUND}" if not known else f"{path}: found {known}; what prints them:"]
            + [f"{path}: {line}" for line in (*log.left_out, *(FIXES if known else ()))]
        )
    return log


def read_server_log(
    path: Path,
    max_num_seqs: int | None = None,
    lines: Iterator[tuple[int, str]] | None = None,
    draft_tokens: int | None = None,
) -> EngineLog:
    """Read a log as read_engine_log does; one without any step is returned with its start-up facts.

    `lines` are those of the file where they are not what its line ends say, as in an array of JSON objects;
    `draft_tokens` goes before what the log says or leaves open.
    """
    lines = numbered_lines(path, any_bytes=True) if lines is None else lines
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: expected a server log or a CSV with batch_size,steps; the file is empty")
    if _columns(first[1]) == ["batch_size", "steps"]:
        return _read_csv(path, lines)
    unwrapper, servers = Unwrapper(), [_Server()]
    for message in unwrapper.messages(chain([first], lines)):
        if StartUpReader.is_start(message.text) and servers[-1].has_steps:
            servers.append(_Server())
        servers[-1].read(message)
    log = _last_with_steps([server.log(max_num_seqs, draft_tokens) for server in servers])
    return replace(log, left_out=(*unwrapper.notes, *log.left_out))


class _Server:
    """What a server said from its start to the next one's."""

    def __init__(self) -> None:
        self._start_up = StartUpReader()
        self._readers = (vllm.VllmReader(), sglang.SglangReader(), tensorrt_llm.TensorrtReader())

    @property
    def has_steps(self) -> bool:
        return any(reader.has_steps for reader in self._readers)

    def read(self, message: LogLine) -> None:
        self._start_up.read(message.text)
        for reader in self._readers:
            reader.read(message)

    def log(self, max_num_seqs: int | None, draft_tokens: int | None) -> EngineLog:
        facts = self._start_up.facts()
        if draft_tokens is not None:
            facts = replace(facts, draft_tokens=draft_tokens)
        found = [(reader, reader.log(facts, max_num_seqs)) for reader in self._readers]
        logs = [log for _, log in found if log is not None]
        lost = [line for reader, log in found if log is None for line in reader.not_understood.lines]
        return _with_most_steps(logs, lost, facts)


def _last_with_steps(logs: list[EngineLog]) -> EngineLog:
    """Return the log of the last server that logged a step; it says what was left out of the others."""
    chosen = max((number for number, log in enumerate(logs) if log.has_steps), default=len(logs) - 1)
    if len(logs) == 1:
        return logs[0]
    others = sum(_steps_of(log) for log in logs) - _steps_of(logs[chosen])
    note = (
        f"{others:,} steps left out: a server starts {len(logs)} times in this log, and start {chosen + 1} "
        "is read; cut the file to read another"
    )
    return replace(logs[chosen], left_out=(note, *logs[chosen].left_out))


def _with_most_steps(logs: list[EngineLog], lost: list[str], facts: StartUpFacts) -> EngineLog:
    """Return the log with the most steps; it says what was left out of those in other formats."""
    if not logs:
        return EngineLog("vllm", {}, {}, facts, left_out=tuple(lost), lacks=FIXES)
    log = max(logs, key=_steps_of)
    others = [
        f"{_steps_of(other):,} steps in the format of {other.format} left out: another server"
        for other in logs
        if other is not log
    ]
    lacks = log.lacks if log.has_steps else FIXES
    return replace(log, left_out=(*log.left_out, *others, *lost), lacks=lacks)


def _steps_of(log: EngineLog) -> int:
    return sum(log.decode_steps.values()) + sum(log.mixed_steps.values())


def _columns(line: str) -> list[str]:
    return [cell.strip().strip('"').lower() for cell in line.split(",")]


def _read_csv(path: Path, lines: Iterator[tuple[int, str]]) -> EngineLog:
    problems = Problems(path)
    steps: dict[int, int] = {}
    first_seen: dict[int, int] = {}
    number = 0
    for number, line in lines:
        cells = [cell.strip().strip('"') for cell in line.split(",")]
        if len(cells) != 2 or not all(cell.isascii() and cell.isdigit() and len(cell) < 19 for cell in cells):
            problems.add(number, f"expected batch_size,steps as two whole numbers, got {line[:80]!r}", True)
            continue
        batch, count = int(cells[0]), int(cells[1])
        if not 1 <= batch <= MOST_SEQUENCES:
            problems.add(number, f"batch_size: expected 1 to {MOST_SEQUENCES:,}, got {batch}")
        elif count > MOST_STEPS:
            problems.add(number, f"steps: expected at most {MOST_STEPS:,}, got {count}")
        elif batch in steps:
            problems.add(number, f"batch_size {batch} is given twice, first in line {first_seen[batch]}")
        else:
            steps[batch], first_seen[batch] = count, number
    problems.raise_if_any(number)
    if not any(steps.values()):
        raise InputError(f"{path}: expected at least one row with steps above 0")
    return EngineLog(
        "csv",
        dict(sorted(steps.items())),
        {},
        StartUpFacts(),
        lacks=("no KV lengths, step times or mixed steps: a histogram holds batch sizes alone",),
    )
