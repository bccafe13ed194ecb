"""Preset pools, against the number of sizes each engine captures under its own rules."""

from __future__ import annotations

import pytest

from scheduler.catalog.pool_presets import pool_preset, pool_preset_names
from scheduler.errors import InputError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "max_num_seqs", "count", "largest"),
    [
        ("vllm", 256, 51, 512),
        ("vllm", 1024, 51, 512),
        ("vllm-512", 1024, 51, 512),
        ("vllm-1024", 1024, 83, 1024),
        ("vllm-b200", 1024, 83, 1024),
        ("vllm-256", 1024, 35, 256),
        ("vllm", 128, 35, 256),
        ("vllm-128", 1024, 19, 128),
        ("vllm-interactivity", 1024, 76, 512),
        ("sglang-256", 4096, 36, 256),
        ("sglang-512", 4096, 52, 512),
        ("sglang-8", 4096, 4, 8),
        ("sglang-32", 4096, 8, 32),
        ("sglang-48", 4096, 10, 48),
        ("sglang-160", 4096, 24, 160),
        ("trtllm", 2048, 19, 128),
        ("trtllm-256", 2048, 21, 256),
        ("trtllm-512", 2048, 25, 512),
        ("trtllm-2048", 2048, 49, 2048),
        ("trtllm-x2-2048", 2048, 23, 2048),
        ("trtllm-nopad", 2048, 34, 128),
        ("nano-vllm", 512, 36, 512),
        ("nano-vllm", 2048, 36, 512),
        ("mini-sglang-256", 256, 35, 256),
        ("mini-sglang", 256, 23, 160),
        ("lmdeploy", 512, 10, 512),
        ("tgi", 256, 6, 32),
        ("lightllm", 1000, 46, 256),
        ("all", 37, 37, 37),
        ("powers_of_two", 256, 9, 256),
        ("powers_of_two", 100, 8, 100),
        ("eager", 256, 0, None),
        ("none", 256, 0, None),
    ],
)
def test_each_preset_has_its_engines_number_of_sizes(name, max_num_seqs, count, largest):
    sizes = pool_preset(name, max_num_seqs, 8192).sizes
    assert len(sizes) == count
    assert (sizes[-1] if sizes else None) == largest


@pytest.mark.parametrize(
    ("memory_gib", "tensor_parallel", "largest"),
    [(16, 1, 8), (24, 1, 48), (24, 4, 160), (48, 1, 32), (48, 4, 160), (80, 1, 256), (80, 8, 512),
     (141, 1, 256), (192, 1, 512), (None, 1, 160)],
)  # fmt: skip
def test_sglang_chooses_its_largest_graph_by_gpu_memory(memory_gib, tensor_parallel, largest):
    memory = None if memory_gib is None else memory_gib * GIB
    assert pool_preset("sglang", 4096, 8192, memory, tensor_parallel).sizes[-1] == largest


def test_sglang_never_captures_more_than_it_may_run():
    assert pool_preset("sglang-256", 50, 8192).sizes == (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 50)


def test_mini_sglang_captures_to_256_on_a_large_gpu():
    assert len(pool_preset("mini-sglang", 256, 8192, 141 * GIB).sizes) == 35


def test_vllm_adds_max_num_seqs_off_the_grid_only_under_its_own_maximum():
    assert 100 in pool_preset("vllm", 100, 8192).sizes
    assert 100 not in pool_preset("vllm-200", 100, 8192).sizes


def test_vllm_truncates_an_explicit_maximum_to_its_grid():
    assert pool_preset("vllm-42", 64, 8192).sizes[-1] == 40


def test_vllm_never_captures_more_tokens_than_a_step_may_hold():
    assert pool_preset("vllm", 256, 100).sizes[-2:] == (96, 100)
    assert pool_preset("vllm-512", 256, 100).sizes[-2:] == (96, 100)


def test_trtllm_with_padding_captures_the_executors_batch_in_place_of_larger_sizes():
    assert pool_preset("trtllm", 50, 8192).sizes[-2:] == (48, 50)
    assert pool_preset("trtllm-nopad", 50, 8192).sizes[-2:] == (31, 32)
    assert pool_preset("trtllm", 256, 8192).sizes[-1] == 128


def test_only_trtllms_default_refuses_to_pad_and_only_vllm_serves_mixed_steps():
    presets = {name: pool_preset(name, 256, 8192) for name in pool_preset_names()}
    assert {name for name, preset in presets.items() if not preset.padding} == {"trtllm-nopad"}
    assert {p.engine for p in presets.values() if p.piecewise} == {"vllm"}


@pytest.mark.parametrize("max_num_seqs", [1, 2, 3, 7, 8, 33, 100, 257, 512, 1024])
@pytest.mark.parametrize("name", pool_preset_names())
def test_every_preset_gives_positive_ascending_sizes_and_names_a_release(name, max_num_seqs):
    preset = pool_preset(name, max_num_seqs, 2048)
    assert list(preset.sizes) == sorted(set(preset.sizes))
    assert all(size >= 1 for size in preset.sizes)
    assert preset.release
    assert preset.source


def test_nano_vllm_leaves_the_last_batches_off_the_grid_without_a_graph():
    assert pool_preset("nano-vllm", 500, 8192).sizes[-1] == 496


@pytest.mark.parametrize(
    ("name", "suggestion"), [("vlm", "vllm"), ("sglnag", "sglang"), ("trt-llm", "trtllm")]
)
def test_an_unknown_name_suggests_a_close_one(name, suggestion):
    with pytest.raises(InputError, match=f"unknown pool preset '{name}'.*{suggestion}"):
        pool_preset(name, 256, 8192)


@pytest.mark.parametrize("name", ["vllm-0", "tgi-8", "eager-4", "vllm-", "vllm--3", "zzz", "", "vllm-1x"])
def test_a_name_that_means_nothing_is_refused(name):
    with pytest.raises(InputError, match="unknown pool preset"):
        pool_preset(name, 256, 8192)
