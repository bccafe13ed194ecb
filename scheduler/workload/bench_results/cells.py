"""The values of a benchmark's result, checked one by one, and the rows they become."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scheduler.errors import InputError
from scheduler.workload.inputs.found import RequestRows, Sending

MOST_TOKENS = 10_000_000
MOST_SHOWN = 20
MOST_MS = 1e12
LONGEST_S = 1e9  # 10^18 ns fit the 64-bit clock


def number(row: Mapping[str, Any], key: str) -> float:
    """Return a finite number; raises ValueError."""
    value = row.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{key}: expected a number, got {json.dumps(value, default=str)[:60]}")
    return float(value)


def tokens(row: Mapping[str, Any], key: str, least: int = 1) -> int:
    """Return a whole number of tokens; raises ValueError."""
    value = number(row, key)
    if value < least or value != int(value) or value > MOST_TOKENS:
        expected = f"a whole number of tokens from {least} to {MOST_TOKENS:,}"
        raise ValueError(f"{key}: expected {expected}, got {value:g}")
    return int(value)


class RowBuilder:
    """Collects the requests of one run: good ones as rows, failed ones counted, bad values as problems.

    `starts_s` are on any clock: the first becomes 0.
    """

    def __init__(self, path: Path, format_name: str, place: str = "request") -> None:
        self._path = path
        self._place = place
        self.rows = RequestRows(format_name, "s", place)
        self._starts_s: list[float] = []
        self._served_s: list[float] = []
        self._problems: list[str] = []
        self._left_out: dict[str, list[int]] = {}

    def add(
        self,
        at: int,
        prompt: int,
        output: int,
        *,
        start_s: float | None = None,
        served_s: float | None = None,
        ttft_ms: float = math.nan,
        e2el_ms: float = math.nan,
        cached: int | None = None,
    ) -> None:
        """Add one completed request; raises ValueError where its latencies make no sense."""
        if not math.isnan(e2el_ms) and not 0 <= ttft_ms <= e2el_ms <= MOST_MS:
            raise ValueError(f"expected 0 ≤ TTFT ≤ E2EL, got {ttft_ms:g} and {e2el_ms:g} ms")
        rows = self.rows
        rows.numbers.append(at)
        rows.prompt_tokens.append(prompt)
        rows.output_tokens.append(output)
        rows.ttft_ms.append(ttft_ms)
        rows.e2el_ms.append(e2el_ms)
        if start_s is not None:
            self._starts_s.append(start_s)
        if served_s is not None:
            self._served_s.append(served_s)
        if cached is not None:
            rows.cached_tokens.append(min(cached, prompt))

    def leave_out(self, at: int, why: str) -> None:
        """Count a request that is no data, such as a failed one."""
        self._left_out.setdefault(why, []).append(at)

    def problem(self, at: int, what: object) -> None:
        """Note a request whose values are not what they should be."""
        if self._place == "line":
            self._problems.append(f"{self._path}:{at}: {what}")
        else:
            self._problems.append(f"{self._path}: {self._place} {at}: {what}")

    def built(self, sending: Sending | None = None) -> RequestRows:
        """Return the rows; raises InputError, one line per problem, and where no request is left."""
        rows = self.rows
        if self._problems:
            more = len(self._problems) - MOST_SHOWN
            further = [f"{self._path}: … and {more:,} more"] if more > 0 else []
            raise InputError([*self._problems[:MOST_SHOWN], *further])
        if not len(rows):
            raise InputError(
                [f"{self._path}: {rows.format_name}: expected at least one completed request, got none"]
                + [f"{self._path}: {line}" for line in self.left_out]
            )
        for column, name, seconds in (
            (rows.arrival_ns, "arrivals", self._starts_s),
            (rows.served_ns, "queueing times", self._served_s),
        ):
            if len(seconds) != len(rows):
                continue
            first = min(seconds)
            if max(seconds) - first > LONGEST_S:
                raise InputError(
                    f"{self._path}: {rows.format_name}: expected {name} within {LONGEST_S:,.0f} s, got a "
                    f"span of {max(seconds) - first:,.4g} s (mixed units?)"
                )
            column.extend(round((second - first) * 1e9) for second in seconds)
        if len(rows.cached_tokens) != len(rows):
            del rows.cached_tokens[:]
        if rows.without_latencies == len(rows):
            del rows.ttft_ms[:], rows.e2el_ms[:]
        rows.sending = sending
        return rows

    @property
    def left_out(self) -> tuple[str, ...]:
        """What was left out, with its number and the first place."""
        return tuple(
            f"left out {len(places):,} {'request' if len(places) == 1 else 'requests'}: {why} "
            f"(first: {self._place} {places[0]})"
            for why, places in self._left_out.items()
        )


def positive(value: object, most: float = 1e9) -> float | None:
    """Return a number above 0 and up to `most` as it is, None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value <= most else None  # type: ignore[arg-type, operator]


def count_of(value: object, most: int = 1_000_000) -> int | None:
    """Return a whole number from 1 to `most`, None for anything else."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
    return value if is_count else None  # type: ignore[return-value]


def failure(error: object) -> str:
    """Return a request's error in few words."""
    text = json.dumps(error, default=str) if isinstance(error, dict | list) else str(error)
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= 60 else f"{line[:57]}…"
