"""Bounded numbers, texts and lists for the typed models of workload and profile files.

Each check says what it expects in plain words, because its words are what the person reads. Integral
floats are whole numbers (`2e3` is 2000); booleans and texts are never numbers; NaN and infinity are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Tag
from pydantic_core import PydanticCustomError

MOST_REQUESTS = 10_000_000
MOST_TOKENS = 10_000_000  # of one request
MOST_BLOCKS = 1_000_000_000
MOST_SECONDS = 1e9  # 10^18 nanoseconds fit the 64-bit clock
MOST_RATE_PER_S = 1e9  # one per nanosecond tick
MOST_MS = 1e6  # a step of 1,000 seconds is a mistake


class Strict(BaseModel):
    """A frozen model that takes no unknown key and converts no type."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def expectation(
    expected: str, key: str | None = None, *, got: bool = True, known: Sequence[str] = ()
) -> PydanticCustomError:
    """Return an error that reads `expected …, got …`, located at `key` of the checked model.

    Pass `got=False` where showing the value beside the words would say nothing, and the `known` words
    among which a close one is to be suggested.
    """
    context = {"expected": expected, "key": key, "got": got, "known": list(known)}
    return PydanticCustomError("expectation", "expected {expected}", context)


def whole(least: int, most: int) -> Callable[[Any], int]:
    """Return a check for whole numbers from `least` to `most`."""

    def check(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise expectation(f"a whole number of at least {least}")
        if value > most:
            raise expectation(f"a whole number of at most {most:,}")
        return value

    return check


def number(most: float, *, least: float | None = None, above: float | None = None) -> Callable[[Any], float]:
    """Return a check for finite numbers from `least`, or strictly above `above`, to `most`."""
    floor = f"above {above:g}" if above is not None else f"of at least {least:g}"

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise expectation(f"a number {floor}")
        too_low = (above is not None and value <= above) or (least is not None and value < least)
        if too_low or (isinstance(value, float) and math.isnan(value)):
            raise expectation(f"a number {floor}")
        if value > most:
            raise expectation(f"a number of at most {most:g}")
        return float(value)

    return check


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Take a list (what YAML and JSON have) as a tuple."""
    if not isinstance(value, list | tuple):
        raise expectation("a list")
    return tuple(value)


def branch(name: str) -> Tag:
    """Return the tag of a union's member that is told apart by its type, not by a key."""
    return Tag(f"({name})")


def is_branch(step: str) -> bool:
    """Tell such a tag in the location of an error."""
    return step.startswith("(") and step.endswith(")")


def _printable(value: str) -> str:
    if not value or not value.isprintable() or len(value) > 1000:
        raise expectation("a text of 1 to 1000 printable characters")
    return value


Count = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(whole(1, 1_000_000))]
RequestCount = Annotated[int, Field(ge=1, le=MOST_REQUESTS), BeforeValidator(whole(1, MOST_REQUESTS))]
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS), BeforeValidator(whole(1, MOST_TOKENS))]
Blocks = Annotated[int, Field(ge=1, le=MOST_BLOCKS), BeforeValidator(whole(1, MOST_BLOCKS))]
Seed = Annotated[int, Field(ge=0), BeforeValidator(whole(0, 2**63 - 1))]
Seconds = Annotated[float, Field(gt=0, le=MOST_SECONDS), BeforeValidator(number(MOST_SECONDS, above=0))]
Rate = Annotated[float, Field(gt=0, le=MOST_RATE_PER_S), BeforeValidator(number(MOST_RATE_PER_S, above=0))]
TokensOrZero = Annotated[int, Field(ge=0, le=MOST_TOKENS), BeforeValidator(whole(0, MOST_TOKENS))]
RateOrZero = Annotated[
    float, Field(ge=0, le=MOST_RATE_PER_S), BeforeValidator(number(MOST_RATE_PER_S, least=0))
]
PositiveMs = Annotated[float, Field(gt=0, le=MOST_MS), BeforeValidator(number(MOST_MS, above=0))]
MsOrZero = Annotated[float, Field(ge=0, le=MOST_MS), BeforeValidator(number(MOST_MS, least=0))]
Factor = Annotated[float, Field(gt=0, le=1e6), BeforeValidator(number(1e6, above=0))]
MeanTokens = Annotated[float, Field(ge=1, le=MOST_TOKENS), BeforeValidator(number(MOST_TOKENS, least=1))]
Weight = Annotated[float, Field(ge=0, le=1e12), BeforeValidator(number(1e12, least=0))]
PlainText = Annotated[str, AfterValidator(_printable)]
