"""How fast the loop is: requests and steps per second, beside a bare SimPy loop of as many events.

    python -m evidence.benchmarks.loop_speed [--requests 1000000] [--policy decode_only|mixed] [--apart]

Prints CPU seconds per variant, peak memory, time per request against that of a tenth of the requests, and
the ratio to a bare SimPy timeout loop; with --apart what a step costs where host and GPU are told apart.
Absolute figures depend on the machine; compare the ratios.
"""

from __future__ import annotations

import argparse
import resource
import time

import simpy

from scheduler.engine.executor import Admission, StepParts, StepPlan, Topology
from scheduler.engine.graph_pool import GraphPool
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Workload

VLLM_256 = (1, 2, 4, *range(8, 257, 8))


class HostAndGpuApart:
    """Cheap parts of about the workload's step times, so that what is timed is the loop."""

    topology: Topology = "uniproc"
    front_out_row_ns = 14_000

    def admit(self, slot: int, admission: Admission) -> None:
        """See SlotWatcher."""

    def release(self, slot: int) -> None:
        """See SlotWatcher."""

    def parts(self, plan: StepPlan, decided_ns: int) -> StepParts:
        """Return a host that the GPU hides."""
        rows = plan.batch_size
        gpu_ns = 4_000_000 + 30_000 * rows + 10_000 * plan.prefill_tokens
        return StepParts(500_000, 1_500_000, 1_000_000, gpu_ns, -1, 200_000)

    def front_in_ns(self, prompt_tokens: int) -> int:
        """See PipelinedExecutor."""
        return 750_000 + 1_000 * prompt_tokens

    def front_out_ns(self, rows: int) -> int:
        """See PipelinedExecutor."""
        return 1_200_000 + 27_000 * rows


def workload(policy: str, requests: int) -> Workload:
    engine: dict[str, object] = {
        "policy": policy,
        "kv_blocks": "unlimited" if policy == "decode_only" else 28_000,
        "profile": {
            "decode_eager_ms": {"base": 9, "per_request": 0.02},
            "decode_graph_ms": {"base": 4, "per_request": 0.03},
            "prefill_ms": {"base": 1, "per_token": 0.01},
        },
    }
    return Workload.model_validate(
        {
            "name": "speed",
            "requests": requests,
            "arrivals": {"process": "poisson", "rate_per_s": 20},
            "prompt_tokens": {"distribution": "fixed", "value": 400},
            "output_tokens": {"distribution": "geometric", "mean": 190},
            "engine": engine,
        }
    )


def timed(
    policy: str,
    requests: int,
    variant: Variant,
    run_ahead: bool = True,
    apart: bool = False,
    async_scheduling: bool = False,
) -> tuple[float, int]:
    """Return (CPU seconds of the simulation alone, steps)."""
    spec = workload(policy, requests)
    engine = spec.engine.model_copy(update={"async_scheduling": async_scheduling})
    spec = spec.model_copy(update={"engine": engine})
    executor = HostAndGpuApart() if apart else None
    drawn = draw_requests(spec)
    started = time.process_time()
    run = simulate(spec, drawn, spec.engine.profile, variant, executor=executor, run_ahead=run_ahead)
    return time.process_time() - started, len(run.steps)


def bare_simpy_s(events: int) -> float:
    """Return the CPU seconds of a SimPy process that only lets time pass `events` times."""
    env = simpy.Environment()

    def tick() -> simpy.events.ProcessGenerator:
        for _ in range(events):
            yield env.timeout(1)

    env.process(tick())
    started = time.process_time()
    env.run()
    return time.process_time() - started


def cost_of_telling_apart(policy: str, requests: int) -> None:
    """Print what a step costs: whole step times, run ahead and one event each, and host and GPU apart."""
    graphs = Variant("graphs", GraphPool(VLLM_256), "fallback")
    rows: dict[str, tuple[float, int]] = {
        "whole step times, run ahead": timed(policy, requests, graphs),
        "whole step times, one event per step": timed(policy, requests, graphs, run_ahead=False),
        "host and GPU apart": timed(policy, requests, graphs, apart=True),
        "host and GPU apart, asynchronous": timed(
            policy, requests, graphs, apart=True, async_scheduling=True
        ),
    }
    for name, (seconds, steps) in rows.items():
        print(f"{name:38} {seconds:7.2f} CPU s {steps:10,} steps {1e6 * seconds / steps:6.1f} µs per step")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--policy", choices=("decode_only", "mixed"), default=None)
    parser.add_argument("--plain", action="store_true", help="also time the loop with one event per step")
    parser.add_argument("--apart", action="store_true", help="time host and GPU apart per step, and stop")
    options = parser.parse_args()
    if options.apart:
        cost_of_telling_apart(options.policy or "mixed", options.requests)
        return
    variants = (
        Variant("eager", GraphPool(), "eager"),
        Variant("graphs", GraphPool(VLLM_256), "fallback"),
    )
    print(
        f"{'policy':12} {'variant':8} {'requests':>9} {'steps':>10} {'CPU s':>7} {'req/s':>8} "
        f"{'/ bare SimPy':>12} {'per request vs a tenth':>22} {'peak MB':>8}"
    )
    for policy in (options.policy,) if options.policy else ("decode_only", "mixed"):
        for variant in variants:
            tenth_s, _ = timed(policy, options.requests // 10, variant)
            full_s, steps = timed(policy, options.requests, variant)
            bare_s = bare_simpy_s(steps)
            peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{policy:12} {variant.name:8} {options.requests:9,} {steps:10,} {full_s:7.2f} "
                f"{options.requests / full_s:8,.0f} {full_s / bare_s:12.2f} {full_s / tenth_s / 10:22.3f} "
                f"{peak_mb:8,.0f}"
            )
            if options.plain:
                plain_s, _ = timed(policy, options.requests, variant, run_ahead=False)
                print(
                    f"{'':12} {'':8} one event per step: {plain_s:.2f} s, run-ahead is "
                    f"{plain_s / full_s:.2f} times faster"
                )


if __name__ == "__main__":
    main()
