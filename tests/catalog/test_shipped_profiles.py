"""Shipped profiles: rebuilt from their data byte for byte, and sane where no data is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from evidence.profiles.shipped import BUILDERS, POOL_COSTS, VLLM_CAPTURES, VLLM_SIZES, h100_torch
from scheduler.catalog.pool_presets import pool_preset
from scheduler.catalog.profile.file import load_profile, profile_text, shipped_profiles
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.model.cost_model import CostModel

DATA = Path(os.environ.get("GRAPHPOOL_SHARED", Path(__file__).parents[2].parent / "shared")) / "calibration"
PROFILES = Path(__file__).parents[2] / "scheduler" / "catalog" / "profiles"
NAMES = shipped_profiles()
CALIBRATED = ("h200-torch-llama-1b", "h200-torch-llama-8b", "h200-torch-qwen3-0.6b")
"""Made by `run.py calibrate` on the GPU itself: their raw grids are not among the importers' files."""
IMPORTED = [name for name in NAMES if name not in CALIBRATED]


def data() -> Path:
    if not DATA.is_dir():
        pytest.skip("the measurement files are not beside the repository (GRAPHPOOL_SHARED)")
    return DATA


def chunk_ms(model: CostModel, tokens: int, cached: int = 0, decodes: int = 0, kv_tokens: int = 0) -> float:
    chunk = PrefillChunk(0, tokens, cached, True)
    kind = StepKind.MIXED if decodes else StepKind.PREFILL
    return model.run(StepPlan(kind, decodes, None, kv_tokens, (chunk,))) / 1e6


@pytest.mark.parametrize("name", IMPORTED)
def test_a_shipped_profile_is_rebuilt_from_its_data_byte_for_byte(name):
    assert profile_text(BUILDERS[name](data())) == (PROFILES / f"{name}.json").read_text()


def test_every_imported_profile_has_a_builder():
    assert sorted(BUILDERS) == IMPORTED
    assert set(CALIBRATED) <= set(NAMES)
    assert pool_preset("vllm", 512, 2048).sizes == VLLM_SIZES


def test_pool_costs_of_the_served_engines_are_those_measured_on_the_h100():
    assert h100_torch(data()).pool == POOL_COSTS


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_calibrated_profile_is_measured_and_reads_its_weights_at_a_speed_an_h200_has(name):
    profile = load_profile(name)
    marks = {path: profile.origin_of(path) for path in ("decode", "decode.eager.issue_ms", "prefill", "pool")}
    assert {path for path, mark in marks.items() if mark is None or mark.origin != "measured"} == set()
    model = cost_model(profile, "fallback")
    weights_ms = profile.model.weight_bytes / 4.8e12 * 1e3  # an H200 reads 4.8 TB/s
    single, many = (model.decode_ms("graph", size, size * 512) for size in (1, 256))
    kv_ms = 256 * 512 * profile.model.kv_bytes_per_token / 4.8e12 * 1e3
    assert weights_ms < single < weights_ms + 3
    assert weights_ms + kv_ms < many < 3 * (weights_ms + kv_ms) + 3
    assert single < model.decode_ms("eager", 1, 512)


@pytest.mark.parametrize("name", NAMES)
def test_larger_steps_are_slower_but_for_the_noise_of_the_tables(name):
    model = cost_model(load_profile(name), "fallback")
    for context in (128, 1024):
        times = np.array([model.decode_ms("graph", size, size * context) for size in range(1, 257)])
        assert (times[8:] > times[:-8] * 0.97).all()
        assert times[255] > 1.5 * times[0]
    prompts = [chunk_ms(model, tokens) for tokens in (256, 512, 1024, 2048)]
    assert prompts == sorted(prompts)
    more = chunk_ms(model, 512, decodes=32, kv_tokens=32_768)
    if name in IMPORTED:
        assert chunk_ms(model, 512, cached=4096) > chunk_ms(model, 512)
        assert more > chunk_ms(model, 512)
    else:  # a small shape's step of 512 tokens is bound by its launches, decodes or not
        assert more >= chunk_ms(model, 512)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_with_prompt_tokens_has_no_cliff(name):
    model = cost_model(load_profile(name), "fallback")
    for decodes, kv in ((0, 0), (1, 900), (24, 24_000)):
        times = np.array([chunk_ms(model, tokens, 0, decodes, kv) for tokens in range(64, 1024, 3)])
        # aiconfigurator measured 256 and 257 rows, Vidur steps of 8: such jumps are real, and this small
        assert np.abs(np.diff(times)).max() < 0.08 * times.max()
    for decodes in (4, 100):
        times = np.array(
            [chunk_ms(model, 300, 0, decodes, decodes * context) for context in range(20, 4000, 20)]
        )
        assert np.abs(np.diff(times)).max() < 0.03 * times.max()
    times = np.array([chunk_ms(model, 300, cached, 8, 8000) for cached in range(0, 8000, 40)])
    assert np.abs(np.diff(times)).max() < 0.02 * times.max()


