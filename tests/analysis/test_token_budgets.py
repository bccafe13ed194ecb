"""Other token budgets: lists made anew for each, judged against the own list with its own."""

from __future__ import annotations

from functools import lru_cache

import pytest

from scheduler.analysis.tuning.budgets import Budgets
from scheduler.analysis.tuning.closed_loop import tune
from scheduler.analysis.tuning.objectives import objective
from scheduler.analysis.tuning.pool_runs import Evaluator
from scheduler.analysis.tuning.samples import search_and_fresh
from scheduler.analysis.tuning.token_budgets import parse_budgets, token_budgets
from scheduler.errors import InputError
from scheduler.workload.schema import Workload


@lru_cache
def tuning_of(policy="mixed", own=512):
    """Prompts of 900 tokens; a step without a graph takes long, and graphs end at 512 tokens."""
    workload = Workload.model_validate(
        {
            "name": "tuned",
            "requests": 60,
            "arrivals": {"process": "poisson", "rate_per_s": 4},
            "prompt_tokens": {"distribution": "fixed", "value": 900},
            "output_tokens": {"distribution": "geometric", "mean": 16},
            "engine": {
                "policy": policy,
                "max_num_seqs": 16,
                "max_num_batched_tokens": own,
                "kv_blocks": "unlimited",
                "profile": {
                    "decode_eager_ms": {"base": 40, "per_request": 0.1},
                    "decode_graph_ms": {"base": 6, "per_request": 0.1},
                    "prefill_ms": {"base": 2, "per_token": 0.002},
                },
            },
            "pool": {"preset": "vllm"},
        }
    )
    search, _, _ = search_and_fresh(workload, 1)
    evaluator = Evaluator(workload, workload.engine.profile, objective("mean_tpot"))
    return tune(evaluator, search, Budgets(64))


def test_a_larger_budget_computes_a_prompt_in_fewer_steps_without_a_graph():
    tuning = tuning_of()
    before = tuning.evaluator.simulations
    rows = token_budgets(tuning, (512, 2048))
    assert tuning.evaluator.simulations > before
    own = {row.max_num_batched_tokens: row for row in rows if row.list == "own"}
    assert own[512].mean_change == own[512].worst_change == 0.0
    assert own[512].ttft_change == 0.0
    assert own[2048].worst_change < -0.05, "900 tokens in one step of 40 ms, not in two"
    assert own[2048].ttft_change < -0.3
    assert own[2048].worst_change >= own[2048].mean_change
    assert all(max(row.sizes) <= row.max_num_batched_tokens for row in rows)


def test_a_list_that_the_engine_makes_is_made_anew_for_each_budget():
    rows = token_budgets(tuning_of(), (24,))
    assert max(tuning_of().own.pool.sizes) == 32
    assert max(next(row for row in rows if row.list == "own").sizes) == 24


@pytest.mark.parametrize("text", ["1024;4096", "0", "-5", "1e3", "9999999999", "1,2,3,4,5,6,7,8,9"])
def test_budgets_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="--budgets"):
        parse_budgets(text)


def test_budgets_are_sorted_and_each_once():
    assert parse_budgets("4096,1024 1024") == (1024, 4096)
    assert parse_budgets("") == ()


def test_a_budget_below_the_batch_and_a_policy_without_one_are_refused():
    with pytest.raises(InputError, match="at least max_num_seqs 16, got 8"):
        token_budgets(tuning_of(), (8,))
    with pytest.raises(InputError, match=r"expected engine\.policy mixed, got prefill_first"):
        token_budgets(tuning_of("prefill_first"), (1024,))
