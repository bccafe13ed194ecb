"""A file as numbered lines of text, or as one text: plain or gzipped, bounded in size and line length."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from scheduler.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_TEXT_BYTES = 2 * 1024**3
MAX_LINE_BYTES = 4 * 1024**2
MAX_DOCUMENT_BYTES = 512 * 1024**2
_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Problems:
    """Collects what is wrong with a file, one line per problem; the first `shown` are kept."""

    def __init__(self, path: Path, shown: int = 20) -> None:
        self._path = path
        self._shown = shown
        self._lines: list[str] = []
        self._count = 0
        self._cut_line = 0

    def add(self, line_number: int, message: str, may_be_cut: bool = False) -> None:
        """Note a problem of one line; `may_be_cut` where the line could be the start of a good one."""
        self._count += 1
        self._cut_line = line_number if may_be_cut else 0
        if self._count <= self._shown:
            self._lines.append(f"{self._path}:{line_number}: {message}")

    def raise_if_any(self, last_line: int = 0) -> None:
        """Raise InputError with every problem kept and the number of those left out.

        Where the file's `last_line` may be half a line, the message asks whether the file was cut off.
        """
        if self._lines and self._cut_line == last_line and self._count <= self._shown:
            self._lines[-1] += " (the last line: is the file cut off?)"
        if self._count > self._shown:
            self._lines.append(f"{self._path}: … and {self._count - self._shown:,} more")
        if self._lines:
            raise InputError(self._lines)


def numbered_lines(
    path: Path,
    max_text_bytes: int = MAX_TEXT_BYTES,
    max_line_bytes: int = MAX_LINE_BYTES,
    *,
    any_bytes: bool = False,
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without its line end) of every line that is not blank.

    Gzip is recognised by its first bytes. CRLF, a UTF-8 byte order mark and a missing final newline are
    accepted. Raises InputError for a missing or unreadable file, damaged or cut-off gzip, bytes that are
    no UTF-8 text, a line longer than `max_line_bytes`, and text beyond `max_text_bytes` (after unpacking).
    With `any_bytes`, for logs, bytes that are no text are replaced instead.
    """
    number = 0
    limit = max_text_bytes
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_bounded_lines(path, _unpacked(file), max_line_bytes), start=1):
                max_text_bytes -= len(line)
                if max_text_bytes < 0:
                    raise InputError(f"{path}:{number}: expected at most {limit:,} bytes of text, unpacked")
                if number == 1 and line.startswith(_UTF_16):
                    raise InputError(
                        f"{path}:1: expected a text file in UTF-8, got UTF-16, as PowerShell writes it; "
                        f"iconv -f UTF-16 -t UTF-8 {path.name} > utf8.log turns it"
                    )
                if number == 1 and line.startswith(_BYTE_ORDER_MARK):
                    line = line[len(_BYTE_ORDER_MARK) :]
                if b"\0" in line and not any_bytes:
                    raise InputError(f"{path}:{number}: expected a text file, got a NUL byte (binary data?)")
                text = line.decode("utf-8", "replace" if any_bytes else "strict").strip()
                if text:
                    yield number, text
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{path}:{number}: expected UTF-8 text, got byte 0x{byte:02x}") from error
    except EOFError as error:
        raise InputError(f"{path}:{number + 1}: the gzip data ends early (cut-off download?)") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}:{number + 1}: damaged gzip data: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def whole_text(path: Path, max_bytes: int = MAX_DOCUMENT_BYTES) -> str:
    """Return the text of a file, unpacked; raises InputError as numbered_lines does."""
    try:
        with path.open("rb") as file:
            content = _unpacked(file).read(max_bytes + 1)
        if len(content) > max_bytes:
            raise InputError(f"{path}: expected at most {max_bytes:,} bytes of JSON, unpacked")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise InputError(f"{path}:{line}: expected UTF-8 text, got byte 0x{byte:02x}") from error
    except EOFError as error:
        raise InputError(f"{path}: the gzip data ends early (cut-off download?)") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip data: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of a file, unpacked; raises InputError where it cannot be read."""
    start = bytearray()
    try:
        with path.open("rb") as file:
            unpacked = _unpacked(file)
            while len(start) < count and (piece := unpacked.read1(count - len(start))):
                start += piece
            return bytes(start)
    except EOFError:
        return bytes(start)  # the reader of the format says on which line it ends
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip data: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _unpacked(file: io.BufferedReader) -> io.BufferedReader:
    if file.peek(2)[:2] != _GZIP_MAGIC:
        return file
    return io.BufferedReader(_Unpacked(file), 1 << 18)


class _Unpacked(io.RawIOBase):
    """Gzip that hands out what it has before it complains, so that messages name the right line."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._gzip = gzip.GzipFile(fileobj=file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer)
        piece = self._gzip.read1(len(view))
        view[: len(piece)] = piece
        return len(piece)


def _bounded_lines(path: Path, file: io.BufferedReader, max_line_bytes: int) -> Iterator[bytes]:
    number = 0
    while line := file.readline(max_line_bytes + 1):
        number += 1
        if len(line) > max_line_bytes:
            raise InputError(f"{path}:{number}: expected lines of at most {max_line_bytes:,} bytes")
        yield line
