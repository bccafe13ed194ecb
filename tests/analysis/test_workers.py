"""Whatever runs the simulations, the records are the same; what breaks is told in one line."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import Future

import pytest

from scheduler.analysis.workers import (
    SerialExecutor,
    Workers,
    WorkersLostError,
    as_completed,
    cpu_count,
    open_workers,
    work_beside,
)
from scheduler.errors import InputError


def square(number):
    return number * number


def die(number):
    os._exit(number)


def process_id(_):
    return os.getpid()


def test_everything_is_done_once_in_one_process_or_two():
    for count in (1, 2):
        with open_workers(count) as workers:
            found = list(as_completed(square, range(7), workers))
        assert sorted(found) == [(number, number * number) for number in range(7)]


def test_one_worker_is_this_process_and_more_are_others():
    with open_workers(1) as workers:
        assert [found for _, found in as_completed(process_id, [0], workers)] == [os.getpid()]
    with open_workers(2) as workers:
        assert os.getpid() not in {found for _, found in as_completed(process_id, range(4), workers)}


def test_only_what_the_workers_can_hold_is_handed_over():
    given = []

    class Watched(SerialExecutor):
        def submit(self, fn, /, number):
            given.append(number)
            return super().submit(fn, number)

    found = as_completed(square, range(100), Workers(Watched(), 2, 3))
    next(found)
    assert len(given) == 5
    assert len(list(found)) == 99


def test_a_worker_that_dies_is_told_as_such():
    with pytest.raises(WorkersLostError), open_workers(2) as workers:
        list(as_completed(die, [1], workers))


def test_cancelled_work_means_that_the_executor_is_gone():
    class Gone(SerialExecutor):
        def submit(self, fn, /, *arguments):
            future: Future[int] = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    with pytest.raises(WorkersLostError):
        list(as_completed(square, [1], Workers(Gone(), 1, 0)))


def test_an_error_inside_stops_the_processes_at_once():
    def fail_while_a_worker_sleeps():
        with open_workers(2) as workers:
            workers.executor.submit(time.sleep, 60)
            raise ZeroDivisionError

    started = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        fail_while_a_worker_sleeps()
    assert time.monotonic() - started < 10


def test_the_default_is_one_worker_per_cpu():
    with open_workers() as workers:
        assert workers.count == cpu_count() >= 1


@pytest.mark.parametrize("count", [0, -1, 1_000_000])
def test_a_bad_count_is_one_line(count):
    with pytest.raises(InputError, match="--workers: expected 1 to 1,024"), open_workers(count):
        pass


def test_dask_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(InputError, match=r"pip install 'graphpool\[cluster\]'"),
        open_workers(None, "tcp://x:1"),
    ):
        pass


def test_work_beside_goes_on_where_a_worker_was_faster():
    """A worker that overtakes the front leaves no gap: its result came out already."""
    handed: dict[int, Future] = {}

    class Handed:
        def submit(self, function, item):
            return handed.setdefault(item, Future())

    def here(index):
        if index == 0:
            handed[1].set_result(10)
        return 10 * index

    found = dict(work_beside(square, [0, 1, 2], Workers(Handed(), 1, 0), here))
    assert found == {0: 0, 1: 10, 2: 20}
