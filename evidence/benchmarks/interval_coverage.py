"""How often the printed 95 % intervals hold the truth, on queues whose exact means are known.

    python -m evidence.benchmarks.interval_coverage [--repetitions 200] [--workers N] [--out DIR]
        [--cases NAME…]

A repetition is what `run.py` does: 5 replications of 5,000 requests, the first 10 % dropped, the mean of
each replication, a t interval over them; repetition k has seed k. An honest 95 % interval covers the true
mean in 90 to 99 % of 200 repetitions. Finished repetitions are kept in --out and not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "theory"))

from test_queueing import CASES, NO_CAP, Case  # noqa: E402

from scheduler.analysis.metrics import summarize  # noqa: E402
from scheduler.analysis.statistics.intervals import mean_interval  # noqa: E402
from scheduler.analysis.workers import as_completed, open_workers  # noqa: E402
from scheduler.engine.graph_pool import GraphPool  # noqa: E402
from scheduler.simulate import Variant, simulate  # noqa: E402
from scheduler.workload.draw import draw_requests  # noqa: E402
from scheduler.workload.schema import Workload  # noqa: E402

WARMUP_SHARE = 0.1
# What the card calls it, and what the exact result calls it (in seconds).
METRICS = {"mean_e2el_ms": "mean_latency", "mean_queue_ms": "mean_wait", "mean_ttft_ms": "mean_ttft"}


@dataclass(frozen=True)
class Repetition:
    """One invocation: a case, its seed, and how much is simulated."""

    case: Case
    seed: int
    requests: int
    replications: int


def workload_of(case: Case, requests: int, seed: int) -> Workload:
    profile = {"decode_eager_ms": case.eager_ms, "decode_graph_ms": case.graph_ms or case.eager_ms}
    engine = {
        "policy": "decode_only",
        "max_num_seqs": case.max_num_seqs,
        "max_num_batched_tokens": NO_CAP,
        "kv_blocks": "unlimited",
        "profile": profile,
    }
    return Workload.model_validate(
        {
            "name": "queue",
            "seed": seed,
            "requests": requests,
            "arrivals": {"process": "poisson", "rate_per_s": case.rate_per_s},
            "prompt_tokens": {"distribution": "fixed", "value": 1},
            "output_tokens": case.output_tokens,
            "engine": engine,
        }
    )


def covered(repetition: Repetition) -> dict[str, bool]:
    """Return, for every metric with an exact mean, whether the interval of this repetition holds it."""
    case = repetition.case
    workload = workload_of(case, repetition.requests, repetition.seed)
    variant = Variant("queue", GraphPool(case.sizes), "eager")
    summaries = []
    for replication in range(repetition.replications):
        requests = draw_requests(workload, replication)
        run = simulate(workload, requests, workload.engine.profile, variant, replication=replication)
        summaries.append(summarize(run, {}, int(repetition.requests * WARMUP_SHARE)))
    found = {}
    for key, exact in METRICS.items():
        if exact in case.expected:
            interval = mean_interval([summary[key] for summary in summaries])
            found[key] = interval.contains(1e3 * case.expected[exact])
    return found


def kept(path: Path) -> dict[int, dict[str, bool]]:
    """Return the finished repetitions of a case by seed; a line cut off by a kill is not one."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
            found[record["seed"]] = record["covered"]
        except (ValueError, KeyError):
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--replications", type=int, default=5)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--cases", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "coverage")
    options = parser.parse_args()
    folder = options.out / f"{options.requests}x{options.replications}"
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [case for case in CASES if case.name in options.cases]
    done = {case.name: kept(folder / f"{case.name}.jsonl") for case in chosen}
    missing = [
        Repetition(case, seed, options.requests, options.replications)
        for seed in range(options.repetitions)
        for case in chosen
        if seed not in done[case.name]
    ]
    started = time.monotonic()
    with open_workers(options.workers) as workers:
        for index, result in as_completed(covered, missing, workers):
            name, seed = missing[index].case.name, missing[index].seed
            done[name][seed] = result
            with (folder / f"{name}.jsonl").open("a") as file:
                file.write("\n" * (file.tell() > 0) + json.dumps({"seed": seed, "covered": result}))
    print(f"{len(missing)} repetitions in {time.monotonic() - started:.0f} s")
    print(f"{'case':26}{'metric':16}{'covered':>9}{'of':>6}")
    for case in chosen:
        results = [done[case.name][seed] for seed in range(options.repetitions)]
        for key in results[0]:
            count = sum(result[key] for result in results)
            print(f"{case.name:26}{key:16}{count / len(results):>9.1%}{len(results):>6}")


if __name__ == "__main__":
    main()
