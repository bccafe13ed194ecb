"""The highest rate that meets the SLO: bracketed, bounded, honest about finding none, and right."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_cases import SMALL, write_workload

from scheduler.analysis.statistics.intervals import mean_interval
from scheduler.analysis.sweep.max_rate import RATIO, RateSearch, at_scale, mean_rate_per_s, search
from scheduler.analysis.sweep.over_replications import rate_rows
from scheduler.analysis.sweep.task import setting_of
from scheduler.commands.run import workload_profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.report.sweep_text import max_rate_text
from scheduler.simulate import Variant
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload

EAGER = Variant("eager", GraphPool(), "eager")
GRAPHS = Variant("graphs", GraphPool((1, 2, 4, 8)), "fallback")


def rate_search(folder, *overrides, variant=EAGER, replication=0, share=0.99, trace=None):
    workload = load_workload(write_workload(folder), overrides, trace)
    setting = setting_of(workload, workload_profile(workload), 0.1)
    return RateSearch(setting, variant, replication, slo_share=share)


@given(st.floats(-4.8, 6.8))
def test_a_search_ends_within_half_a_percent_of_any_threshold(exponent):
    threshold = 4.0**exponent if exponent < 0 else 2.0**exponent
    found = search(lambda scale: "" if scale <= threshold else "slo")
    assert found.passes <= threshold < found.fails <= found.passes * RATIO
    assert found.simulations <= 6 + math.ceil(math.log2(math.log(4) / math.log(RATIO))) + 4


def test_a_search_gives_up_where_every_rate_fails_or_none_does():
    tried = []

    def failing(scale):
        tried.append(scale)
        return "slo"

    assert search(failing).passes is None
    assert tried == [4.0**-k for k in range(6)]
    found = search(lambda _: "")
    assert (found.passes, found.fails, found.simulations) == (1024, None, 11)


def test_a_search_ends_even_where_the_answers_make_no_sense():
    coin = np.random.default_rng(3)
    for _ in range(100):
        assert search(lambda _: "slo" if coin.random() < 0.5 else "").simulations < 30


def test_the_rate_found_passes_and_a_little_more_fails(tmp_path):
    task = rate_search(tmp_path)
    (record,) = task.records()
    rate = record["max_rate_per_s"]

    def attained(rate_per_s):
        workload = load_workload(tmp_path / "small.yaml", [f"arrivals.rate_per_s={rate_per_s!r}"])
        requests = draw_requests(workload, 0)
        run = task.run(workload, requests, EAGER)
        latency = run.requests.finish_ns - run.requests.first_token_ns
        gaps = np.maximum(run.requests.output_tokens - 1, 1)
        ttft = run.requests.first_token_ns - run.requests.arrival_ns
        return ((latency / gaps <= 11e6) & (ttft <= 500e6))[20:].mean()

    assert record["limited_by"] == "slo"
    assert attained(rate) >= 0.99 > attained(rate * RATIO)


def test_a_faster_pool_and_a_looser_share_allow_a_higher_rate(tmp_path):
    rates = [
        rate_search(tmp_path, variant=variant, share=share).records()[0]["max_rate_per_s"]
        for variant, share in ((EAGER, 0.99), (EAGER, 0.9), (GRAPHS, 0.99))
    ]
    assert rates[0] < rates[1] < rates[2]


def test_the_answer_does_not_depend_on_the_rate_in_the_file(tmp_path):
    rates = [
        rate_search(tmp_path, f"arrivals.rate_per_s={rate}").records()[0]["max_rate_per_s"]
        for rate in (5, 20, 300)
    ]
    assert rates == pytest.approx([rates[0]] * 3, rel=RATIO - 1)


def test_a_rejected_request_misses_the_slo(tmp_path):
    # One prompt in ten is too long to be served at all, and no rate can make up for that.
    lengths = "prompt_tokens={distribution: discrete, values: [10, 900], weights: [0.9, 0.1]}"
    (record,) = rate_search(tmp_path, lengths, "engine.max_model_len=500").records()
    assert record["limited_by"] == "every rate fails"
    assert "max_rate_per_s" not in record


def test_a_queue_that_grows_meets_no_slo_however_loose(tmp_path):
    loose = ("slo={ttft_ms: 1e6}", "requests=2000")
    (record,) = rate_search(tmp_path, *loose).records()
    assert record["limited_by"] == "queue growth"
    # 8 requests at once, 19 tokens of 9.16 ms each: what a full batch can serve, less its prefills.
    capacity = 8 / (18 * 0.00916)
    assert 0.7 * capacity < record["max_rate_per_s"] < capacity


def test_scaling_a_rate_stretches_the_same_gaps(tmp_path):
    workload = load_workload(write_workload(tmp_path))
    once, twice = (draw_requests(at_scale(workload, scale), 1) for scale in (1.0, 2.0))
    assert np.abs(once.arrival_ns - 2 * twice.arrival_ns).max() <= 2
    assert (once.output_tokens == twice.output_tokens).all()


def test_scaled_stages_keep_their_durations_and_the_time_they_cover(tmp_path):
    stages = "[{rate_per_s: 10, duration_s: 2}, {rate_per_s: [20, 40], duration_s: 1}]"
    arrivals = f"arrivals={{process: poisson, stages: {stages}}}"
    workload = load_workload(write_workload(tmp_path), [arrivals])
    assert mean_rate_per_s(workload) == pytest.approx(50 / 3)
    scaled = at_scale(workload, 3.0)
    assert [stage.rates_per_s for stage in scaled.arrivals.stages] == [(30, 30), (60, 120)]
    assert [stage.duration_s for stage in scaled.arrivals.stages] == [2, 1]
    assert (scaled.requests, scaled.duration_s) == (None, pytest.approx(200 / (50 / 3)))
    assert len(draw_requests(scaled)) == pytest.approx(600, rel=0.15)


def test_a_trace_is_compressed(tmp_path):
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{index * 0.05:.2f},40,{1 + index * 7 % 37}\n" for index in range(400))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    task = rate_search(tmp_path, trace=trace)
    assert mean_rate_per_s(task.setting.workload) == pytest.approx(20)
    (record,) = task.records()
    scaled = at_scale(task.setting.workload, record["max_rate_per_s"] / 20)
    assert mean_rate_per_s(scaled) == pytest.approx(record["max_rate_per_s"], rel=1e-6)


def rows_for(eager, graphs, **more):
    records = [
        {"variant": name, "replication": index, "slo_share": 0.99, "simulations": 9, "limited_by": "slo"}
        | found
        for name, rates in (("graphs", graphs), ("eager", eager))
        for index, rate in enumerate(rates)
        for found in [{} if rate is None else {"max_rate_per_s": rate}]
    ]
    return rate_rows([record | more for record in records], [*more])


def test_the_rate_over_replications_is_a_t_interval_and_the_gain_is_paired():
    graphs, eager = rows_for([10.0, 12.0, 14.0], [11.0, 13.1, 15.0], x=3)
    interval = mean_interval([11.0, 13.1, 15.0])
    assert graphs["x"] == 3
    assert (graphs["max_rate_low_per_s"], graphs["max_rate_high_per_s"]) == (interval.low, interval.high)
    assert graphs["gain_over_eager"] == pytest.approx(3.1 / 36)
    gain = mean_interval([1.0, 1.1, 1.0])
    assert graphs["gain_over_eager_interval"] == pytest.approx([gain.low / 12, gain.high / 12])
    assert "gain_over_eager" not in eager
    assert graphs["simulations"] == 27


def test_no_rate_is_stated_where_one_replication_found_none():
    graphs, eager = rows_for([10.0, None], [11.0, 13.0])
    assert "max_rate_per_s" not in eager
    assert "gain_over_eager" not in graphs


def test_no_interval_reaches_below_zero():
    _, eager = rows_for([0.1, 9.0], [11.0, 13.0])
    assert mean_interval([0.1, 9.0]).low < 0
    assert eager["max_rate_low_per_s"] == 0


def test_one_replication_has_no_interval():
    graphs, _ = rows_for([10.0], [11.0])
    assert graphs["max_rate_per_s"] == 11.0
    assert not any("interval" in key or "low" in key for key in graphs)


def test_the_table_says_why_there_is_no_rate(tmp_path):
    impossible = rate_search(tmp_path, "slo={tpot_ms: 1}").records()
    endless = [{**impossible[0], "variant": "graphs", "limited_by": "nothing", "highest_rate_per_s": 5.0}]
    del endless[0]["lowest_rate_per_s"]
    text = max_rate_text(rate_rows([*endless, *impossible], []), [])
    assert "eager: even 0.02 requests/s miss the SLO" in text
    assert "graphs: no ceiling found: 5.000 requests/s still meet the SLO" in text


def test_a_range_of_the_profile_is_searched_at_both_ends(tmp_path):
    text = SMALL[: SMALL.index("  profile:")] + "  profile: h100-llama-3.1-8b-bf16\n" + "slo: {tpot_ms: 30}\n"
    workload = load_workload(write_workload(tmp_path, text))
    task = RateSearch(setting_of(workload, workload_profile(workload), 0.1), EAGER, 0)
    low, high = task.records()
    assert (low["variant"], high["variant"]) == ("eager", "eager_high")
    assert high["max_rate_per_s"] < low["max_rate_per_s"]
    full = replace(task, variant=replace(GRAPHS, pool=GraphPool(tuple(range(1, 9)))))
    # Prompts are issued by the host, too, so that a pool with a graph for every batch still meets the range.
    assert [record["variant"] for record in full.records()] == ["graphs", "graphs_high"]


def test_a_pool_whose_every_step_is_a_decode_step_in_a_graph_has_one_end(tmp_path):
    text = SMALL[: SMALL.index("  profile:")] + "  profile: h100-llama-3.1-8b-bf16\n" + "slo: {tpot_ms: 30}\n"
    workload = load_workload(write_workload(tmp_path, text), ["engine.policy=decode_only"])
    task = RateSearch(setting_of(workload, workload_profile(workload), 0.1), GRAPHS, 0)
    full = replace(task, variant=replace(GRAPHS, pool=GraphPool(tuple(range(1, 9)))))
    assert [record["variant"] for record in full.records()] == ["graphs"]
