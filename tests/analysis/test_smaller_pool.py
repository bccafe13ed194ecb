"""The quick answer on the card: which of a pool's graphs would do."""

from dataclasses import replace

import numpy as np

from scheduler.analysis.comparison.compare import compare
from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.tuning.smaller_pool import smaller_pool
from scheduler.report.card import smaller_lines
from scheduler.workload.schema import Workload

SPEC = {
    "name": "small",
    "requests": 400,
    "arrivals": {"process": "poisson", "rate_per_s": 20},
    "prompt_tokens": {"distribution": "fixed", "value": 10},
    "output_tokens": {"distribution": "geometric", "mean": 40},
    "engine": {
        "policy": "decode_only",
        "max_num_seqs": 64,
        "kv_blocks": "unlimited",
        "profile": {
            "decode_eager_ms": {"base": 9, "per_request": 0.02},
            "decode_graph_ms": {"base": 4, "per_request": 0.001},
        },
    },
    "pool": {"preset": "vllm"},
}


def compared(**changes):
    workload = Workload.model_validate(SPEC | changes)
    profile = workload.engine.profile
    return compare(
        workload, profile, [workload_pool(workload.pool, workload.engine, profile)], replications=2
    )


def test_nearly_flat_graph_times_leave_the_graphs_that_hold_every_step():
    comparison = compared()
    comparison.smaller = smaller_pool(comparison)
    sizes = comparison.smaller.column.variant.pool.sizes
    own = comparison.pools[0].variant.pool.sizes
    assert set(sizes) < set(own)
    assert sizes[0] == own[0]
    assert 64 in sizes, "the largest FULL graph"
    assert sizes[-1] == own[-1]
    before, after = comparison.pools[0].mean("mean_tpot_ms"), comparison.smaller.column.mean("mean_tpot_ms")
    assert abs(after / before - 1) < 0.01
    lines = smaller_lines(comparison)
    assert lines[0].startswith(f"Of its {len(own)} graphs {len(sizes)} would do: mean TPOT changes by")
    assert f"--cudagraph-capture-sizes {' '.join(map(str, sizes))}" in lines[1]


def test_the_smaller_pool_meets_the_same_requests():
    comparison = compared()
    found = smaller_pool(comparison)
    for own, smaller in zip(found.own.runs, found.column.runs, strict=True):
        assert np.array_equal(own.requests.arrival_ns, smaller.requests.arrival_ns)
        assert np.array_equal(own.requests.output_tokens, smaller.requests.output_tokens)


def test_a_pool_whose_every_size_pays_is_left_alone():
    curve = {"table": [float(4 * 2 ** (n - 1).bit_length()) for n in range(1, 9)]}
    engine = SPEC["engine"] | {
        "max_num_seqs": 8,
        "profile": {"decode_eager_ms": {"base": 99, "per_request": 0}, "decode_graph_ms": curve},
    }
    rate = {"process": "poisson", "rate_per_s": 3}
    comparison = compared(engine=engine, pool={"sizes": [1, 2, 4, 8]}, arrivals=rate)
    assert smaller_pool(comparison) is None


def test_a_pool_that_stops_below_the_largest_batch_gets_no_such_advice():
    assert smaller_pool(compared(pool={"sizes": [1, 2, 4]})) is None


def test_a_partial_run_gets_no_advice():
    comparison = compared()
    assert smaller_pool(replace(comparison, failure="interrupted")) is None
