"""What a sweep has finished: one small file per task, so a kill at any moment loses only what was running."""

from __future__ import annotations

import json
from pathlib import Path

from scheduler.analysis.metrics import Record
from scheduler.files import write_json

MAX_STORED_BYTES = 4 << 20


class Store:
    """Finished tasks, one small JSON file each; a damaged file counts as not done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> list[Record] | None:
        """Return the records stored under a key, or None."""
        path = self._path(key)
        try:
            if path.stat().st_size > MAX_STORED_BYTES:
                return None
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(content, dict) or content.get("key") != key:
            return None
        records = content.get("records")
        is_list = isinstance(records, list) and records and all(isinstance(one, dict) for one in records)
        return records if is_list else None

    def put(self, key: str, records: list[Record]) -> None:
        """Store a finished task: written beside, then renamed, so a kill leaves all of it or nothing."""
        write_json(self._path(key), {"key": key, "records": records})

    def _path(self, key: str) -> Path:
        return self.folder / f"{key[:32]}.json"
