from __future__ import annotations

import numpy as np
import pytest
from small_comparison import small_comparison

from scheduler.analysis.comparison.compare import Comparison
from scheduler.analysis.comparison.step_times import mean_kv_tokens_per_row, saved_s, step_curves
from scheduler.catalog.profile.file import load_profile


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return small_comparison(requests=60, replications=1)


def test_curves_of_an_inline_profile_are_its_lines(comparison: Comparison) -> None:
    curves = {curve.mode: curve for curve in step_curves(comparison).curves}
    assert set(curves) == {"eager", "graph"}  # no fallback of its own
    eager = curves["eager"]
    assert eager.low_ms == pytest.approx(16 + 0.06 * eager.batch)
    assert (eager.low_ms == eager.high_ms).all()
    assert eager.batch[[0, -1]].tolist() == [1, 64]


def test_a_curve_ends_where_the_table_of_step_times_does() -> None:
    table = {"table": [12.0, 12.5, 13.0]}
    profile = {"decode_eager_ms": table, "decode_graph_ms": {"base": 5, "per_request": 0.1}}
    engine = {"policy": "decode_only", "max_num_seqs": 3, "kv_blocks": "unlimited", "profile": profile}
    found = small_comparison(requests=30, replications=1, engine=engine)
    object.__setattr__(found.workload.engine, "max_num_seqs", 64)
    curves = {curve.mode: curve for curve in step_curves(found).curves}
    assert curves["eager"].batch.tolist() == [1, 2, 3]
    assert curves["graph"].batch[-1] == 64


def test_a_range_in_the_profile_is_a_band_and_measured_sizes_are_named(comparison: Comparison) -> None:
    measured = Comparison(
        comparison.workload,
        load_profile("h100-llama-3.1-8b-bf16"),
        comparison.requests,
        0,
        comparison.pools,
        comparison.eager,
        {},
    )
    curves = {curve.mode: curve for curve in step_curves(measured).curves}
    assert (curves["eager"].high_ms > curves["eager"].low_ms).any()
    assert (curves["graph"].high_ms >= curves["graph"].low_ms).all()
    assert {1, 64} <= set(curves["graph"].measured.tolist())


def test_mean_kv_tokens_per_row_weighs_every_row_of_every_decode_step(comparison: Comparison) -> None:
    tokens = rows = 0
    for column in comparison.columns:
        steps = column.runs[0].steps
        for i in np.flatnonzero(steps.kind == 0):
            tokens += int(steps.kv_tokens[i])
            rows += int(steps.batch_size[i])
    assert mean_kv_tokens_per_row(comparison) == pytest.approx(tokens / rows)


def test_graphs_that_no_step_took_saved_nothing(comparison: Comparison) -> None:
    column = comparison.pools[1]
    taken = set(column.runs[0].steps.capture_size[column.runs[0].steps.kind == 0].tolist()) - {0}
    assert set(saved_s(comparison, column)) <= taken
    assert saved_s(comparison, comparison.eager) == {}
