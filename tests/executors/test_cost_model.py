"""The cost model against its own definition: run-ahead, continuity, routing of curves, host arithmetic."""

from __future__ import annotations

from array import array
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.catalog.profile.curves import CurveProfile
from scheduler.catalog.profile.file import load_profile
from scheduler.catalog.profile.inline import DecodeCurve, InlineProfile, PrefillLine
from scheduler.catalog.profile.profile import assumed_fields
from scheduler.engine.executor import PredictableExecutor, PrefillChunk, StepKind, StepPlan
from scheduler.errors import InputError
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.model.cost_model import CostModel
from tests.shipped import DEFAULT_PROFILE

IDENTITY = dict.fromkeys(
    ("name", "gpu", "model", "engine", "engine_version", "dtype", "source", "licence", "date"), "test"
)
EVERYTHING = {
    section: {"origin": "assumed", "note": "test"}
    for section in ("decode", "host", "prefill", "model", "memory", "pool", "jitter")
}


def profile_of(**sections: object) -> CurveProfile:
    value = {"format": "graphpool-profile", "version": 1, "identity": IDENTITY, **sections}
    value["provenance"] = {key: entry for key, entry in EVERYTHING.items() if key in sections}
    return CurveProfile.model_validate(value)


def table(sizes: list[int], kv: list[list[float]], ms: list[list[float]]) -> dict[str, object]:
    return {"sizes": sizes, "kv_tokens": kv, "ms": ms}


def noisy_profile(overlap: bool = False) -> CurveProfile:
    graph = {
        "gpu": table(
            [1, 4, 16], [[0, 100, 500], [400, 800], [1600, 4000, 9000]], [[5, 6, 5.5], [6, 7.3], [9, 8, 12]]
        ),
        "issue_ms": {"low": 0.5, "high": 0.5},
    }
    eager = {"gpu_extra_ms": 1.0, "issue_ms": {"low": 6.9, "high": 15.0}}
    host = {"step_ms": {"low": 0.2, "high": 0.3}, "per_sequence_ms": 0.01, "overlap": overlap}
    prefill = {"tokens": {"at": [1, 16, 512], "ms": [5, 9, 20]}, "pair_ms": 1e-5, "mixed_extra_ms": 0.7}
    return profile_of(decode={"graph": graph, "eager": eager}, host=host, prefill=prefill)


def decode(batch_size: int, kv_tokens: int, capture_size: int | None = None) -> StepPlan:
    return StepPlan(StepKind.DECODE, batch_size, capture_size, kv_tokens)


def mixed(
    batch_size: int, kv_tokens: int, *chunks: tuple[int, int], capture_size: int | None = None
) -> StepPlan:
    parts = tuple(PrefillChunk(i, tokens, cached, True) for i, (tokens, cached) in enumerate(chunks))
    return StepPlan(
        StepKind.MIXED if batch_size else StepKind.PREFILL, batch_size, capture_size, kv_tokens, parts
    )


def inline(**curves: object) -> InlineProfile:
    base = {
        "decode_eager_ms": {"base": 12, "per_request": 0.2},
        "decode_graph_ms": {"base": 6, "per_request": 0.3},
    }
    return InlineProfile.model_validate({**base, **curves})


def scaled(model: CostModel, *factors: float) -> CostModel:
    model.scale_steps(factors)
    return model


SHIPPED = load_profile(DEFAULT_PROFILE)
MODELS = [
    cost_model(noisy_profile(), "eager"),
    cost_model(noisy_profile(overlap=True), "fallback", "high"),
    cost_model(SHIPPED, "eager"),
    cost_model(inline(), "eager"),
    cost_model(inline(decode_graph_ms={"base": 1, "per_request": 0, "per_kv_token": 0.000123}), "eager"),
    scaled(cost_model(noisy_profile(), "eager"), 0.9, 1.0, 1.2),
]


def test_the_model_is_a_predictable_executor():
    assert isinstance(MODELS[0], PredictableExecutor)


