"""The tuner in the closed loop: against every pool there is, within its budgets, and honest."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from scheduler.analysis.comparison.loads import LOADS, Loss, requests_at
from scheduler.analysis.statistics.difference import Verdict
from scheduler.analysis.tuning.answer import Advice, Beyond, Reason
from scheduler.analysis.tuning.assemble import curve_points, knee, tuning_answer
from scheduler.analysis.tuning.budgets import Budgets, SizeRules, size_rules
from scheduler.analysis.tuning.checks import FreshRequests
from scheduler.analysis.tuning.choose import Load
from scheduler.analysis.tuning.closed_loop import FINALS, SEARCHING, score, tune
from scheduler.analysis.tuning.objectives import objective
from scheduler.analysis.tuning.pool_runs import DrawnRequests, Evaluator, Judged
from scheduler.analysis.tuning.samples import search_and_fresh
from scheduler.analysis.tuning.step_loads import StepHistogram, decode_together, unmet_sizes
from scheduler.analysis.tuning.verdict import is_change, tuning_verdict
from scheduler.catalog.profile.file import load_profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.report.tune_text import advice_line
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Workload
from tests.shipped import DEFAULT_PROFILE

JUMPS = (0.9, 1.3, 1.4, 3.2, 2.8, 4.4, 4.0, 4.6)  # edges of tiles; a curve that falls is noise, see smoothed
PROFILES = {
    "line": {
        "decode_eager_ms": {"base": 12, "per_request": 0.2},
        "decode_graph_ms": {"base": 6, "per_request": 0.3},
        "prefill_ms": {"base": 2, "per_token": 0.02},
    },
    "jumps": {
        "decode_eager_ms": {"base": 11, "per_request": 0.4},
        "decode_graph_ms": {"table": [5 + 0.5 * n + jump for n, jump in enumerate(JUMPS, 1)]},
        "prefill_ms": {"base": 2, "per_token": 0.02},
    },
}


def workload_of(policy="decode_only", profile="line", pool=None, seqs=8, rate=24.0, requests=200, **engine):
    return Workload.model_validate(
        {
            "name": "tuned",
            "requests": requests,
            "arrivals": {"process": "poisson", "rate_per_s": rate},
            "prompt_tokens": {"distribution": "uniform", "min": 4, "max": 60},
            "output_tokens": {"distribution": "geometric", "mean": 16},
            "engine": {
                "policy": policy,
                "max_num_seqs": seqs,
                "kv_blocks": "unlimited",
                "profile": PROFILES.get(profile, profile),
                **engine,
            },
            "pool": pool or {"sizes": [1, 2, 4, 8]},
            "slo": {"tpot_ms": 12},
        }
    )


def evaluator_of(workload, goal="mean_tpot", factors=LOADS):
    profile = workload.engine.profile
    loaded = load_profile(profile) if isinstance(profile, str) else profile
    return Evaluator(workload, loaded, objective(goal), factors=factors)


def tuned(workload, budgets, goal="mean_tpot", samples=None, factors=LOADS):
    evaluator = evaluator_of(workload, goal, factors)
    return tune(evaluator, samples or [DrawnRequests(draw_requests(workload, 0), 0, 0.1)], budgets)


@pytest.mark.parametrize(
    ("policy", "profile", "rate", "graphs"),
    [("decode_only", "line", 12, 2), ("decode_only", "jumps", 24, 2), ("decode_only", "jumps", 24, 3),
     ("prefill_first", "jumps", 20, 2), ("mixed", "jumps", 20, 2)],
)  # fmt: skip
def test_the_tuned_pool_is_no_different_from_the_best_of_all_pools(policy, profile, rate, graphs):
    workload = workload_of(policy, profile, rate=rate)
    tuning = tuned(workload, Budgets(graphs, forced_sizes=False), "mean_e2el", factors=(1.0,))
    pools = [GraphPool(sizes) for k in range(graphs + 1) for sizes in combinations(range(1, 9), k)]
    truth = min(tuning.evaluator.values(pool, tuning.samples)[0] for pool in pools)
    found = tuning.evaluator.values(tuning.best.pool, tuning.samples)[0]
    assert found <= truth * 1.01  # half a percent for the search, half for fewer graphs
    assert len(tuning.best.pool.sizes) <= graphs


def test_one_and_max_num_seqs_are_always_captured_unless_lifted():
    workload = workload_of(rate=8)
    assert {1, 8} <= set(tuned(workload, Budgets(2)).best.pool.sizes)
    with pytest.raises(InputError, match="--graphs 1: expected at least 2, for 1 and 8 are always captured"):
        tuned(workload, Budgets(1))
    assert len(tuned(workload, Budgets(1, forced_sizes=False)).best.pool.sizes) == 1


def test_a_list_for_mixed_steps_competes_with_graphs_for_decode_alone():
    workload = workload_of("mixed", pool={"sizes": [1, 2, 4, 8, 64], "mode": "full_and_piecewise"})
    tuning = tuned(workload, Budgets(4))
    modes = {pool.piecewise for pool in tuning.search.tried}
    assert modes == {True, False}
    assert any("decode steps alone" in ending for ending in tuning.search.endings)
    least = min(
        found.score for pool, found in tuning.search.tried.items()
        if len(pool.sizes) <= 4 and {1, 8} <= set(pool.sizes)
    )  # fmt: skip
    assert tuning.search.tried[tuning.best.pool].score <= least + 0.01


def test_capture_seconds_and_memory_stay_within_their_budgets():
    workload = workload_of("mixed", DEFAULT_PROFILE, seqs=16, pool={"preset": "vllm"}, kv_blocks="auto")
    profile = load_profile(DEFAULT_PROFILE)
    each = profile.pool.startup_s([1])
    budgets = Budgets(8, max_memory_bytes=profile.pool.memory_bytes(2 * [1, 2, 16]), max_capture_s=5 * each)
    tuning = tuned(workload, budgets)
    cost = tuning.evaluator.cost(tuning.best.pool)
    assert cost.graph_memory_bytes <= budgets.max_memory_bytes
    assert cost.capture_s <= budgets.max_capture_s * (1 + 1e-9)
    assert 2 <= len(tuning.best.pool.sizes) <= 5, "three sizes captured twice, or five for decode alone"


def test_a_size_for_both_kinds_of_steps_is_captured_twice():
    workload = workload_of("mixed", DEFAULT_PROFILE, seqs=16, pool={"preset": "vllm"})
    profile = load_profile(DEFAULT_PROFILE)
    rules = size_rules(Budgets(4, max_capture_s=9.0), workload.engine, profile, piecewise=True)
    each = profile.pool.startup_s([1])
    assert rules.capture_s[16] == pytest.approx(2 * each)
    assert rules.capture_s[17] == pytest.approx(each)
    pool = GraphPool((1, 16, 64), piecewise=True)
    cost = evaluator_of(workload).cost(pool)
    assert cost.capture_s == pytest.approx(sum(rules.capture_s[size] for size in pool.sizes))


@pytest.mark.parametrize("seed", range(20))
def test_sizes_within_both_budgets_equal_brute_force(seed):
    random = np.random.default_rng(seed)
    load = Load.of(random.integers(0, 30, 9), random.integers(1, 9, 9) * 1e3, random.integers(2, 20, 9) * 1e3)
    price = np.round(random.uniform(0.1, 0.5, 9), 2)
    most = np.sort(random.integers(0, 6, 9))[::-1].astype(float)
    forced = (1,) if seed % 2 and most[1] >= 1 else ()
    rules = SizeRules(8, 4, tuple(range(1, 9)), forced, price, 1.0, most)
    problem = rules.problem([load])
    feasible = [
        sizes for k in range(5) for sizes in combinations(range(1, 9), k)
        if set(forced) <= set(sizes) and price[list(sizes)].sum() <= 1 + 1e-9
        and (not sizes or len(sizes) <= most[sizes[-1]])
    ]  # fmt: skip
    assert rules.best(problem).cost == min(problem.cost(sizes) for sizes in feasible)
    assert rules.allows(GraphPool(rules.best(problem).sizes))


@pytest.mark.parametrize(
    ("budgets", "message"),
    [(Budgets(4, max_capture_s=1.0), "the profile has no capture times"),
     (Budgets(4, max_memory_bytes=1e9), "the profile has no graph memory")],
)  # fmt: skip
def test_a_budget_the_profile_knows_nothing_of_is_refused(budgets, message):
    with pytest.raises(InputError, match=message):
        tuned(workload_of(), budgets)


def test_required_graphs_beyond_the_memory_budget_are_refused():
    workload = workload_of("mixed", DEFAULT_PROFILE, seqs=16)
    with pytest.raises(InputError, match="--max-memory-mib: graphs of 1 and 16 alone take more"):
        tuned(workload, Budgets(4, max_memory_bytes=1.0))


def test_every_simulation_is_counted_and_no_pool_is_run_twice():
    tuning = tuned(workload_of(requests=60), Budgets(3), samples=None)
    loads = [len(found.detail.factors) for found in tuning.search.tried.values()]
    assert set(loads) == {2, len(LOADS)}, "what is sure to lose is run at two loads"
    finalists = (tuning.evaluator.simulations - sum(loads)) / len(LOADS)
    assert 2 <= finalists <= 5  # a few and the own pool once more, on more requests


@pytest.mark.parametrize(
    ("workload", "budgets"),
    [
        (workload_of(pool={"preset": "all"}, rate=40, requests=150, seqs=16), Budgets(8)),
        (workload_of(pool={"preset": "all"}, rate=30, requests=200, seqs=32), Budgets(4)),
        (workload_of("mixed", pool={"preset": "vllm"}, rate=30, requests=100, seqs=16), Budgets(16)),
    ],
)
def test_what_is_left_out_of_some_loads_changes_nothing_that_is_said(monkeypatch, workload, budgets):
    """The first two own lists are larger than is allowed: lists that lose are left to choose from."""

    def answer():
        tuning, fresh, over, verdict = judged(workload, budgets, fresh=2)
        return tuning_answer(tuning, fresh, over, verdict)

    pruned = answer()
    monkeypatch.setattr("scheduler.analysis.tuning.closed_loop._Judge._is_sure_to_lose", lambda *_: False)
    whole = answer()
    assert pruned.simulations < whole.simulations
    assert replace(pruned, simulations=whole.simulations) == whole


def test_a_search_that_leaves_nothing_out_tries_more_and_is_no_better():
    workload = workload_of(pool={"sizes": [1, 2]}, requests=150)
    samples = [DrawnRequests(draw_requests(workload, 0), 0, 0.1)]
    pruned, whole = (
        tune(evaluator_of(workload), samples, Budgets(4), prunes=prunes) for prunes in (True, False)
    )
    assert whole.evaluator.simulations > pruned.evaluator.simulations
    assert all(len(found.detail.factors) == len(LOADS) for found in whole.search.tried.values())
    assert whole.best.pool == pruned.best.pool


def test_progress_says_how_much_is_left():
    seen = []
    workload = workload_of(requests=300)
    evaluator = replace(evaluator_of(workload), progress=lambda *words: seen.append(words))
    tune(evaluator, [DrawnRequests(draw_requests(workload, 0), 0, 0.1)], Budgets(4))
    assert list(dict.fromkeys(label for label, _, _ in seen)) == [SEARCHING, FINALS]
    done = [done for _, done, _ in seen]
    assert done == sorted(done)
    assert all(done <= total for _, done, total in seen)
    first, last = seen[0], seen[-1]
    assert last[1] > 0.6 * last[2], "what is left was expected, not made up at the end"
    assert 0.3 < first[2] / last[2] < 3, "the first guess of all there is"


def test_neighbours_that_change_nothing_at_any_load_are_not_tried():
    """Which of the sizes that no step takes makes room for a new one is the same list fifteen times over."""
    workload = workload_of(pool={"preset": "all"}, seqs=64, rate=4, requests=200)
    tuning = tuned(workload, Budgets(64))
    tried = [pool for pool, origin in tuning.search.origin.items() if origin == "neighbour"]
    added = [frozenset(pool.sizes) - frozenset(tuning.own.pool.sizes) for pool in tried]
    assert len(tried) <= 4
    assert all(added.count(each) <= 2 for each in added if each)


def test_below_the_own_load_the_search_takes_no_longer_than_at_it():
    sample = DrawnRequests(draw_requests(workload_of(requests=1000), 0), 0, 0.1, same_time=True)
    assert [len(sample.at(factor).requests) for factor in (0.01, 0.5, 1.0, 2.0)] == [100, 500, 1000, 1000]
    assert sample.at(0.5).warmup_requests == 50
    assert len(replace(sample, same_time=False).at(0.5).requests) == 1000


def test_a_pool_given_twice_is_run_once():
    evaluator = evaluator_of(workload_of(requests=60))
    sample = DrawnRequests(draw_requests(evaluator.workload, 0), 0, 0.1)
    first, second = evaluator.details([GraphPool((1, 8)), GraphPool((1, 8))], [sample], 0)
    assert first is second
    assert evaluator.simulations == len(LOADS)


def test_what_was_run_at_some_loads_is_gone_on_with():
    evaluator = evaluator_of(workload_of(requests=60))
    sample = DrawnRequests(draw_requests(evaluator.workload, 0), 0, 0.1)
    pool = GraphPool((1, 8))
    (begun,) = evaluator.details([pool], [sample], 0, factors=(1.0, 2.0))
    assert begun.factors == (1.0, 2.0)
    (gone_on,) = evaluator.details([pool], [sample], 0, begun={pool: begun})
    assert evaluator.simulations == len(LOADS)
    (at_once,) = evaluator.details([pool], [sample], 0)
    assert (gone_on.factors, gone_on.ends, gone_on.values) == (LOADS, at_once.ends, at_once.values)


def test_the_confirming_runs_at_the_own_load_are_those_that_are_compared():
    tuning, fresh, over, _ = judged(workload_of(pool={"sizes": [1, 2]}, requests=80), Budgets(4), fresh=2)
    counted = tuning.evaluator.simulations
    for pool, detail in ((tuning.best.pool, over.best), (tuning.own.pool, over.other)):
        runs = fresh.run(pool)
        assert [record["mean_tpot_ms"] for _, record in runs] == detail.values
        again = tuning.evaluator.values(pool, fresh.samples)
        assert again == detail.values
    assert tuning.evaluator.simulations == counted + 4, "asked for anew, and only then run again"


def judged(workload, budgets, goal="mean_tpot", fresh=4):
    search, samples, on = search_and_fresh(workload, fresh)
    tuning = tuned(workload, budgets, goal, search)
    found = FreshRequests(tuning.evaluator, samples, on)
    over = found.over_loads(tuning.best.pool, tuning.own.pool)
    return tuning, found, over, tuning_verdict(tuning, found, over)


def test_a_list_that_ends_too_early_is_told_to_raise_its_ceiling():
    tuning, fresh, over, verdict = judged(workload_of(pool={"sizes": [1, 2]}), Budgets(4), fresh=3)
    assert verdict.advice is Advice.RAISE_THE_CEILING
    assert fresh.compare(tuning.best.pool, tuning.own.pool).difference.verdict is Verdict.FASTER
    assert over.judged.worst.share < 0.02
    assert verdict.reason is Reason.OWN_ENDS_TOO_EARLY


def test_graphs_that_buy_nothing_are_trimmed_where_fewer_are_allowed_and_what_that_saves_is_said():
    workload = workload_of("decode_only", DEFAULT_PROFILE, {"preset": "vllm"}, seqs=16, kv_blocks="auto")
    _, _, over, verdict = judged(workload, Budgets(4))
    assert (verdict.advice, verdict.reason) == (Advice.TRIM, Reason.FEWER_DO_AS_WELL)
    assert verdict.start_up_s_gained > 0
    assert verdict.graph_memory_bytes_gained > 0
    assert verdict.kv_tokens_gained >= 0
    assert over.judged.worst.share <= 0.02


def test_a_list_that_is_no_faster_is_kept_for_speed_however_few_graphs_would_do():
    """Fewer graphs are a question of their own, and the card's function answers it."""
    workload = workload_of("decode_only", DEFAULT_PROFILE, {"preset": "vllm"}, seqs=16, kv_blocks="auto")
    tuning, fresh, over, verdict = judged(workload, Budgets(8))
    assert len(tuning.best.pool.sizes) < len(tuning.own.pool.sizes) <= 8
    assert (verdict.advice, verdict.reason) == (Advice.KEEP, Reason.NO_DIFFERENCE_SHOWN)
    assert verdict.gained == max(0.0, -over.judged.mean)
    assert tuning_answer(tuning, fresh, over, verdict).sizes == tuning.own.pool.sizes


