"""How memory grows with requests and with steps, between a run and one three times as long.

    python -m evidence.benchmarks.memory [--requests 100000]

Many short answers (two tokens, large batches) show bytes per request; long answers of few requests show
bytes per step; ordinary traffic, decoding alone and with prompts, must grow by less than both together say.
Peak and kept bytes are tracemalloc's, which counts every Python object and NumPy array of the simulation;
the drawn requests are counted in. Exits 1 where a request costs 200 bytes or more, or a step 64, while the
loop runs or afterwards.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tracemalloc
from dataclasses import dataclass

from scheduler.engine.graph_pool import GraphPool
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Workload

MOST_BYTES_PER_REQUEST, MOST_BYTES_PER_STEP = 200, 64
GRAPHS = Variant("graphs", GraphPool((1, 2, 4, *range(8, 257, 8))), "fallback")


def workload(policy: str, requests: int, output_tokens: int, rate_per_s: float) -> Workload:
    profile = {
        "decode_eager_ms": {"base": 9, "per_request": 0.02},
        "decode_graph_ms": {"base": 4, "per_request": 0.03},
        "prefill_ms": {"base": 1, "per_token": 0.01},
    }
    engine = {"policy": policy, "kv_blocks": "unlimited", "profile": profile}
    return Workload.model_validate(
        {
            "name": "memory",
            "requests": requests,
            "arrivals": {"process": "poisson", "rate_per_s": rate_per_s},
            "prompt_tokens": {"distribution": "fixed", "value": 400},
            "output_tokens": {"distribution": "uniform", "min": output_tokens, "max": output_tokens + 2},
            "engine": engine,
        }
    )


def measured(spec: Workload) -> tuple[int, int, int]:
    """Return (steps, peak bytes, bytes kept) of drawing and serving a workload."""
    gc.collect()
    tracemalloc.start()
    requests = draw_requests(spec)
    run = simulate(spec, requests, spec.engine.profile, GRAPHS)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return len(run.steps), peak, kept


@dataclass(frozen=True)
class Growth:
    """What the longer of two runs has more than the shorter one."""

    requests: int
    steps: int
    peak: int
    kept: int


def grown(name: str, policy: str, requests: int, output_tokens: int, rate_per_s: float) -> Growth:
    """Measure a workload and one of three times as many requests; print both."""
    rows = []
    for count in (requests, 3 * requests):
        steps, peak, kept = measured(workload(policy, count, output_tokens, rate_per_s))
        print(f"{name:26} {count:9,} {steps:10,} {peak / 1e6:8.1f} {kept / 1e6:8.1f}")
        rows.append((count, steps, peak, kept))
    return Growth(*(more - less for less, more in zip(*rows, strict=True)))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=100_000)
    count = parser.parse_args().requests
    print(f"{'':26} {'requests':>9} {'steps':>10} {'peak MB':>8} {'kept MB':>8}")
    short = grown("short answers, crowded", "decode_only", count, 1, 20_000.0)
    long = grown("long answers, few", "decode_only", count // 100, 1000, 0.2)
    ordinary = [grown(f"20/s, 190 tokens, {p}", p, count // 10, 189, 20.0) for p in ("decode_only", "mixed")]
    failed = False
    for what in ("peak", "kept"):
        # Two equations: growth = requests × bytes per request + steps × bytes per step.
        first, second = getattr(short, what), getattr(long, what)
        determinant = short.requests * long.steps - long.requests * short.steps
        per_request = (first * long.steps - second * short.steps) / determinant
        per_step = (short.requests * second - long.requests * first) / determinant
        shares = [
            getattr(growth, what)
            / (growth.requests * MOST_BYTES_PER_REQUEST + growth.steps * MOST_BYTES_PER_STEP)
            for growth in ordinary
        ]
        print(
            f"{what}: {per_request:.1f} bytes per request, {per_step:.1f} bytes per step; "
            "ordinary traffic takes "
            f"{' and '.join(f'{100 * share:.0f} %' for share in shares)} of 200 and 64"
        )
        failed |= per_request >= MOST_BYTES_PER_REQUEST or per_step >= MOST_BYTES_PER_STEP
        failed |= max(shares) >= 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