@settings(max_examples=300, deadline=None)
@given(
    model=st.sampled_from(range(len(MODELS))),
    batch_size=st.integers(1, 40),
    padding=st.none() | st.integers(0, 20),
    kv_tokens=st.integers(0, 20_000),
    most_steps=st.integers(1, 400),
    horizon_ms=st.integers(0, 3000),
)
def test_running_ahead_is_bit_equal_to_running_step_by_step(
    model, batch_size, padding, kv_tokens, most_steps, horizon_ms
):
    plan = decode(batch_size, kv_tokens, None if padding is None else batch_size + padding)
    chosen = MODELS[model]
    chosen._steps = 0
    ahead: array[int] = array("q")
    total = chosen.run_ahead(plan, most_steps, horizon_ms * 1_000_000, ahead)
    chosen._steps = 0
    expected, elapsed = [], 0
    for _ in range(most_steps):
        expected.append(chosen.run(plan))
        elapsed += expected[-1]
        if elapsed >= horizon_ms * 1_000_000:
            break
        plan = plan._replace(kv_tokens=plan.kv_tokens + batch_size)
    assert list(ahead) == expected
    assert total == elapsed


def test_a_step_at_a_measured_point_costs_the_measured_time():
    model = cost_model(noisy_profile(), "eager")
    assert model.run(decode(4, 800, 4)) == 7_300_000 + 200_000 + 40_000
    assert model.run(decode(3, 800, 4)) == 7_300_000 + 200_000 + 40_000  # padded: the captured size's time
    assert model.run(decode(1, 100)) == 7_000_000 + 210_000  # eager: actual size, gaps included


@pytest.mark.parametrize(("bound", "expected"), [("low", 7_000_000), ("high", 15_000_000)])
def test_without_a_graph_the_slower_of_issue_and_gpu_counts(bound, expected):
    host_ns = {"low": 210_000, "high": 310_000}[bound]
    assert cost_model(noisy_profile(), "eager", bound).run(decode(1, 100)) == expected + host_ns


def test_overlap_hides_host_work_behind_the_gpu_but_not_behind_issuing():
    model = cost_model(noisy_profile(overlap=True), "eager", "high")
    assert model.run(decode(4, 800, 4)) == 7_300_000
    assert model.run(decode(4, 800)) == 15_000_000 + 300_000 + 40_000


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_times_have_no_cliff_in_kv_tokens_nor_at_measured_sizes(mode):
    model = cost_model(SHIPPED, "eager")
    sizes = SHIPPED.decode.table("graph").sizes
    for size in (1, 5, 64, 65, 100, 130, 600):
        times = [model.decode_ms(mode, size, kv) for kv in range(0, 5000 * size, 7 * size)]
        assert max(abs(np.diff(times))) < 0.0005 * 7 * size + 0.01
    for smaller, larger in pairwise(sizes):
        for context in (0, 128, 700, 3000):
            ends = [model.decode_ms(mode, size, size * context) for size in (smaller, larger)]
            between = [model.decode_ms(mode, size, size * context) for size in range(smaller, larger + 1)]
            assert min(ends) - 1e-6 <= min(between)
            assert max(between) <= max(ends) + 1e-6


def test_more_kv_tokens_never_make_a_step_of_the_shipped_profile_faster():
    model = cost_model(SHIPPED, "eager")
    for size in (1, 8, 48, 100, 256, 512, 700):
        times = [model.decode_ms("graph", size, kv) for kv in range(0, 6000 * size, 100 * size)]
        assert all(np.diff(times) >= 0)


def test_reading_beyond_the_table_is_reported_and_inside_it_is_not():
    model = cost_model(noisy_profile(), "eager")
    model.run(decode(16, 9000, 16))
    model.run(decode(2, 300))
    assert model.extrapolations() == []
    model.run(decode(20, 5000))
    model.run(decode(16, 9001, 16))
    model.run_ahead(decode(16, 8990, 16), 20, 10**12, array("q"))
    model.run(mixed(0, 0, (600, 0)))
    assert model.extrapolations() == [
        "decode steps of above 16 rows (eager)",
        "graph decode steps of 16 rows, up to 9,294 KV tokens",
        "steps with prompt tokens beyond the measured tables",
    ]


def test_a_step_larger_than_any_measured_is_never_faster_than_the_largest():
    model = cost_model(noisy_profile(), "eager")
    assert model.decode_ms("graph", 40, 2000) >= model.decode_ms("graph", 16, 800)


