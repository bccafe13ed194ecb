"""Inside vLLM's worker: lists of graphs by turns, and the recorder's hooks in and out by turns."""

from __future__ import annotations

import time

from scheduler.live.graph_lists import GraphLists
from scheduler.record.hooks import _installed, _now


class MeasuredGraphLists(GraphLists):
    """Methods for a worker in the scheduler's process, whose recorder is to be measured, too."""

    def switch_recorder(self, turn_s: float) -> None:
        """Put the recorder's hooks in and out by turns of `turn_s` seconds, or with 0 in for good."""
        recorder = _installed[0]
        if turn_s:
            at = _now() // 1_000
            recorder.spans.append([at, at])
            recorder._toggled = time.monotonic()
        elif not recorder.is_on:
            recorder._switch(True)
        recorder._toggle_s = turn_s
