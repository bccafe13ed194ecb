"""The KV cache: blocks of `block_size` tokens, counted; freed blocks keep their identity for reuse."""

from __future__ import annotations

from collections import deque

UNLIMITED = 2**62


class KVCache:
    """Counts free and used blocks; with prefix caching, remembers whose blocks the free ones are.

    Freed blocks queue up least recently used first, a request's tail blocks before its leading ones, as
    in vLLM's free queue (v1/core/block_pool.py). New blocks are taken from the front of that queue, so
    what a preempted request finds on its return are its leading blocks that nobody took meanwhile.
    Blocks that nobody can find again, being without a hash, go to the front with `unhashed_first`
    (vLLM from 0.24 on), otherwise to the end like all others (vLLM to 0.22).
    """

    def __init__(
        self,
        blocks: int | None,
        block_size: int,
        prefix_caching: bool = False,
        unhashed_first: bool = True,
    ) -> None:
        self.block_size = block_size
        self.total = UNLIMITED if blocks is None else blocks
        self.free = self.total
        self.remembers = prefix_caching and blocks is not None
        self.unhashed_first = unhashed_first
        # Runs of free blocks [owner, how many are left]; −1 owns what nobody can reuse.
        self._queue: deque[list[int]] = deque([[-1, self.total]])
        self._runs: dict[int, list[int]] = {}

    @property
    def used(self) -> int:
        """Blocks in use."""
        return self.total - self.free

    def blocks(self, tokens: int) -> int:
        """Return how many blocks hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def allocate(self, blocks: int) -> None:
        """Take `blocks` free blocks; the caller has checked that they are there."""
        if blocks > self.free:
            raise RuntimeError(f"allocated {blocks} KV blocks with {self.free} free")
        self.free -= blocks
        if self.remembers:
            self._take(blocks)

    def release(self, blocks: int, tokens: int = 0, owner: int = -1) -> None:
        """Give blocks back; those that `tokens` tokens fill are full, those behind them have no hash.

        `owner` may find the full ones again if it returns in time.
        """
        self.free += blocks
        if not self.remembers:
            return
        hashed = min(tokens // self.block_size, blocks)
        if blocks > hashed:
            unhashed = [-1, blocks - hashed]
            if self.unhashed_first:
                self._queue.appendleft(unhashed)
            else:
                self._queue.append(unhashed)
        if hashed:
            run = [owner, hashed]
            self._queue.append(run)
            if owner >= 0:
                self._runs[owner] = run

    def reusable(self, owner: int) -> int:
        """Return how many leading blocks of `owner` are still free and not overwritten."""
        run = self._runs.get(owner)
        return run[1] if run else 0

    def reuse(self, owner: int, blocks: int) -> None:
        """Take `blocks` leading blocks of `owner` out of the free queue, contents intact."""
        run = self._runs.pop(owner)
        run[0] = -1
        run[1] -= blocks
        self.free -= blocks

    def _take(self, blocks: int) -> None:
        while blocks:
            run = self._queue[0]
            taken = min(blocks, run[1])
            run[1] -= taken
            blocks -= taken
            if not run[1]:
                self._queue.popleft()
                if run[0] >= 0 and self._runs.get(run[0]) is run:
                    del self._runs[run[0]]
