"""Log lines as collectors store them: colours, JSON around the text, and messages folded into one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

MOST_FOLDED = 1_000_000
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_RAY = re.compile(r"\s*\[repeated (\d{1,9})x across cluster\].*$")
_RSYSLOG = re.compile(r"message repeated (\d{1,9}) times: \[\s?(.*)\]\s*$")
_SYSLOG = re.compile(r"\blast message repeated (\d{1,9}) times?\b")
_DEEPEST = 6  # Loki: streams, values, pairs
# What compose, CRI and `docker logs -t` put before a JSON object; a server's lines have brackets before one.
_BEFORE_JSON = re.compile(r"[^{\[\]]{1,100}(?=\{\")")
_MESSAGE_KEYS = frozenset(("log", "message", "msg", "MESSAGE", "text", "event", "body"))


class LogLine(NamedTuple):
    """One message: the line of the file it stood in, its text, and how many such messages it stands for."""

    number: int
    text: str
    times: int = 1


class Unwrapper:
    """Turns the lines of a file into messages; counts what was folded, for the notes.

    JSON objects (Docker's json-file, CRI, journald, cloud collectors) give every text they hold, once; a
    text of several lines gives each. So do objects behind a prefix, as compose and CRI write them. Suffixes
    and lines that say how often a message came are taken as that many messages: Ray's
    `[repeated Nx across cluster]`, rsyslog's `message repeated N times: [ … ]` and syslogd's
    `last message repeated N times`.
    """

    def __init__(self) -> None:
        self.json_lines = 0
        self.folded_by_ray = 0
        self._last = ""

    def messages(self, lines: Iterable[tuple[int, str]]) -> Iterator[LogLine]:
        """Yield the messages of numbered lines in order."""
        for number, line in lines:
            for text in self._texts(line):
                message = self._counted(number, text)
                self._last = message.text
                yield message

    def _texts(self, line: str, depth: int = 0) -> Iterable[str]:
        line = _COLOUR.sub("", line) if "\x1b" in line else line
        value = _json_in(line) if depth < _DEEPEST else None
        if value is None:
            return line.split("\\n")  # a text of several lines, escaped: msg="…\n…"
        self.json_lines += depth == 0
        texts = dict.fromkeys(strings_in(value))  # some collectors keep the raw message beside the parsed one
        parts = [part.strip() for text in texts for part in text.splitlines()]
        return [text for part in parts for text in self._texts(part, depth + 1)]

    def _counted(self, number: int, text: str) -> LogLine:
        if "repeated " not in text:
            return LogLine(number, text)
        ray, rsyslog = _RAY.search(text), _RSYSLOG.search(text)
        if ray:
            times = min(int(ray[1]), MOST_FOLDED)
            self.folded_by_ray += times
            return LogLine(number, text[: ray.start()], times)
        if rsyslog:
            return LogLine(number, rsyslog[2], min(int(rsyslog[1]), MOST_FOLDED))
        syslog = _SYSLOG.search(text)
        if syslog:
            return LogLine(number, self._last, min(int(syslog[1]), MOST_FOLDED))
        return LogLine(number, text)

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of the wrapping."""
        if not self.folded_by_ray:
            return ()
        return (
            f"Ray folded {self.folded_by_ray:,} lines into others, which count as often; it also folds lines "
            "that differ in numbers alone (RAY_DEDUP_LOGS=0 keeps every line)",
        )


def _json_in(line: str) -> Any:
    """Return the JSON that a collector wrapped a message in, None where a line is a message itself."""
    start = 0
    if not line.startswith(("{", "[{")):
        before = _BEFORE_JSON.match(line) if line.endswith("}") else None
        if before is None:
            return None
        start = before.end()
    try:
        value = json.loads(line[start:])
    except (ValueError, RecursionError):
        return None
    return None if start and not _MESSAGE_KEYS & value.keys() else value


def strings_in(value: Any, depth: int = 0) -> list[str]:
    """Return the texts of a JSON value, outer ones first."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, dict | list) or depth == _DEEPEST:
        return []
    if isinstance(value, list) and value and all(type(byte) is int and 0 <= byte < 256 for byte in value):
        return [bytes(value).decode("utf-8", "replace")]  # as journald writes a message with colours in it
    inner = value.values() if isinstance(value, dict) else value
    return [text for part in inner for text in strings_in(part, depth + 1)]


class NotUnderstood:
    """Lines that look like data of a format and could not be read: counted, the first few shown."""

    def __init__(self, shown: int = 3) -> None:
        self._shown = shown
        self.count = 0
        self._examples: list[str] = []

    def add(self, line: LogLine, why: str) -> None:
        """Note one line and what was expected of it."""
        self.count += line.times
        if len(self._examples) < self._shown:
            text = line.text if len(line.text) <= 120 else f"{line.text[:117]}…"
            self._examples.append(f"line {line.number}: {why}, got {text!r}")

    @property
    def lines(self) -> tuple[str, ...]:
        """The count and the examples, for people."""
        if not self.count:
            return ()
        noun = "line looks like data but was" if self.count == 1 else "lines look like data but were"
        return (f"{self.count:,} {noun} not understood and left out", *self._examples)
