"""Whether to draft, up to which load, and with which list: the search in the closed loop and its words."""

from __future__ import annotations

import json
from math import sqrt

import numpy as np
import pytest
from command_line import call

from scheduler.analysis.comparison.drafting import DraftChange, crossing
from scheduler.analysis.tuning.draft_study import (
    DraftRuns,
    confirmed,
    contenders,
    draft_sample,
    study_drafts,
)
from scheduler.catalog.dispatch.audit import audit
from scheduler.catalog.dispatch.engines import engine_rules
from scheduler.catalog.dispatch.table import Settings
from scheduler.catalog.profile.file import load_profile
from scheduler.commands.run import chosen_pools
from scheduler.engine.executor import StepKind, StepPlan
from scheduler.errors import InputError
from scheduler.executors.model.by_profile import cost_model
from scheduler.report.drafting_text import drafting_answer, drafts_flag
from scheduler.simulate import verify_costs
from scheduler.workload.file.loader import load_workload

# A decode step takes 5 ms and 0.05 ms per token: three drafts pay in small batches and cost in large ones.
WORKLOAD = """
name: drafts
requests: 300
arrivals: {process: poisson, rate_per_s: RATE}
prompt_tokens: {distribution: fixed, value: 10}
output_tokens: {distribution: geometric, mean: 80, max: 200}
engine:
  policy: decode_only
  max_num_seqs: 128
  kv_blocks: unlimited
  profile:
    decode_eager_ms: {base: 20, per_request: 0.05}
    decode_graph_ms: {base: 5, per_request: 0.05}
  speculation:
    method: eagle
    draft_tokens: 3
    acceptance: {rate: 0.6}
    draft: {pass_ms: 0.1}
pool: {preset: vllm, engine: vllm==0.33.0}
"""


def written(tmp_path, rate: int = 40, **changes: str):
    text = WORKLOAD.replace("RATE", str(rate))
    for old, new in changes.items():
        text = text.replace(old, new)
    path = tmp_path / "w.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def runs_of(path) -> DraftRuns:
    workload = load_workload(path)
    return DraftRuns(workload, workload.engine.profile)


@pytest.mark.parametrize(
    ("draft_tokens", "falls_off"),
    [
        (0, ()),
        (1, ()),
        (2, ((169, 170, "PIECEWISE"), (171, 256, "NONE"))),
        (3, ((129, 256, "NONE"),)),
        (5, ((84, 85, "PIECEWISE"), (86, 256, "NONE"))),
        (7, ((65, 256, "NONE"),)),
        (16, ((31, 256, "NONE"),)),
    ],
)
def test_vllm_s_default_list_falls_off_where_its_own_dispatcher_says(draft_tokens, falls_off):
    found = audit(engine_rules("vllm==0.33.0"), Settings(256, 8192, draft_tokens=draft_tokens))
    assert found.falls_off == falls_off


def test_drafting_pays_in_small_batches_and_not_in_large_ones(tmp_path):
    runs = runs_of(written(tmp_path, rate=400))
    study = study_drafts(runs, draft_sample(runs.workload, 0, 300), (3,), (0.1, 0.3, 1.0, 2.0))
    small, *_, large = study.changes_of(3, "low")
    assert small.share < -0.25
    assert large.share > 0
    stop = study.stops_at("low")
    assert stop is not None
    assert 0.1 < stop < 2.0


def test_the_chosen_list_has_fewest_graphs_of_those_that_are_no_worse(tmp_path):
    runs = runs_of(written(tmp_path))
    study = study_drafts(runs, draft_sample(runs.workload, 0, 150), (3,), (0.5, 1.0))
    of_three = [each for each in study.lists if each.draft_tokens == 3]
    assert len(study.chosen[3].pool.sizes) <= min(len(each.pool.sizes) for each in of_three[:1])
    for each in of_three:
        assert each.pool.draft_tokens == 3
    reach = next(each for each in of_three if each.origin == "thin")
    assert not reach.falls_off
    assert max(reach.pool.sizes) == 128 * 4


