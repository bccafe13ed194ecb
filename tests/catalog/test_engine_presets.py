"""Engine presets: consistent with the pools they name, and honest about what was not read."""

from __future__ import annotations

from dataclasses import fields

import pytest

from scheduler.catalog.engine_presets import EnginePreset, engine_preset, engine_preset_names
from scheduler.catalog.pool_presets import pool_preset
from scheduler.errors import InputError


@pytest.mark.parametrize("name", engine_preset_names())
def test_every_engine_names_a_pool_of_its_own_engine_and_release(name):
    preset = engine_preset(name)
    pool = pool_preset(preset.pool, preset.max_num_seqs, preset.max_num_batched_tokens)
    assert pool.engine == preset.engine
    assert pool.release == preset.release or "pool" in preset.assumed
    assert pool.piecewise == (preset.pool_mode == "full_and_piecewise")


@pytest.mark.parametrize("name", engine_preset_names())
def test_what_is_assumed_is_a_field_of_the_preset(name):
    preset = engine_preset(name)
    assert set(preset.assumed) <= {field.name for field in fields(EnginePreset)}
    assert preset.source


@pytest.mark.parametrize(
    ("name", "seqs", "largest"),
    [("vllm-h100", 1024, 512), ("vllm-default", 256, 512), ("sglang-l40", 2048, 32), ("trtllm", 2048, 128),
     ("nano-vllm", 512, 512)],
)  # fmt: skip
def test_defaults_that_leave_large_batches_without_a_graph_are_as_the_engines_ship_them(name, seqs, largest):
    preset = engine_preset(name)
    pool = pool_preset(preset.pool, preset.max_num_seqs, preset.max_num_batched_tokens)
    assert preset.max_num_seqs == seqs
    assert pool.sizes[-1] == largest


def test_tensorrt_llm_does_not_pad_unless_told_to():
    assert engine_preset("trtllm").pool == "trtllm-nopad"
    assert engine_preset("trtllm-padded").pool == "trtllm"


def test_an_unknown_engine_suggests_a_close_one():
    with pytest.raises(InputError, match="unknown engine preset 'vllm-h1000': did you mean vllm-h100"):
        engine_preset("vllm-h1000")
