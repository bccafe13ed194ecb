"""Runs while their comparison is made: small ones in memory, those of a large comparison in files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from scheduler.engine.records import Run

MOST_BYTES = 128 << 20
Arrays = dict[str, NDArray[Any]]
Kept = Callable[[], Run]  # gives the run whenever it is asked for


class KeptRuns(Sequence[Run]):
    """The runs of one variant in replication order, each from wherever it is kept."""

    def __init__(self) -> None:
        self._kept: list[Kept] = []

    def append(self, kept: Kept) -> None:
        """Add the next run."""
        self._kept.append(kept)

    def clear(self) -> None:
        """Forget every run."""
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | Sequence[Run]:
        if isinstance(index, int):
            return self._kept[index]()
        part = KeptRuns()
        part._kept = self._kept[index]
        return part


def in_memory(run: Run) -> Kept:
    """Keep a run as it is."""
    return lambda: run


@dataclass(slots=True)
class Scratch:
    """A folder in `near` for runs that do not fit into `most_bytes` of memory together.

    It is made when the first run needs it and goes when the scratch is closed.
    """

    near: Path
    most_bytes: int = MOST_BYTES
    _in_memory: int = field(default=0, init=False)
    _folder: Path | None = field(default=None, init=False)
    _files: int = field(default=0, init=False)

    def keep(self, run: Run) -> Kept:
        """Keep a run in memory as long as there is room, else in files.

        It is mapped anew whenever it is asked for, so that no more of it is in memory than is being read.
        """
        size = sum(array.nbytes for records in _records(run).values() for array in _arrays(records).values())
        if self._in_memory + size <= self.most_bytes:
            self._in_memory += size
            return in_memory(run)
        return self._put_away(run)

    def _put_away(self, run: Run) -> Kept:
        if self._folder is None:
            self.near.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=".runs-", dir=self.near))
        paths = {
            name: {key: self._save(self._folder, array) for key, array in _arrays(records).items()}
            for name, records in _records(run).items()
        }
        # What is left of the run holds no array: it would keep the memory.
        bare = replace(
            run,
            **{
                name: replace(records, **dict.fromkeys(paths[name], np.zeros(0)))
                for name, records in _records(run).items()
            },
        )

        def mapped() -> Run:
            return replace(
                bare,
                **{
                    name: replace(
                        records, **{key: np.load(path, mmap_mode="r") for key, path in paths[name].items()}
                    )
                    for name, records in _records(bare).items()
                },
            )

        return mapped

    def _save(self, folder: Path, array: NDArray[Any]) -> Path:
        path = folder / f"{self._files}.npy"
        self._files += 1
        np.save(path, array, allow_pickle=False)
        return path

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *error: object) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _records(run: Run) -> dict[str, Any]:
    records = {"requests": run.requests, "step_runs": run.step_runs, "host_and_gpu": run.host_and_gpu}
    return {name: record for name, record in records.items() if record is not None}


def _arrays(records: Any) -> Arrays:
    values = {entry.name: getattr(records, entry.name) for entry in fields(records)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
