"""How many tokens prompts and answers have: the length distributions of a workload file."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from scheduler.catalog.numbers import MeanTokens, Strict, Tokens, Weight, as_tuple, expectation

# The largest p99/mean a lognormal can have, about 14.97: exp(z·s − s²/2) peaks at s = z, the 99 % quantile of
# the standard normal distribution.
LARGEST_LOGNORMAL_RATIO = math.exp(NormalDist().inv_cdf(0.99) ** 2 / 2)

TokensList = Annotated[tuple[Tokens, ...], Field(min_length=1, max_length=100_000), BeforeValidator(as_tuple)]


class FixedLength(Strict):
    """Every request has `value` tokens."""

    distribution: Literal["fixed"]
    value: Tokens


class UniformLength(Strict):
    """Whole numbers from `min` to `max`, both included, equally likely."""

    distribution: Literal["uniform"]
    min: Tokens
    max: Tokens

    @model_validator(mode="after")
    def _ordered(self) -> UniformLength:
        return _check_clamps(self)


class GeometricLength(Strict):
    """Support 1, 2, …; `mean` is the mean before values are clamped to `min` … `max`."""

    distribution: Literal["geometric"]
    mean: MeanTokens
    min: Tokens = 1
    max: Tokens | None = None

    @model_validator(mode="after")
    def _ordered(self) -> GeometricLength:
        return _check_clamps(self)


class LognormalLength(Strict):
    """Rounded lognormal; `mean` and `p99` are those before values are clamped to `min` … `max`."""

    distribution: Literal["lognormal"]
    mean: MeanTokens
    p99: MeanTokens
    min: Tokens = 1
    max: Tokens | None = None

    @model_validator(mode="after")
    def _solvable(self) -> LognormalLength:
        if not self.mean <= self.p99 <= LARGEST_LOGNORMAL_RATIO * self.mean:
            expected = f"p99 from 1 to {LARGEST_LOGNORMAL_RATIO:.2f} times the mean {self.mean:g}"
            raise expectation(f"{expected} (quantiles can have heavier tails)", "p99")
        return _check_clamps(self)


class DiscreteLength(Strict):
    """The given values, with probabilities proportional to `weights` (equal ones if left out)."""

    distribution: Literal["discrete"]
    values: TokensList
    weights: (
        Annotated[tuple[Weight, ...], Field(min_length=1, max_length=100_000), BeforeValidator(as_tuple)]
        | None
    ) = None

    @model_validator(mode="after")
    def _paired(self) -> DiscreteLength:
        if self.weights is None:
            return self
        if len(self.weights) != len(self.values):
            expected = f"{len(self.values)} weights, one for each value; found {len(self.weights)}"
            raise expectation(expected, "weights", got=False)
        if not sum(self.weights) > 0:
            raise expectation("at least one weight above 0", "weights", got=False)
        return self


class QuantilesLength(Strict):
    """Evenly spaced quantiles, the first the minimum and the last the maximum; linear in between."""

    distribution: Literal["quantiles"]
    values: Annotated[tuple[Tokens, ...], Field(min_length=2, max_length=100_000), BeforeValidator(as_tuple)]

    @model_validator(mode="after")
    def _ascending(self) -> QuantilesLength:
        for before, after in zip(self.values, self.values[1:], strict=False):
            if after < before:
                expected = f"quantiles in ascending order; {before} stands before {after}"
                raise expectation(expected, "values", got=False)
        return self


class TraceLength(Strict):
    """The lengths of the trace that also gives the arrivals."""

    distribution: Literal["trace"]


Length = Annotated[
    FixedLength
    | UniformLength
    | GeometricLength
    | LognormalLength
    | DiscreteLength
    | QuantilesLength
    | TraceLength,
    Field(discriminator="distribution"),
]


Clamped = TypeVar("Clamped", UniformLength, GeometricLength, LognormalLength)


def _check_clamps(length: Clamped) -> Clamped:
    if length.max is not None and length.max < length.min:
        raise expectation(f"a maximum of at least the minimum, {length.min}", "max")
    return length
