"""Which run of a file with several: the last, unless the file is named with `#` and a number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from scheduler.errors import InputError

Run = TypeVar("Run")
_NUMBERED = re.compile(r"(.+)#(\d{1,6})")


def split_run(path: Path) -> tuple[Path, int | None]:
    """Return the file and the number of the run that `result.json#2` names, None where it names none."""
    named = _NUMBERED.fullmatch(path.name)
    if named is None or path.exists():
        return path, None
    return path.with_name(named[1]), int(named[2])


def chosen_run(path: Path, run: int | None, runs: Sequence[Run], noun: str = "runs") -> tuple[Run, list[str]]:
    """Return a run and what to tell of the choice; raises InputError where there is no such run."""
    if not runs:
        raise InputError(f"{path}: expected at least one run, got none")
    if run is not None and not 1 <= run <= len(runs):
        raise InputError(f"{path}#{run}: expected a number from 1 to {len(runs)}, the {noun} in the file")
    number = run or len(runs)
    note = [f"{noun.rstrip('s')} {number} of {len(runs)} in the file ({path.name}#1 names the first)"]
    return runs[number - 1], note if len(runs) > 1 else []
