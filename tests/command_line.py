"""The real command line, called in this process or started in one of its own. Shared by tests."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from scheduler.cli import main

ROOT = Path(__file__).parents[1]
# The shipped workloads that neither need a file of requests nor stand in for one.
WORKLOADS = [
    path
    for path in sorted((ROOT / "workloads").glob("*.yaml"))
    if not any(word in path.read_text(encoding="utf-8") for word in ("process: trace", "--measured"))
]


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def errors(self) -> list[str]:
        return self.stderr.splitlines()


def call(*words: str | Path) -> Outcome:
    """Run a command in this process, as `run.py` would: no process to start, the same code."""
    before = sys.argv
    sys.argv = ["run.py", *map(str, words)]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.argv = before
    return Outcome(status, out.getvalue(), err.getvalue())


def start(*words: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Start `python run.py …` from the clone's top level, both outputs in pipes."""
    return subprocess.Popen(
        [sys.executable, "run.py", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def spawn(*words: str | Path, **environment: str) -> Outcome:
    """Run `python run.py …` in a process of its own, to its end."""
    with start(*words, **environment) as process:
        stdout, stderr = process.communicate(timeout=120)
    return Outcome(process.returncode, stdout, stderr)


def wait_until_busy(process: subprocess.Popen[str]) -> bool:
    """Wait until the process has used 1.5 CPU seconds: well past start-up and drawing, far from its end."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    while process.poll() is None:
        fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        if int(fields[11]) / ticks_per_s > 1.5:
            return True
        time.sleep(0.02)
    return False
