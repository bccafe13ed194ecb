"""YAML text to plain values, with the line of every key, and without YAML's traps.

Plain scalars follow YAML 1.2's core schema, not YAML 1.1's: only true and false are booleans (`no`, `yes`,
`on` are texts), `1e3` is a number, `010` is ten, `12:30` and dates are texts. Refused, each with its line:
duplicate keys, anchors and aliases (a few hundred bytes of them can expand to gigabytes), merge keys, tags,
`.nan` and `.inf`, several documents, keys that are not plain text, nesting beyond any real file. Built on
PyYAML's events, so no constructor runs and nothing recurses deeper than `MOST_LEVELS`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml import events

from scheduler.errors import InputError

MOST_BYTES = 256 * 1024
MOST_LEVELS = 24

KeyPath = tuple[str | int, ...]

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE"))
_FALSE = frozenset(("false", "False", "FALSE"))
_INTEGER = re.compile(r"[-+]?[0-9]{1,400}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a file: its place as the person would look it up, its key, and what is wrong."""

    place: str
    path: KeyPath
    text: str

    def __str__(self) -> str:
        key = shown_path(self.path)
        middle = f"{key}: " if key and not self.place.endswith(f" {key}") else ""
        return f"{self.place}: {middle}{self.text}"


@dataclass(slots=True)
class Document:
    """Plain values (mappings, lists, texts, numbers, booleans, None) and where each of them was given.

    `unread` are the places whose values could not be taken; `problems` already say why.
    """

    source: str
    data: Any = None
    places: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unread: set[KeyPath] = field(default_factory=set)

    def place_of(self, path: KeyPath) -> str:
        """Return `file:line` (or `--set key`) of the value at `path`, or of its nearest enclosing one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.source


def read_yaml(text: str, source: str, *, lines: bool = True) -> Document:
    """Read one YAML document; `source` names it in errors.

    Problems of single values are collected in the document, for the caller to report beside those of the
    schema. Raises InputError, one line, where the text is no YAML at all. With `lines=False` places are the
    source alone (a command-line option has no lines).
    """
    if len(text) > MOST_BYTES:
        raise InputError(f"{source}: expected at most {MOST_BYTES // 1024} KiB of YAML, got more")
    reader = _Reader(source, lines)
    try:
        reader.read(text)
    except yaml.MarkedYAMLError as error:
        raise InputError(_syntax_line(error, source, lines)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        where = f"{source}:{line}" if lines else source
        raise InputError(f"{where}: expected text, got the character U+{int(error.character):04X}") from None
    except (ValueError, OverflowError) as error:  # PyYAML lets chr() and int() speak for \U escapes and %YAML
        raise InputError(f"{source}: not readable as YAML: {error}") from None
    return reader.document


def decoded(content: bytes, source: str) -> str:
    """Decode a UTF-8 file, with or without byte order mark; raises InputError with the line of a bad byte."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        bad = content[error.start]
        raise InputError(f"{source}:{line}: expected UTF-8 text, got the byte 0x{bad:02x}") from None


def shown(value: Any) -> str:
    """Show a value in an error: short, on one line, with nothing a terminal would act upon."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}… ({len(text)} characters)"


def shown_path(path: KeyPath) -> str:
    """Show a path of keys as `engine.profile.table[3]`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            name = key if key.isprintable() and key and len(key) <= 60 else shown(key)
            text += f".{name}" if text else name
    return text


class _Reader:
    """Builds a document from PyYAML's events, one at a time."""

    def __init__(self, source: str, lines: bool) -> None:
        self.document = Document(source)
        self._lines = lines
        self._events: Any = None

    def read(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)
        next(self._events)
        first = next(self._events)
        if isinstance(first, events.StreamEndEvent):
            return
        event = next(self._events)
        self.document.data = self._value(event, (), event)
        next(self._events)
        extra = next(self._events)
        if not isinstance(extra, events.StreamEndEvent):
            self._note(extra, (), "expected one YAML document, got a second one")

    def _place(self, event: Any) -> str:
        return f"{self.document.source}:{event.start_mark.line + 1}" if self._lines else self.document.source

    def _note(self, event: Any, path: KeyPath, text: str) -> None:
        self.document.problems.append(Problem(self._place(event), path, text))

    def _unread(self, event: Any, path: KeyPath, expected: str) -> None:
        self.document.unread.add(path)
        self._note(event, path, f"expected {expected}")

    def _value(self, event: Any, path: KeyPath, place: Any) -> Any:
        """Build the value that starts with `event`; `place` is the event whose line locates it."""
        self.document.places[path] = self._place(place)
        if len(path) > MOST_LEVELS:
            raise InputError(f"{self._place(event)}: expected at most {MOST_LEVELS} levels of nesting")
        if isinstance(event, events.AliasEvent):
            self._unread(event, path, f"a plain value, got the alias *{event.anchor}; write the value out")
            return None
        if event.anchor is not None:
            self._unread(event, path, f"a plain value, got the anchor &{event.anchor}; write values out")
        if event.tag is not None:
            self._unread(event, path, f"a plain value, got the tag {event.tag!r}")
        if isinstance(event, events.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, events.SequenceStartEvent):
            return self._list(path)
        return self._scalar(event, path) if event.style is None else event.value

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_event in self._events:
            if isinstance(key_event, events.MappingEndEvent):
                break
            key = self._key(key_event, path)
            first_place = self.document.places.get((*path, key))
            value = self._value(next(self._events), (*path, key), key_event)
            if key == "<<":
                self._unread(key_event, (*path, key), "plain keys, got a merge key; write the keys out")
            elif key in mapping:
                first = first_place.rpartition(":")[2] if first_place and self._lines else "the same text"
                self._note(key_event, (*path, key), f"given twice (first on line {first})")
            else:
                mapping[key] = value
        return mapping

    def _key(self, event: Any, path: KeyPath) -> str:
        if isinstance(event, events.ScalarEvent) and event.anchor is None and event.tag is None:
            return str(event.value)
        raise InputError(str(Problem(self._place(event), path, "expected a plain key before the colon")))

    def _list(self, path: KeyPath) -> list[Any]:
        values: list[Any] = []
        for event in self._events:
            if isinstance(event, events.SequenceEndEvent):
                break
            values.append(self._value(event, (*path, len(values)), event))
        return values

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        text = event.value
        if text in _NULL:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        if _INTEGER.fullmatch(text):
            return int(text)
        number = float(text) if _FLOAT.fullmatch(text) else None
        if _NOT_FINITE.fullmatch(text) or (number is not None and not math.isfinite(number)):
            self._unread(event, path, f"a finite number, got {text[:40]}")
            return math.nan
        return text if number is None else number


def _syntax_line(error: yaml.MarkedYAMLError, source: str, lines: bool) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark and lines else source
    parts = [part for part in (error.context, error.problem) if part]
    text = " ".join(" ".join(parts).split())
    return f"{where}: not readable as YAML: {text}"
