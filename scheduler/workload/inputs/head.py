"""The beginning of a file, enough to tell what it is; JSON in lines, as one document, or several."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scheduler.errors import InputError
from scheduler.workload.inputs.runs import split_run
from scheduler.workload.traces.lines import MAX_LINE_BYTES, first_bytes, numbered_lines, whole_text

PAGE = "docs/inputs.md lists what can be read"
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Told:
    """What the user says of a file.

    Where a server's log does not say it, `max_num_seqs` and `draft_tokens` tell decode steps from mixed ones,
    and widths. `share_column` names the column of a trace that holds a share for each request.
    """

    max_num_seqs: int | None = None
    draft_tokens: int | None = None
    share_column: str | None = None


NOTHING_TOLD = Told()


@dataclass(frozen=True)
class Head:
    """A file's beginning, enough to tell what it is.

    `kind`: "npz", "json" (its first object was read), "csv" (`keys` are its columns), "text" or "empty".
    `whole` says that the first object spans lines, or is too long for one, so that the file is read at
    once; otherwise a line is an object.
    """

    path: Path
    run: int | None
    kind: str
    first_line: str = ""
    value: Any = None
    whole: bool = False
    told: Told = NOTHING_TOLD
    documents: Sequence[Any] = ()

    @cached_property
    def keys(self) -> frozenset[str]:
        """The keys of the first JSON object (of an array: of its first), or a CSV's columns in lower case."""
        if self.kind == "csv":
            return frozenset(cell.strip().strip('"').casefold() for cell in self.first_line.split(","))
        first = self.value[0] if isinstance(self.value, list) and self.value else self.value
        return frozenset(first) if isinstance(first, Mapping) else frozenset()

    def objects(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield (line or position from 1, object) of every JSON object; raises InputError for other lines."""
        if self.whole:
            parts = [part for value in self.documents for part in _as_list(value)]
            numbered: Iterator[tuple[int, Any]] = iter(enumerate(parts, 1))
        else:
            numbered = _json_lines(self.path)
        for number, value in numbered:
            if not isinstance(value, Mapping):
                raise InputError(f"{self.path}:{number}: expected a JSON object, got {str(value)[:60]!r}")
            yield number, value

    def messages(self) -> Iterator[tuple[int, str]]:
        """Yield (position from 1, JSON text on one line) of every object of a document, for logs in one."""
        parts = (part for value in self.documents for part in _as_list(value))
        yield from ((number, json.dumps(part)) for number, part in enumerate(parts, 1))

    def runs(self) -> list[Mapping[str, Any]]:
        """Return all objects of a file of whole results."""
        return [value for _, value in self.objects()]


def head_of(named: Path, told: Told) -> Head:
    """Look at the beginning of a file; raises InputError where it cannot be read or is empty."""
    path, run = split_run(named)
    if path.exists() and not path.is_file():
        other = "a pipe or a device, which cannot be read twice"
        what = "a folder" if path.is_dir() else other
        raise InputError(f"{path}: cannot be read: expected a file, got {what}")
    start = first_bytes(path, MAX_LINE_BYTES + 1)
    if start.startswith(_ZIP):
        return Head(path, run, "npz")
    text = start.decode("utf-8-sig", "replace").lstrip()
    if not text:
        # An empty file, or one that cannot be unpacked: the reader of lines says which.
        next(numbered_lines(path, any_bytes=True), None)
        raise InputError(f"{path}: expected a file with contents, the file is empty; {PAGE}")
    first_line = text.split("\n", 1)[0].strip()
    if text.startswith(("{", "[")):
        head = _json_head(path, run, first_line, told)
        if head is not None:
            return head
    kind = "csv" if "," in first_line and not first_line.startswith(("[", "(", "#")) else "text"
    return Head(path, run, kind, first_line, told=told)


def _json_head(path: Path, run: int | None, first_line: str, told: Told) -> Head | None:
    """Return the head of a JSON file, None where it is a log after all."""
    value = _parsed(first_line)
    if isinstance(value, Mapping):
        return Head(path, run, "json", first_line, value, told=told)
    is_bare = first_line.strip("[{ \t") == ""
    if (
        first_line.startswith("[")
        and value is None
        and not is_bare
        and not first_line.startswith(("[{", "[ {"))
    ):
        return None  # `[2026-11-20 10:00:00 TP0] …`
    values = _documents(path)
    first = values[0] if values else None
    if isinstance(first, list) and not (first and isinstance(first[0], Mapping)):
        raise InputError(f"{path}: expected JSON objects, got an array of something else; {PAGE}")
    return Head(path, run, "json", first_line, first, True, told, values)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _documents(path: Path) -> list[Any]:
    """Return the JSON values of a file, one after the other; raises InputError."""
    text = whole_text(path)
    decoder, values, position = json.JSONDecoder(), [], 0
    while position < len(text):
        if text[position].isspace() or text[position] == "\0":
            position += 1
            continue
        try:
            value, position = decoder.raw_decode(text, position)
        except RecursionError:
            raise InputError(f"{path}: expected flat JSON, got objects nested too deeply") from None
        except ValueError as error:
            line = text.count("\n", 0, getattr(error, "pos", 0)) + 1
            reason = getattr(error, "msg", str(error))
            raise InputError(f"{path}:{line}: expected JSON: {reason} (is the file cut off?)") from None
        values.append(value)
    return values


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    lines = numbered_lines(path, max_line_bytes=128 * MAX_LINE_BYTES)
    for number, line in lines:
        try:
            yield number, json.loads(line)
        except RecursionError:
            raise InputError(f"{path}:{number}: expected flat JSON, got objects nested too deeply") from None
        except ValueError as error:
            reason = getattr(error, "msg", str(error))
            raise InputError(f"{path}:{number}: expected a JSON object: {reason} (cut off?)") from None


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]
