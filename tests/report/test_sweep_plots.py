"""A sweep's pictures show what was swept, with intervals, and nothing without a steady state."""

from __future__ import annotations

import pytest

from scheduler.report.sweep_plots import drawn_axis, pareto_points, sweep_curves_of, write_sweep_plots

RATE = "arrivals.rate_per_s"


def records(rates=(2, 4), variants=("graphs", "eager"), steady=lambda rate: True, **more):
    return [
        {
            RATE: rate, "variant": variant, "replication": replication, "steady_state": steady(rate),
            "p99_ttft_ms": 10.0 * rate + replication, "mean_tpot_ms": 20.0,
            "request_goodput_to_last_arrival": rate - 0.5,
            "output_throughput": 100.0 * rate, "goodput_slo": {"ttft": 50},
        } | more
        for rate in rates
        for variant in variants
        for replication in (0, 1)
    ]  # fmt: skip


def test_the_rate_is_the_axis_and_text_never_is():
    assert drawn_axis(records(engine="a"), ["engine", RATE]) == RATE
    assert drawn_axis(records(rates=(2,)), [RATE]) is None
    assert drawn_axis([{"engine": "a"}, {"engine": "b"}], ["engine"]) is None
    assert drawn_axis([{"padding": True}, {"padding": False}], ["padding"]) is None


def test_a_line_has_the_interval_over_replications():
    curves = sweep_curves_of(records(), [RATE], RATE)
    assert (curves.over, curves.values, curves.slo_ms) == ("request rate (1/s)", (2, 4), {"ttft": 50})
    graphs = curves.variants[0]
    assert [found.mean for found in graphs.metrics["p99_ttft_ms"]] == [20.5, 40.5]
    assert graphs.metrics["p99_ttft_ms"][0].high == pytest.approx(20.5 + 12.706 * 0.5, rel=1e-4)
    assert graphs.metrics["p99_tpot_ms"] == (None, None)


def test_a_latency_without_steady_state_is_a_gap_but_goodput_is_drawn():
    curves = sweep_curves_of(records(steady=lambda rate: rate < 4), [RATE], RATE)
    assert [found is None for found in curves.variants[0].metrics["p99_ttft_ms"]] == [False, True]
    assert None not in curves.variants[0].metrics["request_goodput_to_last_arrival"]


def test_other_swept_keys_make_lines_of_their_own():
    key = "engine.max_num_seqs"
    both = [*records(**{key: 8}), *records(**{key: 16})]
    names = [variant.name for variant in sweep_curves_of(both, [RATE, key], RATE).variants]
    assert names == [
        "graphs, max_num_seqs 8",
        "eager, max_num_seqs 8",
        "graphs, max_num_seqs 16",
        "eager, max_num_seqs 16",
    ]


def test_a_user_gets_the_inverse_of_tpot():
    (point, other) = pareto_points(records(), [RATE], RATE)["eager"]
    assert (point.label, point.tokens_per_s_per_user, point.tokens_per_s) == ("2", 50.0, 200.0)
    assert other.label == "4"


def test_both_files_are_written_and_the_same_records_give_the_same_bytes(tmp_path):
    found = records(variants=("graphs", "eager", "graphs_high", "eager_high"))
    for name in ("one", "two"):
        files = write_sweep_plots(found, [RATE], tmp_path / name)
        assert [file.name for file in files] == ["sweep.png", "pareto.png"]
    for name in ("sweep.png", "pareto.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_nothing_to_draw_is_no_file(tmp_path):
    bare = [{RATE: rate, "variant": "eager", "replication": 0} for rate in (1, 2)]
    assert write_sweep_plots(bare, [RATE], tmp_path) == []
