"""`run.py selfcheck`: the guided demonstration and health check of graph replay on this machine."""

from __future__ import annotations

from pathlib import Path

from scheduler.executors.selfcheck.selfcheck import selfcheck
from scheduler.files import write_json

FAILED_CHECK = 1


def run_selfcheck(device: str | None, force_cpu: bool, out: Path | None) -> int:
    """Run every check, say what is found, write the report to `out` as JSON; return 1 after a failure."""
    report = selfcheck(device=device, force_cpu=force_cpu)
    if out is not None:
        write_json(out, report)
    return 0 if report["passed"] else FAILED_CHECK
