"""Two things drawn at once: part of the work in a copy of this process, where the system has cheap ones."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def in_a_copy(work: Callable[[], object]) -> Iterator[None]:
    """Do some work, whose results are files, in a forked copy of this process while the block runs.

    On one CPU, outside Linux, and where other threads run (a fork would lose them), it is done here, before
    the block; so it is after the block where the copy failed, which also raises what went wrong. Whatever
    ends the block early ends the copy, too, by Ctrl-C, so that it leaves no temporary file.
    """
    if sys.platform != "linux" or threading.active_count() > 1 or len(os.sched_getaffinity(0)) < 2:
        work()
        yield
        return
    copy = os.fork()
    if copy == 0:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            work()
            status = 0
        finally:
            os._exit(status)  # nothing else of the original may run or be written twice
    try:
        yield
    except BaseException:
        os.kill(copy, signal.SIGINT)
        os.waitpid(copy, 0)
        raise
    if os.waitpid(copy, 0)[1]:
        work()
