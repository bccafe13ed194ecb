"""System prompts that requests share, and conversations whose turns append: `prefixes` of a workload."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field

from scheduler.catalog.numbers import MOST_TOKENS, Count, Strict, number
from scheduler.errors import InputError
from scheduler.workload.lengths import Length, TraceLength
from scheduler.workload.prefixes import DrawnPrefixes
from scheduler.workload.requests import Int64

Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(number(1, least=0))]
Exponent = Annotated[float, Field(ge=0, le=10), BeforeValidator(number(10, least=0))]


class SharedPrefixes(Strict):
    """The workload file's `prefixes`: how prompts come to begin with the same tokens.

    A conversation begins with one of `system_prompts` system prompts (a `share` of them does; the k-th is
    chosen with weight k^−`zipf`). Each arrival is the next turn of one of `conversations` open
    conversations, all equally likely; one that has had its `turns` (None: one) is followed by a new one. A
    turn's prompt is everything before it, earlier answers included, and `prompt_tokens` new tokens.
    """

    system_prompts: Count = 1
    system_tokens: Length
    share: Share = 1.0
    zipf: Exponent = 0.0
    turns: Length | None = None
    conversations: Count = 1

    def draw(
        self, generator: np.random.Generator, new_tokens: Int64, output_tokens: Int64
    ) -> tuple[Int64, DrawnPrefixes]:
        """Return the whole prompts' lengths, and what they share; raises InputError for too long ones.

        A larger number of requests begins with the same ones.
        """
        for key, length in (("system_tokens", self.system_tokens), ("turns", self.turns)):
            if isinstance(length, TraceLength):
                raise InputError(f"prefixes.{key}: expected a length distribution to draw from, got a trace")
        count = len(new_tokens)
        of_pool, of_turns, of_choice, of_slot = generator.spawn(4)
        pool = self.system_tokens.draw(of_pool, self.system_prompts)
        turns = np.ones(count, np.int64) if self.turns is None else self.turns.draw(of_turns, count)
        weights = np.arange(1, self.system_prompts + 1, dtype=float) ** -self.zipf
        has_system, which = of_choice.random((count, 2)).T
        system = np.searchsorted(np.cumsum(weights / weights.sum()), which).clip(max=self.system_prompts - 1)
        begins_with = np.where(has_system < self.share, pool[system], 0)
        slots = (of_slot.random(count) * self.conversations).astype(np.int64)
        conversation = np.empty(count, np.int64)
        prompt = np.empty(count, np.int64)
        open_ones: dict[int, list[int]] = {}  # slot → [conversation, turns left, tokens so far]
        begun = 0
        rows = zip(slots.tolist(), new_tokens.tolist(), output_tokens.tolist(), strict=True)
        for index, (slot, new, output) in enumerate(rows):
            if slot not in open_ones:
                open_ones[slot] = [begun, int(turns[begun]), int(begins_with[begun])]
                begun += 1
            state = open_ones[slot]
            conversation[index], prompt[index] = state[0], state[2] + new
            state[1] -= 1
            state[2] += new + output
            if not state[1]:
                del open_ones[slot]
        if count and int(prompt.max()) > MOST_TOKENS:
            raise InputError(
                f"prefixes: expected prompts of at most {MOST_TOKENS:,} tokens, got {int(prompt.max()):,} in "
                "a conversation: fewer turns"
            )
        drawn = DrawnPrefixes(
            system[conversation].astype(np.int64),
            begins_with[conversation].astype(np.int64),
            conversation,
            prompt + output_tokens,
            self.system_prompts,
        )
        return prompt, drawn
