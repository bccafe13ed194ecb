"""The KV cache that knows what its blocks hold, so that requests share the blocks of equal prefixes.

Rules of vLLM (v1/core/block_pool.py, kv_cache_manager.py, single_type_kv_cache_manager.py of 0.33.0): only
full blocks have a hash, which covers all tokens before them; a request takes the longest leading run of
cached blocks, never its last token; a prompt's block is cached when the step that fills it is scheduled;
equal blocks are not merged; a request's blocks are freed from its tail; free blocks with a hash are
overwritten in the order in which they were freed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from scheduler.engine.kv_cache import NOTHING, Found, KVCache

_MOST_BLOCKS_OF_A_REQUEST = 2**24


class PrefixCache(KVCache):
    """Keeps a key per full block; blocks without one are counted, because nobody can find them.

    `keys_of(request)` names the leading full blocks whose tokens are known to be like those of others:
    blocks with equal keys hold equal tokens after equal prefixes. All further blocks are the request's own.
    An answer's blocks get their keys when it ends or is preempted: nobody asks for them before.
    """

    knows_contents = True

    def __init__(
        self,
        blocks: int | None,
        block_size: int,
        keys_of: Callable[[int], Sequence[int]],
        unhashed_first: bool = True,
    ) -> None:
        super().__init__(blocks, block_size, unhashed_first=unhashed_first)
        self.remembers = True  # what a waiting request needs changes with every block overwritten
        self.keys_of = keys_of
        self._blank = self.total  # free blocks without a key that are taken first
        self._queue_of_blocks: OrderedDict[int, None] = OrderedDict()  # free blocks behind those
        self._key: dict[int, int] = {}  # block → its key
        self._holders: dict[int, int] = {}  # block → requests that hold it
        self._cached: dict[int, list[int]] = {}  # key → blocks, first cached first
        self._held: dict[int, list[int]] = {}  # running request → its leading blocks with a key
        self._keys: dict[int, Sequence[int]] = {}  # of requests seen and not yet gone
        self._blocks_made = 0
        self._hit: tuple[int, list[int]] = (-1, [])  # what find() found last

    def allocate(self, blocks: int) -> None:
        """Take `blocks` free blocks, overwriting the least recently used."""
        if blocks > self.free:
            raise RuntimeError(f"allocated {blocks} KV blocks with {self.free} free")
        self.free -= blocks
        blank = min(blocks, self._blank)
        self._blank -= blank
        for _ in range(blocks - blank):
            block, _ = self._queue_of_blocks.popitem(last=False)
            self._forget(block)

    def find(self, request: int, target: int, recorded: int) -> Found:
        """Return the longest leading run of cached blocks; `recorded` hits say nothing of whose blocks."""
        keys = self._keys.get(request)
        if keys is None:
            keys = self._keys[request] = self.keys_of(request)
        cached, holders = self._cached, self._holders
        hit: list[int] = []
        free = 0
        for place in range((target - 1) // self.block_size):
            blocks = cached.get(keys[place] if place < len(keys) else _own(request, place))
            if blocks is None:
                break
            hit.append(blocks[0])
            free += not holders[blocks[0]]
        self._hit = (request, hit)
        return Found(len(hit) * self.block_size, len(hit), free) if hit else NOTHING

    def take(self, request: int, found: Found) -> None:
        """Let a request that is admitted have what was found for it."""
        of_request, hit = self._hit
        if of_request != request or len(hit) != found.blocks:
            raise RuntimeError("a request takes what was just found for it")
        for block in hit:
            if not self._holders[block]:
                del self._queue_of_blocks[block]
            self._holders[block] += 1
        self.free -= found.free
        self._held[request] = hit
        self._hit = (-1, [])

    def fill(self, request: int, tokens: int) -> None:
        """Give a key to each block that the first `tokens` tokens of a request fill."""
        held, keys = self._held[request], self._keys[request]
        for place in range(len(held), tokens // self.block_size):
            key = keys[place] if place < len(keys) else _own(request, place)
            block = self._blocks_made
            self._blocks_made += 1
            self._key[block], self._holders[block] = key, 1
            self._cached.setdefault(key, []).append(block)
            held.append(block)

    def release(self, blocks: int, tokens: int = 0, owner: int = -1, returns: bool = True) -> None:
        """Give a request's blocks back, its tail first; see KVCache."""
        self.fill(owner, tokens)
        held = self._held.pop(owner)
        if not returns:
            del self._keys[owner]
        unhashed = blocks - len(held)
        self.free += unhashed
        if self.unhashed_first:
            self._blank += unhashed
        else:
            for _ in range(unhashed):
                self._queue_of_blocks[self._blocks_made] = None
                self._blocks_made += 1
        for block in reversed(held):
            self._holders[block] -= 1
            if not self._holders[block]:
                self._queue_of_blocks[block] = None
                self.free += 1

    def _forget(self, block: int) -> None:
        """Drop the key of a block that is overwritten, if it has one."""
        key = self._key.pop(block, None)
        if key is None:
            return
        self.evicted += 1
        del self._holders[block]
        blocks = self._cached[key]
        if len(blocks) == 1:
            del self._cached[key]
        else:
            blocks.remove(block)


def _own(request: int, place: int) -> int:
    """Return the key of a block that only this request can find."""
    return -1 - (request * _MOST_BLOCKS_OF_A_REQUEST + place)
