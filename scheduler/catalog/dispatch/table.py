"""The table that an engine's dispatch rules are compiled to: batch or tokens → kind of graph, padded size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["FULL", "PIECEWISE", "NONE"]
GraphMode = Literal["full_and_piecewise", "full_decode_only", "piecewise", "full", "none"]
# From the fastest route to the slowest: one launch, a launch per piece, a launch per kernel.
SPEED: dict[Kind, int] = {"FULL": 0, "PIECEWISE": 1, "NONE": 2}


class Route(NamedTuple):
    """What a step runs in: a kind of graph and the tokens of that graph (its own tokens without one)."""

    kind: Kind
    tokens: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine looks at when it captures and dispatches.

    `sizes` None means the engine's default list; they are in the engine's own unit (vLLM: tokens of a
    step; SGLang, TensorRT-LLM: requests). A decode step computes 1 + `draft_tokens` tokens per request.
    `mixed_requests`: how many requests a step with prompts holds (fewer where it has fewer tokens).
    `gpu_memory_bytes` (None: unknown), `tensor_parallel` and `blackwell` (data centre Blackwell) decide
    default lists only; `alignment` is SGLang's attention tensor-parallel multiple of tokens.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    mode: GraphMode = "full_and_piecewise"
    sizes: tuple[int, ...] | None = None
    draft_tokens: int = 0
    padding: bool = True
    mixed_requests: int = 1
    gpu_memory_bytes: int | None = None
    tensor_parallel: int = 1
    blackwell: bool = False
    alignment: int = 1

    @property
    def width(self) -> int:
        """Tokens of one request in a decode step."""
        return 1 + self.draft_tokens


@dataclass(frozen=True, slots=True)
class DispatchTable:
    """The compiled rules: a route for every decode batch and for every number of tokens with prompts.

    `decode[n - 1]` serves n requests, up to max_num_seqs; `mixed[t - 1]` a step of t tokens with prompts in
    it, up to the largest graph (above it there is none). `full` and `piecewise` are the captured graphs,
    ascending in tokens.
    """

    decode: tuple[Route, ...]
    mixed: tuple[Route, ...]
    full: tuple[int, ...]
    piecewise: tuple[int, ...]

    def decode_graph(self, batch: int) -> int | None:
        """Return the tokens of the graph that a decode batch takes, or None without one."""
        route = self.decode[batch - 1]
        return None if route.kind == "NONE" else route.tokens

    def mixed_route(self, tokens: int) -> Route:
        """Return the route of a step of `tokens` tokens with prompts in it."""
        return self.mixed[tokens - 1] if tokens <= len(self.mixed) else Route("NONE", tokens)

    @property
    def best_kind(self) -> Kind:
        """The fastest kind of graph that any decode batch takes."""
        return min((route.kind for route in self.decode), key=SPEED.__getitem__, default="NONE")

    def decode_ranges(self) -> list[tuple[int, int, Kind]]:
        """Return (first batch, last batch, kind) for neighbouring batches of one kind."""
        return kind_ranges(self.decode)


def kind_ranges(routes: Iterable[Route]) -> list[tuple[int, int, Kind]]:
    """Return (first, last, kind) over neighbours of one kind, counted from 1."""
    ranges: list[tuple[int, int, Kind]] = []
    for number, route in enumerate(routes, 1):
        if ranges and ranges[-1][2] == route.kind:
            ranges[-1] = (ranges[-1][0], number, route.kind)
        else:
            ranges.append((number, number, route.kind))
    return ranges


def smallest_holding(sizes: Collection[int]) -> Callable[[int], int | None]:
    """Return a look-up of the smallest of `sizes` that holds a number, None above the largest."""
    table: list[int] = []
    for size in sorted(sizes):
        table += [size] * (size + 1 - len(table))

    def look_up(number: int) -> int | None:
        return table[number] if number < len(table) else None

    return look_up


def compiled(
    settings: Settings,
    decode_route: Callable[[int], Route],
    mixed_route: Callable[[int], Route],
    full: Collection[int],
    piecewise: Collection[int],
) -> DispatchTable:
    """Return the table of two rules, both from the tokens of a step to its route."""
    most = min(settings.max_num_batched_tokens, max((*full, *piecewise), default=0))
    return DispatchTable(
        tuple(decode_route(batch * settings.width) for batch in range(1, settings.max_num_seqs + 1)),
        tuple(mixed_route(tokens) for tokens in range(1, most + 1)),
        tuple(sorted(full)),
        tuple(sorted(piecewise)),
    )
