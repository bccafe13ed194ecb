"""Progress on stderr for whatever takes over two seconds; silent where stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

PATIENCE_S = 2.0


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Yield report(label, done, total); a bar with the time left appears after two seconds."""
    console = console or Console(file=sys.stderr)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=None)
    started = time.monotonic()
    shown = False

    def report(label: str, done: int, total: int) -> None:
        nonlocal shown
        bar.update(task, description=label, completed=done, total=total)
        if not shown and time.monotonic() - started > PATIENCE_S:
            bar.start()
            shown = True

    try:
        yield report
    finally:
        bar.stop()
