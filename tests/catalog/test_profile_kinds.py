"""Every kind of profile answers what is asked of a profile, and has a cost model."""

from __future__ import annotations

import json

import pytest

from scheduler.catalog.profile.file import VERSIONS, load_profile, shipped_profiles
from scheduler.catalog.profile.inline import InlineProfile
from scheduler.catalog.profile.profile import Fit, Profile, assumed_fields
from scheduler.errors import InputError
from scheduler.executors.model.by_profile import MODELS, cost_model

INLINE = InlineProfile.model_validate(
    {
        "decode_eager_ms": {"base": 9, "per_request": 0.02},
        "decode_graph_ms": {"table": [4, 5, 6]},
    }
)
PROFILES: list[Profile] = [INLINE, *map(load_profile, shipped_profiles())]


def test_every_kind_has_a_cost_model_and_no_other():
    assert set(MODELS) == {InlineProfile, *VERSIONS.values()}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_profile_answers_what_is_asked_of_it(profile):
    questions = {name for name in vars(Profile) if not name.startswith("_")}
    assert {"name", "curve", "kv_blocks", "record"} <= questions
    assert [name for name in questions if not hasattr(profile, name)] == []
    assert json.loads(json.dumps(profile.record())) == profile.record()
    assert {*assumed_fields(profile)} <= {*profile.provenance}
    assert profile.curve("eager") or profile.curve("graph")


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_range_of_host_time_is_what_makes_the_ends_differ(profile):
    low, high = (cost_model(profile, "eager", bound).decode_ms("eager", 1, 100) for bound in ("low", "high"))
    assert (low < high) == profile.has_range


def test_an_inline_profile_claims_nothing_that_was_not_written():
    assert (INLINE.identity, INLINE.pool, INLINE.jitter, INLINE.gpu_bytes) == (None, None, None, None)
    assert INLINE.curve("fallback") is None
    assert not INLINE.has_prefill
    with pytest.raises(InputError, match="an inline profile knows no memory"):
        INLINE.kv_blocks(16)


def test_ninety_percent_of_the_errors_stay_within_the_magnitude_that_a_fit_gives():
    for points in (1, 9, 10, 11, 20, 105):
        errors = [(-1) ** index * index / 1000 for index in range(points)]
        fit = Fit.of_errors(errors, "x")
        within = sum(abs(error) <= fit.p90_error for error in errors)
        assert within >= 0.9 * points > within - 1
