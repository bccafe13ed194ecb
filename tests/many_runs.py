"""Digests of many small runs, one line of JSON: `python -m many_runs` with tests/ on the path.

Every policy, each kind of profile, steps one after the other and in flight, preemption, prefix caches, open
and closed loops, drafts; run by whichever decode loop the process has, compiled or interpreted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import scheduler.compiled
from scheduler.commands.run import workload_profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import Run
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Workload

INLINE = {
    "decode_eager_ms": {"base": 9, "per_request": 0.02, "per_kv_token": 0.0001},
    "decode_graph_ms": {"base": 4, "per_request": 0.03, "per_kv_token": 0.0001},
    "prefill_ms": {"base": 1, "per_token": 0.01},
}
PROFILES = {
    "inline": INLINE,
    "curves": "h200-torch-llama-8b",
    "joint": "h100-vllm-llama-3.1-8b-bf16",
    "engine": "h100-vllm-0.26-llama-3.1-8b-bf16",
}
POISSON = {"process": "poisson", "rate_per_s": 30}
CLOSED = {"process": "closed_loop", "concurrency": 12}
DRAFTS = {"method": "eagle", "draft_tokens": 3, "acceptance": {"rate": 0.7}}
POOLS = {
    "graphs": Variant("graphs", GraphPool((1, 2, 4, 8, 16), piecewise=True), "fallback"),
    "eager": Variant("eager", GraphPool(), "eager"),
}


def workloads() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names and what differs from the small workload below."""
    for profile in PROFILES:
        for policy in ("decode_only", "prefill_first", "mixed", "sglang"):
            for is_async in (False, True):
                yield (
                    f"{profile} {policy} {'async' if is_async else 'sync'}",
                    {"profile": PROFILES[profile], "policy": policy, "async_scheduling": is_async},
                )
    for policy in ("decode_only", "prefill_first", "mixed", "sglang"):
        few = {"profile": INLINE, "policy": policy, "kv_blocks": 110}
        yield f"few blocks, {policy}", few
        if policy != "decode_only":
            yield f"few blocks, prefix caching, {policy}", few | {"prefix_caching": True}
        yield f"closed loop, {policy}", few | {"arrivals": CLOSED, "kv_blocks": 1000}
        if policy != "sglang":
            yield f"drafting, {policy}", few | {"speculation": DRAFTS, "kv_blocks": 200}
            asynchronous = {"async_scheduling": True, "profile": PROFILES["engine"]}
            yield f"drafting, async, {policy}", few | asynchronous | {"speculation": DRAFTS}
    paced = {"long_prefill_token_threshold": 64, "prefill_schedule_interval": 3}
    yield "paced", {"profile": INLINE, "policy": "mixed", **paced}
    engine = {"profile": PROFILES["engine"], "policy": "mixed", "kv_blocks": 150}
    yield "engine, few blocks", engine
    yield "engine, closed loop", engine | {"arrivals": CLOSED}
    yield "engine, nothing drawn", engine | {"jitter": "none"}


def workload(engine: dict[str, Any]) -> Workload:
    """Return a small workload whose batches outgrow the pool."""
    arrivals = engine.get("arrivals", POISSON)
    limits = {"max_num_seqs": 24, "max_num_batched_tokens": 256, "kv_blocks": 4000}
    return Workload.model_validate(
        {
            "name": "small",
            "requests": 90,
            "arrivals": arrivals,
            "prompt_tokens": {"distribution": "lognormal", "mean": 200, "p99": 900},
            "output_tokens": {"distribution": "geometric", "mean": 40},
            "engine": limits | {key: value for key, value in engine.items() if key != "arrivals"},
        }
    )


def digest(run: Run) -> str:
    """Return what tells a run from any other: its arrays and words."""
    found = hashlib.sha256(repr((run.peak_kv_blocks, run.failure, run.remarks, run.prefix_use)).encode())
    for records in (run.requests, run.step_runs):
        for field in fields(records):
            values = getattr(records, field.name)
            found.update(repr(values).encode() if isinstance(values, dict) else values.tobytes())
    return found.hexdigest()


def main() -> None:
    digests = {}
    for name, engine in workloads():
        spec = workload(engine)
        profile, requests = workload_profile(spec), draw_requests(spec)
        for pool, variant in POOLS.items():
            digests[f"{name}, {pool}"] = digest(simulate(spec, requests, profile, variant))
    print(json.dumps({"how": scheduler.compiled.how, "digests": digests}))


if __name__ == "__main__":
    main()