def record(tmp_path, count, **changes):
    gaps = np.random.default_rng(3).exponential(1 / 24, count)
    rows = "\n".join(f"{at:.6f},10,{5 + index % 23}" for index, at in enumerate(np.cumsum(gaps)))
    trace = tmp_path / "trace.csv"
    trace.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}\n")
    content = workload_of(**changes).model_dump(exclude_none=True)
    for key in ("requests", "prompt_tokens", "output_tokens"):
        content.pop(key)
    content["arrivals"] = {"process": "trace", "path": str(trace)}
    return Workload.model_validate(content)


@pytest.mark.parametrize("count", [20, 100, 300])
def test_of_fewer_than_a_hundred_held_out_requests_nothing_is_advised(tmp_path, count):
    _, _, over, verdict = judged(record(tmp_path, count, pool={"sizes": [1, 2]}), Budgets(4))
    assert over.gain[0].share < -0.05
    assert (verdict.advice, verdict.reason) == (Advice.KEEP, Reason.TOO_FEW_REQUESTS)


@pytest.mark.parametrize(("sizes", "advice"), [([1, 2], "RAISE THE CEILING"), ([1, 2, 3, 4, 6, 8], "KEEP")])
def test_of_a_record_too_short_for_an_interval_only_what_no_noise_makes_is_advised(tmp_path, sizes, advice):
    """And the first line says that it is too short: a list of 2 for 8 requests, one that is nearly right."""
    workload = record(tmp_path, 340, pool={"sizes": sizes})
    tuning, fresh, over, verdict = judged(workload, Budgets(8))
    assert fresh.compare(tuning.best.pool, tuning.own.pool).difference.interval is None
    assert verdict.advice == advice
    assert "too short" in advice_line(tuning_answer(tuning, fresh, over, verdict))


