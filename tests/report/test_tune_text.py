"""The words of a tuning: what a change costs and saves, what is called no difference, overload first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.analysis.tuning.answer import Advice, Beyond, LoadRow, Reason, TuningVerdict
from scheduler.analysis.tuning.assemble import tuning_answer
from scheduler.analysis.tuning.budgets import Budgets
from scheduler.analysis.tuning.checks import FreshRequests
from scheduler.analysis.tuning.closed_loop import tune
from scheduler.analysis.tuning.objectives import objective
from scheduler.analysis.tuning.pool_runs import Evaluator
from scheduler.analysis.tuning.samples import search_and_fresh
from scheduler.analysis.tuning.verdict import tuning_verdict
from scheduler.report.engine_flags import PastedPool
from scheduler.report.tune_text import Fewer, advice_line, tune_text
from scheduler.workload.schema import Workload

WORKLOAD = {
    "name": "tuned",
    "requests": 120,
    "arrivals": {"process": "poisson", "rate_per_s": 24},
    "prompt_tokens": {"distribution": "fixed", "value": 10},
    "output_tokens": {"distribution": "geometric", "mean": 16},
    "engine": {
        "policy": "decode_only",
        "max_num_seqs": 8,
        "kv_blocks": "unlimited",
        "profile": {
            "decode_eager_ms": {"base": 12, "per_request": 0.2},
            "decode_graph_ms": {"base": 6, "per_request": 0.3},
        },
    },
    "pool": {"sizes": [1, 2]},
}


@pytest.fixture(scope="module")
def answer():
    workload = Workload.model_validate(WORKLOAD)
    search, samples, on = search_and_fresh(workload, 2)
    evaluator = Evaluator(workload, workload.engine.profile, objective("mean_tpot"))
    tuning = tune(evaluator, search, Budgets(4))
    fresh = FreshRequests(evaluator, samples, on)
    over = fresh.over_loads(tuning.best.pool, tuning.own.pool)
    return tuning_answer(tuning, fresh, over, tuning_verdict(tuning, fresh, over))


def row(**changes):
    plain = LoadRow(
        rate_factor=2.0, host="low", of="mean TPOT", own=10.0, best=8.0, loss=-0.2, low=-0.22, high=-0.18,
        offered_per_s=48.0, own_overloaded=False, best_overloaded=False,
        own_slo_attainment=None, best_slo_attainment=None,
    )  # fmt: skip
    return replace(plain, **changes)


def card(answer, *rows):
    return tune_text(replace(answer, loads=rows), PastedPool(answer.sizes))


def test_a_change_of_mode_of_memory_and_of_start_up_stands_in_the_first_line(answer):
    verdict = TuningVerdict(
        Advice.TRIM, Reason.LESS_PADDING, kv_tokens_gained=-4096, start_up_s_gained=-1.5,
        graph_memory_bytes_gained=-(200 << 20), mode_change=("full_and_piecewise", "full_decode_only"),
    )  # fmt: skip
    line = advice_line(replace(answer, verdict=verdict))
    assert "CHANGES THE MODE from FULL_AND_PIECEWISE to FULL_DECODE_ONLY" in line
    assert "−4,096 KV tokens" in line
    assert "+1.5 s start-up" in line
    assert "+200 MiB of graphs" in line
    kept = advice_line(replace(answer, verdict=replace(verdict, advice=Advice.KEEP)))
    assert "MODE" not in kept
    assert "MiB" not in kept


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "gains −20.0 %"),
        ({"loss": 0.03, "low": 0.02, "high": 0.04}, "loses +3.0 %"),
        ({"loss": -0.009, "low": -0.0095, "high": -0.0085}, "no difference −0.9 %"),
        ({"loss": -0.05, "low": -0.12, "high": 0.02}, "no difference −5.0 %"),
        ({"loss": -0.05, "low": None, "high": None}, "gains −5.0 %"),
    ],
)
def test_less_than_one_percent_or_within_the_interval_is_called_no_difference(answer, changes, word):
    (line,) = [line for line in card(answer, row(**changes)).splitlines() if line.startswith("  2×")]
    assert word in line


def test_overload_and_an_slo_that_nobody_meets_come_before_all_else(answer):
    behind = row(
        of="throughput", own=20.0, best=48.0, loss=-1.4, own_overloaded=True, own_slo_attainment=0.0,
        best_slo_attainment=1.0,
    )  # fmt: skip
    lines = card(answer, row(rate_factor=1.0, own_slo_attainment=0.9), behind).splitlines()
    assert lines[1] == "  OVERLOAD       the own pool cannot keep up at 2× (48.00/s arrive at 2×)"
    assert lines[2] == "  SLO MISSED     by every request of the own pool at 2× (48.00/s arrive at 2×)"
    assert any("20.00 → 48.00 of 48.00 requests/s served; gains +140.0 %" in line for line in lines)
    assert "OVERLOAD" not in card(answer, row())
    slow = card(answer, row(), replace(behind, host="high"))
    assert "the own pool cannot keep up at 2× on a slow host" in slow


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.075, "7.5 % of the own pool's steps found no graph"), (0.0, "at higher loads steps of the own pool")],
)
def test_a_list_that_only_higher_loads_outgrow_is_not_said_to_lack_graphs_here(answer, share, words):
    verdict = replace(answer.verdict, advice=Advice.RAISE_THE_CEILING, reason=Reason.OWN_ENDS_TOO_EARLY)
    own = replace(answer.own, missed_graph_share=share)
    assert words in advice_line(replace(answer, verdict=verdict, own=own, loads=(row(),)))


def test_the_second_question_stands_below_the_first_and_names_the_list_it_is_of(answer):
    fewer = Fewer("1 2 would do: nothing lost.", PastedPool((1, 2)))
    changed = replace(answer, verdict=TuningVerdict(Advice.TRIM, Reason.LESS_PADDING))
    lines = tune_text(changed, PastedPool((1, 3, 8)), fewer).splitlines()
    assert lines[1].startswith("Fewer graphs? 1 2 would do: nothing lost. (of the own list; the ")
    assert any("--cudagraph-capture-sizes 1 3 8" in line for line in lines)
    assert not any("--cudagraph-capture-sizes 1 2 " in line for line in lines)
    kept = replace(answer, verdict=TuningVerdict(Advice.KEEP, Reason.OWN_IS_BEST, gained=0.003))
    lines = tune_text(kept, PastedPool((1, 2, 8)), fewer).splitlines()
    assert lines[0] == (
        f"KEEP your list for speed: none of the {len(answer.candidates)} lists tried gains more than 0.3 % "
        "in the mean without losing at some"
    )
    assert lines[1] == "Fewer graphs? 1 2 would do: nothing lost."
    assert any("--cudagraph-capture-sizes 1 2 " in line for line in lines)
    assert not any("--cudagraph-capture-sizes 1 2 8" in line for line in lines)


@pytest.mark.parametrize(
    ("loses", "words"), [(True, "it begins to lose at 2.5× the load (+12.8 %)"), (False, "up to")]
)
def test_what_gaps_cost_above_the_loads_that_were_judged_is_said(answer, loses, words):
    beyond = Beyond(batch=65, padding=0.39, rate_factor=2.5, loss=0.128, loses=loses)
    text = tune_text(replace(answer, beyond=beyond), PastedPool(answer.sizes))
    (line,) = [line for line in text.splitlines() if line.startswith("  beyond these: ")]
    assert "a batch of 65 takes +39.0 % against the own list" in line
    assert words in line


@pytest.mark.parametrize(
    ("origin", "whose"),
    [
        ("vllm (vLLM 0.33.0)", "vLLM's list"),
        ("trtllm (TensorRT-LLM (April 2026, sizes above 128 in steps of 64))", "TensorRT-LLM's list"),
        ("powers_of_two (no engine)", "your list"),
        ("sizes of the workload file", "your list"),
    ],
)
def test_the_list_that_is_kept_is_named_by_its_engine(answer, origin, whose):
    kept = replace(answer, verdict=TuningVerdict(Advice.KEEP, Reason.OWN_IS_BEST))
    line = advice_line(replace(kept, own=replace(answer.own, origin=origin)))
    assert line.startswith(f"KEEP {whose} for speed: ")
