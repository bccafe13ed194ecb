"""The KV cache: blocks of `block_size` tokens, counted; freed blocks keep their identity for reuse."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

UNLIMITED = 2**61  # in a machine word, where arithmetic is fastest


class Found(NamedTuple):
    """What a request that is to be admitted finds in the cache.

    `tokens` need not be computed; they lie in `blocks` leading blocks, of which `free` are in the free queue
    and leave it when the request takes them; the others are shared with requests that run. The first
    `recorded` blocks are those of a prefix of which a trace tells no more than its length.
    """

    tokens: int
    blocks: int
    free: int
    recorded: int = 0


NOTHING = Found(0, 0, 0)


class KVCache:
    """Counts free and used blocks; with prefix caching, remembers whose blocks the free ones are.

    Freed blocks queue up least recently used first, a request's tail blocks before its leading ones, as
    in vLLM's free queue (v1/core/block_pool.py). New blocks are taken from the front of that queue, so
    what a preempted request finds on its return are its leading blocks that nobody took meanwhile.
    Blocks that nobody can find again, being without a hash, go to the front with `unhashed_first`
    (vLLM from 0.24 on), otherwise to the end like all others (vLLM to 0.22).

    Hits that a trace has recorded say how long a cached prefix is, not which. Requests with as many cached
    tokens are taken to share one prefix, whose full blocks are held once however many of them run.
    """

    knows_contents = False
    evicted = 0
    """Cached blocks overwritten so far, where the cache knows what its blocks hold."""

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
        self._shared: dict[int, int] = {}  # recorded prefix in blocks → running requests that hold it
        self._shares: dict[int, int] = {}  # running request → its recorded prefix in blocks

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

    def release(self, blocks: int, tokens: int = 0, owner: int = -1, returns: bool = True) -> None:
        """Give a request's blocks back; those that `tokens` tokens fill are full, the rest have no hash.

        `owner`, if it `returns`, may find the full ones again.
        """
        if not (self.remembers or self._shares):
            self.free += blocks
            return
        shared = self._shares.get(owner, 0)
        self.free += blocks - shared
        if self.remembers:
            hashed = min(tokens // self.block_size, blocks)
            self._queue_up(blocks - hashed, hashed - shared, owner if returns else -1)
        if shared:
            self._part(owner)

    def _queue_up(self, unhashed: int, hashed: int, owner: int) -> None:
        """Put freed blocks into the free queue, without a hash first; `owner` may return for the rest."""
        if unhashed:
            if self.unhashed_first:
                self._queue.appendleft([-1, unhashed])
            else:
                self._queue.append([-1, unhashed])
        if hashed > 0:
            run = [owner, hashed]
            self._queue.append(run)
            if owner >= 0:
                self._runs[owner] = run

    def find(self, request: int, target: int, recorded: int) -> Found:
        """Return what a request finds of its first `target` tokens; the last is always computed.

        `recorded` is the prefix cache hit that its trace tells of, 0 for none.
        """
        shared = recorded // self.block_size
        run = self._runs.get(request)
        if not (shared or run):
            return Found(recorded, 0, 0) if recorded else NOTHING
        shared_free = 0 if shared in self._shared else shared
        reused = min(run[1], (target - 1) // self.block_size - shared) if run else 0
        tokens = (shared + reused) * self.block_size if reused else 0
        return Found(max(tokens, recorded), shared + reused, shared_free + reused, shared)

    def take(self, request: int, found: Found) -> None:
        """Let a request that is admitted have what was found for it."""
        shared = found.recorded
        if found.blocks > shared:
            self.reuse(request, found.blocks - shared)
        if not shared:
            return
        self._shares[request] = shared
        if shared not in self._shared:
            self.allocate(shared)
        self._shared[shared] = self._shared.get(shared, 0) + 1

    def fill(self, request: int, tokens: int) -> None:
        """Note that `tokens` tokens of a running request's prompt are computed, so that others find them."""

    def _part(self, request: int) -> None:
        """Let go of a recorded prefix, whose blocks are free where nobody else holds them."""
        shared = self._shares.pop(request)
        self._shared[shared] -= 1
        if not self._shared[shared]:
            del self._shared[shared]
            self.free += shared
            if self.remembers:
                self._queue_up(0, shared, -1)

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