def test_a_list_that_loses_at_some_load_is_no_advice():
    """Three graphs do for this load; at twice it batches pay for what lies between them."""
    content = workload_of(pool={"preset": "all"}, seqs=32, rate=30, requests=400).model_dump(
        exclude_none=True
    )
    content["engine"]["profile"] = PROFILES["line"] | {"decode_graph_ms": {"base": 1, "per_request": 0.5}}
    tuning, fresh, over, verdict = judged(Workload.model_validate(content), Budgets(2))
    assert over.judged.worst.share > 0.02
    assert (verdict.advice, verdict.reason) == (Advice.KEEP, Reason.WORSE_AT_SOME_LOAD)
    answer = tuning_answer(tuning, fresh, over, verdict)
    assert answer.sizes == tuning.own.pool.sizes
    assert answer.best.sizes == tuning.best.pool.sizes
    assert answer.worst.share == max(row.loss for row in answer.loads)


@pytest.mark.parametrize(
    ("mean", "worst", "is_trap"),
    [(-0.04, 0.012, False), (-0.04, 0.016, True), (-0.5, 0.016, True), (-0.004, 0.012, True),
     (0.003, 0.004, False), (0.003, 0.006, True)],
)  # fmt: skip
def test_only_a_list_that_gains_much_may_lose_a_little(mean, worst, is_trap):
    found = score(Judged(Loss(worst, 2.0, "mean TPOT"), "low", mean, {}))
    assert (found > 1) == is_trap
    assert is_trap or found == mean


