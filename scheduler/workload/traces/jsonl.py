"""Traces as JSON Lines: one object per line."""

from __future__ import annotations

import json
from typing import Any

from scheduler.errors import InputError
from scheduler.workload.inputs.found import RequestRows
from scheduler.workload.traces.formats import CACHED_COLUMN, JSON_FORMATS, KNOWN_KEYS, TraceFormat, recognise
from scheduler.workload.traces.lines import Problems
from scheduler.workload.traces.rows import LineFeed, RowReader, add_share
from scheduler.workload.traces.values import is_wall_clock, shown


class _JsonNumber(str):
    """A JSON number as it is written; JSON strings stay plain str, so the two are told apart."""

    __slots__ = ()


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for position, key in enumerate(keys) if key in keys[:position])
        raise ValueError(f"key {shown(twice)} is given twice")
    return made


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys,
    parse_float=_JsonNumber,
    parse_int=_JsonNumber,
    parse_constant=_JsonNumber,
)


_MISSING = object()
_ZERO = _JsonNumber("0")


def read_jsonl(
    feed: LineFeed, rows: RequestRows, problems: Problems, share_column: str | None = None
) -> tuple[str, ...]:
    """Read one object per line; bad lines are noted in `problems`, an unknown first line is raised.

    Returns what was left out: agentic sessions, whose later calls wait for the answers before them.
    """
    sessions, calls, first_session = 0, 0, 0
    form: TraceFormat | None = None
    reader: RowReader | None = None
    blocks = _PrefixBlocks()
    for text in feed.texts():
        found = _json_object(text, feed, problems)
        if found is None and form is None:
            return ()  # not JSON Lines: one message will do
        if found is None:
            continue
        if isinstance(found.get("sub_requests"), list):
            sessions, calls = sessions + 1, calls + len(found["sub_requests"])
            first_session = first_session or feed.number
            continue
        if form is None:
            form = _format_of(found, feed)
            rows.format_name = form.name
        cells = _cells(found, form, feed, problems)
        if cells is None:
            continue
        if reader is None:
            read_time, rows.time_unit = form.reader_of_times(cells[0])
            reader = RowReader([form.time, form.prompt, form.output, CACHED_COLUMN], read_time)
        is_read = reader.read_or_explain(cells, feed.number, rows, problems)
        if share_column is not None:
            _add_share(found.get(share_column, _MISSING), share_column, feed, rows, problems)
        if is_read and form.block_tokens:
            ids = found.get("hash_ids")
            blocks.add(ids if isinstance(ids, list) else [], form.block_tokens, rows)
        feed.check_rows(rows)
    if rows.shares_prefixes:
        rows.reusable_tokens = blocks.reusable_tokens
    if not any(rows.cached_tokens):
        del rows.cached_tokens[:]
    if not sessions:
        return ()
    return (
        f"left out {sessions:,} sessions of {calls:,} chained calls (first: line {first_session}): a call "
        "waits for the answer before it, which is not modelled (docs/not_modelled.md)",
    )


def _json_object(text: str, feed: LineFeed, problems: Problems) -> dict[str, Any] | None:
    try:
        found = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        problem = f"expected one JSON object per line: {error.msg} at column {error.colno}"
        problems.add(feed.number, problem, may_be_cut=True)
        return None
    except ValueError as error:
        problems.add(feed.number, str(error))
        return None
    except RecursionError:
        problems.add(feed.number, "expected one flat JSON object per line, got one nested too deeply")
        return None
    if not isinstance(found, dict):
        problems.add(feed.number, f"expected a JSON object, got {shown(text)}")
        return None
    return found


def _format_of(found: dict[str, Any], feed: LineFeed) -> TraceFormat:
    form = recognise(list(found), JSON_FORMATS, KNOWN_KEYS)
    if isinstance(form, str):
        raise InputError(f"{feed.path}:{feed.number}: {form}")
    return form


def _cells(found: dict[str, Any], form: TraceFormat, feed: LineFeed, problems: Problems) -> list[str] | None:
    """Return the texts of time, prompt, output and cached tokens (0 where that key is missing)."""
    cells: list[str] = []
    for key in (form.time, form.prompt, form.output, CACHED_COLUMN):
        value = found.get(key, _ZERO if key == CACHED_COLUMN else _MISSING)
        is_date = key == form.time and isinstance(value, str) and is_wall_clock(value)
        if type(value) is _JsonNumber or is_date:
            cells.append(value)
        elif value is _MISSING:
            problems.add(feed.number, f"missing key {key}")
        else:
            problems.add(feed.number, f"{key}: expected a number, got {shown(json.dumps(value))}")
    return cells if len(cells) == 4 else None


def _add_share(value: Any, key: str, feed: LineFeed, rows: RequestRows, problems: Problems) -> None:
    if value is _MISSING:
        problems.add(feed.number, f"missing key {key}")
    elif type(value) is _JsonNumber:
        add_share(key, value, feed.number, rows, problems)
    else:
        problems.add(feed.number, f"{key}: expected a share from 0 to 1, got {shown(json.dumps(value))}")


class _PrefixBlocks:
    """Numbers the prefix blocks of prompts, and counts the tokens an unlimited prefix cache would have held.

    A block's number stands for all before it, too, whether or not the trace's own name of it does.
    """

    def __init__(self) -> None:
        self.reusable_tokens = 0
        self._numbers: dict[tuple[int, str], int] = {}

    def add(self, names: list[Any], block_tokens: int, rows: RequestRows) -> None:
        """Give numbers to the blocks of the newest row's prompt; count its leading ones seen before."""
        prompt_tokens = rows.prompt_tokens[-1]
        rows.block_tokens = block_tokens
        numbers, known, before, leading = self._numbers, len(self._numbers), -1, 0
        for name in names[: -(-prompt_tokens // block_tokens)]:
            if type(name) is not _JsonNumber:
                break
            before = numbers.setdefault((before, name), len(numbers))
            rows.block_ids.append(before)
            leading += before < known
        rows.block_ends.append(len(rows.block_ids))
        rows.shares_prefixes = rows.shares_prefixes or before >= 0
        self.reusable_tokens += min(leading * block_tokens, prompt_tokens)
