"""Flat records as CSV: one column per key, and no cell that a spreadsheet would run as a formula."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def csv_text(records: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> str:
    """Return the records as CSV, `first` columns first, the others in order of appearance.

    A mapping becomes columns `key.inner`, a list its JSON; a missing value is an empty cell. Texts that
    start like a formula get a leading apostrophe; numbers, negative ones too, stay numbers.
    """
    flat = [dict(_cells(record)) for record in records]
    present = {key: None for record in flat for key in record}
    columns = [*(key for key in first if key in present), *(key for key in present if key not in first)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(column) for column in columns])
    for record in flat:
        writer.writerow([_cell(record.get(column)) for column in columns])
    return text.getvalue()


def _cells(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    cells: list[tuple[str, Any]] = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            cells += [(f"{key}.{inner}", inner_value) for inner, inner_value in value.items()]
        else:
            cells.append((key, value))
    return cells


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = f"'{value}" if value.startswith(_FORMULA_STARTS) else value
        return text.replace("\r", " ")  # which csv leaves bare where lines end in a newline alone
    if isinstance(value, list | tuple | dict):
        return json.dumps(value)
    return repr(value)
