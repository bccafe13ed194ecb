"""`engine.preset` in a workload file: what it fills in, what wins over it, and that each one runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from workload.test_json_schema import is_valid
from workload_text import GOOD, INLINE, problems, write

from scheduler.analysis.comparison.pools import workload_pool
from scheduler.catalog.engine_presets import engine_preset, engine_preset_names
from scheduler.catalog.profile.file import load_profile
from scheduler.engine.records import Status
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload

PRESET = """\
name: preset
requests: 12
arrivals: {process: poisson, rate_per_s: 20}
prompt_tokens: {distribution: fixed, value: 700}
output_tokens: {distribution: fixed, value: 20}
engine: {preset: vllm-h100, profile: h100-llama-3.1-8b-bf16}
"""


@pytest.mark.parametrize("name", engine_preset_names())
def test_every_preset_fills_in_engine_and_pool_and_runs_end_to_end(tmp_path: Path, name: str) -> None:
    preset = engine_preset(name)
    workload = load_workload(write(tmp_path, PRESET.replace("vllm-h100", name)))
    engine, pool = workload.engine, workload.pool
    for key in ("policy", "max_num_seqs", "max_num_batched_tokens", "block_size", "prefix_caching"):
        assert getattr(engine, key) == getattr(preset, key), key
    of_a_step = preset.max_num_batched_tokens if preset.policy == "sglang" else preset.max_prefill_tokens
    assert engine.prefill_tokens_per_step == of_a_step
    assert engine.reserve_full_prompt == preset.reserve_full_prompt
    assert engine.async_scheduling == (preset.overlap and preset.policy in ("mixed", "sglang"))
    assert (engine.unhashed_blocks, engine.null_block) == (preset.unhashed_blocks, preset.null_block)
    assert engine.empty_pause_ms == preset.empty_pause_ms
    assert (pool.preset, pool.mode) == (preset.pool, preset.pool_mode)

    profile = load_profile(str(engine.profile))
    named = workload_pool(pool, engine, profile)
    assert named.pool.piecewise == (preset.pool_mode == "full_and_piecewise")
    requests = draw_requests(workload)
    run = simulate(workload, requests, profile, Variant(named.name, named.pool, "fallback"))
    assert (run.requests.status == Status.COMPLETED).all()
    assert int(run.steps.prefill_tokens.sum()) == 12 * 700
    assert int(run.gaps.count.sum()) == 12 * 19
    decode = run.steps.kind == 0
    assert (run.steps.capture_size[decode] > 0).all(), "a batch of up to 12 is in every preset's pool"
    assert int(run.steps.prefill_tokens.max()) <= preset.max_prefill_tokens


def test_keys_of_the_file_win_over_the_preset_and_set_wins_over_both(tmp_path: Path) -> None:
    text = PRESET.replace("vllm-h100,", "vllm-h100, max_num_seqs: 64, block_size: 32,")
    path = write(tmp_path, text)
    engine = load_workload(path).engine
    assert (engine.max_num_seqs, engine.block_size, engine.max_num_batched_tokens) == (64, 32, 8192)
    engine = load_workload(path, ["engine.max_num_seqs=48", "engine.max_num_batched_tokens=512"]).engine
    assert (engine.max_num_seqs, engine.block_size, engine.max_num_batched_tokens) == (48, 32, 512)
    engine = load_workload(path, ["engine.preset=sglang-l40"]).engine
    assert (engine.policy, engine.max_num_seqs, engine.max_prefill_tokens) == ("sglang", 64, 16384)


def test_another_policy_than_the_presets_drops_what_belongs_to_the_other(tmp_path: Path) -> None:
    path = write(tmp_path, PRESET)
    engine = load_workload(path, ["engine.policy=prefill_first"]).engine
    assert (engine.policy, engine.async_scheduling, engine.max_prefill_tokens) == (
        "prefill_first",
        False,
        8192,
    )


def test_the_pool_of_the_preset_stands_only_where_the_file_gives_none(tmp_path: Path) -> None:
    assert load_workload(write(tmp_path, PRESET)).pool.preset == "vllm"
    path = write(tmp_path, PRESET + "pool: {sizes: [1, 2, 4]}\n")
    pool = load_workload(path).pool
    assert (pool.sizes, pool.preset, pool.mode) == ((1, 2, 4), None, None)
    assert load_workload(path, ["pool={preset: sglang}"]).pool.preset == "sglang"
    assert load_workload(write(tmp_path, PRESET), ["pool.sizes=[8]"]).pool.sizes == (8,)


def test_one_key_of_the_pool_changes_that_key_of_the_presets_pool(tmp_path: Path) -> None:
    path = write(tmp_path, PRESET)
    assert load_workload(path).pool.mode == "full_and_piecewise"
    pool = load_workload(path, ["pool.mode=decode_only"]).pool
    assert (pool.preset, pool.mode) == ("vllm", "decode_only")


def test_an_unknown_preset_is_one_line_with_its_place_and_a_suggestion(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, PRESET.replace("vllm-h100,", "vllm-h1000,"))
    said = (
        "engine.preset: expected an engine preset (run.py preset list), got 'vllm-h1000'; "
        "did you mean 'vllm-h100'?"
    )
    assert line == f"w.yaml:6: {said}"
    (line,) = problems(tmp_path, PRESET, "engine.preset=sglan")
    assert line.startswith("--set engine.preset: ")
    assert line.endswith("did you mean 'sglang'?")


def test_card_and_results_name_the_preset_and_its_release(tmp_path: Path) -> None:
    path = write(tmp_path, PRESET)
    outcome = call(path, "--full", "--no-plots", "--replications", "1", "--out", tmp_path / "out")
    assert "preset    vllm-h100\n" in outcome.stdout
    line = next(line for line in outcome.stdout.splitlines()[25:] if line.startswith("engine "))
    assert line.endswith(", vLLM 0.33.0")
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["workload"]["engine"]["preset"] == "vllm-h100"
    assert results["workload"]["pool"]["preset"] == "vllm"
    assert "vLLM 0.33.0" in results["variants"][0]["origin"]
    with np.load(tmp_path / "out" / "requests.npz", allow_pickle=False) as table:
        assert (table["status"] == Status.COMPLETED).all()


def test_the_schema_asks_for_a_policy_or_a_preset() -> None:
    good = GOOD.replace("some-shipped-name", INLINE)
    assert is_valid(good)
    assert is_valid(good.replace("policy: prefill_first", "preset: vllm-h100"))
    assert is_valid(good.replace("policy: prefill_first", "policy: mixed\n  preset: vllm-h100"))
    assert not is_valid(good.replace("  policy: prefill_first\n", ""))
    assert not is_valid(good.replace("policy: prefill_first", "preset: vllm-h1000"))
