"""The order of the batch under any sequence of arrivals, prefills and departures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.executors.real.batch_rows import BatchRows

ACTIONS = st.lists(st.tuples(st.sampled_from(["add", "decode", "remove"]), st.integers(0, 7)), max_size=60)


@given(ACTIONS)
def test_rows_have_no_holes_and_contents_follow_their_slot(actions: list[tuple[str, int]]) -> None:
    rows = BatchRows(8)
    contents: dict[int, int] = {}  # row -> the slot whose data lie there
    decoding: set[int] = set()
    present: set[int] = set()
    for action, slot in actions:
        if action == "add" and slot not in present:
            present.add(slot)
            contents[rows.add(slot)] = slot
            continue
        if action == "decode" and slot in present - decoding:
            decoding.add(slot)
            moves = rows.start_decoding(slot)
        elif action == "remove" and slot in present:
            present.discard(slot)
            decoding.discard(slot)
            moves = rows.remove(slot)
        else:
            continue
        for move in moves:
            kept = contents[move.target] if move.exchange else None
            contents[move.target] = contents[move.source]
            if kept is not None:
                contents[move.source] = kept
        assert len(rows) == len(present)
        assert rows.decoding == len(decoding)
        for row in range(len(rows)):
            assert contents[row] == rows.slot(row)
            assert rows.row(rows.slot(row)) == row
            assert (rows.slot(row) in decoding) == (row < rows.decoding)


def test_a_slot_is_added_once_and_rows_are_bounded() -> None:
    rows = BatchRows(1)
    rows.add(3)
    with pytest.raises(ValueError, match="taken"):
        rows.add(3)
    with pytest.raises(ValueError, match="all 1 rows"):
        rows.add(4)
