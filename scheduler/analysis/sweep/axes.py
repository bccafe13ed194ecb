"""What a sweep varies: `--over KEY=V1,V2,…` or `KEY=START:STOP:STEP`, and every combination of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from typing import Any

from scheduler.errors import InputError
from scheduler.workload.file.yaml_reader import read_yaml

MOST_POINTS = 10_000
POOL_KEY = "pool"
_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,2})?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER}):({_NUMBER})", re.ASCII)
_OPENS, _CLOSES = "[{", "]}"


@dataclass(frozen=True, slots=True)
class AxisValue:
    """One value of a swept key: its YAML flow text, and what a flat record says (a number or a text)."""

    text: str
    shown: int | float | bool | str


@dataclass(frozen=True, slots=True)
class Axis:
    """A workload key and the values it takes, in the order given."""

    key: str
    values: tuple[AxisValue, ...]


@dataclass(frozen=True, slots=True)
class Combination:
    """One value of every swept key: `KEY=VALUE` overrides for the loader, and the record's columns."""

    overrides: tuple[str, ...]
    settings: tuple[tuple[str, int | float | bool | str], ...]

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.settings) or "the workload as it is"


def parse_axes(texts: Sequence[str]) -> list[Axis]:
    """Return the axes of all `--over` options; raises InputError with one line per bad option."""
    axes: list[Axis] = []
    problems: list[str] = []
    for text in texts:
        try:
            axes.append(_axis(text))
        except InputError as error:
            problems += error.lines
    keys = [axis.key for axis in axes]
    problems += [f"--over {key}: given twice" for key in dict.fromkeys(keys) if keys.count(key) > 1]
    if problems:
        raise InputError(problems)
    return axes


def combinations(axes: Sequence[Axis]) -> list[Combination]:
    """Return the cartesian product, the last axis changing fastest; no axes give one combination."""
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MOST_POINTS:
        raise InputError(f"--over: expected at most {MOST_POINTS:,} points, got {count:,}")
    keys = [axis.key for axis in axes]
    return [
        Combination(
            tuple(f"{key}={value.text}" for key, value in zip(keys, values, strict=True)),
            tuple((key, value.shown) for key, value in zip(keys, values, strict=True)),
        )
        for values in product(*(axis.values for axis in axes))
    ]


def _axis(text: str) -> Axis:
    key, equals, rest = text.partition("=")
    key = key.strip()
    if not equals or not key or not rest.strip():
        raise InputError(f"--over {text}: expected KEY=V1,V2,… or KEY=START:STOP:STEP")
    ranged = _RANGE.fullmatch(rest.strip())
    values = _range(key, *ranged.groups()) if ranged else [_value(key, part) for part in _parts(key, rest)]
    shown = [repr(value.shown) for value in values]
    twice = next((value for value in shown if shown.count(value) > 1), None)
    if twice is not None:
        raise InputError(f"--over {key}: expected each value once, got {twice} twice")
    return Axis(key, tuple(values))


def _range(key: str, start_text: str, stop_text: str, step_text: str) -> list[AxisValue]:
    """Return START, START + STEP, … up to and including STOP, in decimal: 0.1:0.3:0.1 ends in 0.3 exactly."""
    start, stop, step = Decimal(start_text), Decimal(stop_text), Decimal(step_text)
    if step == 0 or (stop - start) * step < 0:
        given = f"{start_text}:{stop_text}:{step_text}"
        raise InputError(f"--over {key}: expected a step that leads from start to stop, got {given}")
    count = int((stop - start) / step) + 1
    if count > MOST_POINTS:
        raise InputError(f"--over {key}: expected at most {MOST_POINTS:,} values, got {count:,}")
    whole = all(value == value.to_integral_value() for value in (start, step))
    numbers = [start + index * step for index in range(count)]
    shown: list[int | float] = [int(number) if whole else float(number) for number in numbers]
    return [AxisValue(repr(number), number) for number in shown]


def _value(key: str, text: str) -> AxisValue:
    document = read_yaml(text, f"--over {key}", lines=False)
    if document.problems:
        raise InputError([str(problem) for problem in document.problems])
    value: Any = document.data
    if key == POOL_KEY and isinstance(value, list):
        value = ",".join(map(str, value))
    if value is None or isinstance(value, list | dict):
        value = json.dumps(value)
    return AxisValue(text, value)


def _parts(key: str, text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in _OPENS:
            depth += 1
        elif character in _CLOSES:
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    parts = [part.strip() for part in parts]
    if quote or depth:
        raise InputError(f"--over {key}: a quote or bracket is not closed in {text.strip()}")
    if not all(parts):
        raise InputError(f"--over {key}: expected a value between commas in {text.strip()}")
    return parts
