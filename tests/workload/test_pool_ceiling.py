"""`pool_ceiling.yaml` against the run it was measured in: one H100, 1,600 arrivals, executed for real.

Predicted and executed figures: the project's own H100 measurements of November 2026 (Qwen3-0.6B shape, 256
output tokens, at most 128 running). Another program made the prediction then, from the same step times.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from scheduler.engine.graph_pool import GraphPool
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload

WORKLOAD = Path(__file__).parents[2] / "workloads" / "pool_ceiling.yaml"


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The measured run's arrivals, to the nanosecond."""
    gaps = random.Random(1)  # noqa: S311 - the generator that the measured run used
    arrived_s = 0.0
    rows = ["arrived_at,num_prefill_tokens,num_decode_tokens"]
    for _ in range(1600):
        arrived_s += gaps.expovariate(36.387007447825006)
        rows.append(f"{arrived_s:.9f},384,256")
    path = tmp_path_factory.mktemp("arrivals") / "arrivals.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(
    ("ceiling", "steps", "eager_share", "mean_itl_ms", "executed_itl_ms"),
    [
        (48, 4227, 0.72652, 19.4837, 17.7127),
        (128, 13025, 0.0, 3.53741, 3.65965),
        (0, 3447, 1.0, 20.8972, 20.5883),
    ],
)
def test_the_measured_h100_loop_is_reproduced(
    trace: Path, ceiling: int, steps: int, eager_share: float, mean_itl_ms: float, executed_itl_ms: float
) -> None:
    workload = load_workload(WORKLOAD, trace=trace)
    pool = GraphPool(tuple(size for size in (1, 2, 4, *range(8, 129, 8)) if size <= ceiling))
    requests = draw_requests(workload, 0)
    run = simulate(workload, requests, workload.engine.profile, Variant("pool", pool, "eager"))
    batch = run.steps.batch_size
    assert int(batch.sum()) == 1600 * 256
    itl_ms = float((run.steps.duration_ns * batch).sum() / batch.sum() / 1e6)
    # The workload file rounds step times to 0.01 ms; with the unrounded table every step count is equal.
    assert len(run.steps) == pytest.approx(steps, abs=1)
    assert float((run.steps.capture_size == 0).mean()) == pytest.approx(eager_share, abs=1e-4)
    assert itl_ms == pytest.approx(mean_itl_ms, rel=1e-3)
    assert itl_ms == pytest.approx(executed_itl_ms, rel=0.11)


def test_one_second_of_double_traffic_traps_the_low_ceiling_and_not_the_high_one() -> None:
    workload = load_workload(WORKLOAD)
    assert workload.pool.sizes is not None
    assert max(workload.pool.sizes) < workload.engine.max_num_seqs
    for replication in range(5):
        requests = draw_requests(workload, replication)
        low, high = (
            simulate(workload, requests, workload.engine.profile, Variant("pool", GraphPool(sizes), "eager"))
            for sizes in (workload.pool.sizes, (*workload.pool.sizes, *range(56, 129, 8)))
        )
        last = low.steps.start_ns > 30_000_000_000  # the second of double traffic was 20 s ago
        assert float(low.steps.batch_size[last][:200].mean()) > 100
        assert int(high.steps.batch_size.max()) < 100
