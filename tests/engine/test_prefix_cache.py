"""Blocks that requests share: rules one by one, against an exact LRU, and no block lost or made."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.prefix_cache import PrefixCache
from scheduler.engine.records import Run
from scheduler.errors import InputError
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload

EAGER = Variant("eager", GraphPool(), "eager")
MOONCAKE = Path(__file__).parents[3] / "shared" / "traces" / "mooncake_conversation_trace.jsonl.gz"
WORKLOAD = """\
name: shared
arrivals: {{process: trace, path: {path}}}
engine:
  policy: mixed
  prefix_caching: true
  block_size: {block_size}
  max_num_batched_tokens: 8192
  kv_blocks: {blocks}
  profile:
    decode_eager_ms: {{base: 0.001, per_request: 0}}
    decode_graph_ms: {{base: 0.001, per_request: 0}}
    prefill_ms: {{base: 0.01, per_token: 0.0001}}
"""


def cache_of(blocks: int, *keys: list[int], size: int = 4) -> PrefixCache:
    return PrefixCache(blocks, size, lambda request: keys[request])


def admit(cache: PrefixCache, request: int, tokens: int) -> int:
    """Admit a request and compute its whole prompt; return how many of its tokens were cached."""
    found = cache.find(request, tokens, 0)
    cache.take(request, found)
    cache.allocate(cache.blocks(tokens) - found.blocks)
    cache.fill(request, tokens)
    return found.tokens


def leave(cache: PrefixCache, request: int, tokens: int, returns: bool = False) -> None:
    cache.release(cache.blocks(tokens), tokens, request, returns)


def test_the_longest_leading_run_is_shared_and_held_once():
    cache = cache_of(10, [1, 2, 3], [1, 2, 9], [7, 2, 3])
    assert admit(cache, 0, 12) == 0
    assert admit(cache, 1, 12) == 8
    assert admit(cache, 2, 12) == 0, "a block is found only after the blocks before it"
    assert cache.used == 3 + 1 + 3


def test_the_last_token_is_always_computed():
    cache = cache_of(10, [1, 2], [1, 2], [1, 2])
    admit(cache, 0, 8)
    assert (admit(cache, 1, 8), admit(cache, 2, 9)) == (4, 8)
    assert cache.used == 2 + 1 + 1, "an equal block computed again is a block of its own"


def test_blocks_outlive_their_request_until_the_least_recently_used_are_overwritten_tail_first():
    cache = cache_of(4, [1, 2], [3, 4], [1, 2], [])
    admit(cache, 0, 8)
    leave(cache, 0, 8)
    admit(cache, 1, 8)
    leave(cache, 1, 8)
    assert cache.used == 0
    cache.allocate(1)
    assert cache.find(2, 9, 0).tokens == 4, "the tail of the request that left first went"
    assert cache.evicted == 1


def test_a_request_that_returns_finds_its_answer_too_and_nobody_else_does():
    cache = cache_of(10, [1], [1])
    admit(cache, 0, 6)
    cache.allocate(1)  # its answer grows to 9 tokens
    leave(cache, 0, 9, returns=True)
    assert cache.find(1, 9, 0).tokens == 4
    assert cache.find(0, 10, 0).tokens == 8


@given(st.data())
def test_blocks_are_neither_lost_nor_made(data):
    keys = [data.draw(st.lists(st.integers(1, 3), max_size=4)) for _ in range(5)]
    chained = [[hash(tuple(row[: i + 1])) % 10**9 for i in range(len(row))] for row in keys]
    cache = cache_of(12, *chained, size=2)
    running: dict[int, int] = {}
    for _ in range(20):
        request = data.draw(st.integers(0, 4))
        if request in running:
            leave(cache, request, running.pop(request), returns=data.draw(st.booleans()))
        else:
            tokens = data.draw(st.integers(1, 10))
            tokens = max(tokens, 2 * len(chained[request]))
            found = cache.find(request, tokens, 0)
            if cache.blocks(tokens) - found.blocks + found.free <= cache.free:
                admit(cache, request, tokens)
                running[request] = tokens
        assert 0 <= cache.used <= sum(map(cache.blocks, running.values()))
    for request, tokens in running.items():
        leave(cache, request, tokens)
    assert cache.free == 12


# A whole run against an exact LRU.


def run_of(folder: Path, path: Path, blocks: int, size: int, *overrides: str) -> Run:
    (folder / "w.yaml").write_text(WORKLOAD.format(path=path, blocks=blocks, block_size=size))
    workload = load_workload(folder / "w.yaml", overrides)
    return simulate(workload, draw_requests(workload), workload.engine.profile, EAGER)


def hits_of_an_exact_lru(rows: list[dict], blocks: int) -> int:
    """Serve requests one after the other with `blocks` blocks of 512 tokens; return the tokens found."""
    cache: OrderedDict[object, None] = OrderedDict()
    free, hits, own = blocks, 0, 0
    for row in rows:
        prompt, length = row["input_length"], row["input_length"] + row["output_length"] - 1
        names = [*row["hash_ids"][: prompt // 512]]
        while len(names) < length // 512:  # blocks that hold tokens of the answer
            names.append(("own", own := own + 1))
        found = 0
        while found < (prompt - 1) // 512 and names[found] in cache:
            found += 1
        hits += 512 * found
        for name in names[:found]:
            del cache[name]
        for _ in range(max(0, -(-length // 512) - found - free)):
            cache.popitem(last=False)
        for name in names:
            cache.pop(name, None)
        for name in reversed(names):
            cache[name] = None
        free = blocks - len(cache)
    return hits


def spread_out(folder: Path, rows: list[dict]) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(row | {"timestamp": 10_000 * i}) + "\n" for i, row in enumerate(rows)))
    return path


@pytest.mark.parametrize("blocks", [60, 300, 10**6])
def test_the_hit_rate_of_requests_served_one_by_one_is_that_of_an_exact_lru(tmp_path, blocks):
    generator = np.random.default_rng(3)
    rows, said, next_id = [], [[] for _ in range(12)], 0
    for _ in range(400):
        ids = said[generator.integers(12)]
        prompt = 512 * len(ids) + int(generator.integers(1, 2000))
        while len(ids) < prompt // 512:
            ids.append(next_id := next_id + 1)
        rows.append(
            {
                "input_length": prompt,
                "output_length": int(generator.integers(1, 900)),
                "hash_ids": [*ids, *([next_id := next_id + 1] if prompt % 512 else [])],
            }
        )
        if len(ids) > 20:
            ids.clear()
    run = run_of(tmp_path, spread_out(tmp_path, rows), blocks, 512)
    assert not run.requests.preemptions.any()
    assert run.prefix_use.hit_tokens == hits_of_an_exact_lru(rows, blocks)
    assert run.prefix_use.asked_tokens == sum(row["input_length"] for row in rows)


@pytest.mark.skipif(not MOONCAKE.exists(), reason="the Mooncake trace is not part of the repository")
def test_a_recorded_trace_hits_as_an_exact_lru_does_and_smaller_blocks_hit_at_least_as_much(tmp_path):
    run = run_of(tmp_path, MOONCAKE, 10**7, 512, "requests=2000")
    requests = draw_requests(load_workload(tmp_path / "w.yaml", ["requests=2000"]))
    seen: set[int] = set()
    hits = 0
    for index, prompt in enumerate(requests.prompt_tokens.tolist()):
        keys = requests.prefixes.keys(index, 512)
        leading = 0
        while leading < min(len(keys), (prompt - 1) // 512) and keys[leading] in seen:
            leading += 1
        hits += 512 * leading
        seen.update(keys)
    assert run.prefix_use.hit_tokens == hits
    assert run.prefix_use.evicted_blocks == 0
    finer = run_of(tmp_path, MOONCAKE, 10**7, 16, "requests=300")
    coarser = run_of(tmp_path, MOONCAKE, 10**7, 512, "requests=300")
    assert finer.prefix_use.hit_tokens >= coarser.prefix_use.hit_tokens > 0


def test_what_is_cached_is_not_computed(tmp_path):
    rows = [{"input_length": 1100, "output_length": 2, "hash_ids": [1, 2, i + 3]} for i in range(5)]
    path = spread_out(tmp_path, rows)
    shared = run_of(tmp_path, path, 1000, 16)
    alone = run_of(tmp_path, path, 1000, 16, "engine.prefix_caching=false")
    assert alone.steps.prefill_tokens.sum() - shared.steps.prefill_tokens.sum() == 4 * 1024
    assert shared.prefix_use.hit_tokens == 4 * 1024
    assert alone.prefix_use is None


def test_a_block_size_that_the_trace_cannot_tell_is_refused_in_one_line(tmp_path):
    rows = [{"input_length": 1100, "output_length": 2, "hash_ids": [1, 2, 3]}]
    with pytest.raises(InputError, match=r"engine\.block_size: expected a divisor or a multiple of the 512"):
        run_of(tmp_path, spread_out(tmp_path, rows), 1000, 48)
