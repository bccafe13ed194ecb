"""`run.py inspect FILE`: what a file is, what was read and left out, and what it may be used for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from scheduler.commands.options import InspectOptions
from scheduler.report.found_text import found_record, found_text
from scheduler.workload.inputs.door import read_input
from scheduler.workload.inputs.head import Told


def run_inspect(file: Path, options: InspectOptions) -> int:
    """Print what was found in the file, as text or JSON; return 0."""
    found = read_input(file, Told(options.max_num_seqs))
    if options.json:
        sys.stdout.write(json.dumps(found_record(found), indent=1, sort_keys=True, allow_nan=False) + "\n")
    else:
        sys.stdout.write(found_text(found))
    return 0