def test_whole_inline_times_are_taken_as_they_are():
    profile = inline(decode_eager_ms={"table": [12.2, 12.4]})
    model = cost_model(profile, "fallback")
    assert model.run(decode(2, 10**6)) == 12_400_000
    assert model.run(decode(2, 10**6, 4)) == 7_200_000
    assert profile.curve("fallback") is None
    assert not profile.has_range


def test_an_inline_fallback_curve_serves_steps_without_a_graph_in_the_same_engine():
    profile = inline(decode_fallback_ms={"base": 8, "per_request": 0})
    assert cost_model(profile, "fallback").run(decode(3, 0)) == 8_000_000
    assert cost_model(profile, "eager").run(decode(3, 0)) == 12_600_000


def test_a_table_too_short_is_an_error_naming_the_size():
    model = cost_model(inline(decode_graph_ms={"table": [6.3, 6.6]}), "eager")
    with pytest.raises(
        InputError, match=r"decode_graph_ms\.table: a step of 4 rows is reached, the table ends at 2"
    ):
        model.run(decode(3, 0, 4))


def test_an_inline_mixed_step_is_the_sum_of_its_decode_step_and_its_prefill_line():
    model = cost_model(inline(prefill_ms={"base": 1, "per_token": 0.01}), "eager")
    assert model.run(mixed(0, 0, (100, 0), (50, 0))) == 2_500_000
    assert model.run(mixed(2, 30, (100, 0))) == 2_000_000 + 12_400_000
    assert model.run(mixed(2, 30, (100, 0), capture_size=128)) == 2_000_000 + 6_600_000


def test_prefill_without_prefill_times_is_an_error():
    with pytest.raises(InputError, match="prefill_ms"):
        cost_model(inline(), "eager").run(mixed(0, 0, (100, 0)))
    bare = profile_of(decode={"graph": {"gpu": table([1], [[0]], [[5]])}})
    with pytest.raises(InputError, match="no prefill times"):
        cost_model(bare, "eager").run(mixed(0, 0, (100, 0)))
    with pytest.raises(InputError, match="needs the eager curve"):
        cost_model(bare, "eager").run(decode(1, 0))


def test_a_step_with_prompt_tokens_adds_token_work_pairs_and_the_decodes_kv_part():
    model = cost_model(noisy_profile(), "eager")
    alone = model.run(mixed(0, 0, (256, 128)))
    assert alone == round(1e6 * (9 + 11 * 240 / 496 + 1e-5 * 256 * (128 + 128) + 0.2 + 0.01))
    with_decodes = model.run(mixed(4, 800, (252, 0)))
    kv_part = 7.3 - (6 - 1.3)  # the curve at 800 KV tokens less the same line at none
    assert with_decodes == round(1e6 * (9 + 11 * 240 / 496 + 1e-5 * 252 * 126 + kv_part + 0.7 + 0.2 + 0.05))


def test_jitter_multiplies_step_k_by_factor_k():
    model = scaled(cost_model(inline(), "eager"), 0.5, 2.0)
    assert [model.run(decode(3, 0)) for _ in range(3)] == [6_300_000, 25_200_000, 6_300_000]


def test_the_shipped_default_profile_has_an_eager_range_and_says_what_it_assumes():
    model = cost_model(SHIPPED, "eager")
    assert SHIPPED.has_range
    assert SHIPPED.curve("fallback") is None
    assert {*assumed_fields(SHIPPED)} == {
        "memory.utilization",
        "memory.activation_bytes",
        "pool.device_bytes_per_graph",
    }
    low, high = (cost_model(SHIPPED, "eager", bound).run(decode(32, 32_768)) for bound in ("low", "high"))
    assert low < high
    assert model.run(decode(32, 32_768, 32)) == cost_model(SHIPPED, "eager", "high").run(
        decode(32, 32_768, 32)
    )


def test_models_of_inline_curves_accept_the_typed_models():
    profile = InlineProfile(
        decode_eager_ms=DecodeCurve(base=12, per_request=0.2),
        decode_graph_ms=DecodeCurve(base=6, per_request=0.3),
        prefill_ms=PrefillLine(base=1, per_token=0.5),
    )
    assert cost_model(profile, "eager").run(mixed(0, 0, (2, 0))) == 2_000_000
