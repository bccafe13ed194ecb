"""Traces as comma-separated values below a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

from scheduler.errors import InputError
from scheduler.workload.inputs.found import RequestRows
from scheduler.workload.traces.formats import (
    CACHED_COLUMN,
    CSV_FORMATS,
    KNOWN_HEADERS,
    PREFIX_COLUMNS,
    TraceFormat,
    recognise,
)
from scheduler.workload.traces.lines import Problems
from scheduler.workload.traces.rows import LineFeed, RowReader, add_share
from scheduler.workload.traces.values import shown


def read_csv(feed: LineFeed, rows: RequestRows, problems: Problems, share_column: str | None = None) -> None:
    """Read a header and the rows below it; bad rows are noted in `problems`, a bad header is raised."""
    # With its line end, a cell whose quotes span two lines is not mistaken for one number.
    cells_of_rows = csv.reader((f"{text}\n" for text in feed.texts()), strict=True, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(cells_of_rows)]
        _read_below(header, cells_of_rows, feed, rows, problems, share_column)
    except csv.Error as error:
        problems.add(feed.number, f"expected comma-separated values: {error}", may_be_cut=True)


def _read_below(
    header: Sequence[str],
    cells_of_rows: Iterator[list[str]],
    feed: LineFeed,
    rows: RequestRows,
    problems: Problems,
    share_column: str | None,
) -> None:
    names = [name.casefold() for name in header]
    form = _format_of(header, names, feed)
    columns = [form.time, form.prompt, form.output] + ([CACHED_COLUMN] if CACHED_COLUMN in names else [])
    positions = [names.index(column.casefold()) for column in columns]
    rows.format_name = form.name
    rows.shares_prefixes = any(column in names for column in PREFIX_COLUMNS)
    share = None if share_column is None else _position(share_column, header, names, feed)
    reader: RowReader | None = None
    for row in cells_of_rows:
        if len(row) != len(header):
            problems.add(feed.number, f"expected {len(header)} columns, got {len(row)}", may_be_cut=True)
            continue
        cells = [row[position] for position in positions]
        if reader is None:
            read_time, rows.time_unit = form.reader_of_times(cells[0].strip())
            reader = RowReader([header[position] for position in positions], read_time)
        reader.read_or_explain(cells, feed.number, rows, problems)
        if share is not None:
            add_share(header[share], row[share].strip(), feed.number, rows, problems)
        feed.check_rows(rows)


def _position(column: str, header: Sequence[str], names: Sequence[str], feed: LineFeed) -> int:
    if column.casefold() not in names:
        there = ", ".join(header)[:200]
        raise InputError(f"{feed.path}:{feed.number}: expected the column {shown(column)}; there are {there}")
    return names.index(column.casefold())


def _format_of(header: Sequence[str], names: Sequence[str], feed: LineFeed) -> TraceFormat:
    for position, name in enumerate(names):
        if name and name in names[:position]:
            raise InputError(f"{feed.path}:{feed.number}: column {shown(header[position])} is given twice")
    form = recognise(names, CSV_FORMATS, KNOWN_HEADERS)
    if isinstance(form, str):
        raise InputError(f"{feed.path}:{feed.number}: {form}")
    return form
