"""Predicted against executed loops of the H200: `python -m evidence.fidelity.h200_loops`.

Reads evidence/data/h200_loops.json: workloads, pools and metrics of loops executed step by step on one GPU.
Redraws every workload's requests, predicts them with the shipped profile, and prints the Markdown tables of
docs/fidelity.md; also with two earlier states of the cost model, so that each change is seen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from scheduler.analysis.fidelity.executed import TIE, compared_metrics
from scheduler.catalog.profile.curves import CurveProfile
from scheduler.catalog.profile.file import load_profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.simulate import Variant, high_end, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Workload

LOOPS = Path(__file__).parents[1] / "data" / "h200_loops.json"
STATES = ("equal rows", "unlike rows", "shipped")
"""Cost models: calibrated on rows of equal length; the shipped table, pads charged like rows; as shipped."""
METRICS = {
    "output_throughput": "throughput",
    "median_tpot_ms": "TPOT p50",
    "p99_tpot_ms": "TPOT p99",
    "mean_itl_ms": "ITL mean",
    "p99_itl_ms": "ITL p99",
}
BASE = {"light": "vllm", "near_saturation": "vllm", "bursty": "vllm", "ceiling": "above"}


@dataclass(frozen=True, slots=True)
class Loop:
    """One workload under one pool, as executed; `foretold` is the prediction that its session printed."""

    model: str
    workload: Workload
    pool: str
    sizes: tuple[int, ...]
    executed: Mapping[str, float]
    foretold: Mapping[str, float]

    @property
    def name(self) -> str:
        """The loop's model and workload, as in the tables."""
        return f"{self.model} | {self.workload.name.replace('_', ' ')}"


@dataclass(frozen=True, slots=True)
class Prediction:
    """A loop and its predicted metrics; `high` at the high end of the eager host time."""

    loop: Loop
    predicted: Mapping[str, float]
    high: Mapping[str, float]

    def errors(self, metric: str) -> tuple[float, float]:
        """Return predicted / executed - 1 at both ends of the host time; equal where all was replayed."""
        executed = self.loop.executed[metric]
        return self.predicted[metric] / executed - 1, self.high[metric] / executed - 1

    @property
    def is_graphs(self) -> bool:
        """Whether every step was replayed."""
        return self.loop.executed.get("replay_share", 0.0) == 1.0


def read_loops(path: Path = LOOPS) -> list[Loop]:
    """Return the executed loops in the order of the file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    loops = []
    for row in data["loops"]:
        workload = _workload(row)
        for pool, result in row["pools"].items():
            sizes = tuple(data["pools"][pool])
            loops.append(Loop(row["model"], workload, pool, sizes, result["executed"], result["predicted"]))
    return loops


def _workload(row: Mapping[str, Any]) -> Workload:
    return Workload.model_validate(
        {
            "name": row["workload"],
            "seed": row["seed"],
            "requests": row["requests"],
            "arrivals": row["arrivals"],
            "prompt_tokens": row["prompt_tokens"],
            "output_tokens": row["output_tokens"],
            "engine": {
                "policy": "decode_only",
                "max_num_seqs": row["max_num_seqs"],
                "kv_blocks": "unlimited",
                "profile": f"h200-torch-{row['model']}",
            },
        }
    )


@cache
def profile_in(state: str, model: str) -> CurveProfile:
    """Return the H200 profile of a model in one of STATES."""
    if state == "equal rows":
        return load_profile(f"h200-torch-{model}-equal-rows.json", LOOPS.parent)
    shipped = load_profile(f"h200-torch-{model}")
    graph = shipped.decode.graph
    if state == "shipped" or graph is None:
        return shipped
    padded = graph.model_copy(update={"padding_attends": True})
    return shipped.model_copy(update={"decode": shipped.decode.model_copy(update={"graph": padded})})


def predict(loop: Loop, state: str = "shipped") -> Prediction:
    """Predict one executed loop from a profile; eager steps at both ends of their host time."""
    requests = draw_requests(loop.workload)
    profile = profile_in(state, loop.model)
    variant = Variant(loop.pool, GraphPool(loop.sizes), "eager")
    run = simulate(loop.workload, requests, profile, variant)
    predicted, slow = compared_metrics(run), high_end(profile, variant, [run])
    high = predicted if slow is None else compared_metrics(simulate(loop.workload, requests, profile, slow))
    return Prediction(loop, predicted, high)


def loop_lines(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Yield a line per loop: the signed errors; of eager steps at the low and the high host time."""
    yield f"| shape | workload | pool | steps | {' | '.join(METRICS.values())} |"
    yield "|---" * (4 + len(METRICS)) + "|"
    for one in predictions:
        errors = [_ends_text(*one.errors(metric)) for metric in METRICS]
        steps = f"{one.loop.executed['steps']:,.0f}"
        yield f"| {one.loop.name} | {one.loop.pool} | {steps} | {' | '.join(errors)} |"


