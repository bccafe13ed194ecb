"""Whose step times a profile has: engine, release, GPU and model against what the workload names."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.analysis.comparison.measured_on import engine_in, flags_are_for, mismatches
from scheduler.catalog.profile.file import load_profile, shipped_profiles
from scheduler.catalog.profile.profile import Identity
from scheduler.workload.schema import Workload

VLLM_26 = "h100-vllm-0.26-llama-3.1-8b-bf16"
H200, RTX = "h200-llama-3.1-8b-bf16", "rtx4090-llama-3.1-8b-bf16"
VLLM_19 = "h100-vllm-llama-3.1-8b-bf16"
TORCH = "h100-llama-3.1-8b-bf16"
TRTLLM = "h100-trtllm-llama-3.1-8b-bf16"
INLINE = {
    "decode_graph_ms": {"base": 5, "per_request": 0},
    "decode_eager_ms": {"base": 9, "per_request": 0},
    "prefill_ms": {"base": 9, "per_token": 0},
}


def workload(pool: dict[str, Any], **engine: Any) -> Workload:
    return Workload.model_validate(
        {
            "name": "named",
            "requests": 10,
            "arrivals": {"process": "poisson", "rate_per_s": 1},
            "prompt_tokens": {"distribution": "fixed", "value": 8},
            "output_tokens": {"distribution": "fixed", "value": 8},
            "engine": {"policy": "mixed", "profile": INLINE, **engine},
            "pool": pool,
        }
    )


@pytest.mark.parametrize(
    ("pool", "engine", "profile", "differs"),
    [
        # The engine and its release. vLLM 0.26 to 0.33 were read as one.
        ({"preset": "vllm"}, {}, VLLM_26, None),
        ({"preset": "vllm"}, {}, VLLM_19, "release"),
        ({"preset": "vllm"}, {}, TORCH, "engine"),
        ({"preset": "vllm"}, {}, TRTLLM, "engine"),
        ({"preset": "sglang"}, {}, VLLM_26, "engine"),
        ({"preset": "trtllm"}, {}, TRTLLM, None),
        ({"preset": "nano-vllm"}, {}, VLLM_26, "engine"),
        ({"preset": "vllm", "engine": "vllm==0.19.0"}, {}, VLLM_19, None),
        ({"preset": "vllm", "engine": "vllm==0.30.0"}, {}, VLLM_26, None),
        ({"preset": "vllm", "engine": "vllm==0.34.1"}, {}, VLLM_26, "release"),
        ({"sizes": [1, 2], "engine": "sglang"}, {}, VLLM_26, "engine"),
        ({"sizes": [1, 2], "mode": "full_and_piecewise"}, {}, TRTLLM, "engine"),
        ({"sizes": [1, 2]}, {"preset": "sglang"}, VLLM_26, "engine"),
        ({"sizes": [1, 2]}, {}, TRTLLM, None),
        ({"sizes": [1, 2]}, {}, TORCH, "engine"),
        ({"preset": "powers_of_two"}, {}, VLLM_26, None),
        # The GPU.
        ({"preset": "vllm"}, {"preset": "vllm-h100"}, VLLM_26, None),
        ({"preset": "vllm", "engine": "vllm==0.19.0"}, {"preset": "vllm-h100"}, H200, None),
        ({"sizes": [1]}, {"preset": "vllm-0.19-h100"}, RTX, "GPU"),
        ({"preset": "vllm-b200"}, {}, VLLM_26, "GPU"),
        ({"preset": "vllm"}, {"gpu": "H100"}, VLLM_26, None),
        ({"preset": "vllm"}, {"gpu": "L40S"}, VLLM_26, "GPU"),
        ({"preset": "vllm", "engine": "vllm==0.19.0"}, {"gpu": "RTX 4090"}, RTX, None),
        # The model.
        ({"preset": "vllm"}, {"model": "meta-llama/Llama-3.1-8B-Instruct"}, VLLM_26, None),
        ({"preset": "vllm"}, {"model": "Qwen/Qwen3-0.6B"}, VLLM_26, "model"),
        ({"preset": "vllm"}, {"model": "Llama-3.1-70B"}, VLLM_26, "model"),
    ],
)  # fmt: skip
def test_a_profile_of_something_else_is_told(pool, engine, profile, differs):
    found = mismatches(workload(pool, **engine), load_profile(profile))
    assert [one.what for one in found] == ([] if differs is None else [differs])
    assert all(one.measured for one in found)


def test_step_times_of_the_workload_file_and_what_is_not_stated_contradict_nothing():
    asked = workload({"preset": "sglang"}, gpu="H100", model="Llama")
    assert mismatches(asked, asked.engine.profile) == []
    profile = load_profile(VLLM_26)
    unstated = dict.fromkeys(Identity.model_fields, "not stated") | {"name": "mine"}
    silent = profile.model_copy(update={"identity": Identity(**unstated)})
    assert mismatches(asked, silent) == []
    assert flags_are_for(workload({"sizes": [1]}), silent) == "vllm"


def test_flags_are_for_the_engine_that_the_workload_names_else_for_the_profiles():
    torch, trtllm = load_profile(TORCH), load_profile(TRTLLM)
    assert flags_are_for(workload({"preset": "sglang-32"}), trtllm) == "sglang"
    assert flags_are_for(workload({"sizes": [1]}, preset="lmdeploy"), trtllm) == "lmdeploy"
    assert flags_are_for(workload({"sizes": [1]}), trtllm) == "trtllm"
    assert flags_are_for(workload({"sizes": [1]}), torch) is None
    assert flags_are_for(workload({"sizes": [1]}), workload({"sizes": [1]}).engine.profile) == "vllm"


def test_an_engine_is_known_by_a_whole_word():
    assert engine_in("mini-sglang 20fcd7f3") == "mini-sglang"
    assert engine_in("nano-vllm") == "nano-vllm"
    assert engine_in("tensorrt_llm 1.0") == engine_in("TensorRT-LLM") == "trtllm"
    assert engine_in("plain PyTorch decoder of this project") is None


def test_every_shipped_profile_of_an_engine_is_recognized():
    named = {name: engine_in(load_profile(name).identity.engine) for name in shipped_profiles()}
    assert {name for name, engine in named.items() if engine is None} == {
        *("h100-llama-3.1-8b-bf16", "h200-torch-llama-1b", "h200-torch-llama-8b", "h200-torch-qwen3-0.6b")
    }


def test_all_that_a_profile_is_not_of_is_told():
    asked = workload({"preset": "sglang"}, preset="vllm-h100", model="Qwen3-8B")
    found = mismatches(asked, load_profile(RTX))
    assert [one.what for one in found] == ["engine", "GPU", "model"]
    assert (found[1].measured, found[1].asked) == ("NVIDIA GeForce RTX 4090", "H100")