def test_a_handful_of_requests_is_no_evidence():
    _, _, _, verdict = judged(workload_of(pool={"sizes": [1, 2]}, requests=20), Budgets(4), fresh=2)
    assert (verdict.advice, verdict.reason) == (Advice.KEEP, Reason.TOO_FEW_REQUESTS)


@pytest.mark.parametrize("graphs", [64, 8])
def test_a_server_on_which_requests_hardly_ever_meet_is_no_evidence_for_fewer_graphs(graphs):
    """Whatever sizes above two cost, nobody met them at twice the load either."""
    workload = workload_of(pool={"preset": "vllm"}, seqs=64, rate=0.2, requests=150)
    tuning, fresh, over, verdict = judged(workload, Budgets(graphs))
    assert over.other.together <= 2
    assert (verdict.advice, verdict.reason) == (Advice.KEEP, Reason.NOT_MET)
    assert verdict.together == over.other.together
    assert tuning_answer(tuning, fresh, over, verdict).sizes == tuning.own.pool.sizes


def test_higher_loads_are_evidence_on_an_idle_server():
    workload = workload_of(pool={"preset": "vllm"}, seqs=64, rate=0.2, requests=400)
    search, samples, on = search_and_fresh(workload, 2)
    evaluator = evaluator_of(workload, factors=(1.0, 300.0))
    tuning = tune(evaluator, search, Budgets(64))
    found = FreshRequests(evaluator, samples, on)
    over = found.over_loads(tuning.best.pool, tuning.own.pool)
    assert over.other.together > 10
    assert tuning_verdict(tuning, found, over).reason is not Reason.NOT_MET