def difference_lines(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Yield, per workload, how much longer mean ITL is than under the first pool: measured, predicted."""
    yield "| shape | workload | pools | measured | predicted | sign | off by |"
    yield "|---|---|---|---|---|---|---|"
    for base, other in pairs(predictions):
        measured, predicted, high = mean_itl_differences(base, other)
        sign = "a tie" if max(abs(measured), abs(predicted)) < TIE else "right"
        if sign == "right" and (measured > 0) != (predicted > 0):
            sign = "**wrong**"
        yield (
            f"| {other.loop.name} | {other.loop.pool} against {base.loop.pool} | {_percent(measured)} "
            f"| {_ends_text(predicted, high)} | {sign} | {_points(predicted - measured)} |"
        )


def pairs(predictions: Sequence[Prediction]) -> Iterator[tuple[Prediction, Prediction]]:
    """Yield each pool beside the first one of its workload: vLLM's, or the one with the high ceiling."""
    bases = {
        (one.loop.model, one.loop.workload.name): one
        for one in predictions
        if one.loop.pool == BASE[one.loop.workload.name]
    }
    for one in predictions:
        base = bases[one.loop.model, one.loop.workload.name]
        if one is not base:
            yield base, one


def mean_itl_differences(base: Prediction, other: Prediction) -> tuple[float, float, float]:
    """Return how much longer the other pool's mean ITL is: measured, predicted, and at the high host time."""
    key = "mean_itl_ms"
    return (
        other.loop.executed[key] / base.loop.executed[key] - 1,
        other.predicted[key] / base.predicted[key] - 1,
        other.high[key] / base.high[key] - 1,
    )


def state_lines(loops: Sequence[Loop]) -> Iterator[str]:
    """Yield the error of mean ITL of every all-graphs loop in the three states of the cost model."""
    yield f"| shape | workload | pool | {' | '.join(STATES)} |"
    yield "|---" * (3 + len(STATES)) + "|"
    for loop in loops:
        found = [predict(loop, state) for state in STATES]
        if found[0].is_graphs:
            errors = [_percent(one.errors("mean_itl_ms")[0]) for one in found]
            yield f"| {loop.name} | {loop.pool} | {' | '.join(errors)} |"


def within_lines(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Yield, per metric, how many all-graphs loops are within 2 and 5 %, the median and the worst error."""
    graphs = [one for one in predictions if one.is_graphs]
    yield f"| of {len(graphs)} loops of graphs alone | within 2 % | within 5 % | median error | worst error |"
    yield "|---|---|---|---|---|"
    for metric, title in METRICS.items():
        errors = [one.errors(metric)[0] for one in graphs]
        near = [sum(abs(error) <= limit for error in errors) for limit in (0.02, 0.05)]
        yield (
            f"| {title} | {near[0]} | {near[1]} | {_percent(median(errors))} "
            f"| {_percent(max(errors, key=abs))} |"
        )


def lines(loops: Sequence[Loop]) -> Iterator[str]:
    """Yield all tables, an empty line between them."""
    predictions = [predict(loop) for loop in loops]
    tables = (
        within_lines(predictions),
        loop_lines(predictions),
        difference_lines(predictions),
        state_lines(loops),
    )
    for table in tables:
        yield from table
        yield ""


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _ends_text(low: float, high: float) -> str:
    return _percent(low) if low == high else f"{_points(low)} … {_percent(high)}"


if __name__ == "__main__":
    print("\n".join(lines(read_loops(Path(sys.argv[1]) if len(sys.argv) > 1 else LOOPS))))