@pytest.mark.parametrize("name", NAMES)
def test_several_prompts_in_a_step_cost_no_more_than_one_of_all_their_tokens(name):
    model = cost_model(load_profile(name), "fallback")

    def step(*chunks: tuple[int, int], decodes: int = 0) -> int:
        parts = tuple(PrefillChunk(i, tokens, cached, True) for i, (tokens, cached) in enumerate(chunks))
        return model.run(StepPlan(StepKind.MIXED, decodes, None, decodes * 1000, parts))

    slack = 1.01  # sampling a token for each prompt instead of one
    for decodes in (0, 16):
        assert step(*[(256, 0)] * 4, decodes=decodes) <= slack * step((1024, 0), decodes=decodes)
        assert step((1000, 0), (24, 0), decodes=decodes) <= slack * step((1024, 0), decodes=decodes)
        assert step((512, 512), (512, 512), decodes=decodes) <= slack * step(
            (512, 2048), (512, 2048), decodes=decodes
        )


def test_mixing_costs_what_the_rtx_4090s_joint_table_says_not_the_sum_of_its_parts():
    model = cost_model(load_profile("rtx4090-llama-3.1-8b-bf16"), "fallback")
    cost = model._prefill
    assert cost is not None
    assert cost.joint is not None
    together, _ = cost.joint.read((1024.0, 0.0, 32.0, 1024.0))
    alone, _ = cost.joint.read((1024.0, 0.0, 0.0, 0.0))
    decoding, _ = cost.joint.read((0.0, 0.0, 32.0, 1024.0))
    assert 1.4 < together / (alone + decoding) < 1.8


def test_the_rtx_4090_profile_leaves_the_kv_blocks_that_the_real_run_had():
    profile = load_profile("rtx4090-llama-3.1-8b-bf16")
    assert profile.pool is not None
    assert profile.kv_blocks(16, profile.pool.memory_bytes(VLLM_CAPTURES)) == 2588


@pytest.mark.parametrize("name", NAMES)
def test_eager_host_time_is_a_range_and_marked_where_it_is_not_measured(name):
    profile = load_profile(name)
    by_us = ("h100-llama-3.1-8b-bf16", *CALIBRATED)
    assert profile.range_origin == ("measured" if name in by_us else "assumed")
    assert profile.has_range


def test_the_vllm_profile_is_its_engine_and_knows_padded_rows():
    profile = load_profile("h100-vllm-0.26-llama-3.1-8b-bf16")
    for sizes in ((), (256,), VLLM_CAPTURES):  # the KV room did not follow the list
        assert profile.kv_blocks(16, profile.pool.memory_bytes(sizes)) * 16 == 450_736
    assert profile.pool.memory_bytes(VLLM_CAPTURES) == pytest.approx(0.58 * 2**30, rel=0.02)
    assert profile.pool.startup_s(VLLM_CAPTURES) == pytest.approx(6, rel=0.02)
    model = cost_model(profile.of_its_host(), "fallback")
    few, many = (model.gpu_ms(StepPlan(StepKind.DECODE, rows, 256, 141 * rows)) for rows in (1, 256))
    # Held cells of padded8b: 7.71 and 10.31 ms in the graph, head and copy 0.45 to 0.6 beside it.
    assert few == pytest.approx(7.71 + 0.47, rel=0.06)
    assert many == pytest.approx(10.31 + 0.62, rel=0.06)
