"""The one thread that writes: takes finished rows from a queue, a few at a time, off the engine's path."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import util as processes
from typing import Any

MOST_WAITING = 65_536  # rows; more are dropped and counted
PERIOD_S = 0.5
_AT_ONCE = 8  # rows made into text before the engine's thread is let in
_PAUSE_S = 0.0002

Row = list[Any]


class Writer:
    """Writes the rows that `add` takes; `write` gets the number of the first step and the lines of text."""

    def __init__(
        self,
        as_text: Callable[[Row], str],
        write: Callable[[int, Sequence[str]], None],
        failed: Callable[[str, Exception], None],
        each_period: Callable[[], None] | None = None,
        period_s: float = PERIOD_S,
    ) -> None:
        self.rows: deque[Row] = deque()
        self.dropped = 0
        self._as_text, self._write, self._failed = as_text, write, failed
        self._each_period, self._period_s = each_period, period_s
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="graphpool-record", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        # A child of multiprocessing ends without atexit.
        processes.Finalize(None, self.close, exitpriority=100)

    def add(self, row: Row) -> None:
        """Take a finished row; its first cell is the number of the step."""
        if len(self.rows) < MOST_WAITING:
            self.rows.append(row)
        else:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits and stop."""
        if os.getpid() != self._process or self._stop.is_set():
            return
        self._stop.set()
        self._drain()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self._drain()
            if self._each_period is not None:
                self._each_period()

    def _drain(self) -> None:
        try:
            with self._writing:
                while self.rows:
                    self._write_some()
        except Exception as error:
            self.rows.clear()
            self._stop.set()
            self._failed("writing", error)

    def _write_some(self) -> None:
        first, lines = self.rows[0][0], []
        for count in range(min(len(self.rows), 2_048)):
            lines.append(self._as_text(self.rows.popleft()))
            if count % _AT_ONCE == _AT_ONCE - 1:
                time.sleep(_PAUSE_S)
        self._write(first, lines)
