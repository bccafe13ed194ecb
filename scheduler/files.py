"""Writing result files: to a temporary name first, then renamed, so that no file is ever half-written."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scheduler.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` on success, remove it on failure.

    The temporary file is new and its name cannot be foreseen: no link that others planted is followed.
    Raises InputError where the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp{path.suffix}")
        temporary.touch(exist_ok=False)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_folder(folder: Path, files: Sequence[str] = ()) -> None:
    """Raise InputError where `files`, or any file, cannot be written to `folder`; leave nothing behind.

    Called before hours of work, not after: the folder and a file in it are made for a moment.
    """
    made: list[Path] = []
    try:
        for place in (*reversed(folder.absolute().parents), folder.absolute()):
            if place.is_file():
                raise InputError(f"{folder}: expected a folder to write to; {place} is a file")
            if not place.exists():
                place.mkdir()
                made.append(place)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for name in files:
            if (folder / name).is_dir():
                raise InputError(f"{folder / name}: expected a file that may be replaced, got a folder")
    except OSError as error:
        raise InputError(f"{folder}: expected a folder to write to: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # someone else began to use it
            for place in reversed(made):
                place.rmdir()


def check_file(path: Path) -> None:
    """Raise InputError where `path` cannot be written; leave nothing behind."""
    check_folder(path.parent, [path.name])


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with newline line ends, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and no NaN, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
