"""`run.py selfcheck`: the guided demonstration and health check of graph replay on this machine."""

from __future__ import annotations

from scheduler.commands.options import SelfcheckOptions
from scheduler.executors.selfcheck.selfcheck import selfcheck
from scheduler.files import write_json

FAILED_CHECK = 1
NOTHING_CHECKED = 4


def run_selfcheck(options: SelfcheckOptions) -> int:
    """Run every check, say what is found, write the report as JSON where asked.

    Return 0 where every check held, 1 after a failure, 4 where nothing could be checked.
    """
    report = selfcheck(device=options.device, force_cpu=options.force_cpu)
    if options.out is not None:
        write_json(options.out, report)
    if report["passed"] is None:
        return NOTHING_CHECKED
    return 0 if report["passed"] else FAILED_CHECK
