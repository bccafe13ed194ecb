"""The rows of a trace as numbers, with every bad cell reported by its line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scheduler.errors import InputError
from scheduler.workload.inputs.found import RequestRows
from scheduler.workload.traces.lines import MAX_TEXT_BYTES, Problems, numbered_lines
from scheduler.workload.traces.values import read_share, read_tokens, shown

MAX_ROWS = 10_000_000


class LineFeed:
    """The lines of a file, remembering the current one and its number for messages."""

    def __init__(self, path: Path, max_text_bytes: int = MAX_TEXT_BYTES, max_rows: int = MAX_ROWS) -> None:
        self.path = path
        self.number = 0
        self.text = ""
        self._max_rows = max_rows
        self._lines = numbered_lines(path, max_text_bytes)

    def advance(self) -> bool:
        """Go to the next line; False at the end of the file."""
        self.number, self.text = next(self._lines, (self.number, ""))
        return bool(self.text)

    def texts(self) -> Iterator[str]:
        """Yield the current line and all that follow."""
        yield self.text
        while self.advance():
            yield self.text

    def check_rows(self, rows: RequestRows) -> None:
        """Raise InputError where the file has more rows than allowed."""
        if len(rows) > self._max_rows:
            raise InputError(f"{self.path}:{self.number}: expected at most {self._max_rows:,} rows, got more")


def add_share(column: str, text: str, line_number: int, rows: RequestRows, problems: Problems) -> None:
    """Add a row's share, or the problem with it."""
    try:
        rows.shares.append(read_share(text))
    except ValueError as error:
        problems.add(line_number, f"{column}: {error}")


class RowReader:
    """Turns the cells of one row into numbers: fast when all is well, and cell by cell when not.

    `names` and `readers` are those of the time, prompt, output and, if there is one, cached column.
    """

    def __init__(self, names: Sequence[str], read_time: Callable[[str], int]) -> None:
        self._names = names
        self._readers = [read_time] + [read_tokens] * (len(names) - 1)
        self._read_time = read_time

    def read_or_explain(
        self, cells: Sequence[str], line_number: int, rows: RequestRows, problems: Problems
    ) -> bool:
        """Add the row and return True, or add one problem for every bad cell and return False."""
        try:
            rows.append(line_number, self._read(cells))
        except ValueError:
            return self._explain([cell.strip() for cell in cells], line_number, rows, problems)
        return True

    def _read(self, cells: Sequence[str]) -> list[int]:
        values = [self._read_time(cells[0]), read_tokens(cells[1]), read_tokens(cells[2])]
        if len(cells) > 3:
            values.append(read_tokens(cells[3]))
            if values[3] > values[1]:
                raise ValueError(f"expected at most the {values[1]} prompt tokens, got {shown(cells[3])}")
        return values

    def _explain(self, cells: Sequence[str], line_number: int, rows: RequestRows, problems: Problems) -> bool:
        is_bad = False
        for name, reader, cell in zip(self._names, self._readers, cells, strict=True):
            try:
                reader(cell)
            except ValueError as error:
                problems.add(line_number, f"{name}: {error}")
                is_bad = True
        if is_bad:
            return False
        try:
            rows.append(line_number, self._read(cells))
        except ValueError as error:  # what is left to be wrong is between the columns
            problems.add(line_number, f"{self._names[-1]}: {error}")
            return False
        return True
