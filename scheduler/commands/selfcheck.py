"""`run.py selfcheck`: the guided demonstration and health check of graph replay on this machine."""

from __future__ import annotations

from scheduler.commands.options import SelfcheckOptions
from scheduler.executors.selfcheck.selfcheck import selfcheck
from scheduler.files import write_json

FAILED_CHECK = 1


def run_selfcheck(options: SelfcheckOptions) -> int:
    """Run every check, say what is found, write the report as JSON where asked; return 1 after a failure."""
    report = selfcheck(device=options.device, force_cpu=options.force_cpu)
    if options.out is not None:
        write_json(options.out, report)
    return 0 if report["passed"] else FAILED_CHECK
