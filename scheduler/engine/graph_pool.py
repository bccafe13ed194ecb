"""The graph pool: which sizes were captured, by whose rules, and so which graph each step takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from scheduler.catalog.dispatch.engines import PLAIN_RULES, engine_rules
from scheduler.catalog.dispatch.table import DispatchTable, GraphMode, Route, Settings


@dataclass(frozen=True, slots=True)
class GraphPool:
    """The sizes captured as CUDA graphs, ascending; an empty pool is pure eager.

    `full`: decode steps have FULL graphs, one launch each. `piecewise`: the same sizes also have PIECEWISE
    graphs, by tokens, for steps with prompts and for decode batches without a FULL one. With `padding` a
    batch takes the smallest size that holds it; without, only its exact size. `rules` name the engine and
    release whose dispatch rules apply (`vllm==0.33.0`; `plain`: no engine's). `failed` are sizes that could
    not be captured on the device: what is routed to them runs without a graph. A decode step computes
    1 + `draft_tokens` tokens per request; `sizes` are in the engine's own unit: tokens of a step (vLLM and
    no engine), or requests.
    """

    sizes: tuple[int, ...] = ()
    padding: bool = True
    piecewise: bool = False
    failed: tuple[int, ...] = ()
    full: bool = True
    rules: str = PLAIN_RULES
    draft_tokens: int = 0

    def __post_init__(self) -> None:
        if self.sizes != tuple(sorted(set(self.sizes))) or (self.sizes and self.sizes[0] < 1):
            raise ValueError(f"capture sizes must be positive and ascend without repeats, got {self.sizes}")

    @property
    def mode(self) -> GraphMode:
        """The engines' name for what is captured."""
        if not self.sizes or not (self.full or self.piecewise):
            return "none"
        if not self.piecewise:
            return "full_decode_only"
        return "full_and_piecewise" if self.full else "piecewise"

    @property
    def tokens_per_size(self) -> int:
        """What one decoding request adds to a size: its tokens where sizes count tokens, else 1."""
        return 1 + self.draft_tokens if engine_rules(self.rules).engine in ("vllm", PLAIN_RULES) else 1

    def with_sizes(self, sizes: Iterable[int]) -> GraphPool:
        """Return a pool of other sizes, padded, captured in the same mode and routed by the same rules."""
        return replace(self, sizes=tuple(sorted(sizes)), padding=True, failed=())

    def table(self, max_num_seqs: int, max_num_batched_tokens: int | None = None) -> DispatchTable:
        """Return which graph every step takes under these limits (no token budget: every size fits it)."""
        most = max(max_num_batched_tokens or 0, max_num_seqs * (1 + self.draft_tokens))
        if max_num_batched_tokens is None:
            most = max(most, *self.sizes, 1)
        return _compiled(self, max_num_seqs, most)

    def captures(self, max_num_seqs: int, max_num_batched_tokens: int | None = None) -> tuple[int, ...]:
        """Return the sizes as they are captured, FULL graphs before PIECEWISE ones.

        vLLM captures a size of at most `max_num_seqs` twice in mode full_and_piecewise.
        """
        table = self.table(max_num_seqs, max_num_batched_tokens)
        return table.full + table.piecewise


@lru_cache(maxsize=256)
def _compiled(pool: GraphPool, max_num_seqs: int, max_num_batched_tokens: int) -> DispatchTable:
    settings = Settings(
        max_num_seqs,
        max_num_batched_tokens,
        pool.mode,
        pool.sizes,
        draft_tokens=pool.draft_tokens,
        padding=pool.padding,
    )
    table = engine_rules(pool.rules).table(settings)
    if not pool.failed:
        return table
    return DispatchTable(
        _without(pool.failed, table.decode), _without(pool.failed, table.mixed), table.full, table.piecewise
    )


def _without(failed: tuple[int, ...], routes: Iterable[Route]) -> tuple[Route, ...]:
    """Return the routes with NONE where the graph could not be captured."""
    return tuple(
        Route("NONE", tokens) if route.tokens in failed else route for tokens, route in enumerate(routes, 1)
    )


def full_limit(pool: GraphPool, max_num_seqs: int) -> int | None:
    """Return the largest size that decode batches take as a FULL graph, None where every size is one."""
    if not pool.piecewise:
        return None
    return max_num_seqs * (1 + pool.draft_tokens) if pool.full else 0
