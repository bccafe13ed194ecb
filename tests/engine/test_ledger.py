"""When a step's tokens may follow the last ones of its rows at once."""

from __future__ import annotations

import pytest

from scheduler.engine.ledger import Ledger
from scheduler.engine.request import Running


def waiting(*cohorts: tuple[int, int]) -> Ledger:
    ledger = Ledger(8)
    for at_ns, rows in cohorts:
        ledger.go_on(rows, at_ns)
    return ledger


@pytest.mark.parametrize(
    ("rows", "at_ns", "expected"),
    [(5, 20, True), (5, 21, True), (5, 19, False), (4, 20, False), (6, 20, False)],
)
def test_tokens_follow_where_all_rows_wait_and_none_has_a_later_token(rows, at_ns, expected):
    assert waiting((10, 3), (20, 2)).waits_for(rows, at_ns) is expected


def test_they_do_not_while_a_preempted_request_has_a_token_to_come():
    ledger = waiting((10, 3))
    ledger.part_at(Running(7, 0, 1, 1, 1), 15)
    assert not ledger.waits_for(3, 40)
