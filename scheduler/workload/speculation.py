"""Speculative decoding as a workload file says it: who drafts, how many tokens, and how many are accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from scheduler.catalog.numbers import MsOrZero, PlainText, Strict, as_tuple, expectation, number, whole

MOST_DRAFTS = 64
DraftMethod = Literal["eagle", "mtp", "ngram", "draft_model"]

_Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(number(1.0, least=0))]
_DraftTokens = Annotated[int, Field(ge=0, le=MOST_DRAFTS), BeforeValidator(whole(0, MOST_DRAFTS))]
_Passes = Annotated[int, Field(ge=0, le=MOST_DRAFTS), BeforeValidator(whole(0, MOST_DRAFTS))]
_Shares = Annotated[
    tuple[_Share, ...], Field(min_length=1, max_length=MOST_DRAFTS), BeforeValidator(as_tuple)
]

# What a draft pass computes, as a share of a step of the target model with as many tokens: one layer and the
# head of the thirty-two layers of an 8B model; a draft model of a tenth of the parameters. Both assumed.
_ASSUMED_SHARE: dict[DraftMethod, float] = {"eagle": 0.1, "mtp": 0.1, "draft_model": 0.1, "ngram": 0.0}


# Launching a pass as a graph, as a share of launching a step of the target model as one. Assumed, as an EAGLE
# head in vLLM 0.26.0 had it on one host: 0.30 of 2.1 ms (docs/speculation.md).
LAUNCH_SHARE = 0.15


class DrawnRates(NamedTuple):
    """What decides the acceptance of every draft of a run: a key to hash with, and rates.

    `rates` one per request, or `by_place` the conditional rates of a step's first, second, … draft;
    `matches`, for n-grams, one per request.
    """

    key: int
    rates: list[float] | None = None
    by_place: list[float] | None = None
    matches: list[float] | None = None


class AcceptanceRates(Strict):
    """How likely drafts are accepted: by a rate per request, or by place in the step.

    With `rate` each draft is accepted with this probability if all before it were (geometric). `spread` is
    the standard deviation of that rate among requests (a beta distribution; 0: all alike). N-grams draft
    only where the text has a match, at a share `match` of the steps; there, `spread` is the standard
    deviation of `match`. `column` instead of `rate` names the column of the trace that holds each request's
    own. `per_position` are the shares of steps in which the first, second, … draft is
    accepted, never rising, as vLLM counts them (`spec_decode_num_accepted_tokens_per_pos / num_drafts`).
    """

    rate: _Share | None = None
    spread: _Share = 0.0
    match: _Share | None = None
    per_position: _Shares | None = None
    column: PlainText | None = None

    @model_validator(mode="after")
    def _one_way(self) -> AcceptanceRates:
        names = ("rate", "per_position", "column")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise expectation(f"one of rate, per_position and column; {found}", got=False)
        if self.column is not None and self.spread:
            raise expectation(
                "no spread beside column, where each request has its own rate", "spread", got=False
            )
        if self.per_position is not None:
            if self.spread or self.match is not None:
                raise expectation("no spread and no match beside per_position", "per_position", got=False)
            if list(self.per_position) != sorted(self.per_position, reverse=True):
                raise expectation(
                    "shares that never rise: a draft counts only behind accepted ones", "per_position"
                )
        varied = self.rate if self.match is None else self.match
        if varied is not None and self.spread**2 >= varied * (1 - varied) and self.spread:
            most = (varied * (1 - varied)) ** 0.5
            raise expectation(
                f"a spread below {most:.3g}, the most that a mean of {varied:g} leaves", "spread"
            )
        return self

    def draw(
        self, generator: np.random.Generator, requests: int, recorded: Sequence[float] | None = None
    ) -> DrawnRates:
        """Draw the requests' rates, in the order of the requests; `recorded` are those of a `column`."""
        key = int(generator.integers(1 << 63))
        if self.per_position is not None:
            pairs = zip((1.0, *self.per_position), self.per_position, strict=False)
            return DrawnRates(key, by_place=[after / before if before else 0.0 for before, after in pairs])
        rates = None if recorded is None else list(recorded)
        if rates is None:
            assert self.rate is not None  # noqa: S101  (checked above, and the trace has the column)
            if self.match is None:
                return DrawnRates(key, _spread_out(self.rate, self.spread, generator, requests))
            rates = [self.rate] * requests
        matches = None if self.match is None else _spread_out(self.match, self.spread, generator, requests)
        return DrawnRates(key, rates, matches=matches)