def test_a_list_that_ends_early_loses_to_one_that_reaches(tmp_path):
    """Six users of seven tokens are 42; the list ends at 40 (vllm-project/vllm issue 54933)."""
    path = written(
        tmp_path,
        **{
            "{process: poisson, rate_per_s: 40}": "{process: closed_loop, concurrency: 6}",
            "max_num_seqs: 128": "max_num_seqs: 6",
            "draft_tokens: 3": "draft_tokens: 6",
            "{preset: vllm, engine: vllm==0.33.0}": "{sizes: [1, 8, 16, 24, 32, 40], engine: vllm==0.33.0}",
            "{distribution: geometric, mean: 80, max: 200}": "{distribution: fixed, value: 128}",
        },
    )
    runs = runs_of(path)
    study = study_drafts(runs, draft_sample(runs.workload, 0, 60), (6,), (1.0,))
    own, reaching, *_ = [each for each in study.lists if each.draft_tokens == 6]
    assert own.falls_off == ((6, 6, "NONE"),)
    assert max(study.chosen[6].pool.sizes) == 42
    short, long = (each.at["low"].at[-1].mean_tpot_ms for each in (own, reaching))
    assert short > 2 * long  # 20 ms without a graph, 5 ms with one, and what verifying costs


def test_confirming_meets_fresh_requests_and_gives_intervals(tmp_path):
    runs = runs_of(written(tmp_path))
    study = study_drafts(runs, draft_sample(runs.workload, 0, 120), (2,), (1.0, 2.0))
    fresh = confirmed(runs, study, [draft_sample(runs.workload, number, 120) for number in (1, 2, 3)])
    for before, after in zip(study.changes["low"], fresh.changes["low"], strict=True):
        assert after.low is not None
        assert after.high is not None
        assert after.low < after.share < after.high
        assert (before.factor, before.draft_tokens) == (after.factor, after.draft_tokens)
        assert before.share != after.share


def test_every_load_has_requests_for_the_same_time(tmp_path):
    sample = draft_sample(load_workload(written(tmp_path)), 0, 100)
    half, once, twice = (sample.at(factor)[0] for factor in (0.5, 1.0, 2.0))
    assert [len(part) for part in (half, once, twice)] == [50, 100, 200]
    np.testing.assert_array_equal(once.arrival_ns, twice.arrival_ns[:100])


def change(factor: float, share: float) -> DraftChange:
    return DraftChange(factor, None, 3, share, "mean TPOT")


def test_the_crossing_is_between_the_last_gain_and_the_first_loss():
    assert crossing([change(1, -0.3), change(2, -0.2), change(4, 0.2)]) == pytest.approx(2 * sqrt(2))
    assert crossing([change(1, -0.3), change(2, -0.2)]) is None
    assert crossing([change(1, 0.0), change(2, -0.2)]) == 0.0
    assert crossing([change(1, -0.3), change(2, -0.005)]) == pytest.approx(2)


def test_numbers_that_cannot_be_are_refused(tmp_path):
    runs = runs_of(
        written(
            tmp_path,
            **{
                "policy: decode_only": "policy: mixed",
                "  speculation:": "    prefill_ms: {base: 1, per_token: 0}\n  speculation:",
            },
        )
    )
    with pytest.raises(InputError, match="max_num_seqs × 33"):
        runs.drafting(32)
    workload = runs.workload
    engine = workload.engine.model_copy(update={"speculation": None})
    with pytest.raises(InputError, match=r"engine\.speculation"):
        DraftRuns(workload.model_copy(update={"engine": engine}), runs.profile)


def test_tune_names_the_load_the_list_and_what_verifying_costs(tmp_path):
    path = written(tmp_path, **{"requests: 300": "requests: 120"})
    out = tmp_path / "out"
    outcome = call("tune", path, "--draft-tokens", "0,1,3", "--replications", "2", "--out", out)
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.startswith("Draft? ")
    assert "List? " in outcome.stdout
    assert '"num_speculative_tokens": ' in outcome.stdout
    found = json.loads((out / "tune.json").read_text(encoding="utf-8"))["drafting"]
    assert {row["draft_tokens"] for row in found["changes"]["low"]} == {1, 3}
    header, *rows = (out / "verify_cost.csv").read_text(encoding="utf-8").splitlines()
    assert header == "tokens,ms"
    for row in rows:  # 5 ms and 0.05 ms per token
        tokens, ms = row.split(",")
        assert float(ms) == pytest.approx(5 + 0.05 * int(tokens))


