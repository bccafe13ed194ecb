"""Predicted against executed decode loops: `python -m evidence.fidelity.executed_loops FACTS.jsonl`.

FACTS holds loops that ran on a real GPU on the virtual clock (kinds `poolloop` and `loop`) beside the median
step times measured in the same session (kinds `poolloop_table` and `loop_table`), which are the only input
here besides the arrivals. Prints the Markdown tables of docs/fidelity.md.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from scheduler.analysis.statistics.intervals import weighted_percentile
from scheduler.catalog.importers.whole_steps import MODES, WholeStep, imported_identity, whole_step_profile
from scheduler.catalog.profile.curves import CurveProfile
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import Run
from scheduler.simulate import Variant, simulate
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

METRICS = (
    "mean_itl_ms",
    "mean_e2el_s",
    "p50_itl_ms",
    "p99_itl_ms",
    "time_mean_batch",
    "padding_share",
    "steps",
)
CEILING_REQUESTS = 1600  # of the kind `loop`, as its README says
CEILING_TOKENS = 256
CEILING_MOST_RUNNING = 128
CEILING_SEED = (
    1  # not recorded; of 0-9 the one that gives the step counts of the recorded predictions exactly
)
CEILING_SEEDS = range(10)
Fact = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoopRow:
    """One executed loop and its prediction, metric by metric."""

    pool: str
    rate_per_s: float
    executed: Mapping[str, float]
    predicted: Mapping[str, float]

    def error(self, metric: str) -> float:
        """Signed relative error of a metric."""
        return self.predicted[metric] / self.executed[metric] - 1


def pool_loops(facts: Sequence[Fact]) -> list[LoopRow]:
    """Predict every `poolloop` row from the table of its own session."""
    rows = []
    for fact in facts:
        if fact.get("kind") != "poolloop":
            continue
        table = next(
            other
            for other in facts
            if other.get("kind") == "poolloop_table" and other["model"] == fact["model"]
        )
        profile = _profile({"graph": table["graph"]}, fact["context"])
        requests = poisson_requests(
            fact["rate_per_s"], fact["requests"], fact["context"], fact["output_tokens"], 2
        )
        predicted = _predict(profile, requests, GraphPool(tuple(sorted(fact["sizes"]))), 256)
        rows.append(LoopRow(fact["pool"], fact["rate_per_s"], fact["executed"], predicted))
    return rows


def ceiling_loops(facts: Sequence[Fact]) -> list[tuple[LoopRow, list[float]]]:
    """Predict every `loop` row (a pool's ceiling, or eager); also the mean ITL under other arrival seeds.

    Whether a run is trapped above its ceiling is a matter of chance: the seeds show how much.
    """
    result = []
    for fact in facts:
        if fact.get("kind") != "loop":
            continue
        table = next(
            other for other in facts if other.get("kind") == "loop_table" and other["model"] == fact["model"]
        )
        profile = _profile(table["table"], table["context"])
        ceiling = int(fact["pool"].removeprefix("ceiling")) if fact["pool"] != "eager" else 0
        pool = GraphPool(tuple(sorted(int(size) for size in table["table"]["graph"] if int(size) <= ceiling)))
        runs = {}
        for seed in CEILING_SEEDS:
            requests = poisson_requests(
                fact["rate_per_s"], CEILING_REQUESTS, table["context"], CEILING_TOKENS, seed
            )
            runs[seed] = _predict(profile, requests, pool, CEILING_MOST_RUNNING)
        row = LoopRow(fact["pool"], fact["rate_per_s"], fact["executed"], runs[CEILING_SEED])
        result.append((row, [run["mean_itl_ms"] for run in runs.values()]))
    return result


def poisson_requests(rate_per_s: float, count: int, prompt: int, output: int, seed: int) -> Requests:
    """Return Poisson arrivals as the executed loops drew them: accumulated `Random(seed).expovariate`."""
    draw = random.Random(seed)  # noqa: S311 - a simulation's arrivals
    arrivals = np.cumsum([draw.expovariate(rate_per_s) for _ in range(count)])
    return Requests(
        arrival_ns=np.rint(arrivals * 1e9).astype(np.int64),
        prompt_tokens=np.full(count, prompt, np.int64),
        output_tokens=np.full(count, output, np.int64),
    )


def _profile(table: Mapping[str, Mapping[str, float]], context: float) -> CurveProfile:
    steps = [
        WholeStep(mode, int(size), float(context), ms)
        for mode in MODES
        for size, ms in table.get(mode, {}).items()
    ]
    return whole_step_profile(steps, imported_identity("the session's own medians"))


def _predict(profile: Profile, requests: Requests, pool: GraphPool, most_running: int) -> dict[str, float]:
    workload = Workload.model_validate(
        {
            "name": "executed",
            "requests": len(requests),
            "arrivals": {"process": "constant", "rate_per_s": 1},  # not drawn: the requests are given
            "prompt_tokens": {"distribution": "fixed", "value": 1},
            "output_tokens": {"distribution": "fixed", "value": 1},
            "engine": {
                "policy": "decode_only",
                "max_num_seqs": most_running,
                "kv_blocks": "unlimited",
                "profile": "h100-llama-3.1-8b-bf16",
            },
        }
    )
    return _metrics(simulate(workload, requests, profile, Variant("pool", pool, "eager")))


def _metrics(run: Run) -> dict[str, float]:
    gaps, counts = run.gaps.gap_ns / 1e6, run.gaps.count.astype(float)
    steps = run.steps
    captured = steps.capture_size > 0
    rows = int(steps.capture_size[captured].sum())
    latency = (run.requests.finish_ns - run.requests.arrival_ns) / 1e9
    graphed = int(steps.batch_size[captured].sum())
    return {
        "mean_itl_ms": float(np.average(gaps, weights=counts)),
        "p50_itl_ms": float(weighted_percentile(gaps, counts, [50.0])[0]),
        "p99_itl_ms": float(weighted_percentile(gaps, counts, [99.0])[0]),
        "mean_e2el_s": float(latency.mean()),
        "makespan_s": float(run.requests.finish_ns.max()) / 1e9,
        "time_mean_batch": float(np.average(steps.batch_size, weights=steps.duration_ns)),
        "padding_share": (rows - graphed) / rows if rows else 0.0,
        "steps": float(len(steps)),
        "eager_share": float(np.mean(~captured)),
    }


def lines(facts: Sequence[Fact]) -> Iterator[str]:
    """Yield the Markdown tables: each loop, the differences between pools, and the ceilings."""
    rows = pool_loops(facts)
    if rows:
        yield "| pool | rate/s | metric | executed | predicted | error |"
        yield "|---|---|---|---|---|---|"
    for row in rows:
        for metric in METRICS:
            executed, predicted = row.executed[metric], row.predicted[metric]
            yield (
                f"| {row.pool} | {row.rate_per_s:.1f} | {metric} | {executed:.4g} | {predicted:.4g} "
                f"| {row.error(metric):+.1%} |"
            )
    yield ""
    for one, other in combinations(rows, 2):
        if one.rate_per_s == other.rate_per_s:
            for metric in ("mean_itl_ms", "mean_e2el_s"):
                executed = other.executed[metric] - one.executed[metric]
                predicted = other.predicted[metric] - one.predicted[metric]
                yield (
                    f"- {metric}, {other.pool} less {one.pool} at {one.rate_per_s:.1f}/s: "
                    f"executed {executed:.3f}, predicted {predicted:.3f} ({predicted / executed - 1:+.1%})"
                )
    yield ""
    for row, seeds in ceiling_loops(facts):
        yield (
            f"- {row.pool}: mean ITL executed {row.executed['mean_itl_ms']:.2f} ms, predicted "
            f"{row.predicted['mean_itl_ms']:.2f} ms ({row.error('mean_itl_ms'):+.1%}; {min(seeds):.2f} to "
            f"{max(seeds):.2f} over {len(seeds)} arrival seeds); eager share executed "
            f"{row.executed['eager_share']:.2f}, predicted {row.predicted['eager_share']:.2f}"
        )


def read_facts(path: Path) -> list[Fact]:
    """Return the JSON objects of a facts file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    print("\n".join(lines(read_facts(Path(sys.argv[1])))))
