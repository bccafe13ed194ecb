"""`--eager-ms X`: one eager step of the user's own server in place of a profile's range of host speed."""

from __future__ import annotations

import pytest
from command_line import call

from scheduler.catalog.profile.file import load_profile, shipped_profiles
from scheduler.catalog.profile.inline import InlineProfile
from scheduler.catalog.profile.profile import EAGER_KV_TOKENS, EAGER_ROWS
from scheduler.errors import InputError
from scheduler.executors.model.by_profile import cost_model


def step_ms(profile, mode, bound, rows=EAGER_ROWS, kv_tokens=EAGER_KV_TOKENS):
    return cost_model(profile, "eager", bound).decode_ms(mode, rows, kv_tokens)


@pytest.mark.parametrize("name", shipped_profiles())
@pytest.mark.parametrize("share", [0.25, 0.75, 2.0])
def test_an_eager_step_takes_what_the_user_measured(name, share):
    profile = load_profile(name)
    low, high = (step_ms(profile, "eager", bound) for bound in ("low", "high"))
    wanted = low + share * max(high - low, 0.2 * low)
    own = profile.with_eager_ms(wanted)
    assert not own.has_range
    for bound in ("low", "high"):
        assert step_ms(own, "eager", bound) == pytest.approx(wanted, rel=1e-6)
    notes = [entry.note for entry in own.provenance.values() if "--eager-ms" in entry.note]
    assert notes


def test_steps_without_a_graph_and_prompts_follow_the_same_host():
    profile = load_profile("h100-llama-3.1-8b-bf16")
    low, high = (step_ms(profile, "eager", bound) for bound in ("low", "high"))
    own = profile.with_eager_ms((low + high) / 2)
    assert profile.prefill.issue_ms is None or (
        profile.prefill.issue_ms.low < own.prefill.issue_ms.low < profile.prefill.issue_ms.high
    )
    assert step_ms(own, "graph", "low") <= step_ms(profile, "graph", "high")


def test_a_step_that_is_the_gpus_says_nothing_of_the_host():
    with pytest.raises(InputError, match=r"--eager-ms 1: expected milliseconds per eager step, more than"):
        load_profile("h100-llama-3.1-8b-bf16").with_eager_ms(1)
    curves = {
        "decode_eager_ms": {"base": 9, "per_request": 1},
        "decode_graph_ms": {"base": 4, "per_request": 1},
    }
    inline = InlineProfile.model_validate(curves)
    with pytest.raises(InputError, match="write decode_eager_ms there"):
        inline.with_eager_ms(12)


def test_the_card_has_one_eager_and_the_command_repeats_it(tmp_path):
    words = ("workloads/chat.yaml", "--set", "requests=200", "--replications", "1", "--no-plots")
    outcome = call(*words, "--eager-ms", "18", "--out", tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert "--eager-ms 18" in (tmp_path / "results.json").read_text()
    assert "slow host" not in outcome.stdout
    assert "eager as on your host: --eager-ms 18\n" in outcome.stdout
    assert "yours: --eager-ms X" not in outcome.stdout
    asked = call(*words, "--out", tmp_path).stdout
    assert "yours: --eager-ms X" in asked, "where a slow host makes much of a difference"


def test_every_profile_and_preset_is_listed_and_errors_point_there():
    profiles = call("profile", "list").stdout
    assert all(name in profiles for name in shipped_profiles())
    assert "--eager-ms X" in profiles
    lines = profiles.splitlines()
    of_one_gpu = lines[lines.index("NVIDIA H100 80GB HBM3 SXM, Llama-3.1-8B shape, random weights") + 1 :][:4]
    assert [line.split()[0] for line in of_one_gpu] == [n for n in shipped_profiles() if n.startswith("h100")]
    assert "measured, hosts assumed" in profiles
    assert "differ as their engines launch" in " ".join(profiles.split())
    assert (
        "others of this GPU and model"
        in call("profile", "show", "h100-vllm-llama-3.1-8b-bf16", "--no-plots").stdout
    )
    presets = call("preset", "list").stdout
    assert all(name in presets for name in ("vllm-h100", "powers_of_two", "mlperf-llama3.1-8b-server"))
    error = call("profile", "show", "h100").errors[0]
    assert "run.py profile list" in error
    assert "run.py profile import" in error
    missing = call("profile", "show", "mine.json").errors[0]
    assert "run.py profile list" in missing
    assert "run.py profile import" in missing
    assert "run.py preset list" in call("workloads/chat.yaml", "--pool", "vlmm").errors[0]
    for key in ("pool.preset", "engine.preset", "slo.preset"):
        assert "run.py preset list" in call("workloads/chat.yaml", "--set", f"{key}=vlmm").errors[0]