@pytest.mark.parametrize("name", ["h100-vllm-llama-3.1-8b-bf16", "h100-vllm-0.26-llama-3.1-8b-bf16"])
def test_the_table_of_verify_costs_is_the_profile_s(tmp_path, name):
    """What adaptive drafters read: tokens of a captured graph, milliseconds of its step by the profile."""
    text = WORKLOAD.replace("RATE", "40")
    begin, end = text.index("  profile:"), text.index("  speculation:")
    path = tmp_path / "w.yaml"
    path.write_text(f"{text[:begin]}  profile: {name}\n{text[end:]}", encoding="utf-8")
    workload, profile = load_workload(path), load_profile(name)
    pool = chosen_pools(workload, profile, ())[0].pool
    found = verify_costs(workload, profile, pool)
    table = pool.table(workload.engine.max_num_seqs, workload.engine.prefill_tokens_per_step)
    assert [tokens for tokens, _ in found] == list(table.full)
    model = cost_model(profile, "fallback")
    model.verifies_drafts = True
    for tokens, ms in found:
        plan = StepPlan(StepKind.DECODE, tokens // 4, tokens, 0, draft_tokens=3 * (tokens // 4))
        assert ms == pytest.approx(model.run(plan) / 1e6, rel=1e-6), tokens
    assert [ms for _, ms in found[-3:]] == sorted(ms for _, ms in found[-3:])


def test_an_overloaded_server_s_tpot_is_no_gain(tmp_path):
    """Its full batch bounds TPOT while requests wait outside: what counts is what is served."""
    changes = {"{pass_ms: 0.1}": "{pass_ms: 10}", "mean: 80, max: 200": "mean: 20, max: 40"}
    path = written(tmp_path, rate=300, **changes, **{"requests: 300": "requests: 2000"})
    runs = runs_of(path)
    study = study_drafts(runs, draft_sample(runs.workload, 0, 2000), (7,), (0.25, 1.0))
    last = study.changes_of(7, "low")[-1]
    assert last.of == "throughput"
    assert last.share > 0.1
    assert study.stops_at("low", 7) is not None


def test_few_requests_give_no_verdict(tmp_path):
    runs = runs_of(written(tmp_path))
    study = study_drafts(runs, draft_sample(runs.workload, 0, 60), (3,), (1.0,))
    (text,) = drafting_answer(study)
    assert text == "Draft? Too few requests to tell: 60 at the own load; expected at least 100."
    assert drafts_flag(study, runs.workload, None) is None


def test_what_is_clearly_worse_is_neither_tried_everywhere_nor_confirmed(tmp_path):
    runs = runs_of(written(tmp_path, **{"{pass_ms: 0.1}": "{pass_ms: 3}"}))
    study = study_drafts(runs, draft_sample(runs.workload, 0, 120), (1, 7), (0.5, 1.0, 2.0))
    assert contenders(study) == [0, 1]
    fresh = confirmed(runs, study, [draft_sample(runs.workload, number, 120) for number in (1, 2)])
    known = {change.draft_tokens: change.low is not None for change in fresh.changes["low"]}
    assert known == {1: True, 7: False}
    for each in study.lists:
        factors = [load.factor for load in each.at["low"].at]
        assert factors in ([0.5, 1.0, 2.0], [0.5, 2.0])
    for each in study.chosen.values():
        assert [load.factor for load in each.at["low"].at][:3] == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("text", ["x", "1,,x", "99", "-1", ""])
def test_tune_refuses_what_are_no_numbers_of_draft_tokens(tmp_path, text):
    outcome = call("tune", written(tmp_path), f"--draft-tokens={text}")
    assert outcome.status == 2
    assert "--draft-tokens" in outcome.stderr


def test_the_study_of_a_comparison_stands_on_its_card(tmp_path):
    path = written(tmp_path, **{"requests: 300": "requests: 150"})
    outcome = call(path, "--no-plots", "--replications", "2", "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.stderr
    assert "Draft? Yes, 3 tokens" in outcome.stdout
    assert "eagle, 3 tokens per request and step" in outcome.stdout
