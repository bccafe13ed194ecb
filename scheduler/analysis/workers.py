"""Where simulations run: in this process, in a pool of spawned processes, or on a Dask cluster.

Each is a `concurrent.futures` executor; only the small tasks and records of a sweep cross to it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, ParamSpec, TypeVar

from scheduler.errors import InputError

MOST_WORKERS = 1_024
DASK_PATIENCE_S = 5
Item = TypeVar("Item")
Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")


class WorkersLostError(Exception):
    """The executor itself failed: a process of the pool died, or the cluster's scheduler went away."""


@dataclass(frozen=True, slots=True)
class Workers:
    """An executor and how many simulations it runs at once; `waiting` more are handed over ahead.

    `stop` ends at once what runs there.
    """

    executor: Executor
    count: int
    waiting: int
    stop: Callable[[], None] = lambda: None


class SerialExecutor(Executor):
    """Runs each call at once, in this process; Ctrl-C passes through."""

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Call `fn` and return its finished future."""
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def open_workers(count: int | None = None, dask: str | None = None) -> Iterator[Workers]:
    """Yield workers: a Dask cluster at an address, or `count` processes (default: one per CPU; 1: this one).

    Raises InputError for a bad count, an address where no scheduler answers, or a missing package.
    """
    if dask is not None:
        if count is not None:
            raise InputError("--workers: expected only one of --workers and --dask")
        with _dask(dask) as workers:
            yield workers
        return
    count = _checked(count)
    if count == 1:
        yield Workers(SerialExecutor(), 1, 0)
        return
    with _processes(count) as workers:
        yield workers


@contextmanager
def open_workers_beside(count: int | None = None) -> Iterator[Workers | None]:
    """Yield workers for `work_beside`, so that with this process there are `count` (default: one per CPU).

    None where this process is to work alone. The others start with the first item, so where there is little
    to do there are none. Raises InputError for a bad count.
    """
    count = _checked(count)
    if count == 1:
        yield None
        return
    with _processes(count - 1) as workers:
        yield workers


def _checked(count: int | None) -> int:
    count = cpu_count() if count is None else count
    if not 1 <= count <= MOST_WORKERS:
        raise InputError(f"--workers: expected 1 to {MOST_WORKERS:,}, got {count}")
    return count


def cpu_count() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_completed(
    function: Callable[[Item], Result], items: Sequence[Item], workers: Workers
) -> Iterator[tuple[int, Result]]:
    """Yield (index, function(item)) as they complete, never more than the workers can hold handed over.

    Raises WorkersLostError where the executor fails; what `function` raises is raised here.
    """
    running: dict[Future[Result], int] = {}
    pending = iter(enumerate(items))
    try:
        while True:
            while len(running) < workers.count + workers.waiting:
                index, item = next(pending, (None, None))
                if index is None:
                    break
                running[workers.executor.submit(function, item)] = index  # type: ignore[arg-type]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except (BrokenExecutor, CancelledError) as error:
        raise WorkersLostError(str(error) or type(error).__name__) from None


def work_beside(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: Workers,
    here: Callable[[int], Result],
) -> Iterator[tuple[int, Result]]:
    """Yield (index, function(item)): this process begins at the front, the workers at the end.

    So n cores need n − 1 workers, and what an interrupted call leaves here goes on from what is complete. In
    this process `here(index)` stands for `function(items[index])`. Raises WorkersLostError where the executor
    fails; what `function` raises is raised here.
    """
    submit = workers.executor.submit
    theirs = {index: submit(function, items[index]) for index in reversed(range(len(items)))}
    try:
        for index in range(len(items)):
            if index not in theirs:  # a worker was here first, and its result is out
                continue
            if not theirs[index].cancel():
                break
            del theirs[index]
            yield index, here(index)
            for done in [other for other, future in theirs.items() if future.done()]:
                yield done, theirs.pop(done).result()  # at once: a result may be large
        for index in sorted(theirs):
            yield index, theirs.pop(index).result()
    except (BrokenExecutor, CancelledError) as error:
        raise WorkersLostError(str(error) or type(error).__name__) from None
    finally:
        for future in theirs.values():
            future.cancel()


@contextmanager
def _processes(count: int) -> Iterator[Workers]:
    others = {child.pid for child in multiprocessing.active_children()}
    # Spawn, not fork: a fork after CUDA or threads have started is unsafe, and is no option on all systems.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker)

    def stop() -> None:
        executor.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            if child.pid not in others:
                child.terminate()

    try:
        yield Workers(executor, count, count, stop)
        executor.shutdown()
    except BaseException:
        stop()
        raise


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


@contextmanager
def _dask(address: str) -> Iterator[Workers]:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise InputError(
            "--dask: expected the package distributed; install it with: pip install 'graphpool[cluster]'"
        ) from None
    try:
        # A client that never connects leaves a traceback behind when it is collected: ask the address first.
        place = distributed.comm.get_address_host_port(address)
        socket.create_connection(place, timeout=DASK_PATIENCE_S).close()
        client = distributed.Client(address, timeout=DASK_PATIENCE_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # TimeoutError is an OSError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"--dask {address}: expected the address of a Dask scheduler: {reason}") from None
    try:
        threads = sum(client.nthreads().values())
        if not threads:
            raise InputError(f"--dask {address}: expected at least one worker, the cluster has none")
        executor = client.get_executor(pure=False)
        try:
            yield Workers(executor, threads, threads)
        finally:
            executor.shutdown(wait=False)  # cancels what is left
    finally:
        client.close()
