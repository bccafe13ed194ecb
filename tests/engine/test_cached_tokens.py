"""Prompt tokens that a trace says are cached already: exactly that much less work, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import Run
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload

MS = 1_000_000
EAGER = Variant("eager", GraphPool(), "eager")
# Decode steps take 2 ms; a step with prompt tokens 1 ms and 0.01 ms per token, besides its decodes.
WORKLOAD = """\
name: cached
arrivals: {process: trace, path: trace.csv}
engine:
  policy: mixed
  max_num_seqs: 4
  max_num_batched_tokens: 64
  kv_blocks: 14
  profile:
    decode_eager_ms: {base: 2, per_request: 0}
    decode_graph_ms: {base: 2, per_request: 0}
    prefill_ms: {base: 1, per_token: 0.01}
"""
TWO = [(0, 100, 2, 60), (0, 100, 2, 100)]


def run_trace(folder: Path, rows: list[tuple[int, ...]], *overrides: str) -> Run:
    header = ["arrival_s,prompt_tokens,output_tokens,cached_tokens"]
    (folder / "trace.csv").write_text("\n".join(header + [",".join(map(str, row)) for row in rows]) + "\n")
    (folder / "w.yaml").write_text(WORKLOAD)
    workload = load_workload(folder / "w.yaml", overrides)
    return simulate(workload, draw_requests(workload), workload.engine.profile, EAGER)


def without_cache(rows: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return [(*row[:3], 0) for row in rows]


@pytest.mark.parametrize("policy", ["mixed", "prefill_first"])
def test_only_what_is_not_cached_is_computed_and_always_the_last_token(tmp_path, policy):
    """40 tokens of the first prompt and 1 of the second, which is cached whole, fit one step of 1.41 ms."""
    run = run_trace(tmp_path, TWO, f"engine.policy={policy}")
    assert run.steps.prefill_tokens.tolist() == [41, 0]
    assert run.steps.duration_ns.tolist() == [MS * 141 // 100, 2 * MS]
    assert run.requests.first_token_ns.tolist() == [MS * 141 // 100] * 2
    assert run.requests.finish_ns.tolist() == [MS * 341 // 100] * 2
    assert run.steps.kv_tokens.tolist() == [0, 200], "cached tokens are in the KV cache all the same"
    assert run.peak_kv_blocks == 14, "101 tokens take 7 blocks of 16, cached or not"


def test_without_the_cache_the_same_prompts_take_four_steps(tmp_path):
    run = run_trace(tmp_path, without_cache(TWO))
    assert run.steps.prefill_tokens.tolist() == [64, 64, 63, 9, 0]
    # 64 of the first; its other 36 and 28 of the second; then the first decodes beside 63 and ends.
    assert run.steps.batch_size.tolist() == [0, 0, 1, 0, 1]
    assert run.requests.first_token_ns.tolist() == [328 * MS // 100, (328 + 363 + 109) * MS // 100]


def test_the_work_saved_is_exactly_the_tokens_that_were_cached(tmp_path):
    rows = [(5 * i, 10 + 9 * i, 1, 3 * i) for i in range(8)]
    plain, cached = run_trace(tmp_path, without_cache(rows)), run_trace(tmp_path, rows)
    saved = plain.steps.prefill_tokens.sum() - cached.steps.prefill_tokens.sum()
    assert saved == sum(row[3] for row in rows)
    ttft = [run.requests.first_token_ns - run.requests.arrival_ns for run in (plain, cached)]
    chunks = [np.ceil([row[1] / 64 for row in rows]), np.ceil([(row[1] - row[3]) / 64 for row in rows])]
    expected = [row[3] * MS // 100 for row in rows]
    np.testing.assert_array_equal(ttft[0] - ttft[1], expected + (chunks[0] - chunks[1]) * MS)


def test_a_decode_instance_has_nothing_to_save(tmp_path):
    runs = [run_trace(tmp_path, rows, "engine.policy=decode_only") for rows in (TWO, without_cache(TWO))]
    assert runs[0].requests.finish_ns.tolist() == runs[1].requests.finish_ns.tolist()


def test_requests_with_as_many_cached_tokens_share_their_blocks(tmp_path):
    """Four prompts of 100 tokens, 96 of them cached: 6 blocks for all, one each for the rest."""
    run = run_trace(tmp_path, [(0, 100, 2, 96)] * 4)
    assert run.peak_kv_blocks == 6 + 4
    assert run.steps.prefill_tokens.tolist() == [16, 0]
    assert (run.requests.preemptions == 0).all()


def test_a_shared_prefix_is_given_back_with_the_last_request_that_holds_it(tmp_path):
    """Two at 0 s, one much later: the first two are gone, and the third finds its prefix all the same."""
    run = run_trace(tmp_path, [(0, 100, 2, 96), (0, 100, 5, 96), (60, 100, 2, 96)])
    assert run.peak_kv_blocks == 6 + 2
    assert run.prefix_use.hit_tokens == 3 * 96
    assert run.kv_use.blocks.tolist()[-1] == 7


@pytest.mark.parametrize("policy", ["mixed", "prefill_first"])
def test_shared_prefixes_and_preemption_lose_no_block(tmp_path, policy):
    """Nine blocks: 6 shared, and answers that outgrow the other three."""
    rows = [(0, 100, 30, 96), (0, 98, 30, 96), (0, 97, 9, 96), (1, 90, 3, 10)]
    run = run_trace(
        tmp_path, rows, "engine.kv_blocks=9", f"engine.policy={policy}", "engine.prefix_caching=true"
    )
    assert run.requests.preemptions.sum() > 0
    assert (run.requests.status == 1).all()
    assert run.peak_kv_blocks <= 9
