"""What serving engines print about their batches: histograms of decode and mixed steps, start-up facts.

Three formats, recognised by content, plain or gzipped:
- vLLM's `--cudagraph-metrics` tables (vllm/compilation/cuda_graph.py, CUDAGraphLogging), any number of
  them in a server log: `| Unpadded Tokens | Padded Tokens | Num Paddings | Runtime Mode | Count |`;
- SGLang's `Decode batch, #running-req: N, … cuda graph: True` lines, each a sample of many steps;
- CSV with the columns `batch_size,steps`; zero steps are allowed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scheduler.errors import InputError
from scheduler.workload.server_logs.start_up import StartUpFacts, StartUpReader
from scheduler.workload.traces.lines import Problems, numbered_lines

LogFormat = Literal["vllm", "sglang", "csv"]
MOST_SEQUENCES = 1_000_000
MOST_STEPS = 10**15

_VLLM_HEADER = re.compile(
    r"\|\s*Unpadded Tokens\s*\|\s*Padded Tokens\s*\|\s*Num Paddings\s*\|\s*Runtime Mode\s*\|\s*Count\s*\|"
)
_VLLM_ROW = re.compile(
    r"\|\s*(\d{1,18})\s*\|\s*(\d{1,18})\s*\|\s*(-?\d{1,18})\s*\|"
    r"\s*(?:CUDAGraphMode\.)?(FULL|PIECEWISE|NONE)\s*\|\s*(\d{1,18})\s*\|\s*$"
)
_VLLM_ANY_ROW = re.compile(r"\|[^|]*\|[^|]*\|[^|]*\|[^|]*\|[^|]*\|\s*$")
_VLLM_RULE = re.compile(r"\|(?:\s*:?-+:?\s*\|){5}\s*$")
_SGLANG_STEP = re.compile(r"Decode batch\b[^#]*#running-req:\s*(\d{1,18})\b")
_SGLANG_MARK = re.compile(r"Decode batch\b[^#]*#running-req:")
_SGLANG_GRAPH = re.compile(r"cuda graph:\s*(True|False)", re.IGNORECASE)
_SGLANG_RANK = re.compile(r"\bDP(\d+)\b")


@dataclass(frozen=True, slots=True)
class EngineLog:
    """The histograms of a log: how many steps had each size.

    `decode_steps` by batch size, `mixed_steps` by total tokens; sizes with zero steps are kept where the
    file names them. `notes` are lines for the card on what was read and what was assumed.
    """

    format: LogFormat
    decode_steps: dict[int, int]
    mixed_steps: dict[int, int]
    facts: StartUpFacts
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    """What was found so far, by format."""

    table_rows: Counter[tuple[int, str]] = field(default_factory=Counter)
    tables: int = 0
    samples: Counter[int] = field(default_factory=Counter)
    replayed: int = 0
    idle: int = 0
    ranks: set[str] = field(default_factory=set)


def read_engine_log(path: Path, max_num_seqs: int | None = None) -> EngineLog:
    """Read a log; `max_num_seqs` (else the log's own) tells large decode steps from mixed ones.

    Raises InputError with file and line for malformed rows, and where no format is recognised.
    """
    lines = numbered_lines(path)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: expected a server log or a CSV with batch_size,steps; the file is empty")
    if _columns(first[1]) == ["batch_size", "steps"]:
        return _read_csv(path, lines)
    problems, found, start_up = Problems(path), _Found(), StartUpReader()
    number = 0
    for number, line in (first, *lines):
        start_up.read(line)
        _read_vllm(line, number, found, problems)
        _read_sglang(line, number, found, problems)
    problems.raise_if_any(number)
    facts = start_up.facts()
    if found.table_rows.total():
        return _vllm_log(found, facts, max_num_seqs)
    if found.samples:
        return _sglang_log(found, facts)
    raise InputError(
        f"{path}: expected rows of vLLM's --cudagraph-metrics tables, SGLang's lines "
        "'Decode batch, #running-req: N', or a CSV that starts with batch_size,steps; found none of them"
    )


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
    return EngineLog("csv", dict(sorted(steps.items())), {}, StartUpFacts())


def _read_vllm(line: str, number: int, found: _Found, problems: Problems) -> None:
    if "|" not in line:
        return
    if _VLLM_HEADER.search(line):
        found.tables += 1
        return
    row = _VLLM_ROW.search(line)
    if row:
        unpadded, padded, paddings = int(row[1]), int(row[2]), int(row[3])
        if not 0 <= unpadded <= padded <= MOST_SEQUENCES or padded - unpadded != paddings:
            problems.add(
                number, f"expected padded = unpadded + paddings, got {padded}, {unpadded}, {paddings}"
            )
        elif int(row[5]) > MOST_STEPS:
            problems.add(number, f"Count: expected at most {MOST_STEPS:,}, got {row[5]}")
        elif unpadded:
            found.table_rows[unpadded, row[4]] += int(row[5])
    elif found.tables and _VLLM_ANY_ROW.search(line) and not _VLLM_RULE.search(line):
        expected = "| tokens | padded tokens | paddings | FULL, PIECEWISE or NONE | count |"
        problems.add(number, f"expected a row {expected}, got {line[-120:]!r}", True)


def _read_sglang(line: str, number: int, found: _Found, problems: Problems) -> None:
    if "Decode batch" not in line or not _SGLANG_MARK.search(line):
        return
    step = _SGLANG_STEP.search(line)
    if not step or int(step[1]) > MOST_SEQUENCES:
        problems.add(
            number, f"expected #running-req: a number up to {MOST_SEQUENCES:,}, got {line[:120]!r}", True
        )
        return
    if int(step[1]) == 0:
        found.idle += 1
        return
    found.samples[int(step[1])] += 1
    graph = _SGLANG_GRAPH.search(line)
    found.replayed += bool(graph and graph[1].lower() == "true")
    rank = _SGLANG_RANK.search(line)
    if rank:
        found.ranks.add(rank[1])


def _vllm_log(found: _Found, facts: StartUpFacts, max_num_seqs: int | None) -> EngineLog:
    """Tell decode from mixed steps: FULL is decode, PIECEWISE mixed; NONE depends on the sizes."""
    limit = max_num_seqs or facts.max_num_seqs
    largest = max(facts.capture_sizes or (), default=0)
    decode: Counter[int] = Counter()
    mixed: Counter[int] = Counter()
    guessed = 0
    for (tokens, mode), count in found.table_rows.items():
        if mode == "NONE":
            # Within the captured sizes a decode step would have replayed its graph.
            is_decode = tokens > largest and (tokens <= limit if limit else not largest)
            guessed += count if tokens > largest else 0
        else:
            is_decode = mode == "FULL"
        (decode if is_decode else mixed)[tokens] += count
    notes = [f"{found.tables} vLLM tables, {sum(found.table_rows.values()):,} steps"]
    if guessed:
        rule = f"decode up to max_num_seqs {limit}, mixed above" if limit else (
            "mixed, for max_num_seqs is not in the log" if largest else "decode, for no sizes were captured"
        )  # fmt: skip
        notes.append(f"{guessed:,} steps without a graph above the largest size: taken as {rule}")
    if facts.mode in ("FULL", "PIECEWISE"):
        notes.append(
            f"mode {facts.mode} uses one kind of graph for all steps: decode and mixed are not told apart"
        )
    if facts.draft_tokens:
        notes.append(f"speculative decoding: sizes are tokens, {1 + facts.draft_tokens} to a request")
    return EngineLog("vllm", dict(sorted(decode.items())), dict(sorted(mixed.items())), facts, tuple(notes))


def _sglang_log(found: _Found, facts: StartUpFacts) -> EngineLog:
    lines = sum(found.samples.values())
    interval = facts.decode_log_interval
    every = (
        f"one step in {interval}"
        if interval
        else "one step in 40 unless --decode-log-interval says otherwise"
    )
    notes = [
        f"{lines:,} SGLang lines, each a sample ({every}); weights are lines",
        f"{found.replayed / lines:.1%} of them replayed a graph",
    ]
    if len(found.ranks) > 1:
        notes.append(
            f"{len(found.ranks)} data-parallel ranks pooled; with DP attention all take the largest batch"
        )
    if found.idle:
        notes.append(f"{found.idle:,} lines with no running request left out")
    return EngineLog("sglang", dict(sorted(found.samples.items())), {}, facts, tuple(notes))