def test_sizes_far_above_all_that_ran_together_stay_in_the_list():
    workload = workload_of(pool={"preset": "vllm"}, seqs=128, rate=12, requests=300)
    tuning, _, over, verdict = judged(workload, Budgets(64))
    together = over.other.together
    far = {size for size in tuning.own.pool.sizes if size > 4 * (together + 1)}
    assert 3 <= together < 20
    assert len(far) > 3
    assert far <= set(tuning.best.pool.sizes)
    near = set(tuning.own.pool.sizes) - far
    assert not near <= set(tuning.best.pool.sizes), "of those that were met some may go"
    assert verdict.reason is not Reason.NOT_MET


def test_what_the_search_met_is_evidence_where_fresh_requests_are_quieter():
    workload = workload_of(pool={"preset": "vllm"}, seqs=128, rate=12, requests=300)
    tuning, fresh, over, verdict = judged(workload, Budgets(64))
    quiet = replace(over, other=replace(over.other, histograms=[]))
    assert quiet.other.together == 0
    again = tuning_verdict(tuning, fresh, quiet)
    assert (again.reason, again.together) == (
        verdict.reason,
        tuning.search.tried[tuning.own.pool].detail.together,
    )


def test_a_list_of_few_graphs_that_drops_what_no_load_met_is_no_advice():
    workload = workload_of(pool={"preset": "vllm"}, seqs=128, rate=12, requests=300)
    tuning, _, _, verdict = judged(workload, Budgets(8))
    assert len(tuning.best.pool.sizes) <= 8
    assert (verdict.advice, verdict.reason) == (Advice.KEEP, Reason.NOT_MET)


