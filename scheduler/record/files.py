"""The files of a recording: their names, their columns, and the room they may take."""

from __future__ import annotations

import gzip
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

MOST_STEPS = 1_000_000  # in a file, about 25 MB; two are kept
STEP_COLUMNS = (
    "scheduled_us",
    "requests",
    "tokens",
    "chunks",
    "waiting",
    "free_blocks",
    "preempted",
    "dispatched_us",
    "mode",
    "captured_tokens",
    "output_us",
    "new_requests",
    "kv_tokens",
    "chunk_cached",
    "decided_us",
    "entered_us",
    "executed_us",
    "launched_us",
    "updated_us",
    "step",
    "drafts",
    "accepted",
    "drafting_us",
    "drafted_us",
)
WORKER_COLUMNS = (
    "step",
    "entered_us",
    "dispatched_us",
    "mode",
    "captured_tokens",
    "executed_us",
    "launched_us",
    "drafting_us",
    "drafted_us",
)
_ENDINGS = (".json", ".csv.gz", ".csv", ".gz")


class RecordingFiles:
    """`NAME.json` (the engine's settings), `NAME_steps.csv.gz`, with a worker's process `NAME_worker.csv.gz`.

    What was there before becomes `NAME.old.json` and so on: the run before this one, or, when a file has
    `most_steps` steps, the part of this run before.
    """

    def __init__(self, target: str, suffix: str = "", most_steps: int = MOST_STEPS) -> None:
        path = Path(target)
        name = path.name
        for ending in _ENDINGS:
            name = name.removesuffix(ending)
        name = name.removesuffix("_steps") + suffix
        self.folder, self.name, self.most_steps = path.parent, name, most_steps
        self.facts = self.folder / f"{name}.json"
        self.steps = self.folder / f"{name}_steps.csv.gz"
        self.worker = self.folder / f"{name}_worker.csv.gz"

    def put_away(self, path: Path) -> None:
        """Give the file of the run or part before its old name, over what had it."""
        if path.exists():
            path.replace(self.folder / path.name.replace(self.name, f"{self.name}.old", 1))

    def begin(self) -> None:
        """Put away all files of the run before; called once per engine, before its first step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in (self.facts, self.steps, self.worker):
            self.put_away(path)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write `NAME.json` under another name and rename it."""
        temporary = self.folder / f".{self.name}.{secrets.token_hex(6)}.tmp"
        try:
            temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            temporary.replace(self.facts)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


class RowFile:
    """A CSV to which whole gzip members are appended: a killed server leaves a file that can be read."""

    def __init__(self, files: RecordingFiles, path: Path, columns: Sequence[str]) -> None:
        self._files, self._path, self._header = files, path, ",".join(columns) + "\n"
        self._part = 0

    def append(self, first_step: int, lines: Sequence[str]) -> bool:
        """Append lines; tell whether a new file was begun, the full one being put away first."""
        part = first_step // self._files.most_steps
        began = part != self._part
        if began:
            self._part = part
            self._files.put_away(self._path)
        is_new = not self._path.exists()
        text = (self._header if is_new else "") + "".join(lines)
        data = gzip.compress(text.encode("ascii"), compresslevel=1, mtime=0)
        with self._path.open("ab") as file:
            file.write(data)
            file.flush()
        return began


def most_steps_asked() -> int:
    """Return how many steps a file may have: GRAPHPOOL_RECORD_STEPS, or the default."""
    with suppress(ValueError):
        return max(1_000, int(os.environ.get("GRAPHPOOL_RECORD_STEPS", MOST_STEPS)))
    return MOST_STEPS
