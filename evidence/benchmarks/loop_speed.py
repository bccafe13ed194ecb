"""How fast the loop is: CPU time per step, beside a bare SimPy loop of as many events as steps.

    python -m evidence.benchmarks.loop_speed [--requests 20000] [--repeats 5] [--only NAME …] [--growth]

Each line is one server's decode loop and nothing else: no drawing, no metrics, no files. Every repeat times
the loop and, right after it and in the same process, a SimPy process that only lets time pass once per step;
the ratio of the two is what to compare, for both slow down alike on a busy machine. Printed are the median
ratio and the smallest. With --growth: 1,000 to --requests requests, and 1 to 8 variants of 20,000.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import simpy

from scheduler import compiled
from scheduler.catalog.profile.profile import Profile
from scheduler.commands.run import workload_profile
from scheduler.engine.executor import Admission, StepParts, StepPlan, Topology
from scheduler.engine.graph_pool import GraphPool
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

VLLM_256 = (1, 2, 4, *range(8, 257, 8))
GRAPHS = Variant("graphs", GraphPool(VLLM_256), "fallback")
EAGER = Variant("eager", GraphPool(), "eager")
CHAT = Path(__file__).parents[2] / "workloads" / "chat.yaml"


class HostAndGpuApart:
    """Cheap parts of about the workload's step times, made once each, so that what is timed is the loop."""

    topology: Topology = "uniproc"
    front_out_row_ns = 14_000

    def __init__(self) -> None:
        self.known: dict[int, StepParts] = {}

    def admit(self, slot: int, admission: Admission) -> None:
        """See SlotWatcher."""

    def release(self, slot: int) -> None:
        """See SlotWatcher."""

    def parts(self, plan: StepPlan, decided_ns: int) -> StepParts:
        """Return a host that the GPU hides."""
        gpu_ns = 4_000_000 + 30_000 * plan.batch_size
        if plan.prefill:
            gpu_ns += 10_000 * plan.prefill_tokens
        parts = self.known.get(gpu_ns)
        if parts is None:
            parts = self.known[gpu_ns] = StepParts(500_000, 1_500_000, 1_000_000, gpu_ns, -1, 200_000)
        return parts

    def front_in_ns(self, prompt_tokens: int) -> int:
        """See PipelinedExecutor."""
        return 750_000 + 1_000 * prompt_tokens

    def front_out_ns(self, rows: int) -> int:
        """See PipelinedExecutor."""
        return 1_200_000 + 27_000 * rows


@dataclass(frozen=True)
class Case:
    """One server and its traffic."""

    name: str
    workload: Workload
    profile: Profile
    variant: Variant = GRAPHS
    apart: bool = False

    def timed(self, requests: Requests, run_ahead: bool = True) -> tuple[float, int]:
        """Return (CPU seconds of the simulation alone, steps)."""
        executor = HostAndGpuApart() if self.apart else None
        started = time.process_time()
        run = simulate(
            self.workload, requests, self.profile, self.variant, executor=executor, run_ahead=run_ahead
        )
        spent = time.process_time() - started
        return spent, int(run.step_runs.steps.sum())


def workload(policy: str, requests: int, asynchronous: bool = False) -> Workload:
    engine: dict[str, object] = {
        "policy": policy,
        "async_scheduling": asynchronous,
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


def inline(name: str, policy: str, requests: int, variant: Variant = GRAPHS, **how: bool) -> Case:
    """Return a case with step times written into the workload, which cost next to nothing to look up."""
    spec = workload(policy, requests, how.get("asynchronous", False))
    assert not isinstance(spec.engine.profile, str)  # noqa: S101 - narrows the type for the checker
    return Case(name, spec, spec.engine.profile, variant, how.get("apart", False))


def chat(name: str, requests: int, jitter: str) -> Case:
    """Return the shipped chat workload: a version 2 profile, vLLM's asynchronous scheduling."""
    spec = load_workload(CHAT, [f"requests={requests}", f"engine.jitter={jitter}"])
    graphs = Variant("graphs", GraphPool(VLLM_256, piecewise=True), "fallback")
    return Case(name, spec, workload_profile(spec), graphs)


def cases(requests: int) -> Iterator[Case]:
    for policy in ("decode_only", "mixed"):
        yield inline(f"{policy}, graphs", policy, requests)
        yield inline(f"{policy}, eager", policy, requests, EAGER)
    for policy in ("decode_only", "mixed"):
        yield inline(f"{policy}, asynchronous", policy, requests, asynchronous=True)
    for policy in ("decode_only", "mixed"):
        yield inline(f"{policy}, host and GPU", policy, requests, asynchronous=True, apart=True)
    yield chat("chat.yaml, jitter none", max(requests // 10, 100), "none")
    yield chat("chat.yaml, jitter drawn", max(requests // 10, 100), "auto")


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


def compare(case: Case, repeats: int) -> None:
    """Print what a case's steps cost: in µs, and beside a bare loop."""
    requests = draw_requests(case.workload)
    count = len(requests.prompt_tokens)
    ratios, loops, plain = [], [], []
    for _ in range(repeats):
        spent, steps = case.timed(requests)
        bare_s = bare_simpy_s(steps)
        loops.append(spent)
        ratios.append(spent / bare_s)
        plain.append(case.timed(requests, run_ahead=False)[0] / bare_s)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{case.name:26} {count:9,} {steps:10,} {1e6 * min(loops) / steps:8.2f} "
        f"{1e6 * min(loops) / count:11.1f} {statistics.median(ratios):13.2f} {min(ratios):8.2f} "
        f"{statistics.median(plain):17.2f} {peak_mb:8,.0f}",
        flush=True,
    )


def growth(most: int, repeats: int) -> None:
    """Print how cost grows with requests and with variants."""
    print(f"{'':26} {'requests':>9} {'variants':>8} {'µs per request and variant':>27} {'/ bare SimPy':>13}")
    for policy in ("decode_only", "mixed"):
        numbers = [(10**power, 1) for power in range(3, 7) if 10**power <= most]
        for requests, variants in [*numbers, (20_000, 2), (20_000, 4), (20_000, 8)]:
            case = inline(policy, policy, requests)
            drawn = draw_requests(case.workload)
            spent, ratios = [], []
            for _ in range(repeats if requests < 1_000_000 else 1):
                began = time.process_time()
                steps = sum(case.timed(drawn)[1] for _ in range(variants))
                spent.append(time.process_time() - began)
                ratios.append(spent[-1] / bare_simpy_s(steps))
            each = 1e6 * min(spent) / requests / variants
            print(
                f"{policy:26} {requests:9,} {variants:8} {each:27.1f} {statistics.median(ratios):13.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of lines, or how they begin")
    parser.add_argument("--growth", action="store_true", help="how cost grows up to --requests, and stop")
    options = parser.parse_args()
    print(f"decode loop: {compiled.how}")
    if options.growth:
        growth(options.requests, options.repeats)
        return
    print(
        f"{'':26} {'requests':>9} {'steps':>10} {'µs/step':>8} {'µs/request':>11} {'/ bare SimPy':>13} "
        f"{'smallest':>8} {'a step an event':>17} {'peak MB':>8}"
    )
    for case in cases(options.requests):
        if not options.only or case.name.startswith(tuple(options.only)):
            compare(case, options.repeats)


if __name__ == "__main__":
    main()
