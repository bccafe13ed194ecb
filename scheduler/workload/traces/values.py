"""The cells of a trace, read exactly: times as whole nanoseconds (never through a float), token counts.

Every reader takes the text of one cell and raises ValueError with what was expected.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Callable
from datetime import date

MAX_TOKENS = 10_000_000
_MAX_NS = 2**63 - 1
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,6})?", re.ASCII)
_WALL_CLOCK = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?\s*(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)
_EXACT = decimal.Context(prec=100)
_EPOCH_DAY = date(1970, 1, 1).toordinal()


def read_tokens(text: str) -> int:
    """Read a token count: a whole number from 0 to MAX_TOKENS; `12.0` counts as whole."""
    if len(text) <= 7 and text.isdigit() and text.isascii():
        return int(text)
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"expected a whole number of tokens, got {shown(text)}")
    number = decimal.Decimal(text)
    if number < 0:
        raise ValueError(f"expected a number of tokens of at least 0, got {shown(text)}")
    if number > MAX_TOKENS:
        raise ValueError(f"expected at most {MAX_TOKENS:,} tokens, got {shown(text)}")
    if number != number.to_integral_value(context=_EXACT):
        raise ValueError(f"expected a whole number of tokens, got {shown(text)}")
    return int(number)


def read_share(text: str) -> float:
    """Read a share: a decimal number from 0 to 1."""
    if _NUMBER.fullmatch(text) is None or not 0 <= float(text) <= 1:
        raise ValueError(f"expected a share from 0 to 1, got {shown(text)}")
    return float(text)


def seconds_reader(power: int) -> Callable[[str], int]:
    """Return a reader of decimal numbers in units of 10^-power seconds (0: s, 3: ms) as whole ns.

    Digits beyond the nanosecond are rounded half-even, once. Negative times, NaN and infinity are
    refused, and so is what a signed 64-bit count of nanoseconds cannot hold (about 292 years).
    """
    digits = 9 - power
    powers = [int(10**exponent) for exponent in range(digits + 1)]

    def read(text: str) -> int:
        whole, _, fraction = text.partition(".")
        if len(whole) <= 9 and whole.isdigit() and len(fraction) <= digits and text.isascii():
            if not fraction:
                return int(whole) * powers[digits]
            if fraction.isdigit():
                return int(whole) * powers[digits] + int(fraction) * powers[digits - len(fraction)]
        return _read_slowly(text, digits)

    return read


def _read_slowly(text: str, digits: int) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"expected a time as a finite number, got {shown(text)}")
    number = decimal.Decimal(text)
    if number < 0:
        raise ValueError(f"expected a time of at least 0, got {shown(text)}")
    if number and number.adjusted() + digits > 18:
        raise ValueError(f"expected a time within 292 years, got {shown(text)} (another unit?)")
    if number.adjusted() + digits < -1:
        return 0
    with decimal.localcontext(_EXACT):
        time_ns = int(number.scaleb(digits).to_integral_value(decimal.ROUND_HALF_EVEN))
    if time_ns > _MAX_NS:
        raise ValueError(f"expected a time within 292 years, got {shown(text)} (another unit?)")
    return time_ns


def is_number(text: str) -> bool:
    """Say whether the text is a finite decimal number."""
    return _NUMBER.fullmatch(text) is not None


def is_wall_clock(text: str) -> bool:
    """Say whether the text looks like a date with a time of day."""
    return re.match(r"\d{4}-\d\d-\d\d", text, re.ASCII) is not None


class WallClockReader:
    """Reads `2023-11-16 18:15:46.6805900`, with `T` and an offset if any, as whole ns since 1970.

    All times of a file must name the same offset, or none: with two, rows of one clock hour would land
    in different hours without anybody noticing a typing error.
    """

    def __init__(self) -> None:
        self._minute_ns: dict[str, int] = {}
        self._offset: str | None = None
        self._seen = False

    def __call__(self, text: str) -> int:
        """Return nanoseconds since 1970-01-01 (UTC, or the file's own unnamed zone)."""
        match = _WALL_CLOCK.fullmatch(text)
        if match is None:
            raise ValueError(f"expected a time like 2023-11-16 18:15:46.680, got {shown(text)}")
        offset = match[8]
        if offset != self._offset or not self._seen:
            self._check_offset(offset)
        minute = text[:16]
        minute_ns = self._minute_ns.get(minute)
        if minute_ns is None:
            minute_ns = self._minute_ns[minute] = _minute_ns(match, text)
        second = int(match[6])
        if second > 59:
            raise ValueError(f"expected a time with seconds below 60, got {shown(text)}")
        fraction = match[7]
        nanoseconds = int(fraction.ljust(9, "0")) if fraction else 0
        return minute_ns + second * 1_000_000_000 + nanoseconds - _offset_ns(offset)

    def _check_offset(self, offset: str | None) -> None:
        if not self._seen:
            _offset_ns(offset)
            self._seen, self._offset = True, offset
        elif _named(offset) != _named(self._offset):
            raise ValueError(f"mixed time zones: {_named(offset)} here, {_named(self._offset)} before")


def _minute_ns(match: re.Match[str], text: str) -> int:
    try:
        day = date(int(match[1]), int(match[2]), int(match[3])).toordinal() - _EPOCH_DAY
    except ValueError as error:
        raise ValueError(f"expected a date of the calendar, got {shown(text)}") from error
    hour, minute = int(match[4]), int(match[5])
    if hour > 23 or minute > 59 or not 0 <= day <= 106_000:
        raise ValueError(f"expected a time of day in the years 1970 to 2260, got {shown(text)}")
    return ((day * 24 + hour) * 60 + minute) * 60_000_000_000


def _offset_ns(offset: str | None) -> int:
    if offset is None or offset == "Z" or offset == "+00:00":
        return 0
    digits = offset[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 14 or minutes > 59:
        raise ValueError(f"expected an offset from UTC within 14 hours, got {offset}")
    return (hours * 60 + minutes) * 60_000_000_000 * (-1 if offset[0] == "-" else 1)


def _named(offset: str | None) -> str:
    """Return an offset in one spelling, so that Z, +00 and +00:00 are the same zone."""
    if offset is None:
        return "no offset"
    minutes = _offset_ns(offset) // 60_000_000_000
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def shown(text: str) -> str:
    """Quote a cell for a message, cut to a length that fits one line."""
    return "nothing" if not text else repr(text if len(text) <= 40 else text[:37] + "…")
