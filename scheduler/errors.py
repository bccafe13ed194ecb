"""What is reported to the person at the keyboard, and never as a traceback."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(Exception):
    """Bad input: one clear line each (file, line, key, what was expected, what to do); exit status 2."""

    def __init__(self, lines: str | Iterable[str]) -> None:
        self.lines: list[str] = [lines] if isinstance(lines, str) else list(lines)
        super().__init__("\n".join(self.lines))
