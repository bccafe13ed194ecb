"""What a request and a step cost in memory: the item sizes of the arrays that grow with them."""

from __future__ import annotations

from array import array
from dataclasses import fields

import numpy as np
from reference_simulator import Options
from small_loop import Small, run_loop

from scheduler.engine.ledger import Ledger
from scheduler.engine.records import RequestRecords, StepRecords, TokenGaps

REQUESTS, STEPS = 1000, 1000


def bytes_each(records: object) -> int:
    arrays = [getattr(records, field.name) for field in fields(records)]
    return sum(values.itemsize for values in arrays if isinstance(values, np.ndarray))


def test_a_request_takes_at_most_200_bytes_in_all_its_records():
    ledger = Ledger(REQUESTS)
    while_running = sum(
        len(values) * values.itemsize
        for values in (getattr(ledger, name) for name in dir(ledger))
        if isinstance(values, array)
    )
    column = array("q", [0]) * REQUESTS
    records = ledger.request_records(column, column, column)
    assert isinstance(records, RequestRecords)
    inputs = 3 * (column.itemsize + 8)  # arrival and lengths, drawn and as the loop keeps them
    assert while_running / REQUESTS == 29
    assert bytes_each(records) == 53
    assert while_running / REQUESTS + bytes_each(records) + inputs < 200


def test_a_step_and_the_gaps_it_ends_take_at_most_64_bytes():
    """One request of 1,000 tokens: every step but the first ends one gap."""
    run = run_loop(Small((0,), (1,), (STEPS,), Options(policy="decode_only")))
    assert isinstance(run.steps, StepRecords)
    assert isinstance(run.gaps, TokenGaps)
    assert (len(run.steps), len(run.gaps.gap_ns)) == (STEPS, STEPS - 1)
    assert bytes_each(run.steps) == 38
    assert bytes_each(run.gaps) == 16
    assert bytes_each(run.steps) + bytes_each(run.gaps) + array("q").itemsize < 64


def test_a_run_of_equal_steps_is_kept_once_while_the_loop_runs():
    run = run_loop(Small((0,), (1,), (STEPS,), Options(policy="decode_only")))
    assert len(run.kv_use.time_ns) < 10
