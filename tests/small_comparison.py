"""A comparison small enough for a test, with everything in it that a report shows."""

from __future__ import annotations

from typing import Any

from scheduler.analysis.comparison.compare import Comparison, compare
from scheduler.analysis.comparison.kept_runs import Scratch
from scheduler.analysis.comparison.pools import NamedPool
from scheduler.analysis.workers import Workers
from scheduler.engine.graph_pool import GraphPool
from scheduler.workload.schema import Workload


def small_comparison(
    policy: str = "mixed",
    requests: int = 300,
    rate_per_s: float = 20.0,
    kv_blocks: int | str = 1200,
    name: str = "graphs",
    origin: str = "sizes of the workload file",
    replications: int = 2,
    workers: Workers | None = None,
    scratch: Scratch | None = None,
    **changes: Any,
) -> Comparison:
    """A comparison small enough for a test: fallback above 16, padding, preemptions, an SLO, two pools."""
    profile = {
        "decode_eager_ms": {"base": 16, "per_request": 0.06},
        "decode_graph_ms": {"base": 5.5, "per_request": 0.06, "per_kv_token": 1e-5},
        "prefill_ms": {"base": 3, "per_token": 0.02},
    }
    workload = Workload.model_validate(
        {
            "name": "small",
            "requests": requests,
            "arrivals": {"process": "poisson", "rate_per_s": rate_per_s},
            "prompt_tokens": {"distribution": "lognormal", "mean": 600, "p99": 2000, "max": 4000},
            "output_tokens": {"distribution": "geometric", "mean": 120, "max": 400},
            "engine": {"policy": policy, "max_num_seqs": 64, "kv_blocks": kv_blocks, "profile": profile},
            "pool": {"sizes": [1, 2, 4, 8, 16]},
            "slo": {"ttft_ms": 500, "tpot_ms": 20},
        }
        | changes
    )
    pools = [
        NamedPool(name, GraphPool((1, 2, 4, 8, 16)), origin),
        NamedPool("vllm-64", GraphPool((1, 2, 4, *range(8, 65, 8))), "vllm-64"),
    ]
    profile = workload.engine.profile
    return compare(
        workload,
        profile,
        pools,
        replications=replications,
        warmup_share=0.1,
        workers=workers,
        scratch=scratch,
    )
