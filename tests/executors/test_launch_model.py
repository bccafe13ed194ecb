"""The launch model against sums done by hand."""

from __future__ import annotations

import pytest

from scheduler.executors.selfcheck.launch_model import asynchronous_ms, compare_launching


def test_overhead_that_longer_kernels_hide_costs_nothing() -> None:
    row = compare_launching(5, 0.1, 0.05)
    assert row.eager_ms == pytest.approx(0.55)
    assert row.graph_ms == pytest.approx(0.55)
    assert row.speed_up == pytest.approx(1.0)
    assert row.naive_speed_up == pytest.approx(0.75 / 0.55)


def test_short_kernels_are_bound_by_their_launches() -> None:
    row = compare_launching(5, 0.01, 0.05)
    assert row.eager_ms == pytest.approx(0.26)
    assert row.graph_ms == pytest.approx(0.10)
    assert row.speed_up == pytest.approx(2.6)
    assert row.naive_speed_up == pytest.approx(3.0)


def test_a_kernel_starts_when_it_is_issued_and_the_one_before_is_done() -> None:
    # issued at 1, 2, 3; the second is done at 7, so the third runs from 7 to 7.5
    assert asynchronous_ms([0.5, 5.0, 0.5], 1.0) == pytest.approx(7.5)


def test_without_issue_time_kernels_simply_add_up() -> None:
    assert asynchronous_ms([0.25] * 4, 0.0) == pytest.approx(1.0)
