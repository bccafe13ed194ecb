"""The CSV of a sweep reads back as it was, and runs nothing in a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from scheduler.report.flat_csv import csv_text


def rows_of(records, first=()):
    return list(csv.DictReader(io.StringIO(csv_text(records, first))))


def test_numbers_read_back_exactly():
    (row,) = rows_of([{"a": 0.1 + 0.2, "b": -3, "c": 1e-9, "d": True}])
    assert (float(row["a"]), int(row["b"]), float(row["c"]), row["d"]) == (0.1 + 0.2, -3, 1e-9, "true")


def test_the_swept_keys_come_first_and_a_missing_value_is_empty():
    text = csv_text([{"x": 1, "rate": 2, "error": "no"}, {"rate": 3, "slo": {"ttft": 5}}], ["rate", "absent"])
    assert text == "rate,x,error,slo.ttft\n2,1,no,\n3,,,5\n"


@pytest.mark.parametrize("value", ["=1+1", "+1", "-cmd", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_text_that_looks_like_a_formula_is_quoted(value):
    (row,) = rows_of([{"a": value, value: 1}])
    shown = f"'{value}".replace("\r", " ")
    assert row["a"] == shown
    assert shown in row


def test_a_list_is_one_cell_of_json():
    assert rows_of([{"sizes": [1, 2, 4]}])[0]["sizes"] == "[1, 2, 4]"
