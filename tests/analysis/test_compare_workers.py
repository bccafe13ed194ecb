"""Simulations shared with other processes: the same results; what Ctrl-C leaves is complete and in order."""

from __future__ import annotations

import numpy as np
import pytest
from small_comparison import small_comparison

from scheduler.analysis.comparison import compare as module
from scheduler.analysis.workers import open_workers_beside
from scheduler.report.tables import TABLES


@pytest.fixture
def shared(monkeypatch):
    monkeypatch.setattr(module, "WORTH_WORKERS", 0)
    with open_workers_beside(2) as workers:
        yield workers


def test_two_processes_give_what_one_gives(shared):
    alone, together = small_comparison(replications=3), small_comparison(replications=3, workers=shared)
    assert [column.name for column in alone.columns] == [column.name for column in together.columns]
    for one, other in zip(alone.columns, together.columns, strict=True):
        assert one.summaries == other.summaries
        for first, second in zip(one.runs, other.runs, strict=True):
            for records_of, columns in TABLES.values():
                for column in columns:
                    values = getattr(records_of(first), column), getattr(records_of(second), column)
                    assert np.array_equal(*values), column


def test_ctrl_c_keeps_the_first_simulations_and_no_later_one(shared, monkeypatch):
    def some(function, items, workers, here):
        yield 0, here(0)
        yield len(items) - 1, here(len(items) - 1)  # a worker's, with others before it missing
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "work_beside", some)
    comparison = small_comparison(replications=3, workers=shared)
    assert comparison.failure == "interrupted"
    assert [len(column.runs) for column in comparison.columns] == [1, 0, 0][: len(comparison.columns)]


def test_ctrl_c_before_anything_is_complete_is_ctrl_c(shared, monkeypatch):
    def none(function, items, workers, here):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(module, "work_beside", none)
    with pytest.raises(KeyboardInterrupt):
        small_comparison(replications=3, workers=shared)