def test_a_rare_meeting_of_requests_is_no_evidence():
    count = np.zeros(65, np.int64)
    count[1], count[2], count[40] = 10_000, 200, 5
    empty = np.zeros(1)
    steps = StepHistogram(count, np.zeros(65), np.zeros(1, np.int64), empty, empty)
    assert decode_together(steps) == 2
    assert decode_together(replace(steps, decode_count=np.zeros(65, np.int64))) == 0
    assert unmet_sizes((1, 2, 4, 256), 2, 256) == (1, 2, 4, 256)
    assert unmet_sizes((1, 2, 4, 16, 24, 256, 512), 3, 256) == (24, 256)


def test_a_record_in_milliseconds_read_as_seconds_is_asked_about(tmp_path):
    gaps = np.random.default_rng(2).integers(1, 300, 200)
    rows = "\n".join(f"{at},{30 + at % 7},{5 + at % 11}" for at in np.cumsum(gaps).tolist())
    trace = tmp_path / "trace.csv"
    trace.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}\n")
    content = workload_of(pool={"preset": "vllm"}, seqs=64).model_dump(exclude_none=True)
    for key in ("requests", "prompt_tokens", "output_tokens"):
        content.pop(key)
    content["arrivals"] = {"process": "trace", "path": str(trace)}
    _, _, _, verdict = judged(Workload.model_validate(content), Budgets(64))
    assert (verdict.advice, verdict.reason) == (Advice.KEEP, Reason.MAY_BE_MILLISECONDS)
    content["arrivals"]["time_scale"] = 0.01
    _, _, _, verdict = judged(Workload.model_validate(content), Budgets(64))
    assert verdict.reason is not Reason.MAY_BE_MILLISECONDS


@pytest.mark.parametrize("rate", [2000, 1e7])
def test_a_run_shorter_than_its_answers_is_no_evidence(rate):
    """All requests in a few milliseconds: what is measured is how the server empties."""
    workload = workload_of(pool={"sizes": [1, 2, 4, 8]}, rate=rate, requests=150)
    _, _, _, verdict = judged(workload, Budgets(3))
    assert verdict.advice is Advice.KEEP


def test_a_change_of_mode_is_said():
    workload = workload_of("mixed", pool={"sizes": [1, 2], "mode": "full_and_piecewise"}, requests=150)
    tuning, fresh, over, _ = judged(workload, Budgets(4), fresh=3)
    tuning.best = replace(tuning.best, pool=replace(tuning.best.pool, piecewise=False))
    assert tuning_verdict(tuning, fresh, over).mode_change == ("full_and_piecewise", "full_decode_only")


