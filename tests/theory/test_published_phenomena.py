"""Two published traps of a low pool ceiling, predicted from their two reported token gaps and their recipes.

sgl-project/sglang#33483 and #40346; docs/pool_ceiling.md tells both stories and says where a figure misses.
Tolerances: reported gaps of one state scatter by 5 % (3.0 to 3.15 ms), so times get 10 %; reported batches of
one state differ by 15 % (67 at 32/s, 77 at 31/s), so batches get 20 %. Shares of runs are compared as counts.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from evidence.pool_ceiling import page
from evidence.pool_ceiling.pool_trap import (
    TwoLevels,
    at_rate,
    is_trapped,
    runs_of,
    settled_batch,
    trapped_runs,
    turning_rate,
)
from scheduler.analysis.metrics import summarize
from scheduler.engine.records import Run

TEXT = (Path(__file__).parents[2] / "docs" / "pool_ceiling.md").read_text(encoding="utf-8")
TIME, BATCH = 0.10, 0.20


@cache
def runs(rate_per_s: float, ceiling: int, count: int) -> list[Run]:
    workload = page.workload("sglang_33483")
    return list(runs_of(at_rate(workload, rate_per_s), page.sglang_pool(workload, ceiling), count))


def gap_ms(run: Run) -> float:
    """The median TPOT of the last quarter of the answers: the state in which the run ended."""
    values = page.tpots_ms(run)
    return float(np.median(values[-len(values) // 4 :]))


@pytest.mark.parametrize(
    ("name", "levels"), [("sglang_33483", page.LEVELS_33483), ("sglang_40346", page.LEVELS_40346)]
)
def test_the_workload_files_hold_the_step_times_behind_the_reported_gaps(name, levels):
    profile = page.workload(name).engine.profile
    assert profile.decode_graph_ms.base == pytest.approx(levels.graph_ms, abs=5e-5)
    assert profile.decode_eager_ms.base == pytest.approx(levels.eager_ms, abs=5e-5)
    assert profile.prefill_ms.base == profile.decode_eager_ms.base


def test_step_times_and_gaps_are_two_ways_to_say_the_same():
    levels = TwoLevels.from_itl(3.0, 12.6, rate_per_s=31)
    left_for_decode = 1 - 0.031 * levels.eager_ms
    assert levels.graph_ms / left_for_decode == pytest.approx(3.0)
    assert levels.eager_ms / left_for_decode == pytest.approx(12.6)


def test_most_runs_of_33483_are_trapped_under_32_and_none_under_128():
    # Reported 19 of 20 and 0 of 9. The model traps fewer (docs/pool_ceiling.md); more than half must be.
    low = sum(is_trapped(run, 32) for run in runs(31, 32, 20))
    assert 11 <= low <= 20
    assert f"| 31 | 32 | 19 of 20 | {low} of 20 |" in TEXT
    assert sum(is_trapped(run, 128) for run in runs(31, 128, 9)) == 0
    assert sum(is_trapped(run, 32) for run in runs(31, 128, 9)) == 0


def test_the_trapped_runs_of_33483_settle_at_the_reported_batch_and_gap():
    slow = [run for run in runs(31, 32, 20) if is_trapped(run, 32)]
    assert np.median([settled_batch(run) for run in slow]) == pytest.approx(77, rel=BATCH)
    assert np.median([gap_ms(run) for run in slow]) == pytest.approx(12.6, rel=TIME)


def test_the_fast_runs_of_33483_settle_at_the_reported_batch_and_gap():
    fast = runs(31, 128, 9)
    assert np.median([settled_batch(run) for run in fast]) == pytest.approx(20, rel=BATCH)
    assert np.median([gap_ms(run) for run in fast]) == pytest.approx((3.0 + 3.15) / 2, rel=TIME)


def test_at_20_per_second_nothing_is_trapped_and_the_gap_is_the_reported_one():
    # This gap is no input: it tests how the levels at 31/s were taken apart into decode and prefill.
    fast = runs(20, 32, 3)
    assert not any(is_trapped(run, 32) for run in fast)
    assert np.median([gap_ms(run) for run in fast]) == pytest.approx(2.6, rel=TIME)
    assert np.median([settled_batch(run) for run in fast]) == pytest.approx(11.5, rel=BATCH)


def test_no_slow_run_of_33483_returns_at_31_per_second_and_all_do_at_20():
    workload = page.workload("sglang_33483")
    pool = page.sglang_pool(workload, 32)
    assert trapped_runs(at_rate(workload, 31, after_burst_s=page.BURST_S), pool, 8) == 8
    assert trapped_runs(at_rate(workload, 20, after_burst_s=page.BURST_S), pool, 8) == 0


def test_the_trap_of_33483_opens_between_its_reported_rates_and_inside_the_window():
    slow, fast = page.LEVELS_33483.window_per_s(32, 197)
    entered = turning_rate(page.mostly_trapped("sglang_33483", 32, 0, 5), 15, 45, ratio=1.1)
    left = turning_rate(page.mostly_trapped("sglang_33483", 32, page.BURST_S, 5), 15, 45, ratio=1.1)
    assert slow < left < entered < fast
    assert 20 < entered < 32  # reported: 0 of 3 at 20/s, 19 of 20 at 31/s; bisected within 10 %


def test_40346_is_trapped_on_its_own_arrivals_under_48_and_not_under_128():
    workload, requests = page.workload("sglang_40346"), page.redrawn_40346()
    low, high = (page.serve(workload, requests, page.sglang_pool(workload, ceiling)) for ceiling in (48, 128))
    assert is_trapped(low, 48)
    assert not is_trapped(high, 48)
    assert summarize(low, {}, 0)["median_tpot_ms"] == pytest.approx((5.44 + 5.51) / 2, rel=TIME)
    assert summarize(high, {}, 0)["median_tpot_ms"] == pytest.approx(2.64, rel=TIME)
    assert (high.steps.capture_size[high.steps.batch_size > 0] > 0).all()  # reported: no eager decode
