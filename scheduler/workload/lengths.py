"""How long prompts and answers are: every length distribution in one class, its checks and its draws.

Draws are whole token counts ≥ 1. Each takes one random number per request, in request order, so a longer
run starts with the same requests, and two means of one distribution meet the same luck. A new
distribution is one more class here, and its name in `Length`.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from scheduler.catalog.numbers import (
    MOST_TOKENS,
    MeanTokens,
    PlainText,
    Strict,
    Tokens,
    Weight,
    as_tuple,
    expectation,
)
from scheduler.errors import InputError
from scheduler.workload.requests import Int64

_Z99 = NormalDist().inv_cdf(0.99)
# The largest p99/mean a lognormal can have, about 14.97: exp(z·s − s²/2) peaks at s = z, the 99 % quantile of
# the standard normal distribution.
LARGEST_LOGNORMAL_RATIO = math.exp(_Z99**2 / 2)

TokensList = Annotated[tuple[Tokens, ...], Field(min_length=1, max_length=100_000), BeforeValidator(as_tuple)]


class FixedLength(Strict):
    """Every request has `value` tokens."""

    distribution: Literal["fixed"]
    value: Tokens

    def draw(self, generator: np.random.Generator, count: int) -> Int64:
        """Return `count` times the value; nothing is drawn."""
        return np.full(count, self.value, dtype=np.int64)


class UniformLength(Strict):
    """Whole numbers from `min` to `max`, both included, equally likely."""

    distribution: Literal["uniform"]
    min: Tokens
    max: Tokens

    @model_validator(mode="after")
    def _ordered(self) -> UniformLength:
        _check_clamps(self.min, self.max)
        return self

    def draw(self, generator: np.random.Generator, count: int) -> Int64:
        """Draw `count` lengths."""
        return self.min + np.floor(generator.random(count) * (self.max - self.min + 1)).astype(np.int64)


class _Clamped(Strict):
    """What the distributions share that are drawn freely and then clamped."""

    min: Tokens = 1
    max: Tokens | None = None

    @model_validator(mode="after")
    def _ordered(self) -> _Clamped:
        _check_clamps(self.min, self.max)
        return self

    def draw(self, generator: np.random.Generator, count: int) -> Int64:
        """Draw `count` lengths, clamped to `min` … `max`."""
        return _to_tokens(self._free(generator, count), self.min, self.max)

    def _free(self, generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Draw `count` whole numbers before they are clamped."""
        raise NotImplementedError


class GeometricLength(_Clamped):
    """Support 1, 2, …; `mean` is the mean before values are clamped to `min` … `max`."""

    distribution: Literal["geometric"]
    mean: MeanTokens

    def _free(self, generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        # P(n) = (1 − 1/mean)ⁿ⁻¹ / mean by inversion: n = 1 + ⌊ln(1 − u) / ln(1 − 1/mean)⌋.
        u = generator.random(count)
        if self.mean == 1:
            return np.ones(count)
        return np.asarray(1 + np.floor(np.log1p(-u) / math.log1p(-1 / self.mean)))


class LognormalLength(_Clamped):
    """Rounded lognormal; `mean` and `p99` are those before values are clamped to `min` … `max`."""

    distribution: Literal["lognormal"]
    mean: MeanTokens
    p99: MeanTokens

    @model_validator(mode="after")
    def _solvable(self) -> LognormalLength:
        if not self.mean <= self.p99 <= LARGEST_LOGNORMAL_RATIO * self.mean:
            expected = f"p99 from 1 to {LARGEST_LOGNORMAL_RATIO:.2f} times the mean {self.mean:g}"
            raise expectation(f"{expected} (quantiles can have heavier tails)", "p99")
        return self

    @property
    def mu_and_sigma(self) -> tuple[float, float]:
        """Mean and standard deviation of the logarithm.

        ln mean = mu + sigma²/2 and ln p99 = mu + z·sigma, z = 2.326…, give
        sigma = z − √(z² − 2 ln(p99/mean)). That is the smaller of the two roots: the other (sigma > z) has
        a median below mean/15 and the same p99, which no published length distribution shows. The checks
        see to it that there is a root.
        """
        sigma = _Z99 - math.sqrt(max(0.0, _Z99**2 - 2 * math.log(self.p99 / self.mean)))
        return math.log(self.mean) - sigma**2 / 2, sigma

    def _free(self, generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        mu, sigma = self.mu_and_sigma
        logarithm = np.minimum(mu + sigma * generator.standard_normal(count), math.log(2.0 * MOST_TOKENS))
        return np.rint(np.exp(logarithm))


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

    def draw(self, generator: np.random.Generator, count: int) -> Int64:
        """Draw `count` of the values."""
        table = np.array(self.values, dtype=np.int64)
        weight = np.ones(len(table)) if self.weights is None else np.array(self.weights, dtype=np.float64)
        edges = np.cumsum(weight)
        last = int(np.flatnonzero(weight)[-1])  # rounding must not let a trailing zero weight be drawn
        index = np.searchsorted(edges, generator.random(count) * edges[-1], side="right")
        return np.asarray(table[np.minimum(index, last)])


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

    def draw(self, generator: np.random.Generator, count: int) -> Int64:
        """Draw `count` lengths: quantiles interpolated linearly and then rounded half-even."""
        knots = np.array(self.values, dtype=np.float64)
        u = generator.random(count)
        return _to_tokens(np.rint(np.interp(u, np.linspace(0.0, 1.0, len(knots)), knots)), 1, None)


class TraceLength(Strict):
    """Recorded lengths: the arrivals' trace's, or those of the file `path`."""

    distribution: Literal["trace"]
    path: PlainText | None = None

    def draw(self, generator: np.random.Generator, count: int) -> Int64:
        """Raise InputError: recorded lengths are read, not drawn."""
        raise InputError("expected a length distribution to draw from, got trace")


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


def _check_clamps(shortest: int, longest: int | None) -> None:
    if longest is not None and longest < shortest:
        raise expectation(f"a maximum of at least the minimum, {shortest}", "max")


def _to_tokens(drawn: NDArray[np.float64], shortest: int, longest: int | None) -> Int64:
    return np.clip(drawn, shortest, MOST_TOKENS if longest is None else longest).astype(np.int64)