def test_steps_with_prompts_get_sizes_up_to_the_token_budget():
    """vLLM's list stops at 512: steps of 513 to 2,048 tokens run without a graph, slow on this host."""
    content = workload_of(
        "mixed", seqs=16, rate=6, requests=150, pool={"preset": "vllm"}, max_num_batched_tokens=2048
    ).model_dump(exclude_none=True)
    content["prompt_tokens"] = {"distribution": "fixed", "value": 1500}
    content["engine"]["profile"] = {
        "decode_eager_ms": {"base": 40, "per_request": 0.1},
        "decode_graph_ms": {"base": 6, "per_request": 0.1},
        "prefill_ms": {"base": 2, "per_token": 0.002},
    }
    tuning, _, over, verdict = judged(Workload.model_validate(content), Budgets(64), fresh=3)
    assert verdict.advice is Advice.RAISE_THE_CEILING
    assert max(tuning.best.pool.sizes) >= 1500
    assert over.gain[0].share < -0.1


def test_the_best_pool_is_kept():
    workload = workload_of(pool={"preset": "all"})
    tuning, _, over, verdict = judged(workload, Budgets(8))
    assert verdict.advice in (Advice.KEEP, Advice.TRIM)
    assert len(tuning.best.pool.sizes) <= 8
    assert over.judged.worst.share <= 0.02


@pytest.mark.parametrize("goal", ["mean_tpot", "mean_e2el", "p90_e2el", "throughput"])
def test_one_run_s_difference_is_of_the_requests_that_its_values_count(goal):
    tuning, fresh, _, _ = judged(workload_of(pool={"sizes": [1, 2]}, rate=40), Budgets(4), goal, fresh=1)
    confirmation = fresh.compare(tuning.best.pool, tuning.own.pool)
    (best,), (other,) = confirmation.best, confirmation.other
    assert best != other
    assert confirmation.difference.difference == pytest.approx(best - other, rel=1e-9)
    assert confirmation.difference.relative == pytest.approx(best / other - 1, rel=1e-9)


def test_the_winner_is_confirmed_on_requests_the_search_never_met():
    workload = workload_of(requests=100)
    search, fresh, on = search_and_fresh(workload, 3)
    assert [sample.replication for sample in (*search, *fresh)] == [0, 1, 2, 3]
    arrivals = [tuple(sample.requests.arrival_ns) for sample in (*search, *fresh)]
    assert len(set(arrivals)) == 4
    assert on == "3 fresh replications"


def test_a_trace_is_cut_in_two_and_the_last_part_held_out(tmp_path):
    rows = "\n".join(f"{0.05 * i:.2f},{30 + i % 7},{5 + i % 11}" for i in range(100))
    trace = tmp_path / "trace.csv"
    trace.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}\n")
    content = workload_of().model_dump(exclude_none=True)
    for key in ("requests", "prompt_tokens", "output_tokens"):
        content.pop(key)
    content["arrivals"] = {"process": "trace", "path": str(trace)}
    workload = Workload.model_validate(content)
    search, fresh, on = search_and_fresh(workload)
    assert (len(search[0].requests), len(fresh[0].requests)) == (70, 30)
    assert fresh[0].requests.arrival_ns[0] == 0
    assert "last 30 requests" in on
    tuning = tuned(workload, Budgets(3), samples=search)
    confirmation = FreshRequests(tuning.evaluator, fresh, on).compare(tuning.best.pool, tuning.own.pool)
    assert confirmation.difference.interval is None
    assert "blocks" in confirmation.difference.why_no_interval


def test_loads_are_the_same_requests_at_other_rates():
    requests = draw_requests(workload_of(requests=150), 0)
    fast = requests_at(requests, 2.0)
    assert fast.arrival_ns.tolist() == np.rint(requests.arrival_ns / 2).astype(int).tolist()
    assert fast.output_tokens is requests.output_tokens


def test_a_closed_loop_is_loaded_by_its_users():
    content = workload_of().model_dump(exclude_none=True)
    content["arrivals"] = {"process": "closed_loop", "concurrency": 5}
    requests = draw_requests(Workload.model_validate(content))
    assert [requests_at(requests, factor).concurrency for factor in (0.5, 1.0, 2.0)] == [2, 5, 10]


def test_the_curve_never_gets_worse_with_more_graphs_and_marks_its_knee():
    tuning = tuned(workload_of(rate=30), Budgets(4, forced_sizes=False))
    points = curve_points(tuning)
    values = [point.value for point in points]
    assert [point.graphs for point in points][:3] == [0, 2, 4]
    assert values == sorted(values, reverse=True)
    at = knee(points, lower_is_better=True)
    assert min(values) * 1.01 >= next(point.value for point in points if point.graphs == at)
    assert all(p.value > 1.01 * min(values) for p in points if p.graphs < at)


