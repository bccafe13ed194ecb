"""Which prompts begin with the same tokens, as names of their blocks: recorded in a trace, or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import InputError

Int64 = NDArray[np.int64]
_MOST_BLOCKS = 2**24  # of one request or conversation; more than any has tokens


class Prefixes(Protocol):
    """Names the blocks of requests: equal names are equal tokens after equal prefixes."""

    def keys(self, index: int, block_size: int) -> Sequence[int]:
        """Return the names of a request's leading full blocks, as far as its tokens are known to be shared.

        Raises InputError where blocks of that size cannot be told.
        """
        ...

    def part(self, first: int, last: int) -> Prefixes:
        """Return those of the requests from `first` to before `last`, counted from 0 again."""
        ...


@dataclass(frozen=True, slots=True)
class RecordedPrefixes:
    """A trace's `hash_ids`: one name per `block_tokens` tokens of a prompt, its last block perhaps in part.

    The names of request i are `ids[ends[i]:ends[i + 1]]`; each also stands for all names before it.
    """

    block_tokens: int
    ids: Int64
    ends: Int64
    prompt_tokens: Int64

    def keys(self, index: int, block_size: int) -> Sequence[int]:
        """See Prefixes."""
        ids: list[int] = self.ids[self.ends[index] : self.ends[index + 1]].tolist()
        known = min(int(self.prompt_tokens[index]), len(ids) * self.block_tokens) // block_size
        if self.block_tokens % block_size == 0:
            per = self.block_tokens // block_size
            return [name * per + part for name in ids for part in range(per)][:known]
        if block_size % self.block_tokens == 0:
            per = block_size // self.block_tokens
            return ids[per - 1 :: per][:known]
        raise InputError(
            f"engine.block_size: expected a divisor or a multiple of the {self.block_tokens} tokens that one "
            f"of the trace's hash_ids stands for, got {block_size}; or engine.prefix_caching false"
        )

    def part(self, first: int, last: int) -> RecordedPrefixes:
        """See Prefixes."""
        return replace(self, ends=self.ends[first : last + 1], prompt_tokens=self.prompt_tokens[first:last])

    def chosen(self, rows: Int64) -> RecordedPrefixes:
        """Return those of the requests at `rows`, in that order."""
        starts, counts = self.ends[rows], self.ends[rows + 1] - self.ends[rows]
        places = [np.arange(start, start + count) for start, count in zip(starts, counts, strict=True)]
        ids = self.ids[np.concatenate(places)] if len(places) else self.ids[:0]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        return replace(self, ids=ids, ends=ends, prompt_tokens=self.prompt_tokens[rows])


@dataclass(frozen=True, slots=True)
class DrawnPrefixes:
    """System prompts and conversations: a request is a leading part of its conversation, answers included.

    A conversation begins with `system_tokens` tokens of the system prompt `system`; `stream_tokens` are the
    request's prompt and answer.
    """

    system: Int64
    system_tokens: Int64
    conversation: Int64
    stream_tokens: Int64
    most_systems: int

    def keys(self, index: int, block_size: int) -> Sequence[int]:
        """See Prefixes."""
        shared = int(self.system_tokens[index]) // block_size
        known = int(self.stream_tokens[index]) // block_size
        system = int(self.system[index]) * _MOST_BLOCKS
        own = (self.most_systems + int(self.conversation[index])) * _MOST_BLOCKS
        return [*range(system, system + shared), *range(own + shared, own + known)]

    def part(self, first: int, last: int) -> DrawnPrefixes:
        """See Prefixes."""
        rows = slice(first, last)
        return replace(
            self,
            system=self.system[rows],
            system_tokens=self.system_tokens[rows],
            conversation=self.conversation[rows],
            stream_tokens=self.stream_tokens[rows],
        )