class DraftCost(Strict):
    """What one drafting pass takes on the GPU: milliseconds of its own, or a share of the target's step.

    `pass_ms` + `token_ms` per token of the pass; or `share` of what the target model takes for as many
    tokens with nothing in its KV cache. `passes` per step is the number of draft tokens unless drafted as a
    block (1). `launch_ms`: the launching thread's time per pass.
    """

    pass_ms: MsOrZero | None = None
    token_ms: MsOrZero = 0.0
    share: _Share | None = None
    passes: _Passes | None = None
    launch_ms: MsOrZero | None = None

    @model_validator(mode="after")
    def _one_way(self) -> DraftCost:
        if self.share is not None and (self.pass_ms is not None or self.token_ms):
            raise expectation("pass_ms (and token_ms) or share, not both", "share", got=False)
        return self


class SpeculationSettings(Strict):
    """Speculative decoding: `draft_tokens` are proposed per request and step, and verified in the next.

    0 draft tokens: the server does not draft.
    """

    method: DraftMethod
    draft_tokens: _DraftTokens
    acceptance: AcceptanceRates
    draft: DraftCost | None = None

    @model_validator(mode="after")
    def _fit(self) -> SpeculationSettings:
        by_place = self.acceptance.per_position
        if by_place is not None and len(by_place) < self.draft_tokens:
            expected = f"a share for each of the {self.draft_tokens} draft tokens, got {len(by_place)}"
            raise expectation(expected, "acceptance.per_position", got=False)
        if self.method != "ngram" and self.acceptance.match is not None:
            raise expectation("no match but with method ngram", "acceptance.match", got=False)
        if self.method == "ngram" and self.acceptance.match is None and by_place is None:
            expected = "the share of steps in which an n-gram matches, beside rate; the key is missing"
            raise expectation(expected, "acceptance.match", got=False)
        return self

    @property
    def _cost(self) -> DraftCost:
        return self.draft or DraftCost()

    @property
    def lookahead_tokens(self) -> int:
        """KV slots held for the drafter's own tokens (vLLM's num_lookahead_tokens)."""
        return 0 if self.method == "ngram" else self.draft_tokens

    @property
    def passes(self) -> int:
        """Drafting passes per step: one after the other, but none for n-grams."""
        if self._cost.passes is not None:
            return self._cost.passes
        return 0 if self.method == "ngram" else self.draft_tokens

    @property
    def share(self) -> float | None:
        """The share of the target's step that a pass takes, None where it has milliseconds of its own."""
        if self._cost.pass_ms is not None or self._cost.token_ms:
            return None
        return _ASSUMED_SHARE[self.method] if self._cost.share is None else self._cost.share

    @property
    def assumed_cost(self) -> str | None:
        """What was assumed of the drafter's cost, in words, or None where the file says it."""
        if self._cost.share is not None or self.share is None or not self.draft_tokens:
            return None
        if not self.passes:
            return "looking up n-grams takes no time"
        return f"a draft pass takes {100 * self.share:g} % of a step of the target model with as many tokens"


def _spread_out(mean: float, spread: float, generator: np.random.Generator, count: int) -> list[float]:
    """Return a rate per request: beta distributed with this mean and standard deviation."""
    if not spread:
        return [mean] * count
    weight = mean * (1 - mean) / spread**2 - 1
    rates: list[float] = generator.beta(mean * weight, (1 - mean) * weight, count).tolist()
    return rates