@pytest.mark.parametrize("goal", ["goodput", "throughput"])
def test_objectives_to_be_raised_are_raised(goal):
    workload = workload_of(rate=40)
    tuning = tuned(workload, Budgets(3, forced_sizes=False), goal)
    empty = tuning.evaluator.values(GraphPool(), tuning.samples)[0]
    best = tuning.evaluator.values(tuning.best.pool, tuning.samples)[0]
    assert best > empty


def test_an_objective_a_run_does_not_have_is_explained():
    with pytest.raises(InputError, match="p99_itl_ms; it needs 1,000 completed requests"):
        tuned(workload_of(requests=50), Budgets(3), "p99_itl")
    with pytest.raises(InputError, match="--objective speed: expected mean_, median_"):
        objective("speed")


def test_overload_is_named_as_such():
    workload = workload_of(rate=200, requests=600)
    tuning, fresh, over, verdict = judged(workload, Budgets(3), fresh=2)
    answer = tuning_answer(tuning, fresh, over, verdict)
    assert answer.steady_state is False


def test_the_answer_holds_every_pool_tried_and_what_it_costs():
    workload = workload_of("decode_only", DEFAULT_PROFILE, {"preset": "vllm"}, seqs=16, requests=80)
    tuning, fresh, over, verdict = judged(workload, Budgets(8), fresh=3)
    answer = tuning_answer(tuning, fresh, over, verdict)
    assert answer.steady_state is True
    assert answer.sizes == (tuning.best if is_change(verdict) else tuning.own).pool.sizes
    assert {(row.rate_factor, row.host) for row in answer.loads} >= {(factor, "low") for factor in LOADS}
    assert answer.worst.share >= max(row.loss for row in answer.loads)
    assert len(answer.candidates) == len(tuning.search.tried)
    assert {"own", "sglang", "powers_of_two"} & {preset.name for preset in answer.presets}
    assert answer.objective.low <= answer.objective.value <= answer.objective.high
    assert sum(answer.histogram.decode.values()) > 0
    assert answer.best.capture_s < answer.own.capture_s
    assert answer.budgets.forced_sizes == (1, 16)


def test_a_list_with_a_gap_that_its_loads_never_met_says_where_it_begins_to_lose():
    """Three graphs for 64 requests: batches of at most a dozen pay nothing, those of 4 times the load do."""
    content = workload_of(pool={"preset": "all"}, seqs=64, rate=48, requests=300).model_dump(
        exclude_none=True
    )
    content["engine"]["profile"] = PROFILES["line"] | {"decode_graph_ms": {"base": 4, "per_request": 0.15}}
    _, samples, on = search_and_fresh(Workload.model_validate(content), 2)
    evaluator = evaluator_of(Workload.model_validate(content))
    fresh = FreshRequests(evaluator, samples, on)
    own = GraphPool(tuple(range(1, 65)))
    gap = GraphPool((*range(1, 13), 64))
    found = fresh.beyond(gap, own, fresh.over_loads(gap, own))
    assert found.batch == 13
    assert found.padding > 0.5
    assert found.loses
    assert 2 < found.rate_factor <= 4
    assert found.loss > 0.02
    bridged = GraphPool((*range(1, 13), *range(14, 65, 2)))
    assert fresh.beyond(bridged, own, fresh.over_loads(bridged, own)) is None


def test_less_padding_is_no_reason_for_a_list_that_loses_above_the_loads_tried():
    tuning, fresh, over, verdict = judged(workload_of(pool={"sizes": [1, 4, 8]}), Budgets(4))
    assert (verdict.advice, verdict.reason) == (Advice.TRIM, Reason.LESS_PADDING)
    beyond = Beyond(batch=7, padding=0.4, rate_factor=2.5, loss=0.1, loses=True)
    kept = tuning_verdict(tuning, fresh, over, beyond)
    assert (kept.advice, kept.reason) == (Advice.KEEP, Reason.LOSES_BEYOND)
    answer = tuning_answer(tuning, fresh, over, kept, beyond=beyond)
    assert answer.sizes == tuning.own.pool.sizes
    assert "but +10.0 % at 2.5× it" in advice_line(answer)
    assert tuning_verdict(tuning, fresh, over, replace(beyond, loses=False)).advice is Advice.TRIM
