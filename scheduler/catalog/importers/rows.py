"""Reading measurement files, plain or gzipped, with an error per bad row instead of a traceback."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from scheduler.errors import InputError

MOST_BYTES = 256 << 20  # of a file once unpacked
MOST_ERRORS = 20

Row = dict[str, str]


def read_text(path: Path) -> str:
    """Return the text of a file, unpacked when it is gzipped; raises InputError."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = gzip.GzipFile(fileobj=file) if zipped else file
            data = stream.read(MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path}: the gzip data is damaged or cut off") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from None
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: larger than {MOST_BYTES >> 20} MiB unpacked")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None


def read_rows(path: Path, columns: Iterable[str]) -> list[Row]:
    """Return the rows of a CSV file that has at least `columns`; raises InputError."""
    try:
        table = list(csv.reader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise InputError(f"{path}: not CSV: {error}") from None
    table = [cells for cells in table if any(cell.strip() for cell in cells)]
    if not table:
        raise InputError(f"{path}: empty, expected a header with {', '.join(columns)}")
    header = [cell.strip() for cell in table[0]]
    missing = [column for column in columns if column not in header]
    if missing:
        raise InputError(f"{path}: header lacks {', '.join(missing)}; it has {', '.join(header[:20])}")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: a column name stands twice in the header")
    if len(table) == 1:
        raise InputError(f"{path}: a header without rows")
    wrong = [number for number, cells in enumerate(table[1:], 2) if len(cells) != len(header)]
    if wrong:
        raise InputError(
            f"{path}: row {wrong[0]}: expected {len(header)} cells, got {len(table[wrong[0] - 1])}"
        )
    return [dict(zip(header, (cell.strip() for cell in cells), strict=True)) for cells in table[1:]]


def number_at(row: Mapping[str, str], column: str, path: Path, index: int, *, whole: bool = False) -> float:
    """Return a cell as a finite number of at least 0; `index` is the row's place below the header, from 0."""
    text = row[column]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0 or (whole and not value.is_integer()) or value > 1e12:
        kind = "a whole number" if whole else "a number"
        raise InputError(
            f"{path}: row {index + 2}: {column}: expected {kind} of at least 0, got {text[:40]!r}"
        )
    return value


def columns_of(
    path: Path, whole: tuple[str, ...], real: tuple[str, ...]
) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Return every row of a CSV as its whole and its real numbers; raises InputError with up to 20 lines."""
    rows, errors = [], []
    for index, row in enumerate(read_rows(path, whole + real)):
        try:
            counts = tuple(int(number_at(row, column, path, index, whole=True)) for column in whole)
            rows.append((counts, tuple(number_at(row, column, path, index) for column in real)))
        except InputError as error:
            errors += error.lines
            if len(errors) >= MOST_ERRORS:
                break
    if errors:
        raise InputError(errors)
    return rows
