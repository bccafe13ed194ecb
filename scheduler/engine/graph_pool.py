"""The graph pool: which batch sizes were captured, and which graph a step takes."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GraphPool:
    """The batch sizes captured as CUDA graphs, ascending; an empty pool is pure eager.

    With `padding` a batch takes the smallest captured size that holds it; without, only its exact size.
    With `piecewise` the same sizes also serve mixed steps, chosen by total tokens (vLLM's
    FULL_AND_PIECEWISE); a decode graph of more rows than `max_num_seqs` then exists for mixed steps only.
    `failed` are sizes that could not be captured on the device: what is routed to them runs without a graph.
    """

    sizes: tuple[int, ...] = ()
    padding: bool = True
    piecewise: bool = False
    failed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.sizes != tuple(sorted(set(self.sizes))) or (self.sizes and self.sizes[0] < 1):
            raise ValueError(f"capture sizes must be positive and ascend without repeats, got {self.sizes}")

    def route(self, batch_size: int) -> int | None:
        """Return the capture size a decode step of `batch_size` takes, or None where no graph serves it."""
        index = bisect_left(self.sizes, batch_size)
        if index == len(self.sizes):
            return None
        size = self.sizes[index]
        if size in self.failed:
            return None
        return size if self.padding or size == batch_size else None

    def route_mixed(self, total_tokens: int) -> int | None:
        """Return the piecewise capture size a mixed step of `total_tokens` takes, or None."""
        return self.route(total_tokens) if self.piecewise else None

    def captures(self, max_num_seqs: int) -> tuple[int, ...]:
        """Return the sizes as they are captured: a piecewise pool's decode graphs beside all piecewise ones.

        vLLM captures a size of at most `max_num_seqs` twice then, once FULL and once PIECEWISE.
        """
        if not self.piecewise:
            return self.sizes
        return tuple(size for size in self.sizes if size <= max_num_seqs) + self.sizes

    def unserved(self, largest_batch: int) -> list[tuple[int, int]]:
        """Return the batch sizes 1…`largest_batch` without a graph, as inclusive ranges."""
        ranges: list[tuple[int, int]] = []
        for batch_size in range(1, largest_batch + 1):
            if self.route(batch_size) is not None:
                continue
            if ranges and ranges[-1][1] == batch_size - 1:
                ranges[-1] = (ranges[-1][0], batch_size)
            else:
                ranges.append((batch_size, batch_size))
        return ranges
