"""Ctrl-C between two steps: held back while the loop changes its records, so that a partial run adds up."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class HeldInterrupt:
    """A context in which Ctrl-C only sets `came`; a second one takes effect at once.

    Where Ctrl-C would not raise KeyboardInterrupt anyway (another thread, a worker that ignores it), nothing
    is changed. Python runs the handler between two bytecodes, of which compiled code has none: asking whether
    it `came` is what lets it.
    """

    def __init__(self) -> None:
        self._came = False
        self._holds = False

    @property
    def came(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._came

    def __enter__(self) -> HeldInterrupt:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._hold)
            self._holds = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._holds:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _hold(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
